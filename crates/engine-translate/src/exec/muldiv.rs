//! MUL, IMUL, DIV, IDIV.

use super::native::NativeWide;
use super::operand::{self, Kind, Source};
use super::regs::Word;
use crate::cpu::{Cpu, Mode, RAX, RDX};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use iced_x86::{Instruction, Mnemonic};
use x86::{Exception, Vector};

/// The register of the upper half: AH for bytes, else (E,R)DX. AH is byte 1 of the registers.
fn high<W: Word>() -> u8 {
    if W::SIZE == 1 { 1 } else { RDX as u8 }
}

fn mul<W: Word, S: Source, const SIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let b = S::load::<W>(cpu, op)?;
    let a = W::get(cpu, RAX as u8);
    let (low, up, status) = if SIGNED { a.imul(b, cpu.status) } else { a.mul(b, cpu.status) };
    W::set(cpu, RAX as u8, low);
    W::set(cpu, high::<W>(), up);
    cpu.status = status;
    Ok(())
}

fn imul2<W: Word + NativeWide, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let b = S::load::<W>(cpu, op)?;
    let (r, status) = W::get(cpu, op.a).imul2(b, cpu.status);
    W::set(cpu, op.a, r);
    cpu.status = status;
    Ok(())
}

/// Three operands: the source times `op.imm`.
fn imul3<W: Word + NativeWide, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let b = S::load::<W>(cpu, op)?;
    let (r, status) = b.imul2(W::of(op.imm), cpu.status);
    W::set(cpu, op.a, r);
    cpu.status = status;
    Ok(())
}

fn div<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let b = S::load::<W>(cpu, op)?;
    let (low, up) = (W::get(cpu, RAX as u8), W::get(cpu, high::<W>()));
    // The quotient fits exactly if the upper half is below the divisor.
    if up.wide() >= b.wide() {
        return divide_error(cpu);
    }
    // SAFETY: checked above.
    let (quotient, remainder, status) = unsafe { low.div(up, b, cpu.status) };
    W::set(cpu, RAX as u8, quotient);
    W::set(cpu, high::<W>(), remainder);
    cpu.status = status;
    Ok(())
}

fn idiv<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let b = S::load::<W>(cpu, op)?;
    let (low, up) = (W::get(cpu, RAX as u8), W::get(cpu, high::<W>()));
    let dividend = (up.signed() as i128) << W::BITS | low.wide() as i128;
    let fits = match dividend.checked_div(b.signed() as i128) {
        Some(q) => q >= i128::MIN >> (128 - W::BITS) && q <= i128::MAX >> (128 - W::BITS),
        None => false,
    };
    if !fits {
        return divide_error(cpu);
    }
    // SAFETY: checked above.
    let (quotient, remainder, status) = unsafe { low.idiv(up, b, cpu.status) };
    W::set(cpu, RAX as u8, quotient);
    W::set(cpu, high::<W>(), remainder);
    cpu.status = status;
    Ok(())
}

#[cold]
fn divide_error(cpu: &mut Cpu) -> Guest<()> {
    cpu.exception(Exception::plain(Vector::DE))
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    let size = operand::size(i, 0);
    Lowered::next(match (i.mnemonic(), i.op_count()) {
        (Mnemonic::Mul, 1) => {
            let s = operand::source(i, 0, op, mode)?;
            width!(size, W => register_or_memory!(s, S => mul::<W, S, false> as Exec))
        }
        (Mnemonic::Imul, 1) => {
            let s = operand::source(i, 0, op, mode)?;
            width!(size, W => register_or_memory!(s, S => mul::<W, S, true> as Exec))
        }
        (Mnemonic::Imul, 2) => {
            operand::destination(i, 0, op, mode)?;
            let s = operand::source(i, 1, op, mode)?;
            width_wide!(size, W => register_or_memory!(s, S => imul2::<W, S> as Exec))
        }
        (Mnemonic::Imul, 3) => {
            operand::destination(i, 0, op, mode)?;
            let s = operand::source(i, 1, op, mode)?;
            let Kind::Imm = operand::source(i, 2, op, mode)? else { return None };
            width_wide!(size, W => register_or_memory!(s, S => imul3::<W, S> as Exec))
        }
        (Mnemonic::Div, _) => {
            let s = operand::source(i, 0, op, mode)?;
            width!(size, W => register_or_memory!(s, S => div::<W, S> as Exec))
        }
        (Mnemonic::Idiv, _) => {
            let s = operand::source(i, 0, op, mode)?;
            width!(size, W => register_or_memory!(s, S => idiv::<W, S> as Exec))
        }
        _ => return None,
    })
}
