//! T0 and T1 in step: everything that translated code does is done again by the interpreter, and compared.
//!
//! The guest's own vCPU, the leader, translates every block before its first execution. After each chain of translated
//! code (up to [`crate::t1::T1::budget`] instructions) a second vCPU, the follower, interprets as many instructions from
//! where the chain began, in a copy of the guest's memory. Registers, vector state, MSRs, the fault and every page that
//! either may have written have to be the same after it; at the first difference `run` ends with a text that says where.
//!
//! What isn't a function of registers and memory is done by the leader alone, between chains: instructions that ask the
//! world ([`stop`]), accesses to devices and the local APIC (which leave the chain as a store to running code does,
//! [`crate::fault::Fault::Restart`]), interrupts, and what is not translated at all. The follower gets the result.
//!
//! - [`registers`]: what is compared and copied; [`pages`]: the same of memory, [`journal`]: where to look in it
//! - [`follower`]: so many instructions and no more
//! - [`report`]: from a chain that differs to the block that does, and the text
//!
//! The soft TLBs keep entries that let stores through unseen, so a page that was written once counts as written by every
//! chain, until there are too many such pages and those entries are dropped. Accessed and dirty bits may differ:
//! see [`pages::Pages::compare`]. What a device writes to memory while a chain runs can't be compared with
//! anything: such a chain that differs is let pass, and counted.

mod follower;
mod journal;
mod pages;
mod registers;
mod report;
#[cfg(test)]
pub(crate) mod tests;

use crate::block::Block;
use crate::cpu::Cpu;
use crate::fault::{Fault, Guest};
use crate::op::Op;
use crate::remote::{Remote, Shared};
use crate::t1::Ran;
use engine::Exit;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
pub(crate) use journal::Journal;
use memory::GuestMemory;
use pages::Pages;
use registers::Registers;
use report::Report;
use std::sync::Arc;

/// What a vCPU does in this mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Step {
    /// The mode is off.
    #[default]
    Off,
    /// The leader between chains: nothing it does is compared.
    Alone,
    /// A chain is under way: what asks the world ends it.
    Chain,
}

/// Pages that count as written before the TLBs' entries for stores are dropped.
const MANY_PAGES: usize = 24;
/// Compared instructions from one line of progress to the next.
const PROGRESS: u64 = 50_000_000;

/// How much was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Instructions in chains.
    pub compared: u64,
    pub chains: u64,
    /// Chains that differ, with a device writing to memory meanwhile.
    pub passed: u64,
    /// Words of page tables with other accessed or dirty bits.
    pub accessed: u64,
}

/// The follower, and what it takes to compare.
pub(crate) struct Lockstep {
    follower: Box<Cpu>,
    pages: Pages,
    /// After the last chain, if nothing has happened since: the leader, its count of instructions, and that of the writes to
    /// its memory by others.
    last: Option<(Registers, u64, u64)>,
    counts: Counts,
    told: u64,
}

/// What came of a chain.
struct Chain {
    ran: Ran,
    /// Instructions completed.
    done: u64,
    differences: Vec<String>,
}

impl Lockstep {
    /// Makes `cpu`, a new vCPU and its machine's only one, a leader.
    pub fn lead(cpu: &mut Cpu) -> memory::Result<()> {
        let leader = &cpu.shared;
        let copy = || {
            let regions = leader.memory.regions().iter();
            let configs: Vec<_> = regions
                .map(|r| memory::RegionConfig { base: r.base(), len: r.len(), kind: r.kind() })
                .collect();
            GuestMemory::new(&configs)
        };
        let (memory, before) = (Arc::new(copy()?), copy()?);
        let pages = Pages::new(leader.memory.clone(), memory.clone(), before);
        let shared = Arc::new(Shared::new(memory, 1, leader.tsc_khz));
        let mut follower = Box::new(Cpu::new(cpu.id, shared, Arc::new(Remote::new(Default::default()))));
        follower.t1.threshold = u32::MAX;
        follower.in_step = Step::Chain;
        follower.journal = Some(Box::default());
        // Twice in T0, so that it is known where blocks go on to, and they are translated together.
        (cpu.t1.threshold, cpu.t1.counting) = (2, true);
        cpu.t1.exact_flags = true;
        cpu.in_step = Step::Alone;
        cpu.journal = Some(Box::default());
        let (last, counts, told) = (None, Counts::default(), 0);
        cpu.lockstep = Some(Box::new(Self { follower, pages, last, counts, told }));
        Ok(())
    }

