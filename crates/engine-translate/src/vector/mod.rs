//! x87, MMX, SSE, AVX and what else runs natively on the guest's state.

use crate::cpu::Cpu;
use crate::decode::Lowered;
use crate::op::Op;
use iced_x86::Instruction;

/// The guest's FPU and vector state, in XSAVE's standard format (SDM 1 13.4).
#[derive(Default)]
pub struct VectorState {}

/// Chooses the handler for a vector, x87 or other natively run instruction.
pub fn select(_cpu: &mut Cpu, _i: &Instruction, _code: &[u8], _op: &mut Op) -> Option<Lowered> {
    None
}

impl Cpu {
    /// The block cache is empty: no op refers to a stub any more.
    pub(crate) fn vector_clear_stubs(&mut self) {}
}
