//! MOV, MOVZX, MOVSX, MOVSXD, LEA, CMOVcc, MOVBE, BSWAP, MOVNTI, XLAT and the accumulator's conversions (CBW, CWD and so on).

use super::branch::condition;
use super::ea::{self, Ea, address_mask};
use super::operand::{self, Kind, Source};
use super::regs::Word;
use crate::cpu::{Cpu, Mode, RAX, RBX, RDX};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use crate::vendor;
use iced_x86::{ConditionCode, Instruction, Mnemonic};

fn mov_to_register<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = S::load::<W>(cpu, op)?;
    W::set(cpu, op.a, v);
    Ok(())
}

fn mov_to_memory<W: Word, S: Source, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::write::<W>(cpu, op)?;
    let v = S::load::<W>(cpu, op)?;
    cpu.write(at, v)
}

fn zero_extend<D: Word, W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = S::load::<W>(cpu, op)?;
    D::set(cpu, op.a, D::of(v.wide()));
    Ok(())
}

fn sign_extend<D: Word, W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = S::load::<W>(cpu, op)?;
    D::set(cpu, op.a, D::of(v.signed() as u64));
    Ok(())
}

/// MOVSXD to 16 bits, with a source of 32.
fn truncate<S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = S::load::<u32>(cpu, op)?;
    u16::set(cpu, op.a, v as u16);
    Ok(())
}

fn lea<W: Word, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let offset = E::offset(cpu, op);
    W::set(cpu, op.a, W::of(offset));
    Ok(())
}

/// The source is read, and a 32-bit destination's upper half cleared, whatever the condition.
fn cmov<W: Word, S: Source, const C: u8>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = S::load::<W>(cpu, op)?;
    let v = if condition::<C>(cpu.status) { v } else { W::get(cpu, op.a) };
    W::set(cpu, op.a, v);
    Ok(())
}

/// Bytes in reverse order.
fn reversed<W: Word>(v: W) -> W {
    W::of(v.wide().swap_bytes() >> (64 - W::BITS))
}

fn movbe_load<W: Word, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::read::<W>(cpu, op)?;
    let v = cpu.read::<W>(at)?;
    W::set(cpu, op.a, reversed(v));
    Ok(())
}

fn movbe_store<W: Word, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::write::<W>(cpu, op)?;
    cpu.write(at, reversed(W::get(cpu, op.b)))
}

fn bswap<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    // Of 16 bits it is undefined; processors give zero.
    let v = if W::SIZE == 2 { W::of(0) } else { reversed(W::get(cpu, op.a)) };
    W::set(cpu, op.a, v);
    Ok(())
}

fn xlat(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let offset = cpu.regs[RBX].wrapping_add(cpu.regs[RAX] & 0xff) & address_mask(op.addr_size);
    let at = cpu.segment_linear(op.seg as usize, offset, 1, false)?;
    let v = cpu.read::<u8>(at)?;
    u8::set(cpu, 0, v);
    Ok(())
}

/// CBW, CWDE, CDQE: the accumulator's lower half, of type `W`, to all of `D`.
fn extend_accumulator<W: Word, D: Word>(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    let v = W::get(cpu, RAX as u8).signed();
    D::set(cpu, RAX as u8, D::of(v as u64));
    Ok(())
}

/// CWD, CDQ, CQO.
fn spread_sign<W: Word>(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    let v = W::get(cpu, RAX as u8).signed() >> 63;
    W::set(cpu, RDX as u8, W::of(v as u64));
    Ok(())
}

