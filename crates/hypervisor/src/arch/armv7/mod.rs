//! ARMv7-A with the virtualization extensions: Hyp mode, long descriptors (LPAE). Cortex-A15, A7, A17.

#[macro_use]
mod registers;
mod early;
mod exceptions;
pub mod guest;
pub mod identification;
pub mod inject;
mod setup;
mod world;

/// The board's virtual interface control.
pub mod vgic {
    pub use crate::vgic_v2::VgicV2 as Vgic;
}

use core::arch::asm;
use core::sync::atomic::Ordering;

use address::HostPhys;

use crate::boot::Layout;
use crate::calls::SharedPage;
use crate::firmware::Arguments;
use crate::per_cpu::PerCpu;
use crate::pool::Page;
use crate::regions::Region;
use crate::say;

pub use crate::board::{kick_cpu, map_interface, prepare_guests};
pub use crate::run::run;
pub use exceptions::Frame;
pub use guest::tame;
pub use setup::{enter_control, guest_bits, guest_features, kernel_image, stage2_bits, start_kernel};

/// Bits of MPIDR that name a processor: Aff2 to Aff0.
pub const AFFINITY: u64 = 0xff_ffff;
/// All ones where the firmware is called with 64-bit arguments.
pub const CALL_WIDTH: u64 = 0;
/// Bits of addresses that the hypervisor itself reaches.
pub const OWN_BITS: u32 = 32;
/// Bytes of a processor's stack in Hyp mode.
const STACK: u32 = 32 << 10;

unsafe extern "C" {
    static _start: u8;
    static __text_end: u8;
    static __data_start: u8;
    static __bss_end: u8;
    static __stacks: u8;
    fn secondary_entry();
    fn use_table(root: u32);
    fn firmware_call(x: *mut u64);
}

/// Where the image lies.
pub fn layout() -> Layout {
    let at = |symbol: *const u8| symbol as u64;
    let (start, text, data, end) = (
        at(&raw const _start),
        at(&raw const __text_end),
        at(&raw const __data_start),
        at(&raw const __bss_end),
    );
    Layout {
        text: Region { start, end: text },
        read_only: Region { start: text, end: data },
        data: Region { start: data, end },
    }
}

/// Affinity of this processor.
pub fn affinity() -> u64 {
    u64::from(read_register!(MPIDR)) & AFFINITY
}

/// This processor's own data.
pub fn this_cpu() -> Option<&'static PerCpu> {
    let pointer = read_register!(HTPIDR) as *const PerCpu;
    // SAFETY: `set_this_cpu` puts a static reference there; it is zero before.
    unsafe { pointer.as_ref() }
}

/// Says whose processor this is.
pub fn set_this_cpu(cpu: Option<&'static PerCpu>) {
    let pointer = cpu.map_or(0, |cpu| cpu as *const PerCpu as u32);
    // SAFETY: HTPIDR is read by `this_cpu` only.
    unsafe { write_register!(HTPIDR, pointer) };
}

/// A device's register.
pub fn read32(register: HostPhys) -> u32 {
    // SAFETY: callers name registers of the debug UART or the GIC, which our stage 1 maps as a device; no Rust object lies there.
    unsafe { (register.0 as *const u32).read_volatile() }
}
/// A device's register.
pub fn write32(register: HostPhys, value: u32) {
    // SAFETY: as in `read32`.
    unsafe { (register.0 as *mut u32).write_volatile(value) }
}

/// The control domain's memory, or a module in it.
///
/// # Safety
/// The region is RAM, mapped (as all RAM below 4 GiB is once Hyp mode has its own stage 1), not the hypervisor's own, and nobody writes
/// it as long as the slice lives: the control domain isn't running yet.
pub unsafe fn bytes(region: Region) -> &'static [u8] {
    // SAFETY: the caller's promise; stage 1 is the identity.
    unsafe { core::slice::from_raw_parts(region.start as *const u8, region.size() as usize) }
}
/// As [`bytes`], to write to.
///
/// # Safety
/// As of [`bytes`], and there is no other slice of it.
pub unsafe fn bytes_mut(region: Region) -> &'static mut [u8] {
    // SAFETY: the caller's promise; stage 1 is the identity.
    unsafe { core::slice::from_raw_parts_mut(region.start as *mut u8, region.size() as usize) }
}
/// The pool's pages.
///
/// # Safety
/// The region is the hypervisor's own, mapped, aligned to pages, and used for nothing else.
pub unsafe fn pages(region: Region) -> &'static [Page] {
    // SAFETY: the caller's promise; a page is atomics, for which any bytes are valid.
    unsafe { core::slice::from_raw_parts(region.start as *const Page, (region.size() / 4096) as usize) }
}

