//! Register files, read and written whole between runs.

/// One vCPU's registers.
#[derive(Clone, Debug, PartialEq)]
pub enum VcpuState {
    X86(Box<x86::State>),
    Arm(Box<ArmState>),
}

/// An ARM vCPU's registers, ARMv7-A or ARMv8-A.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ArmState {
    /// AArch64: X0-X30. AArch32: R0-R12, then the banked ones where ARMv8 has them (Arm ARM DDI 0487, D1.20.1).
    pub x: [u64; 31],
    pub sp: u64,
    pub pc: u64,
    /// PSTATE, or CPSR.
    pub pstate: u64,
    /// V0-V31 (or D0-D31 in pairs), as two little-endian halves.
    pub v: [[u64; 2]; 32],
    /// FPCR/FPSR, or FPSCR in the first.
    pub fp_control: [u32; 2],
    /// System registers: (encoding op0:op1:CRn:CRm:op2 as in KVM_REG_ARM64_SYSREG, or MRC/MRRC's for AArch32; value).
    pub system: Vec<(u32, u64)>,
    /// PSCI CPU_OFF: waits for CPU_ON.
    pub off: bool,
}
