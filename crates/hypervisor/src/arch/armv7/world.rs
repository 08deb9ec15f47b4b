//! What lower modes have in registers that Hyp mode doesn't use: saved and loaded whole when the world changes.
//!
//! The control domain's and a guest's are kept alike, as [`Registers`], which says where each is. R0 to R12, LR_usr, PC and CPSR are not
//! here: they are in exception frames.

use hypercall::Registers;
use hypercall::registers::Sys;

unsafe extern "C" {
    fn store_vectors(to: *mut [u64; 2]);
    fn fetch_vectors(from: *const [u64; 2]);
}

/// FPEXC.EN.
const FPEXC_EN: u64 = 1 << 30;

macro_rules! banked {
    ($do:ident $r:ident) => {
        $do! { $r:
            13 "SP_usr", 16 "LR_irq", 17 "SP_irq", 18 "LR_svc", 19 "SP_svc", 20 "LR_abt", 21 "SP_abt", 22 "LR_und",
            23 "SP_und", 24 "R8_fiq", 25 "R9_fiq", 26 "R10_fiq", 27 "R11_fiq", 28 "R12_fiq", 29 "SP_fiq", 30 "LR_fiq",
        }
    };
}
macro_rules! save_banked {
    ($r:ident: $($n:literal $name:literal,)*) => { $($r.x[$n] = read_register!($name);)* };
}
macro_rules! load_banked {
    ($r:ident: $($n:literal $name:literal,)*) => { $(set_register!($name, $r.x[$n]);)* };
}
/// ACTLR is not among them: it is the processor's own, and guests' accesses to it are trapped.
macro_rules! system {
    ($do:ident $r:ident) => {
        $do! { $r:
            SPSR_EL1 "SPSR_svc", SPSR_IRQ "SPSR_irq", SPSR_ABT "SPSR_abt", SPSR_UND "SPSR_und", SPSR_FIQ "SPSR_fiq",
            SCTLR_EL1 SCTLR, CPACR_EL1 CPACR, TTBR0_EL1 TTBR0, TTBR1_EL1 TTBR1, TCR_EL1 TTBCR, DACR32_EL2 DACR,
            IFSR32_EL2 IFSR, AFSR0_EL1 ADFSR, AFSR1_EL1 AIFSR, ESR_EL1 DFSR, PAR_EL1 PAR, VBAR_EL1 VBAR,
            CONTEXTIDR_EL1 CONTEXTIDR, TPIDR_EL1 TPIDRPRW, TPIDR_EL0 TPIDRURW, TPIDRRO_EL0 TPIDRURO, CSSELR_EL1 CSSELR,
            CNTKCTL_EL1 CNTKCTL,
        }
    };
}
/// Those of AArch64 that two of 32 bits stand for: the lower half's first.
macro_rules! pairs {
    ($do:ident $r:ident) => {
        $do! { $r: FAR_EL1 DFAR IFAR, MAIR_EL1 MAIR0 MAIR1, AMAIR_EL1 AMAIR0 AMAIR1, }
    };
}
macro_rules! save_pairs {
    ($r:ident: $($place:ident $low:ident $high:ident,)*) => {
        $($r[Sys::$place] = read_register!($high) << 32 | read_register!($low);)*
    };
}
macro_rules! load_pairs {
    ($r:ident: $($place:ident $low:ident $high:ident,)*) => {
        $(set_register!($low, $r[Sys::$place]); set_register!($high, $r[Sys::$place] >> 32);)*
    };
}

/// Saves them. The timer's are the caller's business.
pub fn save_system(r: &mut Registers) {
    banked!(save_banked r);
    system!(save_registers r);
    pairs!(save_pairs r);
}

/// Loads them. The caller synchronises (ERET does).
pub fn load_system(r: &Registers) {
    banked!(load_banked r);
    system!(load_registers r);
    pairs!(load_pairs r);
}

macro_rules! read_vfp {
    ($name:literal) => {{
        let value: u32;
        // SAFETY: it only reads; HCPTR doesn't trap it.
        unsafe { core::arch::asm!(".fpu neon", concat!("vmrs {v}, ", $name), v = out(reg) value, options(nomem, nostack)) };
        u64::from(value)
    }};
}
pub(super) use read_vfp;
macro_rules! set_vfp {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: Hyp mode's own code has no use for these registers (soft-float target).
        unsafe { core::arch::asm!(".fpu neon", concat!("vmsr ", $name, ", {v}"), v = in(reg) value as u32, options(nostack)) }
    }};
}

/// Saves D0 to D31, FPSCR and FPEXC.
pub fn save_vectors(r: &mut Registers) {
    r[Sys::FPEXC32_EL2] = read_vfp!("fpexc");
    set_vfp!("fpexc", FPEXC_EN);
    super::isb();
    r.fp_control[0] = read_vfp!("fpscr");
    // SAFETY: stores 256 bytes to `r.v`, which has twice as many.
    unsafe { store_vectors(r.v.as_mut_ptr()) };
}

/// Loads them.
pub fn load_vectors(r: &Registers) {
    set_vfp!("fpexc", FPEXC_EN);
    super::isb();
    // SAFETY: loads 256 bytes from `r.v`; see `save_vectors`.
    unsafe { fetch_vectors(r.v.as_ptr()) };
    set_vfp!("fpscr", r.fp_control[0]);
    // EX would have the next floating-point instruction trap for what another processor left.
    set_vfp!("fpexc", r[Sys::FPEXC32_EL2] & FPEXC_EN);
}
