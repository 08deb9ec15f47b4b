//! The machine as both architectures have it: where our image lies, memory by its physical address, this processor's own.

use core::sync::atomic::Ordering;

use address::HostPhys;

use crate::arch::{self, AFFINITY};
use crate::boot::{self, Layout};
use crate::calls::SharedPage;
use crate::console::Uart;
use crate::fdt::firmware_tree;
use crate::per_cpu::PerCpu;
use crate::platform;
use crate::pool::Page;
use crate::regions::Region;
use crate::say;

/// Bytes of a processor's stack.
pub const STACK: usize = 32 << 10;

unsafe extern "C" {
    static _start: u8;
    static __text_end: u8;
    static __data_start: u8;
    static __bss_end: u8;
    static __stacks: u8;
    fn secondary_entry();
    fn use_table(root: usize, translation: usize);
}

/// The boot processor, from start.s, with EL2's first map on and the device tree's address.
#[unsafe(no_mangle)]
extern "C" fn start(tree: usize) -> ! {
    // SAFETY: the boot protocol says that this is the device tree's address; it stays as it is until the control domain runs.
    match unsafe { firmware_tree(HostPhys(tree as u64)) } {
        Some(fdt) => boot::start(fdt),
        None => stop(),
    }
}

/// A processor that the firmware has started for us, from start.s.
#[unsafe(no_mangle)]
extern "C" fn secondary(cpu: &'static PerCpu) -> ! {
    boot::secondary(cpu)
}

/// Started at another level than EL2: says so, if the device tree and its UART can be read, and stops.
#[unsafe(no_mangle)]
extern "C" fn wrong_level(tree: usize, level: usize) -> ! {
    use core::fmt::Write;
    // SAFETY: as in `start`; nothing changes it.
    let tree = unsafe { firmware_tree(HostPhys(tree as u64)) };
    if let Some(uart) = tree.and_then(platform::find_uart) {
        let _ = writeln!(Uart::new(uart), "auberge: {}", arch::wrong_level(level));
    }
    stop()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    say!("stopped: {info}");
    stop()
}

/// Where the image lies.
pub fn layout() -> Layout {
    let part = |start: *const u8, end: *const u8| Region { start: start as u64, end: end as u64 };
    Layout {
        text: part(&raw const _start, &raw const __text_end),
        read_only: part(&raw const __text_end, &raw const __data_start),
        data: part(&raw const __data_start, &raw const __bss_end),
    }
}

/// Affinity of this processor.
pub fn affinity() -> u64 {
    read_register!(MPIDR) & AFFINITY
}

/// This processor's own data.
pub fn this_cpu() -> Option<&'static PerCpu> {
    let pointer = read_register!(HTPIDR) as *const PerCpu;
    // SAFETY: `set_this_cpu` puts a static reference there; it is zero before.
    unsafe { pointer.as_ref() }
}

/// Says whose processor this is.
pub fn set_this_cpu(cpu: Option<&'static PerCpu>) {
    set_register!(HTPIDR, cpu.map_or(0, |cpu| cpu as *const PerCpu as u64));
}

/// A device's register.
pub fn read32(register: HostPhys) -> u32 {
    // SAFETY: callers name registers of the debug UART or the GIC, which our stage 1 maps as devices; no Rust object lies there.
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
/// The region is RAM, mapped (as all RAM that we reach is once we have our own stage 1), not the hypervisor's own, and nobody writes
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
    // SAFETY: callers have checked that it is the control domain's RAM that we reach (`calls::dispatch`), all of which stage 1 maps at
    // its own address; it is accessed as atomics only, for which any bytes are valid, whoever else writes them.
    unsafe { &*(address.page().0 as *const SharedPage) }
}

/// Makes what was written to `region` visible to those who read memory without caches, as a processor does that starts.
pub fn clean(region: Region) {
    let line = 4 << (read_register!(CTR) >> 16 & 0xf);
    (region.start & !(line - 1)..region.end).step_by(line as usize).for_each(arch::clean_line);
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb sy", options(nostack)) };
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

/// From now on our stage 1 is the one with this root.
///
/// # Safety
/// It maps the image and all the program uses, each where it is.
pub unsafe fn use_stage1(root: HostPhys) {
    // What the tables' walks read is in memory: they are cached as we are, but the MMU is off for a moment.
    // SAFETY: the caller's promise.
    unsafe { use_table(root.0 as usize, arch::translation_control() as usize) };
}

/// Gives `cpu` what it needs to come up.
pub fn prepare_boot_record(cpu: &PerCpu, root: HostPhys, index: usize) {
    let stack = &raw const __stacks as usize + (index + 1) * STACK;
    cpu.boot.table.store(root.0, Ordering::Relaxed);
    cpu.boot.translation.store(arch::translation_control(), Ordering::Relaxed);
    cpu.boot.stack.store(stack as u64, Ordering::Relaxed);
}

/// What was written to tables is seen by the processors' walks from here on.
pub fn publish_tables() {
    // SAFETY: it only orders.
    unsafe { core::arch::asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}

/// Seconds since the counter started.
pub fn seconds() -> u64 {
    read_register!(CNTPCT) / read_register!(CNTFRQ).max(1)
}

/// What was written to registers is so from here on.
pub fn isb() {
    // SAFETY: it only orders.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) };
}

/// Stops this processor for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: with interrupts masked it waits, and does nothing else.
        unsafe { core::arch::asm!("wfi", options(nomem, nostack)) };
    }
}