fn select_mov(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Exec> {
    let size = operand::size(i, 0);
    let source = operand::source(i, 1, op, mode)?;
    Some(match operand::destination(i, 0, op, mode)? {
        Kind::Mem(e) => {
            width!(size, W => address!(e, E => register_or_immediate!(source, S => mov_to_memory::<W, S, E> as Exec)))
        }
        _ => width!(size, W => any_source!(source, S => mov_to_register::<W, S> as Exec)),
    })
}

fn select_extension(i: &Instruction, op: &mut Op, mode: Mode, signed: bool) -> Option<Exec> {
    let (to, from) = (operand::size(i, 0), operand::size(i, 1));
    let source = operand::source(i, 1, op, mode)?;
    operand::destination(i, 0, op, mode)?;
    macro_rules! extend {
        ($($to:literal $from:literal $D:ty, $W:ty;)*) => {
            match (to, from, signed) {
                $(($to, $from, false) => register_or_memory!(source, S => zero_extend::<$D, $W, S> as Exec),
                  ($to, $from, true) => register_or_memory!(source, S => sign_extend::<$D, $W, S> as Exec),)*
                _ => return None,
            }
        };
    }
    Some(extend! {
        2 1 u16, u8;
        4 1 u32, u8;
        8 1 u64, u8;
        2 2 u16, u16;
        4 2 u32, u16;
        8 2 u64, u16;
        4 4 u32, u32;
        8 4 u64, u32;
    })
}

fn select_cmov(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Exec> {
    let size = operand::size(i, 0);
    let source = operand::source(i, 1, op, mode)?;
    operand::destination(i, 0, op, mode)?;
    Some(by_condition!(i.condition_code(), C => {
        width_wide!(size, W => register_or_memory!(source, S => cmov::<W, S, C> as Exec))
    }))
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    use Mnemonic::*;
    Lowered::next(match i.mnemonic() {
        Mov | Movnti => select_mov(i, op, mode)?,
        Movzx => select_extension(i, op, mode, false)?,
        // Intel's processors read 16 bits (SDM 2B "MOVSXD"), AMD's 32 (measured on Zen 3).
        Movsxd if operand::size(i, 0) == 2 && vendor::amd() => {
            operand::destination(i, 0, op, mode)?;
            let source = operand::source(i, 1, op, mode)?;
            register_or_memory!(source, S => truncate::<S> as Exec)
        }
        Movsx | Movsxd => select_extension(i, op, mode, true)?,
        Lea => {
            let size = operand::size(i, 0);
            operand::destination(i, 0, op, mode)?;
            // No access, so no segment: only the width of the address matters.
            let kind = if op.addr_size == 8 { ea::Kind::Long } else { ea::Kind::Checked };
            width_wide!(size, W => address!(kind, E => lea::<W, E> as Exec))
        }
        Cmova | Cmovae | Cmovb | Cmovbe | Cmove | Cmovg | Cmovge | Cmovl | Cmovle | Cmovne | Cmovno
        | Cmovnp | Cmovns | Cmovo | Cmovp | Cmovs => select_cmov(i, op, mode)?,
        Movbe => {
            let size = operand::size(i, 0);
            match (operand::destination(i, 0, op, mode)?, operand::source(i, 1, op, mode)?) {
                (Kind::Mem(e), _) => width_wide!(size, W => address!(e, E => movbe_store::<W, E> as Exec)),
                (_, Kind::Mem(e)) => width_wide!(size, W => address!(e, E => movbe_load::<W, E> as Exec)),
                _ => return None,
            }
        }
        Bswap => {
            operand::destination(i, 0, op, mode)?;
            width_wide!(operand::size(i, 0), W => bswap::<W> as Exec)
        }
        Xlatb => {
            op.seg = crate::decode::segment(i.memory_segment());
            xlat
        }
        Cbw => extend_accumulator::<u8, u16>,
        Cwde => extend_accumulator::<u16, u32>,
        Cdqe => extend_accumulator::<u32, u64>,
        Cwd => spread_sign::<u16>,
        Cdq => spread_sign::<u32>,
        Cqo => spread_sign::<u64>,
        _ => return None,
    })
}

const _: () = assert!(ConditionCode::o as u8 == 1 && ConditionCode::g as u8 == 16);
