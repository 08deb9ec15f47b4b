//! What translating takes and one block leaves for the next: memory that stays allocated.

use super::ahead::Page;
use super::asm::Asm;
use super::tails::Tail;
use crate::op::Op;
use iced_x86::{
    Encoder, Instruction, InstructionInfo, InstructionInfoFactory, InstructionInfoOptions, OpAccess,
};

/// A vCPU's.
pub struct Kit {
    pub(super) asm: Asm,
    pub(super) tails: Vec<Tail>,
    /// The instructions and the ops of all blocks, and the bytes of one.
    pub(super) instructions: Vec<Instruction>,
    pub(super) ops: Vec<Op>,
    pub(super) bytes: Vec<u8>,
    /// What was read of the page.
    pub(super) ahead: Page,
    pub(super) encoding: Encoding,
}

/// iced's tools.
pub struct Encoding {
    factory: InstructionInfoFactory,
    encoder: Encoder,
    /// The encoder's, between two instructions.
    buffer: Vec<u8>,
}

impl Default for Kit {
    fn default() -> Self {
        Self {
            asm: Asm::default(),
            tails: Vec::new(),
            instructions: Vec::new(),
            ops: Vec::new(),
            bytes: Vec::new(),
            ahead: Page::default(),
            encoding: Encoding {
                factory: InstructionInfoFactory::new(),
                encoder: Encoder::new(64),
                buffer: Vec::with_capacity(16),
            },
        }
    }
}

impl Encoding {
    /// All that is known about an instruction's registers.
    pub fn info(&mut self, i: &Instruction) -> &InstructionInfo {
        self.factory.info_options(i, InstructionInfoOptions::NO_MEMORY_USAGE)
    }

    /// How each operand is used.
    pub fn accesses(&mut self, i: &Instruction) -> [OpAccess; 5] {
        let none = InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE;
        let info = self.factory.info_options(i, none);
        let mut access = [OpAccess::None; 5];
        for n in 0..i.op_count().min(5) {
            access[n as usize] = info.op_access(n);
        }
        access
    }

    /// Appends an instruction's encoding. `None` if it has none in 64-bit code.
    pub fn encode(&mut self, i: &Instruction, a: &mut Asm) -> Option<()> {
        // The buffer goes to the encoder and back: it is allocated once.
        self.encoder.set_buffer(std::mem::take(&mut self.buffer));
        let done = self.encoder.encode(i, 0);
        self.buffer = self.encoder.take_buffer();
        if done.is_ok() {
            a.bytes(&self.buffer);
        }
        self.buffer.clear();
        done.ok().map(|_| ())
    }
}
