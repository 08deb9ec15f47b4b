//! The least that runs the measuring guest in Linux's KVM on ARMv8: `/init` of a Linux whose initrd has the guest's image and nothing else.
//! It answers every device register with zero and says what the guest's serial port gets.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::{File, OpenOptions};
use std::io::{Error, Result, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::ptr;

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_int, ...) -> c_int;
    fn mmap(
        at: *mut c_void,
        len: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        from: i64,
    ) -> *mut c_void;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: u64,
        data: *const c_void,
    ) -> c_int;
    fn reboot(how: c_int) -> c_int;
}

/// Where the guest has its RAM, and how much: as much as it needs.
const RAM: u64 = 0x4000_0000;
const RAM_LEN: usize = 16 << 20;

// Linux, include/uapi/linux/kvm.h and arch/arm64/include/uapi/asm/kvm.h; Documentation/virt/kvm/api.rst.
const CREATE_VM: u32 = 0xae01;
const VCPU_MMAP_SIZE: u32 = 0xae04;
const CREATE_VCPU: u32 = 0xae41;
const SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
const RUN: u32 = 0xae80;
const SET_ONE_REG: u32 = 0x4010_aeac;
const ARM_VCPU_INIT: u32 = 0x4020_aeae;
const ARM_PREFERRED_TARGET: u32 = 0x8020_aeaf;
const CREATE_DEVICE: u32 = 0xc00c_aee0;
const SET_DEVICE_ATTR: u32 = 0x4018_aee1;

const EXIT_MMIO: u32 = 6;
const EXIT_SYSTEM_EVENT: u32 = 24;
const DEVICE_VGIC_V2: u32 = 5;
const DEVICE_VGIC_V3: u32 = 7;
/// PSCI 0.2 and later, by HVC.
const FEATURE_PSCI: u32 = 1 << 2;
/// The register PC: its place in `struct kvm_regs`, in words of four bytes.
const PC: u64 = 0x6030_0000_0010_0000 | 256 / 4;

#[repr(C)]
#[derive(Default)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest: u64,
    len: u64,
    here: u64,
}

#[repr(C)]
#[derive(Default)]
struct VcpuInit {
    target: u32,
    features: [u32; 7],
}

#[repr(C)]
struct OneRegister {
    id: u64,
    value: *const u64,
}

#[repr(C)]
#[derive(Default)]
struct NewDevice {
    kind: u32,
    fd: i32,
    flags: u32,
}

#[repr(C)]
struct Attribute {
    flags: u32,
    group: u32,
    attribute: u64,
    value: *const u64,
}

/// The beginning of `struct kvm_run`, and its union as an MMIO exit has it.
#[repr(C)]
struct Run {
    request: [u8; 8],
    exit_reason: u32,
    flags: [u8; 4],
    state: [u64; 2],
    address: u64,
    data: [u8; 8],
    len: u32,
    is_write: u8,
}

fn call<T>(file: &File, request: u32, argument: *mut T) -> Result<c_int> {
    // SAFETY: each request is made with the structure that it takes, which lives as long as the call.
    match unsafe { ioctl(file.as_raw_fd(), request as c_int, argument) } {
        -1 => Err(Error::last_os_error()),
        result => Ok(result),
    }
}

/// The same where the argument is a number.
fn call_number(file: &File, request: u32, number: usize) -> Result<c_int> {
    call(file, request, ptr::without_provenance_mut::<c_void>(number))
}

fn opened(fd: c_int) -> File {
    // SAFETY: KVM made the descriptor for us a moment ago.
    unsafe { File::from_raw_fd(fd) }
}

fn map(len: usize, file: Option<&File>) -> Result<*mut u8> {
    const READ_WRITE: c_int = 3;
    // Shared; or private, anonymous and populated.
    let flags = if file.is_some() { 1 } else { 0x8022 };
    let fd = file.map_or(-1, |file| file.as_raw_fd());
    // SAFETY: a new mapping at no chosen place harms no other.
    let at = unsafe { mmap(ptr::null_mut(), len, READ_WRITE, flags, fd, 0) };
    if at.addr() == usize::MAX { Err(Error::last_os_error()) } else { Ok(at.cast()) }
}

