//! Descriptor-table and task registers, and the instructions that look at descriptors (SDM 2; SDM 3A 5.10).

use super::operand::canonical;
use crate::cpu::Cpu;
use crate::fault::Guest;
use crate::op::Op;
use x86::descriptor::kind;
use x86::segment::Table;
use x86::{Rflags, Segment, Vector};

/// `op.extra` of the table instructions.
pub(super) const GDT: u32 = 0;
pub(super) const IDT: u32 = 1;

/// LGDT and LIDT; `op.size` is the operand size: with 2, 24 bits of base.
pub(super) fn load_table(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    let limit: u16 = cpu.load(op, 0)?;
    let base = match op.size {
        8 => cpu.load::<u64>(op, 2)?,
        4 => cpu.load::<u32>(op, 2)? as u64,
        _ => cpu.load::<u32>(op, 2)? as u64 & 0xff_ffff,
    };
    if !canonical(base) {
        return cpu.gp(0);
    }
    let table = Table { base, limit };
    if op.extra == GDT {
        cpu.gdtr = table;
    } else {
        cpu.idtr = table;
    }
    Ok(())
}

/// SGDT and SIDT.
pub(super) fn store_table(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.check_umip()?;
    let t = if op.extra == GDT { cpu.gdtr } else { cpu.idtr };
    // All of it is checked first, so that a fault leaves nothing half written.
    let len = if cpu.mode.is64() { 10 } else { 6 };
    let at = cpu.operand(op, 0, len, true)?;
    let mut image = [0u8; 10];
    image[..2].copy_from_slice(&t.limit.to_le_bytes());
    image[2..].copy_from_slice(&t.base.to_le_bytes());
    cpu.write_bytes(at, &image[..len as usize])
}

/// LLDT.
pub(super) fn lldt(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_protected()?;
    cpu.require_cpl0()?;
    let selector = cpu.source16(op, op.a)?;
    cpu.ldtr = cpu.fetch_ldt(selector, Vector::GP, Vector::NP)?;
    Ok(())
}

/// LTR.
pub(super) fn ltr(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_protected()?;
    cpu.require_cpl0()?;
    let selector = cpu.source16(op, op.a)?;
    if selector & 0xfffc == 0 {
        return cpu.gp(0);
    }
    if selector & 4 != 0 {
        return cpu.selector_fault(Vector::GP, selector);
    }
    let d = cpu.descriptor(selector, Vector::GP)?;
    let available = match d.kind() {
        kind::TSS16_AVAILABLE => !cpu.long_mode(),
        kind::TSS32_AVAILABLE => true,
        _ => false,
    };
    if d.is_code_or_data() || !available {
        return cpu.selector_fault(Vector::GP, selector);
    }
    if !d.present() {
        return cpu.selector_fault(Vector::NP, selector);
    }
    let upper = if cpu.long_mode() { cpu.descriptor_upper(selector, Vector::GP)? } else { 0 };
    let mut tr = cpu.set_busy(selector, d)?.segment(selector);
    tr.base |= upper << 32;
    if !canonical(tr.base) {
        return cpu.selector_fault(Vector::GP, selector);
    }
    cpu.tr = tr;
    Ok(())
}

/// SLDT (`op.extra` 0) and STR (1).
pub(super) fn store_selector(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_protected()?;
    cpu.check_umip()?;
    let selector = if op.extra == 0 { cpu.ldtr.selector } else { cpu.tr.selector };
    if op.addr_size != 0 {
        return cpu.store(op, 0, selector);
    }
    cpu.set_reg(op.a, op.size, selector as u64);
    Ok(())
}

/// LAR: source in register `op.b` or memory, to register `op.a`.
pub(super) fn lar(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_protected()?;
    let selector = cpu.source16(op, op.b)?;
    let rights = visible(cpu, selector, |k, long| match k {
        kind::TSS32_AVAILABLE | kind::TSS32_BUSY | kind::CALL_GATE32 | kind::LDT => true,
        kind::TSS16_AVAILABLE | kind::TSS16_BUSY | kind::CALL_GATE16 | kind::TASK_GATE => !long,
        _ => false,
    })?;
    if let Some(d) = rights {
        cpu.set_reg(op.a, op.size, d.0 >> 32 & 0x00ff_ff00);
    }
    set_zf(cpu, rights.is_some());
    Ok(())
}

