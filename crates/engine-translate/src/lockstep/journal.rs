//! What a vCPU writes where, as far as its soft TLB does not let it through unseen.

use crate::cpu::Cpu;
use crate::tlb::USER;
use address::GuestPhys;

/// Entries kept of each kind.
const MOST: usize = 4096;

/// Notes of one vCPU.
#[derive(Default)]
pub(crate) struct Journal {
    /// Guest-physical addresses of page tables' entries in which accessed or dirty bits were set.
    pub updates: Vec<u64>,
    /// Stores through the slow path since the last [`forget`].
    stores: Vec<Store>,
    /// How many of them were looked at.
    seen: usize,
    /// There were more: where they went is in the dirty log alone.
    overflow: bool,
}

/// From now on stores to this page may go unseen.
struct Store {
    select: u8,
    linear: u64,
    /// Which address space: the low bits of the user's [`crate::tlb::Tlb::flushes`].
    epoch: u64,
    physical: GuestPhys,
}

fn epoch(flushes: u64) -> u64 {
    flushes & 0xfff
}

impl Journal {
    /// Accessed or dirty bits were set in the entry at a guest-physical address.
    pub fn updated(&mut self, address: u64) {
        if self.updates.len() < MOST {
            self.updates.push(address);
        } else {
            self.overflow = true;
        }
    }

    /// A store to memory took the slow path; `flushes` is the TLB's.
    pub fn written(&mut self, select: u8, linear: u64, flushes: u64, physical: GuestPhys) {
        let epoch = epoch(flushes);
        // The same page again is code's: such stores are always seen.
        if self
            .stores
            .last()
            .is_some_and(|s| s.physical.page_number() == physical.page_number() && s.linear == linear)
        {
            return;
        }
        if self.stores.len() < MOST {
            self.stores.push(Store { select, linear, epoch, physical });
        } else {
            self.overflow = true;
        }
    }

    /// Gives every page written since the last call to `note`, twice or not. False if the dirty log knows of others.
    pub fn drain(&mut self, mut note: impl FnMut(GuestPhys)) -> bool {
        self.updates.iter().for_each(|a| note(GuestPhys(*a)));
        self.stores[self.seen..].iter().for_each(|s| note(s.physical));
        self.seen = self.stores.len();
        !self.overflow
    }

    pub fn forget_updates(&mut self) {
        self.updates.clear();
    }
}

/// From now on every store to memory is seen, and the journal is empty.
pub(crate) fn forget(cpu: &mut Cpu) {
    let Some(journal) = &mut cpu.journal else { return };
    let now = epoch(cpu.tlb.flushes(true));
    // Other address spaces' entries can't be reached one by one.
    let elsewhere = journal.overflow || journal.stores.iter().any(|s| s.select == USER && s.epoch != now);
    if elsewhere {
        cpu.tlb.forbid_all_writes();
    } else {
        journal.stores.iter().for_each(|s| cpu.tlb.forbid_write(s.select, s.linear));
    }
    journal.stores.clear();
    (journal.seen, journal.overflow) = (0, false);
}
