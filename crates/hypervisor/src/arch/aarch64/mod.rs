//! AArch64: EL2 without the Virtualization Host Extensions.

#[macro_use]
mod registers;
mod early;
mod efi;
mod exceptions;
pub mod guest;
pub mod identification;
pub mod inject;
mod setup;
mod sve;
mod system_register;
pub mod vgic;
pub mod vgic_v3;
mod world;

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

/// Bits of MPIDR that name a processor: Aff3 to Aff0.
pub const AFFINITY: u64 = 0xff_00ff_ffff;
/// All ones where the firmware is called with 64-bit arguments.
pub const CALL_WIDTH: u64 = u64::MAX;
/// Bits of addresses that the hypervisor itself reaches.
pub const OWN_BITS: u32 = 48;

/// What is wrong about being started at this level.
pub fn wrong_level(level: usize) -> Problem {
    Problem::WrongLevel(level as u64)
}

/// Cleans and invalidates the cache line at a mapped address, which changes nothing that a program can see.
pub fn clean_line(at: u64) {
    // SAFETY: as said.
    unsafe { asm!("dc civac, {}", in(reg) at, options(nostack)) };
}

macro_rules! smc {
    ($x:ident: $($n:literal $register:tt,)*) => { asm!("smc #0", $(inout($register) $x[$n],)* options(nostack)) };
}

/// Calls the firmware with the registers `x`, and leaves there what it returns (SMCCC 1.2).
pub fn smc(x: &mut Arguments) {
    // SAFETY: the firmware keeps to the calling convention; what it does to the machine was decided by who calls this.
    unsafe {
        smc! { x: 0 "x0", 1 "x1", 2 "x2", 3 "x3", 4 "x4", 5 "x5", 6 "x6", 7 "x7", 8 "x8", 9 "x9", 10 "x10", 11 "x11", 12 "x12",
            13 "x13", 14 "x14", 15 "x15", 16 "x16", 17 "x17",
        }
    }
}

/// Drops translations of the guest whose VMID is in VTTBR_EL2, on this processor.
fn forget_translations_here() {
    // SAFETY: dropping what is cached of tables changes nothing but time.
    unsafe { asm!("isb", "tlbi vmalle1", "ic iallu", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}

/// Drops all that processors have cached of the guest with this VMID, for whom no table is in use any more.
pub fn forget_guest(vmid: u32) {
    let control = read_register!("vttbr_el2");
    set_register!("vttbr_el2", (vmid as u64) << 48);
    // SAFETY: as above. Nothing is entered between the two writes.
    unsafe { asm!("isb", "tlbi vmalls12e1is", "dsb ish", options(nostack, preserves_flags)) };
    set_register!("vttbr_el2", control);
    isb();
}

/// Cleans and invalidates the cache line that a set/way operation names, on this processor.
pub fn clean_set_way(which: u64) {
    // SAFETY: cleaning and invalidating loses nothing that was written; a set or way that isn't there is ignored or another one's.
    unsafe { asm!("dc cisw, {}", "dsb nsh", in(reg) which, options(nostack, preserves_flags)) };
}
