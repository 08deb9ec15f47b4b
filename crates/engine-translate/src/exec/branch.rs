//! Near branches: Jcc, JMP, CALL, RET, LOOPcc, JCXZ; and SETcc.

use super::ea::{self, Ea};
use super::operand::{self, Kind, Source};
use super::regs::Word;
use crate::cpu::{Cpu, Mode, RCX, RIP, RSP, SS};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

/// Whether condition `C`, as instructions encode it (SDM 1 B.1.4.7), holds.
#[inline(always)]
pub fn condition<const C: u8>(status: u16) -> bool {
    const CF: u16 = 1 << 8;
    const PF: u16 = 1 << 10;
    const ZF: u16 = 1 << 14;
    const SF: u16 = 1 << 15;
    let less = || (status >> 15 ^ status) & 1;
    let holds = match C >> 1 {
        0 => status & 1 != 0,
        1 => status & CF != 0,
        2 => status & ZF != 0,
        3 => status & (CF | ZF) != 0,
        4 => status & SF != 0,
        5 => status & PF != 0,
        6 => less() != 0,
        _ => less() | status & ZF != 0,
    };
    holds != (C & 1 != 0)
}

/// `$e` with `$C` as the number of an iced condition code.
macro_rules! by_condition {
    ($code:expr, $C:ident => $e:expr) => {
        by_condition!(@ $code, $C => $e; o 0, no 1, b 2, ae 3, e 4, ne 5, be 6, a 7, s 8, ns 9, p 10, np 11, l 12, ge 13, le 14, g 15)
    };
    (@ $code:expr, $C:ident => $e:expr; $($name:ident $n:literal),*) => {
        match $code {
            $(iced_x86::ConditionCode::$name => {
                const $C: u8 = $n;
                $e
            })*
            iced_x86::ConditionCode::None => return None,
        }
    };
}

/// The branches' parameter for 64-bit code. Elsewhere `op.extra` masks targets, and CS's limit bounds them.
const LONG: bool = true;

/// Sets RIP for a branch relative to the block's start.
#[inline(always)]
fn relative<const MODE64: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let target = cpu.regs[RIP].wrapping_add(op.imm);
    if MODE64 {
        cpu.regs[RIP] = target;
        return Ok(());
    }
    legacy_jump(cpu, target & op.extra as u64)
}

#[inline(always)]
fn fall_through<const MODE64: bool>(cpu: &mut Cpu, op: &Op) {
    let next = cpu.regs[RIP].wrapping_add(op.offset as u64 + op.len as u64);
    cpu.regs[RIP] = if MODE64 { next } else { next & 0xffff_ffff };
}

/// Outside 64-bit code: #GP(0) beyond CS's limit.
#[inline(always)]
fn legacy_jump(cpu: &mut Cpu, target: u64) -> Guest<()> {
    if target > cpu.seg[crate::cpu::CS].limit as u64 {
        return cpu.gp(0);
    }
    cpu.regs[RIP] = target;
    Ok(())
}

/// Whether RIP may become `target`: #GP(0) if not.
#[inline(always)]
fn check_target<const MODE64: bool>(cpu: &mut Cpu, target: u64) -> Guest<()> {
    let ok = if MODE64 {
        (target as i64) << 16 >> 16 == target as i64
    } else {
        target <= cpu.seg[crate::cpu::CS].limit as u64
    };
    if ok { Ok(()) } else { cpu.gp(0) }
}

fn jcc<const MODE64: bool, const C: u8>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if condition::<C>(cpu.status) {
        relative::<MODE64>(cpu, op)
    } else {
        fall_through::<MODE64>(cpu, op);
        Ok(())
    }
}

fn jmp_relative<const MODE64: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    relative::<MODE64>(cpu, op)
}

fn jmp_indirect<W: Word, S: Source, const MODE64: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let target = S::load::<W>(cpu, op)?.wide();
    check_target::<MODE64>(cpu, target)?;
    cpu.regs[RIP] = target;
    Ok(())
}

fn call_relative<W: Word, const MODE64: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let start = cpu.regs[RIP];
    let mut target = start.wrapping_add(op.imm);
    if !MODE64 {
        target &= op.extra as u64;
        check_target::<MODE64>(cpu, target)?;
    }
    let next = start.wrapping_add(op.offset as u64 + op.len as u64);
    cpu.push::<W, MODE64>(W::of(next))?;
    cpu.regs[RIP] = target;
    Ok(())
}

fn call_indirect<W: Word, S: Source, const MODE64: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let target = S::load::<W>(cpu, op)?.wide();
    check_target::<MODE64>(cpu, target)?;
    let next = cpu.regs[RIP].wrapping_add(op.offset as u64 + op.len as u64);
    cpu.push::<W, MODE64>(W::of(next))?;
    cpu.regs[RIP] = target;
    Ok(())
}

fn ret<W: Word, const MODE64: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let sp = cpu.regs[RSP];
    let target = cpu.peek_stack::<W, MODE64>(0)?.wide();
    check_target::<MODE64>(cpu, target)?;
    cpu.set_sp::<MODE64>(sp.wrapping_add(W::SIZE as u64).wrapping_add(op.imm));
    cpu.regs[RIP] = target;
    Ok(())
}

