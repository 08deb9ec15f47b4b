//! Where the guest's status flags are at a point of translated code.

use super::asm::{Mem, RAX};
use super::compile::Compiler;
use crate::cpu::Cpu;
use std::mem::offset_of;

pub const STATUS: Mem = Mem::cpu(offset_of!(Cpu, status));

/// Which copies of the status flags are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    /// [`Cpu::status`] only; EFLAGS holds something else.
    Saved,
    /// EFLAGS only.
    Native,
    Both,
}

impl Compiler<'_> {
    /// Makes [`Cpu::status`] good. Clobbers RAX; EFLAGS stay as they are.
    pub fn save_flags(&mut self) {
        if self.flags == Flags::Native {
            // lahf; seto al; mov [status], ax
            self.a.bytes(&[0x9f, 0x0f, 0x90, 0xc0, 0x66]);
            self.a.rm(false, &[0x89], RAX, STATUS);
            self.flags = Flags::Both;
        }
    }
    /// Makes EFLAGS good. Clobbers RAX.
    pub fn need_flags(&mut self) {
        if self.flags == Flags::Saved {
            self.restore_flags();
            self.flags = Flags::Both;
        }
    }
    /// Loads EFLAGS from [`Cpu::status`].
    pub fn restore_flags(&mut self) {
        self.a.rm(false, &[0x0f, 0xb7], RAX, STATUS);
        // add al, 0x7f: OF from bit 0; sahf: the others from AH
        self.a.bytes(&[0x04, 0x7f, 0x9e]);
    }
}
