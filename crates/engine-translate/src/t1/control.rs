//! Ends of blocks: near jumps, calls and returns.

use super::asm::{ABOVE, Mem, R14, RAX};
use super::compile::{Compiler, Tail};
use super::flags::Flags;
use super::registers::{self, Place, STACK, slot};
use super::runtime::{JUMP_CODE, field, probe_jump};
use address::PAGE_SIZE;
use iced_x86::{Code, ConditionCode, Instruction, Mnemonic, OpKind};

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
            _ if i.is_call_near() => {
                let target = self.delta(i)?;
                let size = match i.op0_kind() {
                    OpKind::NearBranch16 => 2,
                    OpKind::NearBranch32 => 4,
                    _ => 8,
                };
                let slow = self.slow(k);
                self.push_return(slow, next, size);
                self.edge(target);
            }
            Code::Jmp_rm16 | Code::Jmp_rm32 | Code::Jmp_rm64 => {
                let slow = self.slow(k);
                self.load_target(k, i, slow)?;
                probe_jump(&mut self.a, slow);
                self.a.rm(false, &[0xff], 4, Mem::at(R14, JUMP_CODE));
            }
            Code::Call_rm16 | Code::Call_rm32 | Code::Call_rm64 => {
                let slow = self.slow(k);
                let size = self.load_target(k, i, slow)?;
                probe_jump(&mut self.a, slow);
                self.a.store(field!(target_rip), RAX);
                self.a.load(R14, Mem::at(R14, JUMP_CODE));
                self.a.store(field!(target_code), R14);
                self.push_return(slow, next, size);
                self.a.load(RAX, field!(target_rip));
                self.a.rm(false, &[0xff], 4, field!(target_code));
            }
            _ if i.mnemonic() == Mnemonic::Ret => {
                let size = match i.code() {
                    Code::Retnw | Code::Retnw_imm16 => 2,
                    Code::Retnd | Code::Retnd_imm16 => 4,
                    _ => 8,
                };
                if self.mode.is64() != (size == 8) {
                    return None;
                }
                let slow = self.slow(k);
                let ea = self.stack(STACK, 0);
                self.check(&ea, size, 1, false, slow);
                let m = self.host(&ea, false);
                self.a.load_sized(size, RAX, m);
                self.linear_target(slow);
                // A target that isn't known, be it not canonical, is T0's.
                probe_jump(&mut self.a, slow);
                let released = if i.op_count() == 0 { 0 } else { i.immediate16() as i32 };
                self.set_stack(STACK, size as i32 + released);
                self.a.rm(false, &[0xff], 4, Mem::at(R14, JUMP_CODE));
            }
            _ => return self.counted(k, i, next),
        }
        Some(())
    }

    /// Where a relative branch goes, from the page. `None` if that depends on where the code runs, or is a fault.
    pub fn delta(&self, i: &Instruction) -> Option<i32> {
        let (target, page) = (i.near_branch_target(), self.page);
        match i.op0_kind() {
            OpKind::NearBranch64 => i32::try_from(target.wrapping_sub(page) as i64).ok(),
            OpKind::NearBranch16 if self.bound.is_none() => None,
            OpKind::NearBranch16 | OpKind::NearBranch32 => {
                let delta = (target as u32).wrapping_sub(page as u32) as i32;
                self.in_code_limit(delta).then_some(delta)
            }
            _ => None,
        }
    }

    fn in_code_limit(&self, delta: i32) -> bool {
        self.bound.is_none_or(|p| p.page_ip().wrapping_add_signed(delta) <= p.limit)
    }

    /// Whether jumps to `delta` from the page can be direct.
    fn on_page(&self, delta: i32) -> bool {
        (0..PAGE_SIZE as i32).contains(&delta) && self.in_code_limit(delta)
    }

    /// Goes on `delta` bytes from the page, flags being saved.
    pub fn edge(&mut self, delta: i32) {
        if !self.on_page(delta) {
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
    pub fn edge_if(&mut self, condition: u8, delta: i32) {
        let direct = self.on_page(delta);
        if direct && delta as u32 == self.offset {
            return self.a.jump_if(condition, self.linked);
        }
        let from = self.a.label();
        self.a.jump_if(condition, from);
        self.tails.push(if direct {
            Tail::Link { from, site: self.a.here() - 4, delta }
        } else {
            Tail::Away { from, delta }
        });
    }

    /// The linear address of an indirect branch's target into RAX; bytes of its operand.
    fn load_target(&mut self, k: usize, i: &Instruction, slow: super::asm::Label) -> Option<usize> {
        let memory = i.op0_kind() != OpKind::Register;
        let size = if memory { i.memory_size().size() } else { i.op0_register().size() };
        if self.mode.is64() != (size == 8) {
            return None;
        }
        if memory {
            let ea = self.ea(i, &self.ops[k])?;
            self.check(&ea, size, 1, false, slow);
            let m = self.host(&ea, false);
            self.a.load_sized(size, RAX, m);
        } else {
            match registers::place(registers::number(i.op0_register())?) {
                Place::Host(h) if size == 2 => self.a.rr(false, &[0x0f, 0xb7], RAX, h),
                Place::Host(h) => self.a.copy_sized(size, RAX, h),
                Place::Slot(n) => self.a.load(RAX, slot(n)),
            }
        }
        self.linear_target(slow);
        Some(size)
    }

    /// RAX is an instruction pointer to go to, and becomes its linear address. A fault is T0's.
    fn linear_target(&mut self, slow: super::asm::Label) {
        let Some(p) = self.bound else { return };
        if p.limit != u32::MAX {
            // cmp eax, limit
            self.a.bytes(&[0x3d]);
            self.a.bytes(&p.limit.to_le_bytes());
            self.a.jump_if(ABOVE, slow);
        }
        // add eax, base
        self.a.bytes(&[0x05]);
        self.a.bytes(&p.base.to_le_bytes());
    }

    /// Pushes the address of what follows a call.
    fn push_return(&mut self, slow: super::asm::Label, next: i32, size: usize) {
        let ea = self.stack(STACK, -(size as i32));
        self.check(&ea, size, 1, true, slow);
        let m = self.host(&ea, true);
        self.ip_at_page(next);
        self.a.store_sized(size, m, RAX);
        self.set_stack(STACK, -(size as i32));
        self.flags = Flags::Saved;
    }
}
