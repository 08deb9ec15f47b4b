//! x87, MMX, SSE, AVX and what else runs natively on the guest's state.
//!
//! The guest's registers live in [`VectorState`], in XSAVE's standard format. An instruction runs in a *stub*: a few dozen
//! bytes of machine code made once per distinct instruction and segment of the code cache ([`crate::cache`]), that
//!
//! 1. loads the general registers the instruction names from the [`Cpu`] into R8 to R10 (the instruction is re-encoded to name those), and
//!    the vector registers it uses (x87 and MMX: everything, by FXRSTOR);
//! 2. for floating-point instructions loads the guest's MXCSR with every exception masked and the flags cleared;
//! 3. runs the instruction, its memory operand replaced by a bounce buffer in the [`VectorState`];
//! 4. looks at the flags raised: if the guest has one of them unmasked, returns them, having stored nothing; else notes
//!    them, stores the registers written and, where it writes them, the status flags.
//!
//! The handler around the stub ([`native`], [`x87`]) makes the checks that come first (#UD, #NM, #MF, alignment), and moves
//! the memory operand between the guest and the bounce buffer. So a stub never faults, and guest addresses never meet the host's MMU.
//!
//! Instructions that store selected elements only are done element by element ([`masked`]); state images ([`save`],
//! [`environment`]) and plain moves ([`moves`]) need no stub. What the host lacks is not offered ([`features`]).

mod environment;
pub(crate) mod features;
mod masked;
mod moves;
pub(crate) mod native;
mod operand;
mod save;
pub(crate) mod state;
pub(crate) mod stub;
pub(crate) mod x87;

#[cfg(test)]
mod tests;

pub use features::{HostFeatures, host_features, mxcsr_mask};
pub use state::{StateError, VectorState};

use crate::cpu::Cpu;
use crate::decode::Lowered;
use crate::op::Op;
use iced_x86::{EncodingKind, Instruction};

/// Chooses the handler for a vector, x87 or other natively run instruction. `code` is its bytes.
pub fn select(cpu: &mut Cpu, i: &Instruction, code: &[u8], op: &mut Op) -> Option<Lowered> {
    if !matches!(i.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        || !features::offered(i.cpuid_features())
    {
        return None;
    }
    if let Some(l) = save::select(i).or_else(|| environment::select(i)) {
        return Some(l);
    }
    if x87::is_mmx(i) {
        return masked::select(i, op).or_else(|| x87::select_mmx(cpu, i, op));
    }
    if x87::is_x87(i) {
        return x87::select(cpu, i, code, op);
    }
    let vector = (0..i.op_count()).any(|n| i.op_register(n).is_vector_register())
        || masked::is_zeroing(i)
        || native::is_conversion(i);
    if !vector {
        return None;
    }
    moves::select(i, op).or_else(|| masked::select(i, op)).or_else(|| native::select(cpu, i, op))
}
