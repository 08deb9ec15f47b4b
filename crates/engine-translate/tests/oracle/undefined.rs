//! Status flags that an instruction leaves undefined (SDM 2, APM 3), and that the host's processor leaves as they were.
//!
//! The interpreter has them as the processor does, and so has translated code that keeps flags exact. Other translated code
//! has the multiplication or count begin with whatever is in EFLAGS: nothing that it is asked for depends on that.

use crate::generate::{Item, Sequence};
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};

/// What becomes of such flags in a sequence.
pub struct Undefined {
    /// Bits of RFLAGS that are undefined behind its last instruction.
    pub at_end: u64,
    /// Whether an instruction depends on one.
    pub read: bool,
}

/// Follows them along every way through the sequence; branches go forwards.
pub fn follow(s: &Sequence) -> Undefined {
    let len = s.items.len();
    let mut before = vec![0u32; len + 1];
    let mut read = false;
    for (n, item) in s.items.iter().enumerate() {
        let i = &item.instruction;
        read |= i.rflags_read() & before[n] != 0;
        let behind = before[n] & !certain(i) | left_alone(i);
        if let Some(skip) = item.skip {
            before[(n + 1 + skip).min(len)] |= behind;
        }
        if goes_on(item) {
            before[n + 1] |= behind;
        }
    }
    let bit = |iced: u32, rflags: u64| if before[len] & iced != 0 { rflags } else { 0 };
    let at_end = bit(RflagsBits::CF, 1)
        | bit(RflagsBits::PF, 4)
        | bit(RflagsBits::AF, 0x10)
        | bit(RflagsBits::ZF, 0x40)
        | bit(RflagsBits::SF, 0x80)
        | bit(RflagsBits::OF, 0x800);
    Undefined { at_end, read }
}

fn goes_on(item: &Item) -> bool {
    item.skip.is_none()
        || matches!(
            item.instruction.flow_control(),
            FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend
        )
}

/// The undefined flags that AMD's processors leave as they were, by measurement.
fn left_alone(i: &Instruction) -> u32 {
    match i.mnemonic() {
        Mnemonic::Mul | Mnemonic::Imul | Mnemonic::Lzcnt | Mnemonic::Tzcnt => i.rflags_undefined(),
        _ => 0,
    }
}

/// The flags that the instruction gives a value in any case.
fn certain(i: &Instruction) -> u32 {
    use Mnemonic::*;
    let by_count = match i.mnemonic() {
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr => {
            i.op1_kind() == OpKind::Register && i.op1_register() == Register::CL
        }
        Shld | Shrd => i.op2_kind() == OpKind::Register,
        Cmpsb | Cmpsw | Cmpsd | Cmpsq | Scasb | Scasw | Scasd | Scasq => {
            i.has_rep_prefix() || i.has_repne_prefix()
        }
        _ => false,
    };
    // A count of zero changes none.
    if by_count { 0 } else { i.rflags_written() | i.rflags_cleared() | i.rflags_set() }
}
