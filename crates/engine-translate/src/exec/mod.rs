//! Integer instructions.

pub mod flags;

use crate::cpu::Mode;
use crate::decode::Lowered;
use crate::op::Op;
use iced_x86::Instruction;

/// Chooses the handler for an integer instruction; `None` if it isn't one.
pub fn select(_i: &Instruction, _op: &mut Op, _mode: Mode) -> Option<Lowered> {
    None
}
