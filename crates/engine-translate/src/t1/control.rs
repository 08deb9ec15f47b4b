//! Ends of blocks: near jumps, calls and returns.

use super::access::Ea;
use super::asm::{Mem, R14, RAX};
use super::compile::{Compiler, Tail};
use super::flags::Flags;
use super::registers::{self, Place, STACK, slot};
use super::runtime::{JUMP_CODE, field, probe_jump};
use address::PAGE_SIZE;
use iced_x86::{Code, ConditionCode, Instruction, OpKind};

impl Compiler<'_> {
    /// The last instruction of a block. `None` if T0 is to do it.
    pub fn end(&mut self, k: usize, i: &Instruction) -> Option<()> {
        let op = &self.ops[k];
        let next = (self.offset + op.offset as u32 + op.len as u32) as i32;
        if i.is_jcc_short_or_near() {
            let target = self.delta(i)?;
            let condition = i.condition_code() as u8 - ConditionCode::o as u8;
            self.need_flags();
            if self.flags == Flags::Native {
                let taken = self.a.label();
                self.a.jump_if(condition, taken);
                self.save_flags();
                self.edge(next);
                self.a.bind(taken);
                self.flags = Flags::Native;
                self.save_flags();
                self.edge(target);
            } else {
                self.edge_if(condition, target);
                self.edge(next);
            }
            return Some(());
        }
        self.save_flags();
        match i.code() {
            _ if i.is_jmp_short_or_near() => {
                let target = self.delta(i)?;
                self.edge(target);
            }
            Code::Call_rel32_64 => {
                let target = self.delta(i)?;
                let slow = self.slow(k);
                self.push_return(slow, next);
                self.edge(target);
            }
            Code::Jmp_rm64 => {
                let slow = self.slow(k);
                self.load_target(k, i, slow)?;
                probe_jump(&mut self.a, slow);
                self.a.rm(false, &[0xff], 4, Mem::at(R14, JUMP_CODE));
            }
            Code::Call_rm64 => {
                let slow = self.slow(k);
                self.load_target(k, i, slow)?;
                probe_jump(&mut self.a, slow);
                self.a.store(field!(target_rip), RAX);
                self.a.load(R14, Mem::at(R14, JUMP_CODE));
                self.a.store(field!(target_code), R14);
                self.push_return(slow, next);
                self.a.load(RAX, field!(target_rip));
                self.a.rm(false, &[0xff], 4, field!(target_code));
            }
            Code::Retnq | Code::Retnq_imm16 => {
                let slow = self.slow(k);
                let ea = Ea::simple(STACK, 0);
                self.check(&ea, 8, 1, false, slow);
                let m = self.host(&ea, false);
                self.a.load(RAX, m);
                // A target that isn't known, be it not canonical, is T0's.
                probe_jump(&mut self.a, slow);
                let released = if i.code() == Code::Retnq { 0 } else { i.immediate16() as i32 };
                self.a.lea(STACK, Mem::at(STACK, 8 + released));
                self.a.rm(false, &[0xff], 4, Mem::at(R14, JUMP_CODE));
            }
            _ => return None,
        }
        Some(())
    }

    /// Where a relative branch goes, from the page.
    fn delta(&self, i: &Instruction) -> Option<i32> {
        if i.op0_kind() != OpKind::NearBranch64 {
            return None;
        }
        i32::try_from(i.near_branch_target().wrapping_sub(self.page) as i64).ok()
    }

    /// Goes on `delta` bytes from the page, flags being saved.
    pub fn edge(&mut self, delta: i32) {
        if !(0..PAGE_SIZE as i32).contains(&delta) {
            self.at_page(delta);
            self.far_jump(self.shared.lookup);
        } else if delta as u32 == self.offset {
            self.a.jump(self.linked);
        } else {
            let from = self.a.label();
            self.a.jump(from);
            self.tails.push(Tail::Link { from, site: self.a.here() - 4, delta });
        }
    }

    /// The same on a condition.
    fn edge_if(&mut self, condition: u8, delta: i32) {
        if (0..PAGE_SIZE as i32).contains(&delta) && delta as u32 == self.offset {
            return self.a.jump_if(condition, self.linked);
        }
        let from = self.a.label();
        self.a.jump_if(condition, from);
        self.tails.push(if (0..PAGE_SIZE as i32).contains(&delta) {
            Tail::Link { from, site: self.a.here() - 4, delta }
        } else {
            Tail::Away { from, delta }
        });
    }

    /// The target of an indirect branch into RAX.
    fn load_target(&mut self, k: usize, i: &Instruction, slow: super::asm::Label) -> Option<()> {
        if i.op0_kind() == OpKind::Register {
            match registers::place(registers::number(i.op0_register())?) {
                Place::Host(h) => self.a.copy(RAX, h),
                Place::Slot(n) => self.a.load(RAX, slot(n)),
            }
            return Some(());
        }
        let ea = self.ea(i, &self.ops[k])?;
        self.check(&ea, 8, 1, false, slow);
        let m = self.host(&ea, false);
        self.a.load(RAX, m);
        Some(())
    }

    /// Pushes the address of what follows a call.
    fn push_return(&mut self, slow: super::asm::Label, next: i32) {
        let ea = Ea::simple(STACK, -8);
        self.check(&ea, 8, 1, true, slow);
        let m = self.host(&ea, true);
        self.at_page(next);
        self.a.store(m, RAX);
        self.a.lea(STACK, Mem::at(STACK, -8));
        self.flags = Flags::Saved;
    }
}
