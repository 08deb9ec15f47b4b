//! RET far and IRET (SDM 2, the instructions' operation sections; SDM 3A 5.8.6, 6.12.1, 20.2.3).

use super::descriptors::{null_stack, v86_segment};
use super::operand::canonical;
use super::stack::Stack;
use crate::cpu::{CS, Cpu, DS, ES, FS, GS, RIP, RSP, SS};
use crate::fault::Guest;
use crate::op::Op;
use x86::{Descriptor, Rflags, Segment, Vector};

/// What IRET and POPF may change: not VM, VIF, VIP, IOPL and IF, which depend on privilege.
const ALWAYS: Rflags = Rflags::STATUS.union(Rflags::TF).union(Rflags::DF).union(Rflags::NT);

/// RET far; `op.size` bytes an item, `op.imm` bytes of parameters dropped.
pub(super) fn ret_far(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let (size, drop) = (op.size, op.imm);
    let mut stack = Stack::current(cpu);
    let rip = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    if !cpu.protected() {
        return cpu.return_real(stack, selector, rip, drop);
    }
    let (d, rpl) = cpu.return_segment(selector)?;
    let cs = d.segment(selector);
    cpu.check_target(&cs, rip)?;
    stack.sp = stack.sp.wrapping_add(drop);
    if rpl == cpu.cpl {
        let d = cpu.set_accessed(selector, d)?;
        cpu.regs[RSP] = stack.new_rsp(cpu.regs[RSP]);
        cpu.enter_code(d.segment(selector), rip, rpl);
        return Ok(());
    }
    let sp = stack.pop(cpu, size)?;
    let ss_selector = stack.pop(cpu, size)? as u16;
    let ss = cpu.return_stack_segment(ss_selector, rpl, cs.long() && cpu.long_mode())?;
    let d = cpu.set_accessed(selector, d)?;
    cpu.set_outer_stack(ss, sp, size);
    cpu.enter_code(d.segment(selector), rip, rpl);
    // The parameters are dropped from the outer stack too.
    let mut outer = Stack::current(cpu);
    outer.sp = outer.sp.wrapping_add(drop);
    cpu.regs[RSP] = outer.new_rsp(cpu.regs[RSP]);
    cpu.drop_inaccessible_segments();
    cpu.update_mode();
    Ok(())
}

/// IRET; `op.size` bytes an item.
pub(super) fn iret(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let size = op.size;
    let old = cpu.system_flags;
    if cpu.v86() && old.iopl() < 3 {
        super::v86::iret(cpu, size)?;
    } else if !cpu.protected() {
        iret_real(cpu, size)?;
    } else if old.contains(Rflags::NT) {
        if cpu.long_mode() {
            return cpu.gp(0);
        }
        cpu.return_to_previous_task(op)?;
    } else {
        iret_protected(cpu, size)?;
    }
    // NMIs come through again (SDM 3A 6.7.1).
    cpu.sys.nmi_masked = false;
    cpu.after_flags(old);
    if cpu.sys.waiting != 0 {
        cpu.recheck();
    }
    Ok(())
}

fn iret_real(cpu: &mut Cpu, size: u8) -> Guest<()> {
    let mut stack = Stack::current(cpu);
    let rip = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    let flags = stack.pop(cpu, size)?;
    let mut mask = ALWAYS | Rflags::IF;
    if !cpu.v86() {
        mask |= Rflags::IOPL;
    }
    if size == 4 {
        mask |= Rflags::RF | Rflags::AC | Rflags::ID;
    }
    cpu.return_real(stack, selector, rip, 0)?;
    cpu.merge_rflags(flags, mask);
    cpu.update_tlb_select();
    Ok(())
}

fn iret_protected(cpu: &mut Cpu, size: u8) -> Guest<()> {
    let mut stack = Stack::current(cpu);
    let rip = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    let flags = stack.pop(cpu, size)?;
    if size == 4 && flags & Rflags::VM.bits() != 0 && cpu.cpl == 0 && !cpu.long_mode() {
        return iret_to_v86(cpu, stack, rip, selector, flags);
    }
    let (d, rpl) = cpu.return_segment(selector)?;
    let cs = d.segment(selector);
    cpu.check_target(&cs, rip)?;
    let mut mask = ALWAYS;
    if size > 2 {
        mask |= Rflags::RF | Rflags::AC | Rflags::ID;
    }
    if cpu.cpl <= cpu.system_flags.iopl() {
        mask |= Rflags::IF;
    }
    if cpu.cpl == 0 {
        mask |= Rflags::IOPL;
        if size > 2 {
            mask |= Rflags::VIF | Rflags::VIP;
        }
    }
    if rpl == cpu.cpl && !cpu.mode.is64() {
        let d = cpu.set_accessed(selector, d)?;
        cpu.regs[RSP] = stack.new_rsp(cpu.regs[RSP]);
        cpu.merge_rflags(flags, mask);
        cpu.enter_code(d.segment(selector), rip, rpl);
        return Ok(());
    }
    let sp = stack.pop(cpu, size)?;
    let ss_selector = stack.pop(cpu, size)? as u16;
    let ss = cpu.return_stack_segment(ss_selector, rpl, cs.long() && cpu.long_mode())?;
    let d = cpu.set_accessed(selector, d)?;
    let outer = rpl != cpu.cpl;
    cpu.set_outer_stack(ss, sp, size);
    cpu.merge_rflags(flags, mask);
    if outer {
        cpu.cpl = rpl;
        cpu.drop_inaccessible_segments();
    }
    cpu.enter_code(d.segment(selector), rip, rpl);
    Ok(())
}