/// LSL.
pub(super) fn lsl(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_protected()?;
    let selector = cpu.source16(op, op.b)?;
    let found = visible(cpu, selector, |k, long| match k {
        kind::TSS32_AVAILABLE | kind::TSS32_BUSY | kind::LDT => true,
        kind::TSS16_AVAILABLE | kind::TSS16_BUSY => !long,
        _ => false,
    })?;
    if let Some(d) = found {
        cpu.set_reg(op.a, op.size, d.limit() as u64);
    }
    set_zf(cpu, found.is_some());
    Ok(())
}

/// VERR (`op.extra` 0) and VERW (1).
pub(super) fn verify(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_protected()?;
    let selector = cpu.source16(op, op.a)?;
    let found = visible(cpu, selector, |_, _| false)?;
    let ok = found.is_some_and(|d| {
        let readable_or_writable = d.0 & 1 << 41 != 0;
        if op.extra == 0 {
            !d.is_code() || readable_or_writable
        } else {
            !d.is_code() && readable_or_writable
        }
    });
    set_zf(cpu, ok);
    Ok(())
}

/// The descriptor of a selector that the current privilege may see; system descriptors if `system` says so.
fn visible(
    cpu: &mut Cpu,
    selector: u16,
    system: impl Fn(u8, bool) -> bool,
) -> Guest<Option<x86::Descriptor>> {
    let long = cpu.long_mode();
    let Some((d, _)) = cpu.descriptor_if_any(selector, 8)? else { return Ok(None) };
    let rpl = (selector & 3) as u8;
    let kind_ok = d.is_code_or_data() || system(d.kind(), long);
    let privileged = d.is_conforming_code() || d.dpl() >= cpu.cpl.max(rpl);
    Ok((kind_ok && privileged).then_some(d))
}

/// ARPL: register `op.b` against register `op.a` or memory.
pub(super) fn arpl(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_protected()?;
    let destination = cpu.source16(op, op.a)?;
    let rpl = cpu.regs[op.b as usize & 15] as u16 & 3;
    let raise = destination & 3 < rpl;
    if op.addr_size != 0 {
        // Memory has to be writable in any case.
        let at = cpu.operand(op, 0, 2, true)?;
        cpu.probe_write(at, 2)?;
    }
    if raise {
        let new = destination & !3 | rpl;
        if op.addr_size != 0 {
            cpu.store(op, 0, new)?;
        } else {
            cpu.set_reg(op.a, 2, new as u64);
        }
    }
    set_zf(cpu, raise);
    Ok(())
}

fn set_zf(cpu: &mut Cpu, on: bool) {
    cpu.merge_rflags(if on { Rflags::ZF.bits() } else { 0 }, Rflags::ZF);
}

impl Cpu {
    /// An LDT for `selector`, checked; null makes it unusable.
    pub(super) fn fetch_ldt(&mut self, selector: u16, wrong: Vector, absent: Vector) -> Guest<Segment> {
        if selector & 0xfffc == 0 {
            return Ok(Segment {
                selector,
                attributes: kind::LDT as u16,
                unusable: true,
                ..Segment::default()
            });
        }
        if selector & 4 != 0 {
            return self.selector_fault(wrong, selector);
        }
        let d = self.descriptor(selector, wrong)?;
        if d.is_code_or_data() || d.kind() != kind::LDT {
            return self.selector_fault(wrong, selector);
        }
        if !d.present() {
            return self.selector_fault(absent, selector);
        }
        let mut ldtr = d.segment(selector);
        if self.long_mode() {
            ldtr.base |= self.descriptor_upper(selector, wrong)? << 32;
            if !canonical(ldtr.base) {
                return self.selector_fault(wrong, selector);
            }
        }
        Ok(ldtr)
    }
}
