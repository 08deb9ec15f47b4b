//! Far JMP and CALL (SDM 3A 5.8.1 to 5.8.5).

use super::descriptors::null_stack;
use super::operand::canonical;
use super::stack::Stack;
use super::task::Switch;
use crate::cpu::{CS, Cpu, RSP, SS};
use crate::fault::Guest;
use crate::op::Op;
use x86::descriptor::kind;
use x86::{Descriptor, Vector};

/// The far pointer: in the instruction (`op.extra` is the selector), or in memory.
fn target(cpu: &mut Cpu, op: &Op) -> Guest<(u16, u64)> {
    if op.addr_size == 0 {
        return Ok((op.extra as u16, op.imm));
    }
    let selector = cpu.load::<u16>(op, op.size as u64)?;
    let offset = match op.size {
        2 => cpu.load::<u16>(op, 0)? as u64,
        4 => cpu.load::<u32>(op, 0)? as u64,
        _ => cpu.load(op, 0)?,
    };
    Ok((selector, offset))
}

/// JMP far.
pub(super) fn jmp_far(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let (selector, offset) = target(cpu, op)?;
    if !cpu.protected() {
        if offset > cpu.seg[CS].limit as u64 {
            return cpu.gp(0);
        }
        cpu.enter_real_code(selector, offset);
        return Ok(());
    }
    if selector & 0xfffc == 0 {
        return cpu.gp(0);
    }
    let d = cpu.descriptor(selector, Vector::GP)?;
    if d.is_code_or_data() {
        cpu.check_direct(selector, d)?;
        let cs = cpu.set_accessed_after_target(selector, d, offset)?;
        let cpl = cpu.cpl;
        cpu.enter_code(cs.segment(selector), offset, cpl);
        return Ok(());
    }
    match cpu.system_target(selector, d)? {
        Target::Task(tss) => cpu.jump_to_task(tss, Switch::Jump, op),
        Target::Gate(gate) => {
            let code = gate.code;
            let same = if code.is_conforming_code() { code.dpl() <= cpu.cpl } else { code.dpl() == cpu.cpl };
            if !same {
                return cpu.selector_fault(Vector::GP, gate.selector);
            }
            let cs = cpu.set_accessed_after_target(gate.selector, code, gate.offset)?;
            let cpl = cpu.cpl;
            cpu.enter_code(cs.segment(gate.selector), gate.offset, cpl);
            Ok(())
        }
    }
}

/// CALL far; `op.size` bytes an item.
pub(super) fn call_far(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let (selector, offset) = target(cpu, op)?;
    let size = op.size;
    let back = cpu.next_rip(op);
    let old_cs = cpu.seg[CS].selector as u64;
    if !cpu.protected() {
        if offset > cpu.seg[CS].limit as u64 {
            return cpu.gp(0);
        }
        let mut stack = Stack::current(cpu);
        stack.push(cpu, size, old_cs)?;
        stack.push(cpu, size, back)?;
        cpu.regs[RSP] = stack.new_rsp(cpu.regs[RSP]);
        cpu.enter_real_code(selector, offset);
        return Ok(());
    }
    if selector & 0xfffc == 0 {
        return cpu.gp(0);
    }
    let d = cpu.descriptor(selector, Vector::GP)?;
    if d.is_code_or_data() {
        cpu.check_direct(selector, d)?;
        let mut stack = Stack::current(cpu);
        stack.push(cpu, size, old_cs)?;
        stack.push(cpu, size, back)?;
        let cs = cpu.set_accessed_after_target(selector, d, offset)?;
        cpu.regs[RSP] = stack.new_rsp(cpu.regs[RSP]);
        let cpl = cpu.cpl;
        cpu.enter_code(cs.segment(selector), offset, cpl);
        return Ok(());
    }
    match cpu.system_target(selector, d)? {
        Target::Task(tss) => cpu.jump_to_task(tss, Switch::Call, op),
        Target::Gate(gate) => cpu.call_gate(&gate, back),
    }
}

/// Where a system descriptor leads.
enum Target {
    Task(u16),
    Gate(Gate),
}

/// A call gate and the code segment behind it.
struct Gate {
    selector: u16,
    offset: u64,
    code: Descriptor,
    /// Bytes an item pushed.
    size: u8,
    parameters: u8,
}

