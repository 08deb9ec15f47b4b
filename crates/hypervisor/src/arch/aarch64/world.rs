//! What EL1 and EL0 have in registers that EL2 doesn't use: saved and loaded whole when the world changes.
//!
//! The control domain's and a guest's are kept alike, as [`Registers`]. General registers are not here: they are in exception frames.

use core::arch::asm;

use hypercall::Registers;
use hypercall::registers::Sys;

/// What this processor has, besides what every ARMv8 has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extensions {
    /// EL1 can be AArch32.
    pub aarch32: bool,
    pub pointer_authentication: bool,
    pub sve: bool,
    /// HCRX_EL2.
    pub hcrx: bool,
}

impl Extensions {
    /// Of the processor this runs on.
    pub fn here() -> Self {
        let (pfr0, isar1) = (read_register!("id_aa64pfr0_el1"), read_register!("id_aa64isar1_el1"));
        Self {
            aarch32: pfr0 >> 4 & 0xf == 2,
            // API and APA, or APA3 of ID_AA64ISAR2_EL1.
            pointer_authentication: isar1 >> 4 & 0xff != 0 || read_register!("s3_0_c0_c6_2") >> 12 & 0xf != 0,
            sve: pfr0 >> 32 & 0xf != 0,
            hcrx: read_register!("id_aa64mmfr1_el1") >> 40 & 0xf != 0,
        }
    }
}

macro_rules! always {
    ($do:ident $r:ident) => {
        $do! { $r:
            SP_EL1 "sp_el1", ELR_EL1 "elr_el1", SPSR_EL1 "spsr_el1", SCTLR_EL1 "sctlr_el1", ACTLR_EL1 "actlr_el1",
            CPACR_EL1 "cpacr_el1", TTBR0_EL1 "ttbr0_el1", TTBR1_EL1 "ttbr1_el1", TCR_EL1 "tcr_el1", AFSR0_EL1 "afsr0_el1",
            AFSR1_EL1 "afsr1_el1", ESR_EL1 "esr_el1", FAR_EL1 "far_el1", PAR_EL1 "par_el1", MAIR_EL1 "mair_el1",
            AMAIR_EL1 "amair_el1", VBAR_EL1 "vbar_el1", CONTEXTIDR_EL1 "contextidr_el1", TPIDR_EL1 "tpidr_el1",
            TPIDR_EL0 "tpidr_el0", TPIDRRO_EL0 "tpidrro_el0", CSSELR_EL1 "csselr_el1", MDSCR_EL1 "mdscr_el1",
            CNTKCTL_EL1 "cntkctl_el1",
        }
    };
}
macro_rules! aarch32 {
    ($do:ident $r:ident) => {
        $do! { $r:
            SPSR_IRQ "spsr_irq", SPSR_ABT "spsr_abt", SPSR_UND "spsr_und", SPSR_FIQ "spsr_fiq", DACR32_EL2 "dacr32_el2",
            IFSR32_EL2 "ifsr32_el2", FPEXC32_EL2 "fpexc32_el2",
        }
    };
}
macro_rules! keys {
    ($do:ident $r:ident) => {
        $do! { $r:
            APIAKEYLO_EL1 "s3_0_c2_c1_0", APIAKEYHI_EL1 "s3_0_c2_c1_1", APIBKEYLO_EL1 "s3_0_c2_c1_2",
            APIBKEYHI_EL1 "s3_0_c2_c1_3", APDAKEYLO_EL1 "s3_0_c2_c2_0", APDAKEYHI_EL1 "s3_0_c2_c2_1",
            APDBKEYLO_EL1 "s3_0_c2_c2_2", APDBKEYHI_EL1 "s3_0_c2_c2_3", APGAKEYLO_EL1 "s3_0_c2_c3_0",
            APGAKEYHI_EL1 "s3_0_c2_c3_1",
        }
    };
}

/// Saves EL1's and EL0's system registers and SP_EL0. The timer's are the caller's business.
pub fn save_system(r: &mut Registers, has: &Extensions) {
    r.sp = read_register!("sp_el0");
    always!(save_registers r);
    if has.aarch32 {
        aarch32!(save_registers r);
    }
    if has.pointer_authentication {
        keys!(save_registers r);
    }
}

/// Loads them. The caller synchronises (ERET does).
pub fn load_system(r: &Registers, has: &Extensions) {
    set_register!("sp_el0", r.sp);
    always!(load_registers r);
    if has.aarch32 {
        aarch32!(load_registers r);
    }
    if has.pointer_authentication {
        keys!(load_registers r);
    }
}

/// STP or LDP of Q0 to Q31, at `v`.
macro_rules! quads {
    ($op:literal, $v:expr) => {
        asm!(
            ".arch_extension fp", ".arch_extension simd",
            concat!($op, " q0, q1, [{v}]"), concat!($op, " q2, q3, [{v}, #32]"), concat!($op, " q4, q5, [{v}, #64]"),
            concat!($op, " q6, q7, [{v}, #96]"), concat!($op, " q8, q9, [{v}, #128]"), concat!($op, " q10, q11, [{v}, #160]"),
            concat!($op, " q12, q13, [{v}, #192]"), concat!($op, " q14, q15, [{v}, #224]"),
            concat!($op, " q16, q17, [{v}, #256]"), concat!($op, " q18, q19, [{v}, #288]"),
            concat!($op, " q20, q21, [{v}, #320]"), concat!($op, " q22, q23, [{v}, #352]"),
            concat!($op, " q24, q25, [{v}, #384]"), concat!($op, " q26, q27, [{v}, #416]"),
            concat!($op, " q28, q29, [{v}, #448]"), concat!($op, " q30, q31, [{v}, #480]"),
            v = in(reg) $v, options(nostack, preserves_flags),
        )
    };
}

/// Saves V0 to V31, FPCR and FPSR.
pub fn save_vectors(r: &mut Registers) {
    // SAFETY: stores 512 bytes to `r.v`, which has as many. EL2's own code has no use for these registers (soft-float target).
    unsafe { quads!("stp", r.v.as_mut_ptr()) };
    r.fp_control = [read_register!("s3_3_c4_c4_0"), read_register!("s3_3_c4_c4_1")];
}

/// Loads them.
pub fn load_vectors(r: &Registers) {
    // SAFETY: loads 512 bytes from `r.v`; see `save_vectors`.
    unsafe { quads!("ldp", r.v.as_ptr()) };
    set_register!("s3_3_c4_c4_0", r.fp_control[0]);
    set_register!("s3_3_c4_c4_1", r.fp_control[1]);
}