fn iret_to_v86(cpu: &mut Cpu, mut stack: Stack, rip: u64, cs: u16, flags: u64) -> Guest<()> {
    let mut items = [0u64; 6];
    for item in &mut items {
        *item = stack.pop(cpu, 4)?;
    }
    let [sp, ss, es, ds, fs, gs] = items;
    cpu.set_rflags(flags & 0x3f_ffff);
    for (reg, selector) in [(SS, ss), (ES, es), (DS, ds), (FS, fs), (GS, gs), (CS, cs as u64)] {
        cpu.seg[reg] = v86_segment(selector as u16);
    }
    cpu.regs[RSP] = sp & 0xffff_ffff;
    cpu.regs[RIP] = rip & 0xffff;
    cpu.cpl = 3;
    cpu.update_mode();
    Ok(())
}

impl Cpu {
    /// The code segment a return goes to, and its privilege: that of the selector.
    fn return_segment(&mut self, selector: u16) -> Guest<(Descriptor, u8)> {
        if selector & 0xfffc == 0 {
            return self.gp(0);
        }
        let rpl = (selector & 3) as u8;
        let d = self.descriptor(selector, Vector::GP)?;
        let privileged = if d.is_conforming_code() { d.dpl() <= rpl } else { d.dpl() == rpl };
        if !d.is_code() || rpl < self.cpl || !privileged || self.long_mode() && d.long() && d.big() {
            return self.selector_fault(Vector::GP, selector);
        }
        if !d.present() {
            return self.selector_fault(Vector::NP, selector);
        }
        Ok((d, rpl))
    }

    /// The stack segment a return goes to. 64-bit code below privilege 3 may have none.
    fn return_stack_segment(&mut self, selector: u16, rpl: u8, to_long: bool) -> Guest<Segment> {
        if selector & 0xfffc == 0 && to_long && rpl != 3 && (selector & 3) as u8 == rpl {
            return Ok(null_stack(selector, rpl));
        }
        if selector & 0xfffc == 0 {
            return self.gp(0);
        }
        self.fetch_stack_segment(selector, rpl, Vector::GP)
    }

    /// SS:RSP of a return with a stack of its own.
    fn set_outer_stack(&mut self, ss: Segment, sp: u64, size: u8) {
        self.regs[RSP] = match size {
            8 => sp,
            _ if ss.big() || self.mode.is64() => sp & 0xffff_ffff,
            _ => self.regs[RSP] & !0xffff | sp & 0xffff,
        };
        self.seg[SS] = ss;
    }

    /// #GP(0) where code in `cs` can't be at `rip`.
    pub(super) fn check_target(&mut self, cs: &Segment, rip: u64) -> Guest<()> {
        if self.long_mode() && cs.long() {
            return if canonical(rip) { Ok(()) } else { self.gp(0) };
        }
        self.check_code_limit(cs, rip)
    }

    /// Goes on at `rip` in another code segment. The selector's RPL becomes CPL.
    pub(super) fn enter_code(&mut self, cs: Segment, rip: u64, cpl: u8) {
        self.seg[CS] = Segment { selector: cs.selector & !3 | cpl as u16, ..cs };
        self.cpl = cpl;
        self.regs[RIP] = rip;
        self.update_mode();
    }

    /// Real and virtual-8086 mode: CS follows from its selector.
    pub(super) fn enter_real_code(&mut self, selector: u16, rip: u64) {
        if self.v86() {
            self.seg[CS] = v86_segment(selector);
        } else {
            let cs = &mut self.seg[CS];
            cs.selector = selector;
            cs.base = (selector as u64) << 4;
        }
        self.regs[RIP] = rip;
        self.update_mode();
    }

    fn return_real(&mut self, mut stack: Stack, selector: u16, rip: u64, drop: u64) -> Guest<()> {
        let limit = self.seg[CS].limit as u64;
        if rip > limit {
            return self.gp(0);
        }
        stack.sp = stack.sp.wrapping_add(drop);
        self.regs[RSP] = stack.new_rsp(self.regs[RSP]);
        self.enter_real_code(selector, rip);
        Ok(())
    }

    /// Replaces the flags in `mask`.
    pub(super) fn merge_rflags(&mut self, value: u64, mask: Rflags) {
        let old = self.rflags();
        self.set_rflags(old & !mask.bits() | value & mask.bits());
    }

    /// After RFLAGS changed from `old`: a pending interrupt may be due, or a single step.
    pub(crate) fn after_flags(&mut self, old: Rflags) {
        let new = self.system_flags;
        if new.contains(Rflags::TF)
            || !old.contains(Rflags::IF) && new.contains(Rflags::IF) && self.sys.waiting != 0
        {
            self.recheck();
        }
    }
}
