//! System registers, by the names of the Arm Architecture Reference Manual for ARMv7-A (DDI 0406C B3.17, B4.1): coprocessor 15.

/// A register of 32 bits: opc1, the core register, CRn, CRm, opc2.
macro_rules! cp15 {
    (MIDR) => {
        "0, {v}, c0, c0, 0"
    };
    (CTR) => {
        "0, {v}, c0, c0, 1"
    };
    (MPIDR) => {
        "0, {v}, c0, c0, 5"
    };
    (SCTLR) => {
        "0, {v}, c1, c0, 0"
    };
    (ACTLR) => {
        "0, {v}, c1, c0, 1"
    };
    (CPACR) => {
        "0, {v}, c1, c0, 2"
    };
    (TTBCR) => {
        "0, {v}, c2, c0, 2"
    };
    (DACR) => {
        "0, {v}, c3, c0, 0"
    };
    (DFSR) => {
        "0, {v}, c5, c0, 0"
    };
    (IFSR) => {
        "0, {v}, c5, c0, 1"
    };
    (ADFSR) => {
        "0, {v}, c5, c1, 0"
    };
    (AIFSR) => {
        "0, {v}, c5, c1, 1"
    };
    (DFAR) => {
        "0, {v}, c6, c0, 0"
    };
    (IFAR) => {
        "0, {v}, c6, c0, 2"
    };
    (DCCIMVAC) => {
        "0, {v}, c7, c14, 1"
    };
    (DCCISW) => {
        "0, {v}, c7, c14, 2"
    };
    (PMCR) => {
        "0, {v}, c9, c12, 0"
    };
    (MAIR0) => {
        "0, {v}, c10, c2, 0"
    };
    (MAIR1) => {
        "0, {v}, c10, c2, 1"
    };
    (AMAIR0) => {
        "0, {v}, c10, c3, 0"
    };
    (AMAIR1) => {
        "0, {v}, c10, c3, 1"
    };
    (VBAR) => {
        "0, {v}, c12, c0, 0"
    };
    (CONTEXTIDR) => {
        "0, {v}, c13, c0, 1"
    };
    (TPIDRURW) => {
        "0, {v}, c13, c0, 2"
    };
    (TPIDRURO) => {
        "0, {v}, c13, c0, 3"
    };
    (TPIDRPRW) => {
        "0, {v}, c13, c0, 4"
    };
    (CNTFRQ) => {
        "0, {v}, c14, c0, 0"
    };
    (CNTKCTL) => {
        "0, {v}, c14, c1, 0"
    };
    (CNTV_CTL) => {
        "0, {v}, c14, c3, 1"
    };
    (CSSELR) => {
        "2, {v}, c0, c0, 0"
    };
    (VPIDR) => {
        "4, {v}, c0, c0, 0"
    };
    (VMPIDR) => {
        "4, {v}, c0, c0, 5"
    };
    (HCR) => {
        "4, {v}, c1, c1, 0"
    };
    (HDCR) => {
        "4, {v}, c1, c1, 1"
    };
    (HCPTR) => {
        "4, {v}, c1, c1, 2"
    };
    (HSTR) => {
        "4, {v}, c1, c1, 3"
    };
    (VTCR) => {
        "4, {v}, c2, c1, 2"
    };
    (HSR) => {
        "4, {v}, c5, c2, 0"
    };
    (HDFAR) => {
        "4, {v}, c6, c0, 0"
    };
    (HIFAR) => {
        "4, {v}, c6, c0, 2"
    };
    (HPFAR) => {
        "4, {v}, c6, c0, 4"
    };
    (ICIALLU) => {
        "0, {v}, c7, c5, 0"
    };
    (TLBIALLIS) => {
        "0, {v}, c8, c3, 0"
    };
    (TLBIALL) => {
        "0, {v}, c8, c7, 0"
    };
    (TLBIALLNSNH) => {
        "4, {v}, c8, c7, 4"
    };
    (HVBAR) => {
        "4, {v}, c12, c0, 0"
    };
    (HTPIDR) => {
        "4, {v}, c13, c0, 2"
    };
    (CNTHCTL) => {
        "4, {v}, c14, c1, 0"
    };
    (CNTHP_CTL) => {
        "4, {v}, c14, c2, 1"
    };
    // By its place: opc1, CRn, CRm, opc2.
    ($opc1:literal $crn:ident $crm:ident $opc2:literal) => {
        concat!($opc1, ", {v}, ", stringify!($crn), ", ", stringify!($crm), ", ", $opc2)
    };
}

