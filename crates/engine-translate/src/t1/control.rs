//! Ends of blocks: near jumps, calls and returns.

use super::UNLINKED;
use super::ahead::Unsaved;
use super::asm::{ABOVE, BELOW, EQUAL, Label, Mem, NOT_EQUAL, R14, RAX, RSP};
use super::compile::Compiler;
use super::flags::Flags;
use super::jumps::JUMP_CODE;
use super::registers::{self, Place, STACK, slot};
use super::runtime::{field, poll, probe_jump};
use super::tails::Tail;
use crate::tlb::CODE;
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
            self.branch(condition, target, next);
            return Some(());
        }
        if i.is_jmp_short_or_near() {
            let target = self.delta(i)?;
            self.save_flags_for(target);
            self.edge(target);
            return Some(());
        }
        self.save_flags();
        match i.code() {
            _ if i.is_call_near() => {
                let target = self.delta(i)?;
                let size = match i.op0_kind() {
                    OpKind::NearBranch16 => 2,
                    OpKind::NearBranch32 => 4,
                    _ => 8,
                };
                let slow = self.slow(k);
                self.require_room(slow);
                self.push_return(k, slow, next, size);
                self.call_edge(target, next);
                self.return_point(next);
            }
            Code::Jmp_rm16 | Code::Jmp_rm32 | Code::Jmp_rm64 => {
                let slow = self.slow(k);
                self.load_target(k, i, slow)?;
                poll(&mut self.a, slow);
                probe_jump(&mut self.a, slow);
                self.a.rm(false, &[0xff], 4, Mem::at(R14, JUMP_CODE));
            }
            Code::Call_rm16 | Code::Call_rm32 | Code::Call_rm64 => {
                let slow = self.slow(k);
                self.require_room(slow);
                let size = self.load_target(k, i, slow)?;
                probe_jump(&mut self.a, slow);
                self.units.give_up();
                self.a.store(field!(target_rip), RAX);
                self.a.load(R14, Mem::at(R14, JUMP_CODE));
                self.a.store(field!(target_code), R14);
                self.push_return(k, slow, next, size);
                self.foresee_return(next);
                self.a.load(RAX, field!(target_rip));
                self.a.rm(false, &[0xff], 2, field!(target_code));
                self.return_point(next);
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
                let m = self.reach(k, &ea, size, 1, false, false, slow);
                self.a.load_sized(size, RAX, m);
                self.linear_target(slow);
                let released = size as i32 + if i.op_count() == 0 { 0 } else { i.immediate16() as i32 };
                self.set_stack(STACK, released);
                self.a.rm(false, &[0xc7], 0, field!(returned));
                let at = self.offset as i32 + op.offset as i32;
                self.a.bytes(&(released << 12 | at).to_le_bytes());
                // ret
                self.a.bytes(&[0xc3]);
            }
            _ => return self.system_end(k, i, next).or_else(|| self.counted(k, i, next)),
        }
        Some(())
    }

    /// The last instruction of a block that goes on to `next`, most of the time. `None` if it never does.
    pub fn side_exit(&mut self, k: usize, i: &Instruction, next: i32) -> Option<()> {
        let target = self.delta(i)?;
        self.units.keep();
        if i.is_jmp_short_or_near() {
            return (target == next).then_some(());
        }
        let op = &self.ops[k];
        let behind = (self.offset + op.offset as u32 + op.len as u32) as i32;
        let condition = i.condition_code() as u8 - ConditionCode::o as u8;
        let (condition, away) = match () {
            _ if !i.is_jcc_short_or_near() => return None,
            _ if next == behind => (condition, target),
            _ if next == target => (condition ^ 1, behind),
            _ => return None,
        };
        self.need_flags();
        let saved = self.flags != Flags::Native || self.flags_dead_at(away);
        if saved && self.on_page(away) && !self.back(away) {
            self.edge_if(condition, away);
        } else {
            let from = self.a.label();
            self.a.jump_if(condition, from);
            self.tails.push(Tail::Away { from, delta: away, flags: self.flags });
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
    pub fn on_page(&self, delta: i32) -> bool {
        (0..PAGE_SIZE as i32).contains(&delta) && self.in_code_limit(delta)
    }

    /// Whether a jump may close a cycle: it goes to no later block, or addresses may wrap.
    pub fn back(&self, delta: i32) -> bool {
        delta <= self.offset as i32 || !self.mode.is64() && !self.on_page(delta)
    }

    /// Where the flags are after it.
    fn poll_if_back(&mut self, delta: i32) -> Unsaved {
        let mut unsaved = if self.flags == Flags::Native { Unsaved::Native } else { Unsaved::No };
        if self.back(delta) {
            if unsaved == Unsaved::Native {
                self.load_flags();
                unsaved = Unsaved::Loaded;
            }
            let from = self.a.label();
            poll(&mut self.a, from);
            self.tails.push(Tail::Leave { from, delta, unsaved });
        }
        unsaved
    }

    /// On, or a call to, what is `delta` bytes from the page and not in it. It goes straight there while the soft TLB says that
    /// the code there is what it was when the jump was led there, and looks for it otherwise.
    fn far_edge(&mut self, delta: i32, call: bool) {
        self.at_page(delta);
        self.page_token(RAX);
        // cmp r14, key
        self.a.align_behind(3);
        self.a.rr(true, &[0x81], 7, R14);
        let key = self.a.here();
        self.a.bytes(&UNLINKED.to_le_bytes());
        let (miss, from) = (self.a.label(), self.a.label());
        let mut back = None;
        if call {
            self.a.jump_if(NOT_EQUAL, miss);
            self.a.align_behind(1);
            self.a.call(from);
        } else {
            self.a.align_behind(2);
            self.a.jump_if(EQUAL, from);
        }
        let site = self.a.here() - 4;
        if call {
            back = Some(self.a.bound());
        } else {
            self.a.jump(miss);
        }
        self.tails.push(Tail::Far { miss, from, key, site, back });
    }

    /// R14 becomes what stands for the code on the page of the linear address in a register, as the soft TLB has it, less the offset in the page.
    pub fn page_token(&mut self, linear: u8) {
        self.a.page_number(linear);
        self.table(0x8b, R14, CODE);
        // sub r14, linear
        self.a.rr(true, &[0x2b], R14, linear);
    }

    /// A call that has pushed the address of `next`, which is in RAX, goes on `delta` bytes from the page.
    fn call_edge(&mut self, delta: i32, next: i32) {
        self.foresee_return(next);
        if !self.on_page(delta) {
            self.far_edge(delta, true);
        } else if delta as u32 == self.offset {
            self.a.call(self.linked);
        } else {
            let from = self.a.label();
            self.a.align_behind(1);
            self.a.call(from);
            self.tails.push(Tail::Link { from, site: self.a.here() - 4, delta, unsaved: Unsaved::No });
        }
    }

    /// Where there is no room for another return that is foreseen, goes to `slow`, which looks if anything is pending: calls
    /// don't, nor do returns that were foreseen, and of these only so many are without a jump back in between.
    fn require_room(&mut self, slow: Label) {
        let from = self.a.label();
        // cmp rsp, [returns_limit]
        self.a.rm(true, &[0x3b], RSP, field!(returns_limit));
        self.a.jump_if(BELOW, from);
        self.tails.push(Tail::NoRoom { from, slow });
    }

    /// A return is to be expected to `next`, whose instruction pointer is in RAX. A host's call follows.
    fn foresee_return(&mut self, next: i32) {
        if self.bound.is_some() {
            self.at_page(next);
        }
        // push rax
        self.a.bytes(&[0x50]);
    }

    /// Where a return arrives, RAX being the linear address that it goes to: on to `next` if it is that.
    fn return_point(&mut self, next: i32) {
        self.a.rm(true, &[0x3b], RAX, Mem::at(RSP, 0));
        self.a.lea(RSP, Mem::at(RSP, 8));
        let from = self.a.label();
        self.a.jump_if(NOT_EQUAL, from);
        self.tails.push(Tail::Elsewhere { from });
        if next >= PAGE_SIZE as i32 {
            return self.far_jump(self.shared.lookup);
        }
        // A vCPU that changes code drops what it foresaw; one that is told that another did leaves the chain.
        self.enter_unchanged_page(None);
        self.edge(next);
    }

    /// Goes on `delta` bytes from the page, flags being saved unless they are dead there.
    pub fn edge(&mut self, delta: i32) {
        let unsaved = self.poll_if_back(delta);
        if !self.on_page(delta) {
            return self.far_edge(delta, false);
        }
        if delta as u32 == self.offset {
            self.a.jump(self.back_to_first());
        } else {
            let from = self.a.label();
            self.a.align_behind(1);
            self.a.jump(from);
            self.tails.push(Tail::Link { from, site: self.a.here() - 4, delta, unsaved });
        }
    }

    /// The same on a condition.
    pub fn edge_if(&mut self, condition: u8, delta: i32) {
        let direct = self.on_page(delta);
        if direct && self.back(delta) {
            let not = self.a.label();
            self.a.jump_if(condition ^ 1, not);
            self.edge(delta);
            self.a.bind(not);
            return;
        }
        let from = self.a.label();
        self.a.align_behind(2);
        self.a.jump_if(condition, from);
        self.tails.push(if direct {
            let unsaved = if self.flags == Flags::Native { Unsaved::Native } else { Unsaved::No };
            Tail::Link { from, site: self.a.here() - 4, delta, unsaved }
        } else {
            Tail::Away { from, delta, flags: self.flags }
        });
    }

    /// The linear address of an indirect branch's target into RAX; bytes of its operand.
    fn load_target(&mut self, k: usize, i: &Instruction, slow: Label) -> Option<usize> {
        let memory = i.op0_kind() != OpKind::Register;
        let size = if memory { i.memory_size().size() } else { i.op0_register().size() };
        if self.mode.is64() != (size == 8) {
            return None;
        }
        if memory {
            let ea = self.ea(i, &self.ops[k])?;
            let m = self.reach(k, &ea, size, 1, false, false, slow);
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
    fn linear_target(&mut self, slow: Label) {
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
    fn push_return(&mut self, k: usize, slow: Label, next: i32, size: usize) {
        let ea = self.stack(STACK, -(size as i32));
        let m = self.reach(k, &ea, size, 1, true, true, slow);
        self.ip_at_page(next);
        self.a.store_sized(size, m, RAX);
        self.set_stack(STACK, -(size as i32));
        self.flags = Flags::Saved;
    }
}
