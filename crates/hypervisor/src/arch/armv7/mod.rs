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
    pub use crate::vgic_v2::{VgicV2 as Vgic, VgicV2 as Interface};
}

use core::arch::asm;

use crate::firmware::Arguments;
use crate::problem::Problem;

pub use crate::board::{kick_cpu, map_interface, prepare_guests};
pub use crate::machine::*;
pub use crate::run::run;
pub use exceptions::{Frame, TRAPPED};
pub use guest::tame;
pub use setup::{
    enter_control, guest_bits, guest_features, kernel_image, stage2_bits, start_kernel, translation_control,
};

/// Bits of MPIDR that name a processor: Aff2 to Aff0.
pub const AFFINITY: u64 = 0xff_ffff;
/// All ones where the firmware is called with 64-bit arguments.
pub const CALL_WIDTH: u64 = 0;
/// Bits of addresses that the hypervisor itself reaches.
pub const OWN_BITS: u32 = 32;

unsafe extern "C" {
    fn firmware_call(x: *mut u64);
}

/// What is wrong about being started in this mode.
pub fn wrong_level(mode: usize) -> Problem {
    Problem::WrongMode(mode as u32)
}

/// Cleans and invalidates the cache line at a mapped address, which changes nothing that a program can see.
pub fn clean_line(at: u64) {
    set_register!(DCCIMVAC, at);
}

/// Calls the firmware with the registers `x`, and leaves there what it returns (SMCCC 1.2).
pub fn smc(x: &mut Arguments) {
    // SAFETY: the firmware keeps to the calling convention; what it does to the machine was decided by who calls this.
    unsafe { firmware_call(x.as_mut_ptr()) }
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
    let control = read_register!(VTTBR);
    set_register!(VTTBR, u64::from(vmid) << 48);
    isb();
    set_register!(TLBIALLIS, 0);
    // SAFETY: barriers. Nothing is entered between the two writes.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
    set_register!(VTTBR, control);
    isb();
}

/// Cleans and invalidates the cache line that a set/way operation names, on this processor.
pub fn clean_set_way(which: u64) {
    // Nothing that was written is lost; a set or way that isn't there is ignored or another one's.
    set_register!(DCCISW, which);
    // SAFETY: a barrier.
    unsafe { asm!("dsb nsh", options(nostack, preserves_flags)) };
}
