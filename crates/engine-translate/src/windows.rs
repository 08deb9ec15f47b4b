//! Which of the guest's programs get [windows](crate::tlb::windows), and how these come by their pages.
//!
//! A program that keeps a vCPU busy gets one: the vCPU looks, whenever it has something to see to, what it was doing. From then on the
//! program's code is translated anew ([`Mode::WINDOWS`]), with accesses that need no look. The first access to a page faults in the host;
//! T0 does the instruction, and the page is mapped, with those around it. That costs some microseconds, as does comparing all pages with
//! the page tables where the guest drops an address space's translations; a program for which it is too much does without a window again
//! for a time.

use crate::cpu::{Cpu, FS, GS};
use crate::system::time::host_tsc;
use crate::tlb::windows::{CHUNK, Compared, Units, Windows};
use crate::tlb::{READ, USER};
use rustix::time::{ClockId, clock_gettime};

/// Times that a program with a window was found busy before it counts as one that it pays for.
const GOOD: u32 = 30;
/// Times that a program was found busy before it gets a window.
const BUSY: u32 = 3;
/// Between two looks, in microseconds, at least.
const BETWEEN: u64 = 1000;
/// After so much that windows cost, in microseconds, it is looked whether that was too much.
const ACCOUNT: u64 = 1000;
/// What a signal costs, in microseconds, on a machine that isn't fast at this.
const SIGNAL: u64 = 5;
/// What having the host map something costs.
const MAPPING: u64 = 7;
/// What comparing a stretch of 2 MiB costs.
const COMPARING: u64 = 1;
/// Windows may cost one part in this many of a vCPU's time.
const SHARE: u64 = 3;
/// How often in a row it may have been more: a program has to come by its pages in the beginning.
const PATIENCE: u32 = 8;
/// Address spaces that are watched.
const WATCHED: usize = 32;
/// Threads of one program have their data within one part in 2 to this many of the address, most likely: they are in stacks of 8 MiB
/// near 7F00'0000'0000h. Where a program has but one thread and its data are in its heap, at low addresses, that is hardly a page.
const NEAR: u32 = 16;
/// How often the patience with one that a window doesn't pay for doubles, at most.
const DOUBLINGS: u32 = 10;
/// The same with one that goes from program to program: the next may stay.
const TAKEOVERS: u32 = 3;
/// Pages around one that faulted that are mapped with it: so many, at a multiple of as many.
const AROUND: usize = 16;
/// Pages mapped at most, for a vCPU: to forget them all takes some 50 ms.
const PAGES: usize = 20_000;
/// The same for all of a VM's: Linux grants a process 65,530 mappings, and each page may be one.
const ALL_PAGES: usize = 40_000;

/// An address space that was found busy.
#[derive(Clone, Copy, Default)]
struct Watched {
    root: u64,
    /// What tells programs apart that get the same root one after another: where the one has its thread's data. Linux and others
    /// choose that at random for each.
    thread: u64,
    busy: u32,
    /// How often it had a window that didn't pay.
    failures: u32,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Policy {
    /// Whether any address space may have one.
    pub(crate) on: bool,
    /// Windows stay, whatever they cost.
    forced: bool,
    /// What leads to them; `None` where the vCPU has no [place](crate::placed).
    pub(crate) units: Option<Units>,
    watched: [Watched; WATCHED],
    /// The one that is forgotten next.
    next: usize,
    /// The host's TSC when it was looked last.
    looked: u64,
    /// What windows have cost since the thread had used `since` of processor time, in microseconds. Not as a clock has it: the host may
    /// have done other things meanwhile.
    cost: u64,
    since: u64,
    /// How often in a row it was too much.
    overcharged: u32,
    /// A page whose fault went to the guest.
    wanted: Option<u64>,
}

impl Policy {
    /// What is known of the program whose tables are at `root`, and one of whose threads has its data at `thread`.
    fn watch(&mut self, root: u64, thread: u64) -> &mut Watched {
        let known = self.watched.iter().position(|w| w.root == root && w.busy + w.failures > 0);
        let at = known.unwrap_or_else(|| {
            self.next = (self.next + 1) % WATCHED;
            self.next
        });
        let w = &mut self.watched[at];
        if known.is_none() || w.thread.abs_diff(thread) > thread >> NEAR {
            *w = Watched { root, thread, ..Watched::default() };
        }
        w
    }
}

impl Cpu {
    /// Lets programs have windows, where the host can.
    pub(crate) fn allow_windows(&mut self) {
        let Some(units) = self.windows.units else { return };
        self.windows.on = is_x86_feature_detected!("bmi2")
            && match crate::t1::handle_faults() {
                Ok(()) => true,
                Err(e) => {
                    log::warn!("the host lets no signals be handled ({e}); memory accesses are slower");
                    false
                }
            };
        if self.windows.on {
            let s = &self.shared;
            let pages = PAGES.min(ALL_PAGES / s.vcpus.max(1) as usize);
            let windows = || Windows::new(s.memory.clone(), s.windows.clone(), self.id, units, pages);
            self.tlb.have_windows(windows);
        }
    }

