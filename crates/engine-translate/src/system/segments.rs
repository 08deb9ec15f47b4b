//! MOV, PUSH and POP of segment registers; LDS, LES, LSS, LFS, LGS (SDM 2).

use super::stack::Stack;
use crate::cpu::{Cpu, RSP, SS};
use crate::fault::Guest;
use crate::op::Op;

/// MOV from segment register `op.b`: to memory 16 bits, to register `op.a` zero-extended.
pub(super) fn store(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let selector = cpu.seg[op.b as usize & 7].selector;
    if op.addr_size != 0 {
        return cpu.store(op, 0, selector);
    }
    cpu.set_reg(op.a, op.size, selector as u64);
    Ok(())
}

/// MOV to segment register `op.a`.
pub(super) fn load(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let selector = cpu.source16(op, op.b)?;
    let reg = op.a as usize & 7;
    cpu.load_segment(reg, selector)?;
    shadow(cpu, reg);
    Ok(())
}

/// A load of SS holds up interrupts and traps for one instruction (SDM 3A 6.8.3).
fn shadow(cpu: &mut Cpu, reg: usize) {
    if reg == SS {
        cpu.interrupt_shadow = true;
        cpu.sys.stack_shadow = true;
        cpu.sys.stepping = false;
        if cpu.sys.waiting != 0 || cpu.breakpoints_enabled() {
            cpu.recheck();
        }
    }
}

/// PUSH of segment register `op.a`; `op.size` bytes.
pub(super) fn push(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let mut stack = Stack::current(cpu);
    let selector = cpu.seg[op.a as usize & 7].selector as u64;
    // With 32 bits Intel's current processors write only half of the slot (SDM 2B, "PUSH"), AMD's all of it.
    if op.size == 4 && !crate::vendor::amd() {
        stack.push_selector(cpu, selector as u16)?;
    } else {
        stack.push(cpu, op.size, selector)?;
    }
    cpu.regs[RSP] = stack.new_rsp(cpu.regs[RSP]);
    Ok(())
}

/// POP of segment register `op.a`.
pub(super) fn pop(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let mut stack = Stack::current(cpu);
    let selector = stack.pop(cpu, op.size)? as u16;
    let reg = op.a as usize & 7;
    cpu.load_segment(reg, selector)?;
    cpu.regs[RSP] = stack.new_rsp(cpu.regs[RSP]);
    shadow(cpu, reg);
    Ok(())
}

/// LDS, LES, LSS, LFS, LGS: segment register `op.extra`, general register `op.a`, `op.size` bytes of offset.
pub(super) fn load_far(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let offset = match op.size {
        2 => cpu.load::<u16>(op, 0)? as u64,
        4 => cpu.load::<u32>(op, 0)? as u64,
        _ => cpu.load(op, 0)?,
    };
    let selector: u16 = cpu.load(op, op.size as u64)?;
    cpu.load_segment(op.extra as usize & 7, selector)?;
    cpu.set_reg(op.a, op.size, offset);
    Ok(())
}