/// The page at `address`, which is the control domain's RAM.
pub fn shared_page(address: HostPhys) -> &'static SharedPage {
    // SAFETY: callers have checked that it is the control domain's RAM below 4 GiB (`calls::dispatch`), all of which stage 1 maps at its
    // own address; it is accessed as atomics only, for which any bytes are valid, whoever else writes them.
    unsafe { &*(address.page().0 as *const SharedPage) }
}

/// Makes what was written to `region` visible to those who read memory without caches, as a processor does that starts.
pub fn clean(region: Region) {
    let line = 4u64 << (read_register!(CTR) >> 16 & 0xf);
    let mut at = region.start & !(line - 1);
    while at < region.end {
        // Cleaning and invalidating a mapped line changes nothing that a program can see.
        set_register!(DCCIMVAC, at as u32);
        at += line;
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}

/// Makes a processor's boot record ready, and says where it is.
pub fn clean_per_cpu(cpu: &PerCpu) -> u64 {
    let start = cpu as *const PerCpu as u64;
    clean(Region { start, end: start + size_of::<PerCpu>() as u64 });
    start
}

/// Where processors start that the firmware starts for us.
pub fn entry_address() -> u64 {
    secondary_entry as *const () as u64
}

/// From now on stage 1 of Hyp mode is the one with this root.
///
/// # Safety
/// It maps the image and all the program uses, each where it is.
pub unsafe fn use_stage1(root: HostPhys) {
    // What the tables' walks read is in memory: they are cached as we are, but the MMU is off for a moment.
    // SAFETY: the caller's promise.
    unsafe { use_table(root.0 as u32) };
}

/// Gives `cpu` what it needs to come up.
pub fn prepare_boot_record(cpu: &PerCpu, root: HostPhys, index: usize) {
    let stack = &raw const __stacks as u64 + (index as u64 + 1) * u64::from(STACK);
    cpu.boot.table.store(root.0, Ordering::Relaxed);
    cpu.boot.stack.store(stack, Ordering::Relaxed);
}

/// Calls the firmware with the registers `x`, and leaves there what it returns (SMCCC 1.2).
pub fn smc(x: &mut Arguments) {
    // SAFETY: the firmware keeps to the calling convention; what it does to the machine was decided by who calls this.
    unsafe { firmware_call(x.as_mut_ptr()) }
}

/// What was written to registers is so from here on.
fn isb() {
    // SAFETY: it only orders.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// What was written to tables is seen by the processors' walks from here on.
pub fn publish_tables() {
    // SAFETY: it only orders.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}

/// Drops translations of the guest whose VMID is in VTTBR, on this processor.
fn forget_translations_here() {
    isb();
    // TLBIALL, ICIALLU: dropping what is cached changes nothing but time.
    set_register!(TLBIALL, 0);
    set_register!(ICIALLU, 0);
    // SAFETY: barriers.
    unsafe { asm!("dsb nsh", "isb", options(nostack, preserves_flags)) };
}

/// Drops all that processors have cached of the guest with this VMID, for whom no table is in use any more.
pub fn forget_guest(vmid: u32) {
    let control = read_register64!(VTTBR);
    set_register64!(VTTBR, u64::from(vmid) << 48);
    isb();
    set_register!(TLBIALLIS, 0);
    // SAFETY: barriers. Nothing is entered between the two writes.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
    set_register64!(VTTBR, control);
    isb();
}

/// Cleans and invalidates the cache line that a set/way operation names, on this processor.
pub fn clean_set_way(which: u64) {
    // Nothing that was written is lost; a set or way that isn't there is ignored or another one's.
    set_register!(DCCISW, which as u32);
    // SAFETY: a barrier.
    unsafe { asm!("dsb nsh", options(nostack, preserves_flags)) };
}

/// Stage 2 attributes of a guest's memory.
pub fn guest_memory(write: bool) -> u64 {
    use arm::descriptor::stage2::{NORMAL, READ, WRITE};
    NORMAL | READ | if write { WRITE } else { 0 }
}

/// Seconds since the counter started.
pub fn seconds() -> u64 {
    read_register64!(CNTPCT) / u64::from(read_register!(CNTFRQ).max(1))
}

/// Stops this processor for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: with interrupts masked it waits, and does nothing else.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    say!("stopped: {info}");
    stop()
}
