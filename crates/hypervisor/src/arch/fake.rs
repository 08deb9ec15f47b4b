//! A processor that does nothing but remember: for tests on the host.

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::thread_local;

use address::HostPhys;
use hypercall::Registers;
use hypercall::page::Exit;

use crate::boot::Layout;
use crate::calls::SharedPage;
use crate::control::Control;
use crate::firmware::Arguments;
use crate::per_cpu::PerCpu;
use crate::pool::{Page, Pool};
use crate::regions::Region;
use crate::table::{self, Table};
use crate::vm::{Vcpu, Vm};

/// Bits of MPIDR that name a processor.
pub const AFFINITY: u64 = 0xff_00ff_ffff;
/// All ones where the firmware is called with 64-bit arguments.
pub const CALL_WIDTH: u64 = u64::MAX;
/// Bits of addresses that the hypervisor itself reaches.
pub const OWN_BITS: u32 = 48;
/// Physical memory of each test's own.
pub const RAM: u64 = 0x4000_0000;
pub const RAM_PAGES: usize = 8;

thread_local! {
    static PAGES: &'static [SharedPage; RAM_PAGES] =
        std::boxed::Box::leak(std::boxed::Box::new([const { SharedPage::zeroed() }; RAM_PAGES]));
    static REGISTERS: RefCell<BTreeMap<u64, u32>> = const { RefCell::new(BTreeMap::new()) };
    static STUCK: Cell<bool> = const { Cell::new(false) };
    static LAST_SMC: Cell<Arguments> = const { Cell::new([0; 18]) };
}

/// # Panics
/// Outside the fake RAM: a check is missing then.
pub fn shared_page(address: HostPhys) -> &'static SharedPage {
    &PAGES.with(|pages| *pages)[((address.0 - RAM) / 4096) as usize]
}

/// The firmware: succeeds.
pub fn smc(x: &mut Arguments) {
    LAST_SMC.set(*x);
    x[0] = 0;
}
pub fn last_smc() -> Arguments {
    LAST_SMC.get()
}
pub fn forget_smc() {
    LAST_SMC.set([0; 18]);
}

pub fn entry_address() -> u64 {
    0xffff_1000
}
pub fn clean_per_cpu(cpu: &PerCpu) -> u64 {
    cpu as *const PerCpu as u64
}
pub fn kernel_image(file: &[u8]) -> Result<crate::image::Image, crate::problem::Problem> {
    crate::image::Image::arm64(file)
}
pub fn guest_features() -> u64 {
    hypercall::features::AARCH64
}
pub fn stage2_bits() -> u32 {
    40
}
pub fn guest_bits() -> u32 {
    40
}
pub fn map_interface(_pool: &Pool, _table: &Table, _at: u64) -> table::Result<()> {
    Ok(())
}
pub fn publish_tables() {}
pub fn forget_guest(_vmid: u32) {}
pub fn this_cpu() -> Option<&'static PerCpu> {
    None
}
pub fn kick_cpu(_cpu: usize) {}
/// Bit 63 of PSTATE says that it was done.
pub fn tame(registers: &mut Registers, _aarch32: bool) {
    registers.pstate |= 1 << 63;
}
/// A guest that does nothing but count its runs in X0, and halts.
///
/// # Panics
/// Its registers may be such as no guest can be entered with.
pub fn run(_vm: &Vm, _n: usize, vcpu: &mut Vcpu, immediate: impl Fn() -> bool, answer: u64) -> Exit {
    if immediate() {
        return Exit { reason: hypercall::Reason::Immediate as u32, ..Exit::default() };
    }
    assert!(vcpu.registers.pstate >> 63 == 1, "registers that were not tamed");
    vcpu.registers.x[0] += 1;
    vcpu.registers.x[1] = answer;
    Exit { reason: hypercall::Reason::Halt as u32, deadline: u64::MAX, ..Exit::default() }
}
pub fn prepare_guests(_gic: &crate::platform::Gic) {}
pub fn affinity() -> u64 {
    0
}
pub fn seconds() -> u64 {
    0
}
/// A device's register: what was written there, else 0.
pub fn read32(register: HostPhys) -> u32 {
    REGISTERS.with_borrow(|registers| registers.get(&register.0).copied().unwrap_or(0))
}
/// One of an SMMU shows in the next register that it is done (CR0, CR0ACK; CMDQ_PROD, CMDQ_CONS), except when `STUCK`.
pub fn write32(register: HostPhys, value: u32) {
    REGISTERS.with_borrow_mut(|registers| {
        registers.insert(register.0, value);
        if matches!(register.0 & 0xffff, 0x20 | 0x98) && !STUCK.get() {
            registers.insert(register.0 + 4, value);
        }
    });
}
/// Whether devices no longer do what registers tell them to.
pub fn stick(stuck: bool) {
    STUCK.set(stuck);
}
pub fn clean(_region: Region) {}
pub fn set_this_cpu(_cpu: Option<&'static PerCpu>) {}
pub fn prepare_boot_record(_cpu: &PerCpu, _root: HostPhys, _index: usize) {}

const NO_MACHINE: &str = "there is no machine under the fake architecture";

pub fn layout() -> Layout {
    unimplemented!("{NO_MACHINE}")
}
pub fn stop() -> ! {
    unimplemented!("{NO_MACHINE}")
}
pub fn enter_control(_control: &Control, _cpu: &PerCpu, _entry: HostPhys, _argument: u64) -> ! {
    unimplemented!("{NO_MACHINE}")
}
pub fn start_kernel(_control: &Control, _cpu: &PerCpu, _entry: HostPhys, _tree: HostPhys) -> ! {
    unimplemented!("{NO_MACHINE}")
}
/// # Safety
/// None is needed: it panics.
pub unsafe fn use_stage1(_root: HostPhys) {
    unimplemented!("{NO_MACHINE}")
}
/// # Safety
/// None is needed: it panics.
pub unsafe fn bytes(_region: Region) -> &'static [u8] {
    unimplemented!("{NO_MACHINE}")
}
/// # Safety
/// None is needed: it panics.
pub unsafe fn bytes_mut(_region: Region) -> &'static mut [u8] {
    unimplemented!("{NO_MACHINE}")
}
/// # Safety
/// None is needed: it panics.
pub unsafe fn pages(_region: Region) -> &'static [Page] {
    unimplemented!("{NO_MACHINE}")
}
