//! Where the guest's status flags are at a point of translated code.

use super::asm::{Mem, RAX};
use super::compile::Compiler;
use super::forms;
use super::vector::kind;
use crate::cpu::Cpu;
use iced_x86::{Instruction, Mnemonic, OpKind};
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

/// The status flags that an instruction reads, and those it sets whatever they were.
pub fn effect(i: &Instruction) -> (u32, u32) {
    use Mnemonic::*;
    let modified = i.rflags_modified() & forms::STATUS;
    match i.mnemonic() {
        _ if forms::is_nop(i) => (0, 0),
        Lea | Push | Pop | Leave | Div | Idiv | Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo => (0, 0),
        Mul | Imul | Cmpxchg => (0, forms::STATUS),
        _ if kind(i).is_some() => (i.rflags_read() & forms::STATUS, modified),
        m => {
            let Some(form) = forms::plain(i) else { return (forms::STATUS, 0) };
            let set = match m {
                _ if !form.needs_flags => modified,
                Shl | Sal | Shr | Sar => {
                    let mask =
                        if i.op0_register().size() == 8 || i.memory_size().size() == 8 { 63 } else { 31 };
                    let moves = i.op_kind(1) == OpKind::Immediate8 && i.immediate8() & mask != 0;
                    let defined = i.rflags_written() | i.rflags_cleared() | i.rflags_set();
                    if moves { defined & forms::STATUS } else { 0 }
                }
                Rol | Ror | Rcl | Rcr | Shld | Shrd | Bt | Bts | Btr | Btc | Bsf | Bsr => 0,
                _ => modified,
            };
            (i.rflags_read() & forms::STATUS, set)
        }
    }
}

/// For each instruction of a translation, whether flags that were set before it are read by it or later. All are at its
/// end, and at the last instruction (`end`) of each of its blocks; and everywhere, if they are to be `exact` at faults.
pub fn live(instructions: &[Instruction], end: impl Fn(usize) -> bool, exact: bool) -> Vec<bool> {
    let mut flags = forms::STATUS;
    let mut live: Vec<bool> = instructions
        .iter()
        .enumerate()
        .rev()
        .map(|(k, i)| {
            let (read, set) = effect(i);
            flags = if end(k) { forms::STATUS } else { flags & !set | read };
            exact || flags != 0
        })
        .collect();
    live.reverse();
    live
}

impl Compiler<'_> {
    /// Makes [`Cpu::status`] good before op `k`, if it or anything later reads flags that were set before it.
    pub fn save_live_flags(&mut self, k: usize) {
        if self.flags_live[k] {
            self.save_flags();
        }
    }
    /// Makes [`Cpu::status`] good. Clobbers RAX; EFLAGS stay as they are.
    pub fn save_flags(&mut self) {
        if self.flags == Flags::Native {
            self.load_flags();
            self.store_loaded_flags();
            self.flags = Flags::Both;
        }
    }
    /// Makes [`Cpu::status`] good from EFLAGS, in a tail, if these are `native`.
    pub fn save_native_flags(&mut self, native: bool) {
        if native {
            self.load_flags();
            self.store_loaded_flags();
        }
    }
    /// AH and AL become what of EFLAGS [`Cpu::status`] holds.
    pub fn load_flags(&mut self) {
        // lahf; seto al
        self.a.bytes(&[0x9f, 0x0f, 0x90, 0xc0]);
    }
    /// The other half of saving them.
    pub fn store_loaded_flags(&mut self) {
        // mov [status], ax
        self.a.bytes(&[0x66]);
        self.a.rm(false, &[0x89], RAX, STATUS);
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