impl Cpu {
    /// A code segment named directly: same privilege, or conforming.
    fn check_direct(&mut self, selector: u16, d: Descriptor) -> Guest<()> {
        let rpl = (selector & 3) as u8;
        let privileged =
            if d.is_conforming_code() { d.dpl() <= self.cpl } else { rpl <= self.cpl && d.dpl() == self.cpl };
        if !d.is_code() || !privileged || self.long_mode() && d.long() && d.big() {
            return self.selector_fault(Vector::GP, selector);
        }
        if !d.present() {
            return self.selector_fault(Vector::NP, selector);
        }
        Ok(())
    }

    fn set_accessed_after_target(&mut self, selector: u16, d: Descriptor, offset: u64) -> Guest<Descriptor> {
        self.check_target(&d.segment(selector), offset)?;
        self.set_accessed(selector, d)
    }

    /// A gate or TSS that a far JMP or CALL names, as far as both treat it alike.
    fn system_target(&mut self, selector: u16, d: Descriptor) -> Guest<Target> {
        let rpl = (selector & 3) as u8;
        let long = self.long_mode();
        let supported = match d.kind() {
            kind::CALL_GATE32 => true,
            kind::CALL_GATE16 | kind::TASK_GATE | kind::TSS16_AVAILABLE | kind::TSS32_AVAILABLE => !long,
            _ => false,
        };
        if !supported || d.dpl() < self.cpl.max(rpl) {
            return self.selector_fault(Vector::GP, selector);
        }
        if !d.present() {
            return self.selector_fault(Vector::NP, selector);
        }
        let (size, offset) = match d.kind() {
            kind::TASK_GATE => return Ok(Target::Task(d.gate_selector())),
            kind::TSS16_AVAILABLE | kind::TSS32_AVAILABLE => {
                return Ok(Target::Task(selector));
            }
            kind::CALL_GATE16 => (2, d.gate_offset() as u64 & 0xffff),
            _ if long => {
                let upper = self.descriptor_upper(selector, Vector::GP)?;
                if upper >> 40 & 0x1f != 0 {
                    return self.selector_fault(Vector::GP, selector);
                }
                (8, d.gate_offset() as u64 | upper << 32)
            }
            _ => (4, d.gate_offset() as u64),
        };
        let code_selector = d.gate_selector();
        if code_selector & 0xfffc == 0 {
            return self.gp(0);
        }
        let code = self.descriptor(code_selector, Vector::GP)?;
        if !code.is_code() || code.dpl() > self.cpl || long && (!code.long() || code.big()) {
            return self.selector_fault(Vector::GP, code_selector);
        }
        if !code.present() {
            return self.selector_fault(Vector::NP, code_selector);
        }
        Ok(Target::Gate(Gate {
            selector: code_selector,
            offset,
            code,
            size,
            parameters: d.gate_parameters(),
        }))
    }

    fn call_gate(&mut self, gate: &Gate, back: u64) -> Guest<()> {
        let old_cs = self.seg[CS].selector as u64;
        let inner = !gate.code.is_conforming_code() && gate.code.dpl() < self.cpl;
        if !inner {
            let mut stack = Stack::current(self);
            stack.push(self, gate.size, old_cs)?;
            stack.push(self, gate.size, back)?;
            let cs = self.set_accessed_after_target(gate.selector, gate.code, gate.offset)?;
            self.regs[RSP] = stack.new_rsp(self.regs[RSP]);
            let cpl = self.cpl;
            self.enter_code(cs.segment(gate.selector), gate.offset, cpl);
            return Ok(());
        }
        let cpl = gate.code.dpl();
        let (old_ss, old_sp) = (self.seg[SS].selector as u64, self.regs[RSP]);
        let (mut stack, ss) = if gate.size == 8 {
            let sp = self.read_tss64(4 + 8 * cpl as u64)?;
            if !canonical(gate.offset) {
                return self.gp(0);
            }
            (Stack::long(self, sp, cpl), null_stack(cpl as u16, cpl))
        } else {
            let (ss, sp) = self.inner_stack(cpl)?;
            (Stack::inner(self, ss, sp, cpl), ss)
        };
        stack.push(self, gate.size, old_ss)?;
        stack.push(self, gate.size, old_sp)?;
        if gate.size != 8 {
            let outer = Stack::current(self);
            for i in (0..gate.parameters as u64).rev() {
                let parameter = outer.peek(self, i * gate.size as u64, gate.size)?;
                stack.push(self, gate.size, parameter)?;
            }
        }
        stack.push(self, gate.size, old_cs)?;
        stack.push(self, gate.size, back)?;
        let cs = self.set_accessed_after_target(gate.selector, gate.code, gate.offset)?;
        self.regs[RSP] = stack.new_rsp(0);
        self.seg[SS] = ss;
        self.enter_code(cs.segment(gate.selector), gate.offset, cpl);
        Ok(())
    }
}