/// A register of 64 bits: opc1, two core registers, CRm.
macro_rules! cp15_64 {
    (TTBR0) => {
        "0, {l}, {h}, c2"
    };
    (TTBR1) => {
        "1, {l}, {h}, c2"
    };
    (VTTBR) => {
        "6, {l}, {h}, c2"
    };
    (PAR) => {
        "0, {l}, {h}, c7"
    };
    (CNTPCT) => {
        "0, {l}, {h}, c14"
    };
    (CNTV_CVAL) => {
        "3, {l}, {h}, c14"
    };
    (CNTVOFF) => {
        "4, {l}, {h}, c14"
    };
}

/// Reads a register of 32 bits.
macro_rules! read_register {
    ($($name:tt)*) => {{
        let value: u32;
        // SAFETY: registers that are read here have no side effects, and exist in Hyp mode.
        unsafe { core::arch::asm!(concat!("mrc p15, ", cp15!($($name)*)), v = out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// Writes one: unsafe, as what that means depends on the register.
macro_rules! write_register {
    ($name:tt, $value:expr) => {{
        let value: u32 = $value;
        core::arch::asm!(concat!("mcr p15, ", cp15!($name)), v = in(reg) value, options(nostack))
    }};
}

/// Writes a register of the world below Hyp mode while none of it runs on this processor: whatever it becomes, Hyp mode goes on.
macro_rules! set_register {
    ($name:tt, $value:expr) => {{
        let value: u32 = $value;
        // SAFETY: what is written so decides what PL1 and PL0 do when they are entered next, which stage 2 and the traps bound.
        unsafe { write_register!($name, value) }
    }};
}

/// Reads a register of 64 bits.
macro_rules! read_register64 {
    ($name:tt) => {{
        let (low, high): (u32, u32);
        // SAFETY: as in `read_register`.
        unsafe {
            core::arch::asm!(concat!("mrrc p15, ", cp15_64!($name)), l = out(reg) low, h = out(reg) high, options(nomem, nostack))
        };
        (high as u64) << 32 | low as u64
    }};
}

/// As `set_register`, of 64 bits.
macro_rules! set_register64 {
    ($name:tt, $value:expr) => {{
        let value: u64 = $value;
        let (low, high) = (value as u32, (value >> 32) as u32);
        // SAFETY: as in `set_register`.
        unsafe {
            core::arch::asm!(concat!("mcrr p15, ", cp15_64!($name)), l = in(reg) low, h = in(reg) high, options(nostack))
        }
    }};
}

/// Reads a banked register, or an SPSR, of another mode (virtualization extensions: A8, B9.3.9).
macro_rules! read_banked {
    ($name:literal) => {{
        let value: u32;
        // SAFETY: it only reads; Hyp mode may name every mode's but its own.
        unsafe {
            core::arch::asm!(".arch_extension virt", concat!("mrs {v}, ", $name), v = out(reg) value, options(nomem, nostack, preserves_flags))
        };
        value
    }};
}

/// Writes one.
macro_rules! set_banked {
    ($name:literal, $value:expr) => {{
        let value: u32 = $value;
        // SAFETY: of the world below Hyp mode, as in `set_register`.
        unsafe {
            core::arch::asm!(".arch_extension virt", concat!("msr ", $name, ", {v}"), v = in(reg) value, options(nostack, preserves_flags))
        }
    }};
}
