//! LOOP, LOOPE, LOOPNE and JCXZ, of all sizes.

use super::asm::{EQUAL, Mem, NOT_EQUAL};
use super::compile::Compiler;
use crate::cpu::{Cpu, RCX};
use iced_x86::{Instruction, Mnemonic};
use std::mem::offset_of;

/// The host register of the guest's RCX, the counter.
const COUNTER: u8 = RCX as u8;
/// The byte of [`Cpu::status`] with ZF, and that bit.
const ZERO_FLAG: (Mem, u8) = (Mem::cpu(offset_of!(Cpu, status) + 1), 0x40);

impl Compiler<'_> {
    /// One of these as the last op `k` of a block, flags being saved. `None` if T0 is to do it, or it is none of these.
    pub fn counted(&mut self, k: usize, i: &Instruction, next: i32) -> Option<()> {
        use Mnemonic::*;
        if !matches!(i.mnemonic(), Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz) {
            return None;
        }
        let target = self.delta(i)?;
        let size = self.ops[k].size;
        if size == 2 {
            self.a.bytes(&[0x66]);
        }
        if matches!(i.mnemonic(), Jcxz | Jecxz | Jrcxz) {
            // test rcx, rcx
            self.a.rr(size == 8, &[0x85], COUNTER, COUNTER);
            self.edge_if(EQUAL, target);
            self.edge(next);
            return Some(());
        }
        // sub rcx, 1
        self.a.rr(size == 8, &[0x83], 5, COUNTER);
        self.a.bytes(&[1]);
        if i.mnemonic() == Loop {
            self.edge_if(NOT_EQUAL, target);
            self.edge(next);
            return Some(());
        }
        let over = self.a.label();
        self.a.jump_if(EQUAL, over);
        let (status, zero) = ZERO_FLAG;
        self.a.rm(false, &[0xf6], 0, status);
        self.a.bytes(&[zero]);
        self.edge_if(if i.mnemonic() == Loope { NOT_EQUAL } else { EQUAL }, target);
        self.a.bind(over);
        self.edge(next);
        Some(())
    }
}
