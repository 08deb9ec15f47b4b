//! Integer instructions.
//!
//! A handler does one operation on one kind of operands of one width: they are generic functions over an operation, a
//! [`regs::Word`], an [`operand::Source`] and an [`ea::Ea`], and each file's `select` picks the instance. Results and flags
//! come from the host's own instructions ([`native`]).

#[macro_use]
pub mod operand;
#[macro_use]
pub mod branch;
pub mod arith;
pub mod atomic;
pub mod bcd;
pub mod bits;
pub mod bmi;
pub mod ea;
pub mod flags;
pub mod misc;
pub mod mov;
pub mod muldiv;
pub mod native;
pub mod native_bmi;
pub mod regs;
pub mod shift;
pub mod stack;
pub mod string;

use crate::cpu::Mode;
use crate::decode::Lowered;
use crate::op::Op;
use iced_x86::Instruction;

/// Chooses the handler for an integer instruction; `None` if it isn't one.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    let files = [
        mov::select,
        arith::select,
        branch::select,
        stack::select,
        shift::select,
        bits::select,
        atomic::select,
        muldiv::select,
        string::select,
        misc::select,
        bmi::select,
        bcd::select,
    ];
    files.into_iter().find_map(|select| select(i, op, mode))
}

#[cfg(test)]
mod tests;