    /// Gives the program that is being executed a window at once, and for good, for tests.
    pub fn give_window(&mut self) {
        self.allow_windows();
        self.windows.forced = true;
        self.open_window();
    }
    fn open_window(&mut self) {
        let (root, pcid) = self.address_space();
        if let Some(windows) = self.tlb.windows() {
            windows.open(root, pcid);
        }
        self.select_tlb(self.tlb_select);
    }

    /// Takes the window of the address space in use, if there is one.
    pub(crate) fn find_window(&mut self) {
        let (root, pcid) = self.address_space();
        self.tlb.choose_window(root, pcid);
    }

    /// What is known of the program that is being executed.
    fn watched(&mut self) -> &mut Watched {
        let (root, _) = self.address_space();
        let thread = self.seg[FS].base.max(self.seg[GS].base);
        self.windows.watch(root, thread)
    }

    /// Looks what the vCPU is doing, once in a while.
    pub(crate) fn sample_windows(&mut self) {
        if !self.windows.on || self.cpl != 3 || !self.mode.is64() {
            return;
        }
        let now = host_tsc();
        let passed = now.wrapping_sub(self.windows.looked);
        if passed < BETWEEN * self.shared.tsc_khz / 1000 {
            return;
        }
        self.windows.looked = now;
        if !self.tlb.has_window() {
            // The vCPU that the program was executed by before may have parked its window since.
            self.find_window();
            self.select_tlb(self.tlb_select);
        }
        let has = self.tlb.has_window();
        let w = self.watched();
        w.busy += 1;
        if has && w.busy >= GOOD {
            w.failures = 0;
        } else if !has && w.busy >= BUSY << w.failures {
            self.open_window();
        }
    }

    /// A window took some time, in microseconds.
    fn charge(&mut self, cost: u64) {
        let p = &mut self.windows;
        p.cost += cost;
        if p.cost >= ACCOUNT {
            let now = clock_gettime(ClockId::ThreadCPUTime);
            let now = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
            let too_much = now.wrapping_sub(p.since) < p.cost * SHARE;
            p.overcharged = if too_much { p.overcharged + 1 } else { 0 };
            (p.since, p.cost) = (now, 0);
        }
    }
    /// The address space in use does without a window for a time.
    fn give_up_window(&mut self) {
        if self.windows.forced {
            return;
        }
        let overcharged = std::mem::take(&mut self.windows.overcharged);
        let w = self.watched();
        // Another program that has taken the address space over isn't to blame for the one before it.
        let paid = w.busy == 0 || w.busy >= GOOD && overcharged == 0;
        let most = if overcharged > PATIENCE { DOUBLINGS } else { TAKEOVERS };
        (w.busy, w.failures) = (0, if paid { 0 } else { (w.failures + 1).min(most) });
        self.tlb.close_window();
    }

