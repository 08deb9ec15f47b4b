//! One decoded instruction.

use crate::cpu::Cpu;
use crate::fault::Guest;

/// Executes an [`Op`]. On `Err` the instruction has had no architectural effect (string instructions: a whole number of
/// iterations), and RIP is untouched.
pub type Exec = fn(&mut Cpu, &Op) -> Guest<()>;

/// What the executor does with RIP after the op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flow {
    /// Go on with the next op of the block.
    Next,
    /// The block ends here; RIP becomes the next instruction's.
    EndNext,
    /// The block ends here; the op has set RIP itself (all of [`crate::cpu::RIP`]).
    EndSet,
}

/// A decoded instruction: what to call, and its operands unpacked.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Op {
    pub exec: Exec,
    /// Immediate, sign-extended as the instruction says; the branch target for near branches (as the displacement
    /// from the block's start RIP); or what the op's owner likes.
    pub imm: u64,
    /// Memory operand: displacement, sign-extended. RIP-relative operands have `base == RIP` and the displacement
    /// from the block's start RIP.
    pub disp: u64,
    /// Memory operand: index into [`Cpu::regs`]; [`crate::cpu::ZERO`] for none.
    pub base: u8,
    pub index: u8,
    /// Memory operand: shift of the index, 0 to 3.
    pub scale: u8,
    /// Memory operand: the segment, an index into [`Cpu::seg_base`] (overrides applied).
    pub seg: u8,
    /// Memory operand: address size in bytes, 2, 4 or 8. Zero where there is no memory operand.
    pub addr_size: u8,
    /// Register operands. 8-bit ones as byte offsets into `regs` (so that AH, CH, DH, BH work); wider ones as numbers.
    pub a: u8,
    pub b: u8,
    /// Operand size in bytes, where the handler wants it.
    pub size: u8,
    /// Length of the instruction in bytes.
    pub len: u8,
    pub flow: Flow,
    /// Offset of the instruction from the block's start, in bytes.
    pub offset: u16,
    /// For the op's owner.
    pub extra: u32,
}