fn attribute(device: &File, group: u32, attribute: u64, value: u64) -> Result<()> {
    call(device, SET_DEVICE_ATTR, &mut Attribute { flags: 0, group, attribute, value: &value }).map(drop)
}

/// Runs the guest to its end.
fn run(image: &[u8]) -> Result<()> {
    let parameter = |n: usize| {
        let at = 64 + n * 8;
        image[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    let (uart, gic, distributor, interface) = (parameter(0), parameter(1), parameter(2), parameter(3));
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
    let vm = opened(call_number(&kvm, CREATE_VM, 0)?);
    let ram = map(RAM_LEN, None)?;
    assert!(image.len() < RAM_LEN);
    // SAFETY: the mapping is longer than the image, and nobody else has it yet.
    unsafe { ptr::copy_nonoverlapping(image.as_ptr(), ram, image.len()) };
    let mut region =
        MemoryRegion { guest: RAM, len: RAM_LEN as u64, here: ram as u64, ..MemoryRegion::default() };
    call(&vm, SET_USER_MEMORY_REGION, &mut region)?;
    let vcpu = opened(call_number(&vm, CREATE_VCPU, 0)?);
    let mut init = VcpuInit::default();
    call(&vm, ARM_PREFERRED_TARGET, &mut init)?;
    init.features[0] |= FEATURE_PSCI;
    call(&vcpu, ARM_VCPU_INIT, &mut init)?;
    call(&vcpu, SET_ONE_REG, &mut OneRegister { id: PC, value: &RAM })?;

    let (kind, addresses) = if gic == 2 {
        (DEVICE_VGIC_V2, [(0, distributor), (1, interface)])
    } else {
        (DEVICE_VGIC_V3, [(2, distributor), (3, interface)])
    };
    let mut device = NewDevice { kind, ..NewDevice::default() };
    call(&vm, CREATE_DEVICE, &mut device)?;
    let device = opened(device.fd);
    for (which, address) in addresses {
        attribute(&device, 0, which, address)?;
    }
    // KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT.
    attribute(&device, 4, 0, 0)?;

    let len = call_number(&kvm, VCPU_MMAP_SIZE, 0)? as usize;
    assert!(len >= size_of::<Run>());
    let run = map(len, Some(&vcpu))?.cast::<Run>();
    let mut line = Vec::new();
    loop {
        call_number(&vcpu, RUN, 0)?;
        // SAFETY: the kernel writes there during the call only.
        let exit = unsafe { &mut *run };
        match exit.exit_reason {
            EXIT_MMIO if exit.is_write == 0 => exit.data = [0; 8],
            EXIT_MMIO if exit.address == uart => {
                line.push(exit.data[0]);
                if exit.data[0] == b'\n' {
                    std::io::stdout().write_all(&line)?;
                    line.clear();
                }
            }
            EXIT_MMIO => {}
            EXIT_SYSTEM_EVENT => return Ok(()),
            other => return Err(Error::other(format!("the guest ended with exit {other}"))),
        }
    }
}

fn whole() -> Result<()> {
    const DEV: &CStr = c"/dev";
    const DEVTMPFS: &CStr = c"devtmpfs";
    // SAFETY: the strings end with zeros, and the file system takes no data.
    if unsafe { mount(DEVTMPFS.as_ptr(), DEV.as_ptr(), DEVTMPFS.as_ptr(), 0, ptr::null()) } != 0 {
        return Err(Error::last_os_error());
    }
    run(&std::fs::read("/guest.img")?)
}

fn main() {
    if let Err(error) = whole() {
        println!("\ncost fault KVM: {error}\ncost end");
    }
    const POWER_OFF: c_int = 0x4321_fedc;
    // SAFETY: takes no pointer; the first process may.
    unsafe { reboot(POWER_OFF) };
}
