//! The executor: finds blocks, runs them, and sees to events and faults in between.

use crate::cpu::{Cpu, RIP, SS};
use crate::fault::Fault;
use crate::op::Flow;
use crate::t1::Ran;
use engine::Exit;
use std::sync::atomic::Ordering::Relaxed;
use x86::{Exception, Vector};

/// Blocks between two looks at the clock (the local APIC's timer), some 10 microseconds.
const BLOCKS_PER_CLOCK_LOOK: u32 = 256;

/// What [`Cpu::execute_block`] got done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Block,
    /// Some microseconds of translated code: it is time to look at the clock.
    Many,
}

impl Cpu {
    /// Runs until there is a reason to leave.
    pub(crate) fn run_loop(&mut self) -> Exit {
        let mut blocks = 0u32;
        self.t1.delivers = true;
        loop {
            blocks += 1;
            if blocks >= BLOCKS_PER_CLOCK_LOOK {
                blocks = 0;
                self.look_at_clock();
            }
            if self.remote.pending.load(Relaxed) != 0
                && let Some(exit) = self.handle_events()
            {
                return exit;
            }
            match self.execute_block() {
                Ok(Done::Block) => {}
                Ok(Done::Many) => blocks = BLOCKS_PER_CLOCK_LOOK,
                Err(seg) => {
                    if let Some(exit) = self.on_fault(seg) {
                        return exit;
                    }
                }
            }
        }
    }

    /// Finds and executes one block, or what its translation leads to; delivers its fault, if any.
    #[cfg(test)]
    pub(crate) fn run_block(&mut self) -> Option<Exit> {
        match self.execute_block() {
            Ok(_) => None,
            Err(seg) => self.on_fault(seg),
        }
    }

    /// Finds and executes one block, or what its translation leads to. On `Err` a fault is noted, RIP is that of the
    /// instruction, and the value is the segment that it accesses memory through.
    #[inline(always)]
    pub fn execute_block(&mut self) -> Result<Done, u8> {
        let block = match self.find_block() {
            // SAFETY: good until the next `find_block`, which the ops don't call.
            Ok(b) => unsafe { &*b },
            Err(_) => return Err(0),
        };
        match self.run_translated(block) {
            None => {}
            Some(Ran::On) => return Ok(Done::Block),
            Some(Ran::LongEnough) => return Ok(Done::Many),
            Some(Ran::Fault(seg)) => return Err(seg),
        }
        self.executing = block.pages;
        let from = self.regs[RIP];
        for op in block.ops.iter() {
            if (op.exec)(self, op).is_err() {
                self.regs[RIP] = self.this_rip(op);
                self.retired += block.ops.partition_point(|o| o.offset < op.offset) as u64;
                return Err(op.seg);
            }
        }
        self.retired += block.ops.len() as u64;
        if block.ops.last().is_some_and(|op| op.flow == Flow::EndSet) {
            block.note_went(self.code_linear(from), self.code_linear(self.regs[RIP]));
        } else {
            self.regs[RIP] = self.regs[RIP].wrapping_add(block.len as u64) & self.mode.rip_mask();
        }
        if self.single {
            self.single = false;
            self.after_single();
        }
        Ok(Done::Block)
    }

    /// Turns the noted fault into what it means. RIP is the instruction's; `seg` the segment it accesses memory through.
    #[cold]
    #[inline(never)]
    pub(crate) fn on_fault(&mut self, seg: u8) -> Option<Exit> {
        let was_single = std::mem::take(&mut self.single);
        self.executing = [u64::MAX; 2];
        if was_single {
            // What made it single, as armed breakpoints do, holds for the handler too.
            self.recheck();
        }
        match self.fault.take() {
            Some(Fault::Exception(e)) => self.deliver_exception(e),
            Some(Fault::NonCanonical) => {
                // Stack instructions without a memory operand go through SS too; their ops say so in `seg`.
                let vector = if seg as usize == SS { Vector::SS } else { Vector::GP };
                self.deliver_exception(Exception::with_code(vector, 0))
            }
            Some(Fault::Restart) => {
                self.single = true;
                None
            }
            Some(Fault::Exit(exit)) => {
                self.single = was_single;
                Some(exit)
            }
            None => Some(Exit::Failed(format!(
                "an instruction at {:#x} failed without saying why",
                self.regs[RIP]
            ))),
        }
    }
}
