//! A guest on a processor: entering it, what it was left for, its timer. Its world, and whose that is else: `arch/<architecture>/guest.rs`.

use arm::syndrome::{Syndrome, fault_page};
use hypercall::registers::{Registers, Sys};
use spin::Mutex;

pub use crate::arch::guest::*;
use crate::per_cpu::MAX_CPUS;

unsafe extern "C" {
    fn guest_enter(registers: *mut Registers) -> usize;
}

/// Of each processor.
pub static HOSTS: [Mutex<Host>; MAX_CPUS] = [const { Mutex::new(Host::NEW) }; MAX_CPUS];

/// Why a guest was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Synchronous,
    Interrupt,
    /// An asynchronous abort.
    Error,
}

/// Enters a vCPU in the guest's world, and comes back with what it left for.
pub fn enter(registers: &mut Registers) -> Left {
    // SAFETY: the registers are a vCPU's that nobody else runs, the world is the guest's, and what the guest can reach is bounded by
    // the tables in VTTBR. The assembler code comes back with the stack and callee-saved registers as they were.
    match unsafe { guest_enter(registers) } {
        0 => Left::Synchronous,
        1 => Left::Interrupt,
        _ => Left::Error,
    }
}

/// Of what the guest was left for.
pub fn syndrome() -> Syndrome {
    Syndrome(read_register!(HSR))
}

/// The virtual address of an abort that the guest was left for, and the page of its physical address. ARMv7 has the first in another
/// register (HIFAR) if it was a fetch's: who needs that reads it.
pub fn fault_addresses() -> (u64, u64) {
    (read_register!(HDFAR), fault_page(read_register!(HPFAR)))
}

/// Gives the guest its timer.
pub fn load_timer(r: &Registers) {
    set_register!(CNTVOFF, r[Sys::CNTVOFF_EL2]);
    set_register!(CNTV_CVAL, r[Sys::CNTV_CVAL_EL0]);
    set_register!(CNTV_CTL, r[Sys::CNTV_CTL_EL0]);
}

/// Takes it back, and leaves it off.
pub fn save_timer(r: &mut Registers) {
    r[Sys::CNTV_CTL_EL0] = read_register!(CNTV_CTL) & 3;
    r[Sys::CNTV_CVAL_EL0] = read_register!(CNTV_CVAL);
    set_register!(CNTV_CTL, 0);
    set_register!(CNTVOFF, 0);
}

/// Whether it is enabled, not masked, and due.
pub fn timer_fired() -> bool {
    read_register!(CNTV_CTL) & 7 == 0b101
}

/// When the timer of the guest that is loaded fires, as a value of CNTPCT; all ones for never.
pub fn timer_deadline() -> u64 {
    match read_register!(CNTV_CTL) & 3 {
        1 => read_register!(CNTV_CVAL).wrapping_add(read_register!(CNTVOFF)),
        _ => u64::MAX,
    }
}
