//! What lower modes have in registers that Hyp mode doesn't use: saved and loaded whole when the world changes.
//!
//! The control domain's and a guest's are kept alike, as [`Registers`], which says where each is. R0 to R12, LR_usr, PC and CPSR are not
//! here: they are in exception frames.

use core::arch::asm;

use hypercall::Registers;
use hypercall::registers::Sys;

unsafe extern "C" {
    fn store_vectors(to: *mut [u64; 2]);
    fn fetch_vectors(from: *const [u64; 2]);
}

/// FPEXC.EN.
const FPEXC_EN: u32 = 1 << 30;

macro_rules! banked {
    ($do:ident $r:ident) => {
        $do! { $r:
            x[13] "SP_usr", x[16] "LR_irq", x[17] "SP_irq", x[18] "LR_svc", x[19] "SP_svc", x[20] "LR_abt", x[21] "SP_abt",
            x[22] "LR_und", x[23] "SP_und", x[24] "R8_fiq", x[25] "R9_fiq", x[26] "R10_fiq", x[27] "R11_fiq", x[28] "R12_fiq",
            x[29] "SP_fiq", x[30] "LR_fiq",
            system[Sys::SPSR_EL1 as usize] "SPSR_svc", system[Sys::SPSR_IRQ as usize] "SPSR_irq",
            system[Sys::SPSR_ABT as usize] "SPSR_abt", system[Sys::SPSR_UND as usize] "SPSR_und",
            system[Sys::SPSR_FIQ as usize] "SPSR_fiq",
        }
    };
}
macro_rules! save_banked {
    ($r:ident: $($part:ident[$n:expr] $name:literal,)*) => { $($r.$part[$n] = read_banked!($name).into();)* };
}
macro_rules! load_banked {
    ($r:ident: $($part:ident[$n:expr] $name:literal,)*) => { $(set_banked!($name, $r.$part[$n] as u32);)* };
}
/// Those of 32 bits. ACTLR is not among them: it is the processor's own, and guests' accesses to it are trapped.
macro_rules! words {
    ($do:ident $r:ident) => {
        $do! { $r:
            SCTLR_EL1 SCTLR, CPACR_EL1 CPACR, TCR_EL1 TTBCR, DACR32_EL2 DACR, IFSR32_EL2 IFSR, AFSR0_EL1 ADFSR,
            AFSR1_EL1 AIFSR, ESR_EL1 DFSR, VBAR_EL1 VBAR, CONTEXTIDR_EL1 CONTEXTIDR, TPIDR_EL1 TPIDRPRW, TPIDR_EL0 TPIDRURW,
            TPIDRRO_EL0 TPIDRURO, CSSELR_EL1 CSSELR, CNTKCTL_EL1 CNTKCTL,
        }
    };
}
macro_rules! save_words {
    ($r:ident: $($place:ident $name:ident,)*) => { $($r[Sys::$place] = read_register!($name).into();)* };
}
macro_rules! load_words {
    ($r:ident: $($place:ident $name:ident,)*) => { $(set_register!($name, $r[Sys::$place] as u32);)* };
}
/// Those of AArch64 that two of 32 bits stand for: the lower half's first.
macro_rules! pairs {
    ($do:ident $r:ident) => {
        $do! { $r: FAR_EL1 DFAR IFAR, MAIR_EL1 MAIR0 MAIR1, AMAIR_EL1 AMAIR0 AMAIR1, }
    };
}
macro_rules! save_pairs {
    ($r:ident: $($place:ident $low:ident $high:ident,)*) => {
        $($r[Sys::$place] = u64::from(read_register!($high)) << 32 | u64::from(read_register!($low));)*
    };
}
macro_rules! load_pairs {
    ($r:ident: $($place:ident $low:ident $high:ident,)*) => {
        $(set_register!($low, $r[Sys::$place] as u32); set_register!($high, ($r[Sys::$place] >> 32) as u32);)*
    };
}

/// Saves them. The timer's are the caller's business.
pub fn save_system(r: &mut Registers) {
    banked!(save_banked r);
    words!(save_words r);
    pairs!(save_pairs r);
    r[Sys::TTBR0_EL1] = read_register64!(TTBR0);
    r[Sys::TTBR1_EL1] = read_register64!(TTBR1);
    r[Sys::PAR_EL1] = read_register64!(PAR);
}

/// Loads them. The caller synchronises (ERET does).
pub fn load_system(r: &Registers) {
    banked!(load_banked r);
    words!(load_words r);
    pairs!(load_pairs r);
    set_register64!(TTBR0, r[Sys::TTBR0_EL1]);
    set_register64!(TTBR1, r[Sys::TTBR1_EL1]);
    set_register64!(PAR, r[Sys::PAR_EL1]);
}

macro_rules! read_vfp {
    ($name:literal) => {{
        let value: u32;
        // SAFETY: it only reads; HCPTR doesn't trap it.
        unsafe { asm!(".fpu neon", concat!("vmrs {v}, ", $name), v = out(reg) value, options(nomem, nostack)) };
        value
    }};
}
macro_rules! set_vfp {
    ($name:literal, $value:expr) => {{
        let value: u32 = $value;
        // SAFETY: Hyp mode's own code has no use for these registers (soft-float target).
        unsafe { asm!(".fpu neon", concat!("vmsr ", $name, ", {v}"), v = in(reg) value, options(nostack)) }
    }};
}

/// Saves D0 to D31, FPSCR and FPEXC.
pub fn save_vectors(r: &mut Registers) {
    r[Sys::FPEXC32_EL2] = read_vfp!("fpexc").into();
    set_vfp!("fpexc", FPEXC_EN);
    super::isb();
    r.fp_control[0] = read_vfp!("fpscr").into();
    // SAFETY: stores 256 bytes to `r.v`, which has twice as many.
    unsafe { store_vectors(r.v.as_mut_ptr()) };
}

/// Loads them.
pub fn load_vectors(r: &Registers) {
    set_vfp!("fpexc", FPEXC_EN);
    super::isb();
    // SAFETY: loads 256 bytes from `r.v`; see `save_vectors`.
    unsafe { fetch_vectors(r.v.as_ptr()) };
    set_vfp!("fpscr", r.fp_control[0] as u32);
    // EX would have the next floating-point instruction trap for what another processor left.
    set_vfp!("fpexc", r[Sys::FPEXC32_EL2] as u32 & FPEXC_EN);
}
