//! How exceptions and interrupts enter their handlers (SDM 3A 6.12 to 6.14, 20.1.4, 20.3).

use super::descriptors::null_stack;
use super::operand::canonical;
use super::stack::Stack;
use crate::cpu::{CS, Cpu, DS, ES, FS, GS, RIP, RSP, SS};
use crate::fault::Guest;
use x86::descriptor::kind;
use x86::{Descriptor, Exception, Rflags, Segment, Vector};

/// What an event comes from: decides on privilege checks and error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// INT n, INT3, INTO: the gate's DPL is checked, EXT is clear.
    Software,
    /// INT n in virtual-8086 mode and real mode goes here too; everything else: exceptions, interrupts, NMI, INT1.
    Outside,
}

/// An event to deliver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub vector: u8,
    pub origin: Origin,
    pub error: Option<u32>,
    /// The RIP that the handler returns to.
    pub rip: u64,
    /// RFLAGS as pushed.
    pub rflags: u64,
}

impl Cpu {
    /// Enters the handler of an event. On `Err` nothing has changed but memory beyond stack pointers.
    pub(crate) fn deliver(&mut self, event: Event) -> Guest<()> {
        self.sys.external = (event.origin == Origin::Outside) as u32;
        let r = if !self.cr0.contains(x86::Cr0::PE) {
            self.deliver_real(event)
        } else if self.long_mode() {
            self.deliver_long(event)
        } else {
            self.deliver_protected(event)
        };
        let r = self.canonical_or(r, Exception::gp(self.sys.external));
        self.sys.external = 0;
        if r.is_ok() {
            self.interrupt_shadow = false;
        }
        r
    }

    /// Real mode's vector table (SDM 3A 20.1.4), which virtual-8086 mode with VME uses too.
    pub(crate) fn deliver_real(&mut self, event: Event) -> Guest<()> {
        let (base, limit) = if self.v86() { (0, 0x3ff) } else { (self.idtr.base, self.idtr.limit) };
        let at = event.vector as u64 * 4;
        if at + 3 > limit as u64 {
            return self.gp((event.vector as u32) << 3 | 2 | self.sys.external);
        }
        let vector: u32 = if self.v86() {
            self.read((base + at) & 0xffff_ffff)?
        } else {
            self.system_read((base + at) & 0xffff_ffff)?
        };
        let mut stack = Stack::current(self);
        stack.push(self, 2, event.rflags)?;
        stack.push(self, 2, self.seg[CS].selector as u64)?;
        stack.push(self, 2, event.rip)?;
        self.regs[RSP] = stack.new_rsp(self.regs[RSP]);
        let cleared = Rflags::IF | Rflags::TF | Rflags::AC | Rflags::RF;
        if self.v86() {
            self.system_flags.remove(Rflags::TF | Rflags::RF);
            if self.system_flags.iopl() < 3 {
                self.system_flags.remove(Rflags::VIF);
            } else {
                self.system_flags.remove(Rflags::IF);
            }
            self.seg[CS] = super::descriptors::v86_segment((vector >> 16) as u16);
        } else {
            self.system_flags.remove(cleared);
            let cs = &mut self.seg[CS];
            cs.selector = (vector >> 16) as u16;
            cs.base = (cs.selector as u64) << 4;
        }
        self.regs[RIP] = (vector & 0xffff) as u64;
        self.update_mode();
        Ok(())
    }

    fn gate_code(&self, vector: u8) -> u32 {
        (vector as u32) << 3 | 2 | self.sys.external
    }

    /// Checks common to the gates of both protected modes.
    fn check_gate(&mut self, gate: Descriptor, event: &Event) -> Guest<()> {
        let code = self.gate_code(event.vector);
        if event.origin == Origin::Software && gate.dpl() < self.cpl {
            return self.gp(code);
        }
        if !gate.present() {
            return self.exception(Exception::with_code(Vector::NP, code));
        }
        Ok(())
    }

    /// The handler's code segment, checked for privilege. Not yet marked accessed.
    fn handler_segment(&mut self, selector: u16) -> Guest<Descriptor> {
        if selector & 0xfffc == 0 {
            return self.gp(self.sys.external);
        }
        let d = self.descriptor(selector, Vector::GP)?;
        if !d.is_code() || d.dpl() > self.cpl {
            return self.selector_fault(Vector::GP, selector);
        }
        if self.long_mode() && (!d.long() || d.big()) {
            return self.selector_fault(Vector::GP, selector);
        }
        if !d.present() {
            return self.selector_fault(Vector::NP, selector);
        }
        Ok(d)
    }

    fn deliver_long(&mut self, event: Event) -> Guest<()> {
        let code = self.gate_code(event.vector);
        let at = event.vector as u64 * 16;
        if at + 15 > self.idtr.limit as u64 {
            return self.gp(code);
        }
        let at = self.idtr.base.wrapping_add(at);
        let gate = Descriptor(self.system_read(at)?);
        let upper: u64 = self.system_read(at.wrapping_add(8))?;
        let interrupt_gate = match gate.kind() {
            kind::INTERRUPT_GATE32 if !gate.is_code_or_data() => true,
            kind::TRAP_GATE32 if !gate.is_code_or_data() => false,
            _ => return self.gp(code),
        };
        self.check_gate(gate, &event)?;
        let selector = gate.gate_selector();
        let d = self.handler_segment(selector)?;
        let inner = !d.is_conforming_code() && d.dpl() < self.cpl;
        let cpl = if inner { d.dpl() } else { self.cpl };
        let ist = gate.gate_ist();
        let sp = if ist != 0 {
            self.read_tss64(0x24 + 8 * (ist as u64 - 1))?
        } else if inner {
            self.read_tss64(4 + 8 * cpl as u64)?
        } else {
            self.regs[RSP]
        };
        let offset = gate.gate_offset() as u64 | upper << 32;
        if !canonical(offset) {
            return self.gp(self.sys.external);
        }
        let mut stack = Stack::long(self, sp & !0xf, cpl);
        stack.push(self, 8, self.seg[SS].selector as u64)?;
        stack.push(self, 8, self.regs[RSP])?;
        stack.push(self, 8, event.rflags)?;
        stack.push(self, 8, self.seg[CS].selector as u64)?;
        stack.push(self, 8, event.rip)?;
        if let Some(error) = event.error {
            stack.push(self, 8, error as u64)?;
        }
        let d = self.set_accessed(selector, d)?;
        if inner {
            self.seg[SS] = null_stack(cpl as u16, cpl);
        }
        self.regs[RSP] = stack.sp;
        self.enter_handler(d.segment(selector & !3 | cpl as u16), offset, cpl, interrupt_gate);
        Ok(())
    }

