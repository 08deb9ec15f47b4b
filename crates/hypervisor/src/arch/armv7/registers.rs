//! System registers, by the names of the Arm Architecture Reference Manual for ARMv7-A (DDI 0406C B3.17, B4.1): coprocessor 15, and other
//! modes' banked ones. All of them are read and written as 64 bits, of which a register of 32 has the lower.

/// MRC, or MRS of a banked register: the instruction, with `{v}` for the core register.
macro_rules! read_word {
    ($instruction:expr) => {{
        let value: u32;
        // SAFETY: registers that are read here have no side effects, and exist in Hyp mode.
        unsafe { core::arch::asm!(".arch_extension virt", $instruction, v = out(reg) value, options(nomem, nostack)) };
        u64::from(value)
    }};
}
/// MRRC.
macro_rules! read_pair {
    ($instruction:expr) => {{
        let (low, high): (u32, u32);
        // SAFETY: as in `read_word`.
        unsafe { core::arch::asm!($instruction, l = out(reg) low, h = out(reg) high, options(nomem, nostack)) };
        u64::from(high) << 32 | u64::from(low)
    }};
}
/// MCR, or MSR of a banked register.
macro_rules! set_word {
    ($instruction:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: see `set_register`.
        unsafe { core::arch::asm!(".arch_extension virt", $instruction, v = in(reg) value as u32, options(nostack)) }
    }};
}
/// MCRR.
macro_rules! set_pair {
    ($instruction:expr, $value:expr) => {{
        let value: u64 = $value;
        let (low, high) = (value as u32, (value >> 32) as u32);
        // SAFETY: see `set_register`.
        unsafe { core::arch::asm!($instruction, l = in(reg) low, h = in(reg) high, options(nostack)) }
    }};
}

/// Makes `read_register` and `set_register` of the registers' names and places: opc1, the core register, CRn, CRm, opc2; of those with 64
/// bits opc1, two core registers, CRm.
macro_rules! registers {
    ($d:tt $($name:ident $place:literal,)*; $($pair:ident $pair_place:literal,)*) => {
        /// Reads a register: by its name; a banked one (or an SPSR) by its assembler name; one for identification by CRm and opc2.
        macro_rules! read_register {
            $(($name) => { read_word!(concat!("mrc p15, ", $place)) };)*
            $(($pair) => { read_pair!(concat!("mrrc p15, ", $pair_place)) };)*
            ($d banked:literal) => { read_word!(concat!("mrs {v}, ", $d banked)) };
            (id $d crm:literal $d op2:literal) => {
                read_word!(concat!("mrc p15, 0, {v}, c0, c", $d crm, ", ", $d op2))
            };
        }
        /// Writes a register of the world below Hyp mode while none of it runs on this processor, or one of Hyp mode's that say what that
        /// world may do, which stage 2 and the traps bound: whatever it becomes, Hyp mode itself goes on.
        macro_rules! set_register {
            $(($name, $d value:expr) => { set_word!(concat!("mcr p15, ", $place), $d value) };)*
            $(($pair, $d value:expr) => { set_pair!(concat!("mcrr p15, ", $pair_place), $d value) };)*
            ($d banked:literal, $d value:expr) => { set_word!(concat!("msr ", $d banked, ", {v}"), $d value) };
        }
    };
}

registers! { $
    MIDR "0, {v}, c0, c0, 0", CTR "0, {v}, c0, c0, 1", MPIDR "0, {v}, c0, c0, 5", CSSELR "2, {v}, c0, c0, 0",
    SCTLR "0, {v}, c1, c0, 0", CPACR "0, {v}, c1, c0, 2", TTBCR "0, {v}, c2, c0, 2", DACR "0, {v}, c3, c0, 0",
    DFSR "0, {v}, c5, c0, 0", IFSR "0, {v}, c5, c0, 1", ADFSR "0, {v}, c5, c1, 0", AIFSR "0, {v}, c5, c1, 1",
    DFAR "0, {v}, c6, c0, 0", IFAR "0, {v}, c6, c0, 2", ICIALLU "0, {v}, c7, c5, 0", DCCIMVAC "0, {v}, c7, c14, 1",
    DCCISW "0, {v}, c7, c14, 2", TLBIALLIS "0, {v}, c8, c3, 0", TLBIALL "0, {v}, c8, c7, 0", PMCR "0, {v}, c9, c12, 0",
    MAIR0 "0, {v}, c10, c2, 0", MAIR1 "0, {v}, c10, c2, 1", AMAIR0 "0, {v}, c10, c3, 0", AMAIR1 "0, {v}, c10, c3, 1",
    VBAR "0, {v}, c12, c0, 0", CONTEXTIDR "0, {v}, c13, c0, 1", TPIDRURW "0, {v}, c13, c0, 2",
    TPIDRURO "0, {v}, c13, c0, 3", TPIDRPRW "0, {v}, c13, c0, 4", CNTFRQ "0, {v}, c14, c0, 0",
    CNTKCTL "0, {v}, c14, c1, 0", CNTV_CTL "0, {v}, c14, c3, 1",
    VPIDR "4, {v}, c0, c0, 0", VMPIDR "4, {v}, c0, c0, 5", HCR "4, {v}, c1, c1, 0", HDCR "4, {v}, c1, c1, 1",
    HCPTR "4, {v}, c1, c1, 2", HSTR "4, {v}, c1, c1, 3", VTCR "4, {v}, c2, c1, 2", HSR "4, {v}, c5, c2, 0",
    HDFAR "4, {v}, c6, c0, 0", HIFAR "4, {v}, c6, c0, 2", HPFAR "4, {v}, c6, c0, 4", TLBIALLNSNH "4, {v}, c8, c7, 4",
    HVBAR "4, {v}, c12, c0, 0", HTPIDR "4, {v}, c13, c0, 2", CNTHCTL "4, {v}, c14, c1, 0", CNTHP_CTL "4, {v}, c14, c2, 1",;
    TTBR0 "0, {l}, {h}, c2", TTBR1 "1, {l}, {h}, c2", VTTBR "6, {l}, {h}, c2", PAR "0, {l}, {h}, c7",
    CNTPCT "0, {l}, {h}, c14", CNTV_CVAL "3, {l}, {h}, c14", CNTVOFF "4, {l}, {h}, c14",
}
