//! What the control domain had when it took an exception to EL2, and what it is given for it.

use arm::syndrome::{EXTERNAL_ABORT, IL, Syndrome, class};

use super::inject;
use crate::firmware::Arguments;

/// What the processor had when the exception was taken; what it goes on with.
#[repr(C, align(16))]
#[derive(Debug)]
pub struct Frame {
    /// X0 to X30.
    pub x: [u64; 31],
    /// ELR_EL2.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
}

/// The vector of a synchronous exception from a lower level in AArch64.
pub const TRAPPED: usize = 8;

impl Frame {
    /// The program counter.
    pub fn pc(&self) -> u64 {
        self.pc
    }
    /// Goes on behind an instruction of so many bytes.
    pub fn skip(&mut self, bytes: u64) {
        self.pc = self.pc.wrapping_add(bytes);
    }
    /// A register of the program that runs, by its number in a syndrome.
    pub fn general(&self, n: u8) -> Option<u64> {
        Some(self.x.get(n as usize).copied().unwrap_or(0))
    }
    /// What a call passes and returns.
    pub fn arguments(&self) -> Arguments {
        core::array::from_fn(|n| self.x[n])
    }
    pub fn set_arguments(&mut self, x: &Arguments) {
        self.x[..x.len()].copy_from_slice(x);
    }
    /// The control domain takes an undefined instruction.
    pub fn undefined(&mut self) {
        self.take(Syndrome(IL));
    }
    /// It takes a synchronous external abort for what was trapped with `syndrome`.
    pub fn abort(&mut self, syndrome: Syndrome) {
        let fetch = syndrome.class() == class::INSTRUCTION_ABORT_LOWER;
        let class = inject::abort_class(self.pstate, fetch);
        let write = if !fetch && syndrome.write() { 1 << 6 } else { 0 };
        let length = syndrome.0 & IL;
        self.take(Syndrome((class as u64) << 26 | length | write | EXTERNAL_ABORT));
    }

    fn take(&mut self, syndrome: Syndrome) {
        inject::take(&mut self.pc, &mut self.pstate, syndrome, Some(read_register!(HDFAR)));
    }
}