    /// A stack pointer of the 64-bit TSS.
    pub(crate) fn read_tss64(&mut self, offset: u64) -> Guest<u64> {
        if offset + 7 > self.tr.limit as u64 {
            return self.selector_fault(Vector::TS, self.tr.selector);
        }
        let sp = self.system_read(self.tr.base.wrapping_add(offset))?;
        if !canonical(sp) {
            return self.exception(Exception::with_code(Vector::SS, self.sys.external));
        }
        Ok(sp)
    }

    /// The stack of an inner privilege from a 16- or 32-bit TSS, its segment checked.
    pub(crate) fn inner_stack(&mut self, cpl: u8) -> Guest<(Segment, u64)> {
        let tss32 = self.tr.kind() & 8 != 0;
        let (at, len) = if tss32 { (4 + 8 * cpl as u64, 8) } else { (2 + 4 * cpl as u64, 4) };
        if at + len - 1 > self.tr.limit as u64 {
            return self.selector_fault(Vector::TS, self.tr.selector);
        }
        let base = self.tr.base.wrapping_add(at);
        let (sp, ss) = if tss32 {
            (self.system_read::<u32>(base)? as u64, self.system_read::<u16>(base.wrapping_add(4))?)
        } else {
            (self.system_read::<u16>(base)? as u64, self.system_read::<u16>(base.wrapping_add(2))?)
        };
        Ok((self.fetch_stack_segment(ss, cpl, Vector::TS)?, sp))
    }

    fn deliver_protected(&mut self, event: Event) -> Guest<()> {
        let code = self.gate_code(event.vector);
        let at = event.vector as u64 * 8;
        if at + 7 > self.idtr.limit as u64 {
            return self.gp(code);
        }
        let gate = Descriptor(self.system_read(self.idtr.base.wrapping_add(at) & 0xffff_ffff)?);
        let (size, interrupt_gate) = match gate.kind() {
            _ if gate.is_code_or_data() => return self.gp(code),
            kind::TASK_GATE => (0, false),
            kind::INTERRUPT_GATE16 => (2, true),
            kind::TRAP_GATE16 => (2, false),
            kind::INTERRUPT_GATE32 => (4, true),
            kind::TRAP_GATE32 => (4, false),
            _ => return self.gp(code),
        };
        self.check_gate(gate, &event)?;
        if size == 0 {
            return self.deliver_by_task(gate.gate_selector(), &event);
        }
        let selector = gate.gate_selector();
        let d = self.handler_segment(selector)?;
        let offset = if size == 2 { gate.gate_offset() as u64 & 0xffff } else { gate.gate_offset() as u64 };
        let v86 = self.v86();
        let inner = !d.is_conforming_code() && d.dpl() < self.cpl;
        if v86 && (!inner || d.dpl() != 0) {
            return self.selector_fault(Vector::GP, selector);
        }
        let cpl = if inner { d.dpl() } else { self.cpl };
        let (mut stack, new_ss) = if inner {
            let (ss, sp) = self.inner_stack(cpl)?;
            (Stack::inner(self, ss, sp, cpl), Some(ss))
        } else {
            (Stack::current(self), None)
        };
        if v86 {
            for reg in [GS, FS, DS, ES] {
                stack.push(self, size, self.seg[reg].selector as u64)?;
            }
        }
        if inner {
            stack.push(self, size, self.seg[SS].selector as u64)?;
            stack.push(self, size, self.regs[RSP])?;
        }
        stack.push(self, size, event.rflags)?;
        stack.push(self, size, self.seg[CS].selector as u64)?;
        stack.push(self, size, event.rip)?;
        if let Some(error) = event.error {
            stack.push(self, size, error as u64)?;
        }
        self.check_code_limit(&d.segment(selector), offset)?;
        let d = self.set_accessed(selector, d)?;
        if v86 {
            for reg in [GS, FS, DS, ES] {
                self.seg[reg] = Segment { unusable: true, ..Segment::default() };
            }
        }
        self.regs[RSP] = stack.new_rsp(if inner { 0 } else { self.regs[RSP] });
        if let Some(ss) = new_ss {
            self.seg[SS] = ss;
        }
        self.enter_handler(d.segment(selector & !3 | cpl as u16), offset, cpl, interrupt_gate);
        Ok(())
    }

    fn enter_handler(&mut self, cs: Segment, offset: u64, cpl: u8, interrupt_gate: bool) {
        self.seg[CS] = cs;
        self.regs[RIP] = offset;
        self.cpl = cpl;
        self.system_flags.remove(Rflags::TF | Rflags::RF | Rflags::NT | Rflags::VM);
        if interrupt_gate {
            self.system_flags.remove(Rflags::IF);
        }
        self.update_mode();
    }
}
