//! Where an instruction's source operand comes from, and the choice of a handler by kinds of operand.

use super::ea::{self, Checked, Ea, Flat, Long};
use super::regs::{self, Word};
use crate::cpu::{Cpu, Mode};
use crate::fault::Guest;
use crate::op::Op;
use iced_x86::{Instruction, OpKind};
use std::marker::PhantomData;

/// A source operand.
pub trait Source: 'static {
    fn load<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<W>;
}

/// Register `op.b`.
pub struct Reg;
/// `op.imm`.
pub struct Imm;
/// The memory operand.
pub struct Mem<E>(PhantomData<E>);

impl Source for Reg {
    #[inline(always)]
    fn load<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<W> {
        Ok(W::get(cpu, op.b))
    }
}
impl Source for Imm {
    #[inline(always)]
    fn load<W: Word>(_: &mut Cpu, op: &Op) -> Guest<W> {
        Ok(W::of(op.imm))
    }
}
impl<E: Ea> Source for Mem<E> {
    #[inline(always)]
    fn load<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<W> {
        let at = E::read::<W>(cpu, op)?;
        cpu.read(at)
    }
}

/// The memory operand with 64-bit, flat 32-bit and checked addresses.
pub type MemLong = Mem<Long>;
pub type MemFlat = Mem<Flat>;
pub type MemChecked = Mem<Checked>;

/// What an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Reg,
    Imm,
    Mem(ea::Kind),
}

/// Looks at operand `n`; a register goes to `op.b`, an immediate to `op.imm`. `None` for anything else than a general
/// register, an immediate or an ordinary memory operand.
pub fn source(i: &Instruction, n: u32, op: &mut Op, mode: Mode) -> Option<Kind> {
    match i.op_kind(n) {
        OpKind::Register if i.op_register(n).is_gpr() => {
            op.b = regs::index(i.op_register(n));
            Some(Kind::Reg)
        }
        OpKind::Memory => Some(Kind::Mem(ea::kind(op, mode))),
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => {
            op.imm = i.immediate(n);
            Some(Kind::Imm)
        }
        _ => None,
    }
}

/// Looks at operand `n`, which is written; a general register goes to `op.a`.
pub fn destination(i: &Instruction, n: u32, op: &mut Op, mode: Mode) -> Option<Kind> {
    match i.op_kind(n) {
        OpKind::Register if i.op_register(n).is_gpr() => {
            op.a = regs::index(i.op_register(n));
            Some(Kind::Reg)
        }
        OpKind::Memory => Some(Kind::Mem(ea::kind(op, mode))),
        _ => None,
    }
}

/// Bytes of operand `n`, a register or memory.
pub fn size(i: &Instruction, n: u32) -> u8 {
    match i.op_kind(n) {
        OpKind::Register => i.op_register(n).size() as u8,
        _ => i.memory_size().size() as u8,
    }
}

/// `$e` with `$W` as the type of `$size` bytes.
macro_rules! width {
    ($size:expr, $W:ident => $e:expr) => {
        match $size {
            1 => {
                type $W = u8;
                $e
            }
            _ => width_wide!($size, $W => $e),
        }
    };
}
/// The same without bytes.
macro_rules! width_wide {
    ($size:expr, $W:ident => $e:expr) => {
        match $size {
            2 => {
                type $W = u16;
                $e
            }
            4 => {
                type $W = u32;
                $e
            }
            _ => {
                type $W = u64;
                $e
            }
        }
    };
}
/// 32 and 64 bits.
macro_rules! width_vex {
    ($size:expr, $W:ident => $e:expr) => {
        match $size {
            4 => {
                type $W = u32;
                $e
            }
            _ => {
                type $W = u64;
                $e
            }
        }
    };
}
/// `$e` with `$E` as the way to compute addresses.
macro_rules! address {
    ($kind:expr, $E:ident => $e:expr) => {
        match $kind {
            $crate::exec::ea::Kind::Long => {
                type $E = $crate::exec::ea::Long;
                $e
            }
            $crate::exec::ea::Kind::Flat => {
                type $E = $crate::exec::ea::Flat;
                $e
            }
            $crate::exec::ea::Kind::Checked => {
                type $E = $crate::exec::ea::Checked;
                $e
            }
        }
    };
}
/// `$e` with `$S` as the source: register or memory.
macro_rules! register_or_memory {
    ($kind:expr, $S:ident => $e:expr) => {
        match $kind {
            $crate::exec::operand::Kind::Mem($crate::exec::ea::Kind::Long) => {
                type $S = $crate::exec::operand::MemLong;
                $e
            }
            $crate::exec::operand::Kind::Mem($crate::exec::ea::Kind::Flat) => {
                type $S = $crate::exec::operand::MemFlat;
                $e
            }
            $crate::exec::operand::Kind::Mem($crate::exec::ea::Kind::Checked) => {
                type $S = $crate::exec::operand::MemChecked;
                $e
            }
            _ => {
                type $S = $crate::exec::operand::Reg;
                $e
            }
        }
    };
}
/// `$e` with `$S` as the source: register, immediate or memory.
macro_rules! any_source {
    ($kind:expr, $S:ident => $e:expr) => {
        match $kind {
            $crate::exec::operand::Kind::Imm => {
                type $S = $crate::exec::operand::Imm;
                $e
            }
            kind => register_or_memory!(kind, $S => $e),
        }
    };
}
/// `$e` with `$S` as the source: register or immediate.
macro_rules! register_or_immediate {
    ($kind:expr, $S:ident => $e:expr) => {
        match $kind {
            $crate::exec::operand::Kind::Imm => {
                type $S = $crate::exec::operand::Imm;
                $e
            }
            _ => {
                type $S = $crate::exec::operand::Reg;
                $e
            }
        }
    };
}
