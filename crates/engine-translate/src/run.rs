//! The executor: finds blocks, runs them, and sees to events and faults in between.

use crate::cpu::{Cpu, RIP, SS};
use crate::fault::Fault;
use crate::op::Flow;
use engine::Exit;
use std::sync::atomic::Ordering::Relaxed;
use x86::{Exception, Vector};

/// Blocks between two looks at the clock (the local APIC's timer), some 10 microseconds.
const BLOCKS_PER_CLOCK_LOOK: u32 = 256;

impl Cpu {
    /// Runs until there is a reason to leave.
    pub(crate) fn run_loop(&mut self) -> Exit {
        let mut blocks = 0u32;
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
            if let Some(exit) = self.run_block() {
                return exit;
            }
        }
    }

    /// Finds and executes one block; delivers its fault, if any.
    #[inline(always)]
    pub(crate) fn run_block(&mut self) -> Option<Exit> {
        let block = match self.find_block() {
            // SAFETY: good until the next `find_block`, which the ops don't call.
            Ok(b) => unsafe { &*b },
            Err(_) => return self.on_fault(0),
        };
        self.executing = block.pages;
        for op in block.ops.iter() {
            if (op.exec)(self, op).is_err() {
                self.regs[RIP] = self.this_rip(op);
                self.retired += block.ops.partition_point(|o| o.offset < op.offset) as u64;
                return self.on_fault(op.seg);
            }
        }
        self.retired += block.ops.len() as u64;
        if block.ops.last().is_none_or(|op| op.flow != Flow::EndSet) {
            self.regs[RIP] = self.regs[RIP].wrapping_add(block.len as u64) & self.mode.rip_mask();
        }
        if self.single {
            self.single = false;
            return self.after_single();
        }
        None
    }

    /// Turns the noted fault into what it means. RIP is the instruction's; `seg` the segment it accesses memory through.
    #[cold]
    #[inline(never)]
    fn on_fault(&mut self, seg: u8) -> Option<Exit> {
        let was_single = std::mem::take(&mut self.single);
        self.executing = [u64::MAX; 2];
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