    #[cfg(test)]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn chain(&mut self, cpu: &mut Cpu, run: impl FnOnce(&mut Cpu) -> Ran) -> Ran {
        let writes = cpu.shared.memory.writes();
        let start = self.begin(cpu);
        let Chain { ran, done, differences } = self.both(cpu, &start, run);
        self.counts.chains += 1;
        self.counts.compared += done;
        if !differences.is_empty() {
            if cpu.shared.memory.writes() == writes {
                let report = Report::narrow(self, cpu, &start, done, differences);
                cpu.fault = Some(Fault::Exit(Exit::Failed(report.to_string())));
                return Ran::Fault(0);
            }
            self.counts.passed += 1;
            self.pages.gather(journals(cpu, &mut self.follower), true);
            self.pages.take_over();
            self.last = None;
        } else {
            self.settle(cpu);
        }
        if self.counts.compared - self.told >= PROGRESS {
            self.told = self.counts.compared;
            self.tell(cpu);
        }
        ran
    }

    /// Gives the follower what the leader has.
    fn begin(&mut self, cpu: &mut Cpu) -> Registers {
        let start = Registers::of(cpu);
        let writes = cpu.shared.memory.writes();
        let same = |(last, retired, seen): &(Registers, u64, u64)| {
            *retired == cpu.retired && *seen == writes && *last == start
        };
        if !self.last.as_ref().is_some_and(same) {
            self.pages.gather(journals(cpu, &mut self.follower), true);
            self.pages.take_over();
            journals(cpu, &mut self.follower).into_iter().for_each(Journal::forget_updates);
            start.put(&mut self.follower);
        }
        start
    }

    /// A chain in the leader, then in the follower. Both begin alike, with `start`.
    fn both(&mut self, cpu: &mut Cpu, start: &Registers, run: impl FnOnce(&mut Cpu) -> Ran) -> Chain {
        let (before, writes) = (cpu.retired, cpu.shared.memory.writes());
        cpu.in_step = Step::Chain;
        let ran = run(cpu);
        cpu.in_step = Step::Alone;
        let done = cpu.retired.wrapping_sub(before);
        let fault = match ran {
            Ran::Fault(seg) => cpu.fault.clone().map(|fault| (fault, seg)),
            _ => None,
        };
        let end = Registers::of(cpu);
        let mut differences = follower::follow(&mut self.follower, done, fault.as_ref(), &end);
        let follower_end = Registers::of(&self.follower);
        if follower_end != end {
            differences.extend(end.differences(&follower_end, start));
        }
        let others = cpu.shared.memory.writes() != writes;
        self.pages.gather(journals(cpu, &mut self.follower), others);
        let updates = journals(cpu, &mut self.follower).map(|j| &*j.updates);
        self.counts.accessed += self.pages.compare(updates, &mut differences);
        journals(cpu, &mut self.follower).into_iter().for_each(Journal::forget_updates);
        self.last = Some((end, cpu.retired, writes));
        Chain { ran, done, differences }
    }

    /// Both are alike: the next chain begins here.
    fn settle(&mut self, cpu: &mut Cpu) {
        self.pages.settle();
        if self.pages.count() > MANY_PAGES {
            journal::forget(cpu);
            journal::forget(&mut self.follower);
            self.pages.forget();
        }
    }

    fn tell(&self, cpu: &Cpu) {
        let Counts { compared, chains, passed, accessed } = self.counts;
        let alone = cpu.retired.saturating_sub(compared);
        eprintln!(
            "lockstep: {compared} instructions alike in {chains} chains; {alone} more not compared, {passed} chains let pass, \
             {accessed} words of page tables with other accessed or dirty bits"
        );
    }
}

/// The leader's and the follower's.
fn journals<'a>(leader: &'a mut Cpu, follower: &'a mut Cpu) -> [&'a mut Journal; 2] {
    [leader, follower].map(|cpu| &mut **cpu.journal.get_or_insert_default())
}

/// Runs a block's translated code and what it leads to, in both vCPUs.
pub(crate) fn chain(cpu: &mut Cpu, block: &Block, code: u64) -> Ran {
    let Some(mut lockstep) = cpu.lockstep.take() else { return cpu.enter_translated(block, code) };
    let ran = lockstep.chain(cpu, |cpu| cpu.enter_translated(block, code));
    cpu.lockstep = Some(lockstep);
    ran
}

/// Whether what the instruction does depends on more than registers and memory, or reaches beyond them.
pub(crate) fn asks_the_world(i: &Instruction) -> bool {
    use Mnemonic::*;
    match i.mnemonic() {
        Rdtsc | Rdtscp | Rdpmc | Rdrand | Rdseed | Cpuid | Rdmsr | Wrmsr | Vmcall | Vmmcall | In | Out
        | Insb | Insw | Insd | Outsb | Outsw | Outsd | Hlt => true,
        Mov => {
            (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n) == Register::CR8)
        }
        _ => false,
    }
}

/// Stands for such an instruction in blocks: it is executed on its own, between chains.
pub(crate) fn stop(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.raise(Fault::Restart)
}