/// LOOP, LOOPE, LOOPNE, JCXZ.
#[derive(Clone, Copy)]
enum Count {
    Loop,
    LoopE,
    LoopNe,
    Zero,
}

/// The counter has `op.size` bytes; `op.b` says which instruction.
fn counted<const MODE64: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let mask = ea::address_mask(op.size);
    let count = cpu.regs[RCX];
    let decremented = count.wrapping_sub(1) & mask;
    let zf = cpu.status & 1 << 14 != 0;
    let taken = match op.b {
        b if b == Count::Zero as u8 => count & mask == 0,
        b if b == Count::LoopE as u8 => decremented != 0 && zf,
        b if b == Count::LoopNe as u8 => decremented != 0 && !zf,
        _ => decremented != 0,
    };
    if taken {
        relative::<MODE64>(cpu, op)?;
    } else {
        fall_through::<MODE64>(cpu, op);
    }
    if op.b != Count::Zero as u8 {
        cpu.set_masked(RCX, mask, decremented);
    }
    Ok(())
}

fn set_register<const C: u8>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = condition::<C>(cpu.status) as u8;
    u8::set(cpu, op.a, v);
    Ok(())
}

fn set_memory<E: Ea, const C: u8>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::write::<u8>(cpu, op)?;
    cpu.write(at, condition::<C>(cpu.status) as u8)
}

/// Notes the target of a relative branch. The operand size in bytes.
fn target(i: &Instruction, op: &mut Op) -> Option<u8> {
    let start = i.ip().wrapping_sub(op.offset as u64);
    op.imm = i.near_branch_target().wrapping_sub(start);
    let (size, mask) = match i.op_kind(0) {
        OpKind::NearBranch16 => (2, 0xffff),
        OpKind::NearBranch32 => (4, 0xffff_ffff),
        OpKind::NearBranch64 => (8, 0),
        _ => return None,
    };
    op.extra = mask;
    Some(size)
}

fn select_indirect(i: &Instruction, op: &mut Op, mode: Mode, call: bool) -> Option<Lowered> {
    let size = operand::size(i, 0);
    let s = operand::source(i, 0, op, mode)?;
    if call && !matches!(s, Kind::Mem(_)) {
        op.seg = SS as u8;
    }
    if mode.is64() {
        return Lowered::set(register_or_memory!(s, S => {
            if call { call_indirect::<u64, S, LONG> as Exec } else { jmp_indirect::<u64, S, LONG> as Exec }
        }));
    }
    Lowered::set(match (size, call) {
        (2, true) => register_or_memory!(s, S => call_indirect::<u16, S, false> as Exec),
        (2, false) => register_or_memory!(s, S => jmp_indirect::<u16, S, false> as Exec),
        (_, true) => register_or_memory!(s, S => call_indirect::<u32, S, false> as Exec),
        (_, false) => register_or_memory!(s, S => jmp_indirect::<u32, S, false> as Exec),
    })
}

fn select_set(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    let to = operand::destination(i, 0, op, mode)?;
    Lowered::next(by_condition!(i.condition_code(), C => match to {
        Kind::Mem(e) => address!(e, E => set_memory::<E, C> as Exec),
        _ => set_register::<C>,
    }))
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    use Mnemonic::*;
    let long = mode.is64();
    if i.is_jcc_short_or_near() {
        target(i, op)?;
        return Lowered::set(by_condition!(i.condition_code(), C => {
            if long { jcc::<LONG, C> as Exec } else { jcc::<false, C> as Exec }
        }));
    }
    match i.mnemonic() {
        Seta | Setae | Setb | Setbe | Sete | Setg | Setge | Setl | Setle | Setne | Setno | Setnp | Setns
        | Seto | Setp | Sets => select_set(i, op, mode),
        Jmp if i.is_jmp_short_or_near() => {
            target(i, op)?;
            Lowered::set(if long { jmp_relative::<LONG> } else { jmp_relative::<false> })
        }
        Jmp if i.is_jmp_near_indirect() => select_indirect(i, op, mode, false),
        Call if i.is_call_near() => {
            op.seg = SS as u8;
            Lowered::set(match target(i, op)? {
                2 => call_relative::<u16, false>,
                4 => call_relative::<u32, false>,
                _ => call_relative::<u64, LONG>,
            })
        }
        Call if i.is_call_near_indirect() => select_indirect(i, op, mode, true),
        Ret => {
            op.seg = SS as u8;
            if i.op_count() == 1 {
                op.imm = i.immediate(0);
            }
            Lowered::set(match i.code() {
                Code::Retnw | Code::Retnw_imm16 if !long => ret::<u16, false>,
                Code::Retnd | Code::Retnd_imm16 => ret::<u32, false>,
                _ => ret::<u64, LONG>,
            })
        }
        Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz => {
            target(i, op)?;
            op.size = (i.op_code().address_size() / 8) as u8;
            op.b = match i.mnemonic() {
                Loop => Count::Loop,
                Loope => Count::LoopE,
                Loopne => Count::LoopNe,
                _ => Count::Zero,
            } as u8;
            Lowered::set(if long { counted::<LONG> } else { counted::<false> })
        }
        _ => None,
    }
}
