//! Hyp mode's registers while the control domain runs, and PL1's when it starts.

use address::HostPhys;
use arm::control::{hcr, mode, tcr, vtcr_v7};
use hypercall::features;

use crate::control::Control;
use crate::image::Image;
use crate::per_cpu::PerCpu;
use crate::problem::Problem;

/// Where a processor leaves Hyp mode to.
#[repr(C)]
struct Entry {
    r: [u32; 3],
    pc: u32,
    cpsr: u32,
}

unsafe extern "C" {
    #[link_name = "enter_control"]
    fn enter(entry: *const Entry, stack: u32) -> !;
    static vectors: u8;
}

/// HTCR: T0SZ is 0, 32 bits, which start at level 1.
pub const fn translation_control() -> u64 {
    tcr::TCR_EL2_RES1 | tcr::WALKS
}

/// Bits of the control domain's physical addresses: LPAE's.
pub fn stage2_bits() -> u32 {
    40
}

/// Bits of guests' physical addresses.
pub fn guest_bits() -> u32 {
    40
}

/// VTCR while a guest runs.
pub fn guest_vtcr() -> u64 {
    vtcr_v7(guest_bits(), 1).into()
}

/// What this processor can do for guests: bits of `hypercall::features` but the GIC's.
pub fn guest_features() -> u64 {
    features::AARCH32 | u64::from(guest_bits()) << features::ADDRESS_BITS_SHIFT
}

/// The control domain's kernel.
pub fn kernel_image(file: &[u8]) -> Result<Image, Problem> {
    Image::zimage(file)
}

/// HCR while the control domain runs: its interrupts are its own.
const CONTROL_HCR: u64 = hcr::VM | hcr::TSC;
/// HCPTR's bits that are one; none that traps a coprocessor.
const OPEN_HCPTR: u64 = 0x33ff;

/// Sets all of Hyp mode for the control domain on this processor.
fn control_registers(control: &Control) {
    set_register!(HVBAR, &raw const vectors as u64);
    set_register!(HCR, CONTROL_HCR);
    set_register!(VTCR, vtcr_v7(control.stage2.bits, control.stage2.level).into());
    set_register!(VTTBR, control.stage2.root.0);
    super::isb();
    set_register!(TLBIALLNSNH, 0);
    // SAFETY: barriers.
    unsafe { core::arch::asm!("dsb nsh", "isb", options(nostack)) };
    set_register!(HCPTR, OPEN_HCPTR);
    // HPMN: all of the performance monitors' counters.
    set_register!(HDCR, read_register!(PMCR) >> 11 & 0x1f);
    set_register!(HSTR, 0);
    set_register!(VPIDR, read_register!(MIDR));
    set_register!(VMPIDR, read_register!(MPIDR));
    // PL1PCTEN, PL1PCEN: the physical counter and timer are the control domain's.
    set_register!(CNTHCTL, 0b11);
    set_register!(CNTVOFF, 0);
    set_register!(CNTV_CTL, 0);
    set_register!(CNTHP_CTL, 0);
    crate::board::start_guest_cpu();
    // PL1 as after a reset.
    set_register!(SCTLR, 0x00c5_0078);
    set_register!(CNTKCTL, 0);
    set_register!(CPACR, 0);
    set_register!(TTBCR, 0);
}

fn enter_at(control: &Control, cpu: &PerCpu, entry: HostPhys, r: [u32; 3]) -> ! {
    control_registers(control);
    let stack = cpu.boot.stack.load(core::sync::atomic::Ordering::Relaxed) as u32;
    // Bit 0 of an entry address says that Thumb code is there.
    let thumb = if entry.0 & 1 != 0 { mode::T } else { 0 };
    let entry = Entry { r, pc: entry.0 as u32 & !1, cpsr: mode::SVC | mode::AIF | thumb };
    // SAFETY: Hyp mode is ready for exceptions from there, and stage 2 keeps it away from our memory. `enter` reads `entry` before the
    // stack's first use; what else is on the stack is done with.
    unsafe { enter(&entry, stack) }
}

/// Runs the control domain on this processor, from `entry` with `argument` in R0, in Supervisor mode.
pub fn enter_control(control: &Control, cpu: &PerCpu, entry: HostPhys, argument: u64) -> ! {
    enter_at(control, cpu, entry, [argument as u32, 0, 0])
}

/// Runs the control domain's kernel as Linux's boot protocol for ARM has it: R1 says that R2 is its device tree.
pub fn start_kernel(control: &Control, cpu: &PerCpu, kernel: HostPhys, tree: HostPhys) -> ! {
    enter_at(control, cpu, kernel, [0, !0, tree.0 as u32])
}
