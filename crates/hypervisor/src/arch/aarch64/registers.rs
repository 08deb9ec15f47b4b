//! System registers, by name or by encoding (`s3_4_c1_c1_0`: what assemblers know of newer ones depends on target features). Those that
//! code for both architectures uses have ARMv7's names too.

/// MRS.
macro_rules! mrs {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: registers that are read here have no side effects, and exist at EL2 (or were seen to, in an ID register).
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// Writes a register: unsafe, as what that means depends on the register.
macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack))
    }};
}

macro_rules! registers {
    ($d:tt $($name:ident $register:literal,)*) => {
        /// Reads a register; one for identification in AArch32 by CRm and opc2.
        macro_rules! read_register {
            $(($name) => { mrs!($register) };)*
            ($d name:literal) => { mrs!($d name) };
            (id $d crm:literal $d op2:literal) => { mrs!(concat!("s3_0_c0_c", $d crm, "_", $d op2)) };
        }
        /// Writes a register of the world below EL2 while none of it runs on this processor, or one of EL2's that say what that world may
        /// do, which stage 2 and the traps bound: whatever it becomes, EL2 itself goes on.
        macro_rules! set_register {
            $(($name, $d value:expr) => { set_register!($register, $d value) };)*
            ($d name:literal, $d value:expr) => {{
                let value: u64 = $d value;
                // SAFETY: as said above.
                unsafe { write_register!($d name, value) }
            }};
        }
    };
}

registers! { $
    MPIDR "mpidr_el1", CTR "ctr_el0", HTPIDR "tpidr_el2", VTTBR "vttbr_el2", HSR "esr_el2", HDFAR "far_el2", HPFAR "hpfar_el2",
    CNTPCT "cntpct_el0", CNTFRQ "cntfrq_el0", CNTV_CTL "cntv_ctl_el0", CNTV_CVAL "cntv_cval_el0", CNTVOFF "cntvoff_el2",
    SCTLR "sctlr_el1", TTBCR "tcr_el1", VBAR "vbar_el1", DFSR "esr_el1", IFSR "ifsr32_el2",
}
