//! A vCPU's register file.

/// The registers of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// X0 to X30. Of AArch32 the banked ones too, where ARMv8 has them (Arm ARM DDI 0487 D1.20.1): R13_usr in 13, LR_irq 16, SP_irq 17,
    /// LR_svc 18, SP_svc 19, LR_abt 20, SP_abt 21, LR_und 22, SP_und 23, R8_fiq to R12_fiq 24 to 28, SP_fiq 29, LR_fiq 30.
    pub x: [u64; 31],
    /// SP_EL0.
    pub sp: u64,
    pub pc: u64,
    /// PSTATE, or CPSR, as in an SPSR.
    pub pstate: u64,
    /// V0 to V31, or D0 to D31 in pairs, as two halves each.
    pub v: [[u64; 2]; 32],
    /// FPCR and FPSR, or FPSCR in the first.
    pub fp_control: [u64; 2],
    /// In the order of [`SYSTEM`].
    pub system: [u64; SYSTEM.len()],
    /// 1: PSCI CPU_OFF; it is not run before that is 0.
    pub off: u64,
}

impl Registers {
    /// All of them 0.
    pub const RESET: Self = Self {
        x: [0; 31],
        sp: 0,
        pc: 0,
        pstate: 0,
        v: [[0; 2]; 32],
        fp_control: [0; 2],
        system: [0; SYSTEM.len()],
        off: 0,
    };
}

/// A system register, by its encoding in MRS and MSR. On ARMv7 it stands for its AArch32 counterpart (Arm ARM DDI 0487 D1.20.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemRegister {
    pub name: &'static str,
    pub op0: u8,
    pub op1: u8,
    pub crn: u8,
    pub crm: u8,
    pub op2: u8,
}

impl SystemRegister {
    /// op0:op1:CRn:CRm:op2, as in Linux's register numbers.
    pub const fn encoding(&self) -> u32 {
        (self.op0 as u32) << 14
            | (self.op1 as u32) << 11
            | (self.crn as u32) << 7
            | (self.crm as u32) << 3
            | self.op2 as u32
    }
}

macro_rules! system {
    ($($name:ident $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal,)*) => {
        /// What a vCPU has in system registers, in the order of [`Registers::system`].
        pub const SYSTEM: &[SystemRegister] = &[$(SystemRegister {
            name: stringify!($name), op0: $op0, op1: $op1, crn: $crn, crm: $crm, op2: $op2,
        },)*];
        /// Places in [`Registers::system`].
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Sys { $($name,)* }
    };
}

system! {
    SP_EL1 3 4 4 1 0, ELR_EL1 3 0 4 0 1, SPSR_EL1 3 0 4 0 0, SPSR_IRQ 3 4 4 3 0, SPSR_ABT 3 4 4 3 1,
    SPSR_UND 3 4 4 3 2, SPSR_FIQ 3 4 4 3 3, SCTLR_EL1 3 0 1 0 0, ACTLR_EL1 3 0 1 0 1, CPACR_EL1 3 0 1 0 2,
    TTBR0_EL1 3 0 2 0 0, TTBR1_EL1 3 0 2 0 1, TCR_EL1 3 0 2 0 2, DACR32_EL2 3 4 3 0 0, IFSR32_EL2 3 4 5 0 1,
    AFSR0_EL1 3 0 5 1 0, AFSR1_EL1 3 0 5 1 1, ESR_EL1 3 0 5 2 0, FAR_EL1 3 0 6 0 0, PAR_EL1 3 0 7 4 0,
    MAIR_EL1 3 0 10 2 0, AMAIR_EL1 3 0 10 3 0, VBAR_EL1 3 0 12 0 0, CONTEXTIDR_EL1 3 0 13 0 1,
    TPIDR_EL1 3 0 13 0 4, TPIDR_EL0 3 3 13 0 2, TPIDRRO_EL0 3 3 13 0 3, CSSELR_EL1 3 2 0 0 0,
    MDSCR_EL1 2 0 0 2 2, CNTKCTL_EL1 3 0 14 1 0, CNTV_CTL_EL0 3 3 14 3 1, CNTV_CVAL_EL0 3 3 14 3 2,
    CNTVOFF_EL2 3 4 14 0 3, APIAKEYLO_EL1 3 0 2 1 0, APIAKEYHI_EL1 3 0 2 1 1, APIBKEYLO_EL1 3 0 2 1 2,
    APIBKEYHI_EL1 3 0 2 1 3, APDAKEYLO_EL1 3 0 2 2 0, APDAKEYHI_EL1 3 0 2 2 1, APDBKEYLO_EL1 3 0 2 2 2,
    APDBKEYHI_EL1 3 0 2 2 3, APGAKEYLO_EL1 3 0 2 3 0, APGAKEYHI_EL1 3 0 2 3 1, FPEXC32_EL2 3 4 5 3 0,
}

impl core::ops::Index<Sys> for Registers {
    type Output = u64;
    fn index(&self, r: Sys) -> &u64 {
        &self.system[r as usize]
    }
}
impl core::ops::IndexMut<Sys> for Registers {
    fn index_mut(&mut self, r: Sys) -> &mut u64 {
        &mut self.system[r as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_differ_and_places_are_theirs() {
        for (n, r) in SYSTEM.iter().enumerate() {
            assert!(SYSTEM[..n].iter().all(|other| other.encoding() != r.encoding()), "{}", r.name);
        }
        assert_eq!(SYSTEM[Sys::CNTV_CVAL_EL0 as usize].name, "CNTV_CVAL_EL0");
        assert_eq!(SYSTEM[Sys::SCTLR_EL1 as usize].encoding(), 0xc080);
    }
}