    /// Makes the current window one that may be used by the code of its program; false if it may not be used now.
    pub(crate) fn ready_window(&mut self) -> bool {
        if !self.mode.is64() || self.alignment_check || self.sys.watching || self.shared.memory.logging() {
            return false;
        }
        if self.tlb.windows().is_some_and(|w| w.suspected()) {
            let done = self.compare_window();
            let (stretches, changes) =
                self.tlb.windows().map_or((0, 0), |w| (w.stretches(), w.take_mappings()));
            self.charge(stretches * COMPARING + changes * MAPPING);
            // Most likely another program by now, with the same page for its tables.
            let another = done.dropped > done.kept;
            if another || self.windows.overcharged > PATIENCE {
                self.give_up_window();
            }
            if !self.tlb.has_window() {
                return false;
            }
        }
        let Some(windows) = self.tlb.windows() else { return false };
        windows.install();
        if let Some(linear) = self.windows.wanted.take() {
            self.fill_window(linear);
        }
        self.tlb.has_window()
    }

    fn compare_window(&mut self) -> Compared {
        let Some(mut windows) = self.tlb.take_windows() else { return Compared::default() };
        let done =
            windows.compare(!self.windows.forced, |linear, pages| self.user_pages(linear, 0..CHUNK, pages));
        self.tlb.put_windows(windows);
        done
    }

    /// Translated code came to run a T0 handler because an access faulted in the host, at this address. The handler ran; `raised` if the
    /// guest gets a fault.
    #[cold]
    pub(crate) fn window_faulted(&mut self, host: u64, raised: bool) {
        self.charge(SIGNAL);
        if !self.tlb.has_window() || self.cpl != 3 && !raised {
            return;
        }
        if raised {
            self.windows.wanted = Some(self.cr2);
            return;
        }
        if !self.ready_window() {
            // What uses it ends with this instruction.
            return self.select_tlb(self.tlb_select);
        }
        // T0 found it: its entry says the bits above those that are known.
        let entries = self.tlb.entries(USER);
        let linear = self.tlb.windows().and_then(|w| w.linear_of(host, |low| entries.tag(READ, low)));
        if let Some(linear) = linear {
            self.fill_window(linear);
        }
        if self.windows.overcharged > PATIENCE {
            self.give_up_window();
            self.select_tlb(self.tlb_select);
        }
    }

    /// Maps the page of a linear address in the current window, and some around it.
    fn fill_window(&mut self, linear: u64) {
        let mut pages = [0; CHUNK];
        let first = (linear >> 12) as usize % CHUNK / AROUND * AROUND;
        let around = first..first + AROUND;
        self.user_pages(linear & !((CHUNK as u64) << 12).wrapping_sub(1), around.clone(), &mut pages);
        let Some(windows) = self.tlb.windows() else { return };
        if !windows.fill(linear, around, &pages) {
            windows.make_room();
            windows.install();
        }
        let mappings = windows.take_mappings();
        self.charge(mappings * MAPPING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_that_follows_another_in_its_address_space_starts_anew() {
        let mut p = Policy::default();
        let (root, stack) = (0x1234_5000, 0x7f12_3456_7740);
        (p.watch(root, stack).busy, p.watch(root, stack).failures) = (2, 3);
        // Another thread, and another address space.
        assert_eq!((p.watch(root, stack - (64 << 20)).busy, p.watch(root + 0x1000, stack).busy), (2, 0));
        let next = p.watch(root, 0x7f99_3456_7740);
        assert_eq!((next.busy, next.failures), (0, 0));
        next.busy = 1;
        // Programs whose data are in their heap.
        p.watch(root, 0x158e_7380).busy = 7;
        assert_eq!((p.watch(root, 0x158e_7380).busy, p.watch(root, 0x1590_1380).busy), (7, 0));
    }
}
