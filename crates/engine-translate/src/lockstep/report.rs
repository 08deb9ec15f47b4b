//! From a chain that differs to the block that does.

use super::{Lockstep, Registers};
use crate::cpu::{Cpu, Mode, RIP};
use crate::t1::Ran;
use address::{GuestPhys, PAGE_SIZE};
use iced_x86::{Decoder, DecoderOptions, FastFormatter};
use std::fmt::{self, Display, Formatter};

/// Where T0 and T1 differ, for a person.
pub struct Report {
    /// Instructions found alike before.
    alike: u64,
    differences: Vec<String>,
    /// The block, if running the chain again by blocks showed the difference again.
    block: Option<BlockText>,
    start: String,
}

struct BlockText {
    linear: u64,
    physical: Option<u64>,
    mode: Mode,
    rip: u64,
    bytes: Vec<u8>,
    /// Instructions of the chain before it.
    before: u64,
}

impl Report {
    /// Runs a chain of `done` instructions, that went wrong, again from `start` one block at a time.
    pub fn narrow(
        lockstep: &mut Lockstep,
        cpu: &mut Cpu,
        start: &Registers,
        done: u64,
        differences: Vec<String>,
    ) -> Self {
        let alike = lockstep.counts.compared - done;
        lockstep.pages.undo();
        start.put(cpu);
        start.put(&mut lockstep.follower);
        let budget = cpu.t1.budget;
        let mut so_far = 0;
        while so_far <= done {
            let here = Registers::of(cpu);
            let Ok(block) = cpu.find_block() else { break };
            // SAFETY: good until the next `find_block`.
            let block = unsafe { &*block };
            cpu.t1.budget = block.ops.len() as i32;
            let text = BlockText::of(cpu, block.len, so_far);
            let mut translated = true;
            let chain = lockstep.both(cpu, &here, |cpu| match cpu.run_translated(block) {
                Some(ran) => ran,
                None => {
                    translated = false;
                    Ran::On
                }
            });
            if !translated {
                break;
            }
            if !chain.differences.is_empty() {
                cpu.t1.budget = budget;
                let (block, start) = (Some(text), here.general());
                return Self { alike: alike + so_far, differences: chain.differences, block, start };
            }
            lockstep.pages.settle();
            so_far += chain.done;
            if chain.done == 0 || matches!(chain.ran, Ran::Fault(_)) {
                break;
            }
        }
        cpu.t1.budget = budget;
        Self { alike, differences, block: None, start: start.general() }
    }
}

impl BlockText {
    fn of(cpu: &mut Cpu, len: u32, before: u64) -> Self {
        let rip = cpu.regs[RIP];
        let linear = cpu.code_linear(rip);
        let physical = cpu.translate_quietly(linear);
        let mut bytes = vec![0; len.min(PAGE_SIZE as u32) as usize];
        if physical.is_none_or(|p| cpu.shared.memory.read(GuestPhys(p), &mut bytes).is_err()) {
            bytes.clear();
        }
        Self { linear, physical, mode: cpu.mode, rip, bytes, before }
    }
}

impl Display for BlockText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "in the block at linear {:#x}", self.linear)?;
        match self.physical {
            Some(p) => write!(f, ", guest-physical {p:#x}")?,
            None => write!(f, ", which is mapped to nothing")?,
        }
        write!(f, ", {} instructions into its chain:", self.before)?;
        let mut decoder = Decoder::with_ip(self.mode.bits(), &self.bytes, self.rip, DecoderOptions::NONE);
        let mut formatter = FastFormatter::new();
        while decoder.can_decode() {
            let at = decoder.position();
            let i = decoder.decode();
            let hex: String = self.bytes[at..decoder.position()].iter().map(|b| format!("{b:02x}")).collect();
            let mut text = String::new();
            formatter.format(&i, &mut text);
            write!(f, "\n  {:#x}  {hex:24} {text}", i.ip())?;
        }
        Ok(())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "T0 and T1 differ after {} instructions that were alike", self.alike)?;
        match &self.block {
            Some(block) => write!(f, ", {block}")?,
            None => write!(
                f,
                "; run again a block at a time, the same chain did not differ: what differs is between blocks, or in time"
            )?,
        }
        for line in &self.differences {
            write!(f, "\n{line}")?;
        }
        write!(f, "\nregisters before it:{}", self.start)?;
        write!(
            f,
            "\nTo see it again: the block's bytes and these registers in a test like those of t1/tests.rs, or the same boot \
             with `--engine translate:lockstep`; `--engine translate:t0` does without T1."
        )
    }
}
