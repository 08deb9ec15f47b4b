//! ADD, ADC, SUB, SBB, AND, OR, XOR, CMP, TEST, INC, DEC, NEG, NOT.

use super::atomic;
use super::ea::Ea;
use super::operand::{self, Kind, Source};
use super::regs::Word;
use crate::cpu::{Cpu, Mode};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use iced_x86::{Instruction, Mnemonic};

/// An operation on a destination and a source: result, and status flags from the old ones.
pub trait Alu: 'static {
    fn run<W: Word>(a: W, b: W, status: u16) -> (W, u16);
}
/// An operation that writes flags only.
pub trait Compare: 'static {
    fn run<W: Word>(a: W, b: W) -> u16;
}

macro_rules! alu {
    ($($name:ident |$a:ident, $b:ident, $s:ident| $e:expr;)*) => {$(
        pub struct $name;
        impl Alu for $name {
            #[inline(always)]
            fn run<W: Word>($a: W, $b: W, $s: u16) -> (W, u16) { $e }
        }
    )*};
}
alu! {
    Add |a, b, _s| a.add(b);
    Sub |a, b, _s| a.sub(b);
    And |a, b, _s| a.and(b);
    Or |a, b, _s| a.or(b);
    Xor |a, b, _s| a.xor(b);
    Adc |a, b, s| a.adc(b, s);
    Sbb |a, b, s| a.sbb(b, s);
    Inc |a, _b, s| a.inc(s);
    Dec |a, _b, s| a.dec(s);
    Neg |a, _b, _s| a.neg();
    Not |a, _b, s| (a.not(), s);
}
pub struct Cmp;
impl Compare for Cmp {
    #[inline(always)]
    fn run<W: Word>(a: W, b: W) -> u16 {
        a.cmp(b)
    }
}
pub struct Test;
impl Compare for Test {
    #[inline(always)]
    fn run<W: Word>(a: W, b: W) -> u16 {
        a.test(b)
    }
}

fn to_register<O: Alu, W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let b = S::load::<W>(cpu, op)?;
    let (r, status) = O::run(W::get(cpu, op.a), b, cpu.status);
    W::set(cpu, op.a, r);
    cpu.status = status;
    Ok(())
}

fn to_memory<O: Alu, W: Word, S: Source, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::write::<W>(cpu, op)?;
    let b = S::load::<W>(cpu, op)?;
    cpu.modify(at, |cpu, a| {
        let (r, status) = O::run(a, b, cpu.status);
        cpu.status = status;
        r
    })
}

fn to_memory_locked<O: Alu, W: Word, S: Source, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::write::<W>(cpu, op)?;
    let b = S::load::<W>(cpu, op)?;
    let status = cpu.status;
    cpu.status = atomic::update(cpu, at, |a: W| O::run(a, b, status))?;
    Ok(())
}

fn unary_register<O: Alu, W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let a = W::get(cpu, op.a);
    let (r, status) = O::run(a, a, cpu.status);
    W::set(cpu, op.a, r);
    cpu.status = status;
    Ok(())
}

fn compare_register<O: Compare, W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let b = S::load::<W>(cpu, op)?;
    cpu.status = O::run(W::get(cpu, op.a), b);
    Ok(())
}

fn compare_memory<O: Compare, W: Word, S: Source, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::read::<W>(cpu, op)?;
    let a = cpu.read::<W>(at)?;
    let b = S::load::<W>(cpu, op)?;
    cpu.status = O::run(a, b);
    Ok(())
}

/// XOR or SUB of a register with itself, 32 bits and more: zero.
fn clear(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    u64::set(cpu, op.a, 0);
    // ZF and PF.
    cpu.status = 0x4600;
    Ok(())
}

fn binary<O: Alu>(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Exec> {
    let size = operand::size(i, 0);
    let source = operand::source(i, 1, op, mode)?;
    Some(match operand::destination(i, 0, op, mode)? {
        Kind::Mem(e) if i.has_lock_prefix() => {
            width!(size, W => address!(e, E => register_or_immediate!(source, S => to_memory_locked::<O, W, S, E> as Exec)))
        }
        Kind::Mem(e) => {
            width!(size, W => address!(e, E => register_or_immediate!(source, S => to_memory::<O, W, S, E> as Exec)))
        }
        _ => width!(size, W => any_source!(source, S => to_register::<O, W, S> as Exec)),
    })
}

fn unary<O: Alu>(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Exec> {
    let size = operand::size(i, 0);
    // Memory forms ignore their source; an immediate of 0 is the cheapest.
    Some(match operand::destination(i, 0, op, mode)? {
        Kind::Mem(e) if i.has_lock_prefix() => {
            width!(size, W => address!(e, E => to_memory_locked::<O, W, operand::Imm, E> as Exec))
        }
        Kind::Mem(e) => width!(size, W => address!(e, E => to_memory::<O, W, operand::Imm, E> as Exec)),
        _ => width!(size, W => unary_register::<O, W> as Exec),
    })
}

fn compare<O: Compare>(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Exec> {
    let size = operand::size(i, 0);
    let source = operand::source(i, 1, op, mode)?;
    Some(match operand::destination(i, 0, op, mode)? {
        Kind::Mem(e) => {
            width!(size, W => address!(e, E => register_or_immediate!(source, S => compare_memory::<O, W, S, E> as Exec)))
        }
        _ => width!(size, W => any_source!(source, S => compare_register::<O, W, S> as Exec)),
    })
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    let same = || i.op0_register() == i.op1_register() && i.op0_register().size() >= 4;
    Lowered::next(match i.mnemonic() {
        Mnemonic::Xor | Mnemonic::Sub if i.op_kind(1) == iced_x86::OpKind::Register && same() => {
            operand::destination(i, 0, op, mode)?;
            clear
        }
        Mnemonic::Add => binary::<Add>(i, op, mode)?,
        Mnemonic::Sub => binary::<Sub>(i, op, mode)?,
        Mnemonic::And => binary::<And>(i, op, mode)?,
        Mnemonic::Or => binary::<Or>(i, op, mode)?,
        Mnemonic::Xor => binary::<Xor>(i, op, mode)?,
        Mnemonic::Adc => binary::<Adc>(i, op, mode)?,
        Mnemonic::Sbb => binary::<Sbb>(i, op, mode)?,
        Mnemonic::Cmp => compare::<Cmp>(i, op, mode)?,
        Mnemonic::Test => compare::<Test>(i, op, mode)?,
        Mnemonic::Inc => unary::<Inc>(i, op, mode)?,
        Mnemonic::Dec => unary::<Dec>(i, op, mode)?,
        Mnemonic::Neg => unary::<Neg>(i, op, mode)?,
        Mnemonic::Not => unary::<Not>(i, op, mode)?,
        _ => return None,
    })
}
