//! Decimal arithmetic: AAA, AAD, AAM, AAS, DAA, DAS (SDM 2A).

use super::native::Native;
use super::regs::Word;
use crate::cpu::{Cpu, Mode, RAX};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::Op;
use crate::vendor;
use iced_x86::{Instruction, Mnemonic};
use x86::{Exception, Vector};

const CF: u16 = 1 << 8;
const AF: u16 = 1 << 12;

fn al(cpu: &Cpu) -> u8 {
    cpu.regs[RAX] as u8
}

/// AAA (adding) and AAS. Flags but AF and CF are undefined: SF, ZF, PF follow AL, on AMD's processors those and OF the sum or
/// difference of AX.
fn adjust_ascii<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    let ax = cpu.regs[RAX] as u16;
    let adjust = ax & 0xf > 9 || cpu.status & AF != 0;
    let changed = match (adjust, SUBTRACT) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
    };
    let result = changed & 0xff0f;
    u16::set(cpu, RAX as u8, result);
    let by = if adjust { 0x106 } else { 0 };
    let flags = match (vendor::amd(), SUBTRACT) {
        (true, false) => ax.add(by).1,
        (true, true) => ax.sub(by).1,
        (false, _) => (result as u8).test(result as u8),
    };
    cpu.status = flags & !(CF | AF) | if adjust { CF | AF } else { 0 };
    Ok(())
}

/// DAA (adding) and DAS. OF is undefined: clear, on AMD's processors that of one sum or difference.
fn adjust_decimal<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    let old = al(cpu);
    let (old_carry, half) = (cpu.status & CF != 0, cpu.status & AF != 0);
    let (mut v, mut carry, mut flags) = (old, false, 0);
    if old & 0xf > 9 || half {
        let (r, c) = if SUBTRACT { v.overflowing_sub(6) } else { v.overflowing_add(6) };
        v = r;
        carry = old_carry || c;
        flags |= AF;
    }
    if old > 0x99 || old_carry {
        v = if SUBTRACT { v.wrapping_sub(0x60) } else { v.wrapping_add(0x60) };
        carry = true;
    } else if !SUBTRACT {
        carry = false;
    }
    u8::set(cpu, 0, v);
    let result = match (vendor::amd(), SUBTRACT) {
        (true, false) => old.add(v.wrapping_sub(old)).1,
        (true, true) => old.sub(old.wrapping_sub(v)).1,
        (false, _) => v.test(v),
    };
    cpu.status = result & !(CF | AF) | flags | if carry { CF } else { 0 };
    Ok(())
}

fn aam(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let (v, base) = (al(cpu), op.imm as u8);
    let Some(high) = v.checked_div(base) else {
        return cpu.exception(Exception::plain(Vector::DE));
    };
    let low = v % base;
    u16::set(cpu, RAX as u8, (high as u16) << 8 | low as u16);
    cpu.status = low.test(low);
    Ok(())
}

fn aad(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let high = (cpu.regs[RAX] >> 8) as u8;
    // The flags are those of the last addition.
    let (v, status) = al(cpu).add(high.wrapping_mul(op.imm as u8));
    u16::set(cpu, RAX as u8, v as u16);
    cpu.status = status;
    Ok(())
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, _: Mode) -> Option<Lowered> {
    Lowered::next(match i.mnemonic() {
        Mnemonic::Aaa => adjust_ascii::<false>,
        Mnemonic::Aas => adjust_ascii::<true>,
        Mnemonic::Daa => adjust_decimal::<false>,
        Mnemonic::Das => adjust_decimal::<true>,
        Mnemonic::Aam => {
            op.imm = i.immediate(0);
            aam
        }
        Mnemonic::Aad => {
            op.imm = i.immediate(0);
            aad
        }
        _ => return None,
    })
}
