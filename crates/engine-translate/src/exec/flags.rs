//! The status flags, kept as the host's LAHF and SETO leave them.

use crate::cpu::Cpu;
use x86::Rflags;

impl Cpu {
    /// RFLAGS, whole.
    pub fn rflags(&self) -> u64 {
        let status = (self.status >> 8) as u64 & 0xd5 | ((self.status & 1) as u64) << 11;
        self.system_flags.bits() & !Rflags::STATUS.bits() | status | 2
    }
    /// Replaces RFLAGS, whole. The caller sees to CPL, IOPL, and what follows from a change of VM, AC, TF, IF.
    pub fn set_rflags(&mut self, value: u64) {
        self.status = ((value & 0xd5 | 2) as u16) << 8 | (value >> 11 & 1) as u16;
        self.system_flags = Rflags::from_bits_truncate(value & !Rflags::STATUS.bits() | 2);
    }
}
