//! SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD.

use super::ea::Ea;
use super::native::NativeWide;
use super::operand::{self, Kind, Source};
use super::regs::Word;
use crate::cpu::{Cpu, Mode, RCX};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use crate::vendor;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// A shift or rotation by `count`, which the operation itself masks. A count of zero changes no flag.
trait Shift: 'static {
    fn run<W: Word>(a: W, count: u8, status: u16) -> (W, u16);
}
trait DoubleShift: 'static {
    fn run<W: Word + NativeWide>(a: W, b: W, count: u8, status: u16) -> (W, u16);
}

macro_rules! shifts {
    ($($name:ident $method:ident),*) => {$(
        struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn run<W: Word>(a: W, count: u8, status: u16) -> (W, u16) { a.$method(count, status) }
        }
    )*};
}
shifts!(Shl shl, Shr shr, Sar sar, Rol rol, Ror ror, Rcl rcl, Rcr rcr);

/// Rotations of a register by an immediate, on Intel's processors: OF, which is only defined for a count of one, is left
/// alone for others (by CL, or in memory, they write it, and AMD's do always).
macro_rules! rotations {
    ($($name:ident $method:ident),*) => {$(
        struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn run<W: Word>(a: W, count: u8, status: u16) -> (W, u16) {
                let (r, new) = a.$method(count, status);
                let masked = count & if W::SIZE == 8 { 63 } else { 31 };
                (r, if masked == 1 { new } else { new & !1 | status & 1 })
            }
        }
    )*};
}
rotations!(RolBy rol, RorBy ror);

struct Shld;
impl DoubleShift for Shld {
    #[inline(always)]
    fn run<W: Word + NativeWide>(a: W, b: W, count: u8, status: u16) -> (W, u16) {
        a.shld(b, count, status)
    }
}
struct Shrd;
impl DoubleShift for Shrd {
    #[inline(always)]
    fn run<W: Word + NativeWide>(a: W, b: W, count: u8, status: u16) -> (W, u16) {
        a.shrd(b, count, status)
    }
}

fn shift_register<O: Shift, W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let count = S::load::<u8>(cpu, op)?;
    let (r, status) = O::run(W::get(cpu, op.a), count, cpu.status);
    W::set(cpu, op.a, r);
    cpu.status = status;
    Ok(())
}

fn shift_memory<O: Shift, W: Word, S: Source, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::write::<W>(cpu, op)?;
    let count = S::load::<u8>(cpu, op)?;
    cpu.modify(at, |cpu, a: W| {
        let (r, status) = O::run(a, count, cpu.status);
        cpu.status = status;
        r
    })
}

/// The count is the immediate, or CL.
fn double_count<const CL: bool>(cpu: &Cpu, op: &Op) -> u8 {
    if CL { cpu.regs[RCX] as u8 } else { op.imm as u8 }
}

fn double_register<O: DoubleShift, W: Word + NativeWide, const CL: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Guest<()> {
    let count = double_count::<CL>(cpu, op);
    let (r, status) = O::run(W::get(cpu, op.a), W::get(cpu, op.b), count, cpu.status);
    W::set(cpu, op.a, r);
    cpu.status = status;
    Ok(())
}

fn double_memory<O: DoubleShift, W: Word + NativeWide, E: Ea, const CL: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Guest<()> {
    let at = E::write::<W>(cpu, op)?;
    let count = double_count::<CL>(cpu, op);
    let b = W::get(cpu, op.b);
    cpu.modify(at, |cpu, a: W| {
        let (r, status) = O::run(a, b, count, cpu.status);
        cpu.status = status;
        r
    })
}

fn shift<O: Shift>(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Exec> {
    let size = operand::size(i, 0);
    let count = operand::source(i, 1, op, mode)?;
    Some(match operand::destination(i, 0, op, mode)? {
        Kind::Mem(e) => {
            width!(size, W => address!(e, E => register_or_immediate!(count, S => shift_memory::<O, W, S, E> as Exec)))
        }
        _ => width!(size, W => register_or_immediate!(count, S => shift_register::<O, W, S> as Exec)),
    })
}

fn double<O: DoubleShift>(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Exec> {
    let size = operand::size(i, 0);
    operand::source(i, 1, op, mode)?;
    let cl = i.op_kind(2) == OpKind::Register;
    if !cl {
        op.imm = i.immediate(2);
    }
    Some(match (operand::destination(i, 0, op, mode)?, cl) {
        (Kind::Mem(e), true) => {
            width_wide!(size, W => address!(e, E => double_memory::<O, W, E, true> as Exec))
        }
        (Kind::Mem(e), false) => {
            width_wide!(size, W => address!(e, E => double_memory::<O, W, E, false> as Exec))
        }
        (_, true) => width_wide!(size, W => double_register::<O, W, true> as Exec),
        (_, false) => width_wide!(size, W => double_register::<O, W, false> as Exec),
    })
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    let register_by_immediate =
        i.op0_kind() == OpKind::Register && i.op1_kind() == OpKind::Immediate8 && !vendor::amd();
    Lowered::next(match i.mnemonic() {
        // 6 in the opcode's reg field shifts left as well.
        Mnemonic::Shl | Mnemonic::Sal => shift::<Shl>(i, op, mode)?,
        Mnemonic::Shr => shift::<Shr>(i, op, mode)?,
        Mnemonic::Sar => shift::<Sar>(i, op, mode)?,
        Mnemonic::Rol if register_by_immediate => shift::<RolBy>(i, op, mode)?,
        Mnemonic::Ror if register_by_immediate => shift::<RorBy>(i, op, mode)?,
        Mnemonic::Rol => shift::<Rol>(i, op, mode)?,
        Mnemonic::Ror => shift::<Ror>(i, op, mode)?,
        Mnemonic::Rcl => shift::<Rcl>(i, op, mode)?,
        Mnemonic::Rcr => shift::<Rcr>(i, op, mode)?,
        Mnemonic::Shld => double::<Shld>(i, op, mode)?,
        Mnemonic::Shrd => double::<Shrd>(i, op, mode)?,
        _ => return None,
    })
}
