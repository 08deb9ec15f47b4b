//! The soft TLB: guest-linear page to host address, per privilege.

/// TLBs by privilege: [`crate::cpu::Cpu::tlb_select`].
pub const USER: u8 = 0;
/// Supervisor accesses where SMAP forbids user pages.
pub const SUPERVISOR: u8 = 1;
/// Supervisor accesses that may touch user pages.
pub const SUPERVISOR_ANY: u8 = 2;

/// Entries per privilege; a power of two.
pub const ENTRIES: usize = 4096;

/// One page. A tag holds the page's linear address with the TLB's epoch in its low twelve bits, so that a flush is one
/// increment. A tag that doesn't match sends the access to the slow path.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
pub struct Entry {
    pub read: u64,
    /// Matches only where a store needs nothing but the store: page dirty and writable, RAM, no decoded code, dirty-logged.
    pub write: u64,
    /// Host address minus linear address.
    pub addend: u64,
    pub physical_page: u64,
}

/// All TLBs of one vCPU.
pub struct Tlb {
    sets: [Vec<Entry>; 3],
    epoch: u64,
    flushes: u64,
}

impl Default for Tlb {
    fn default() -> Self {
        let set = || vec![Entry::default(); ENTRIES];
        Self { sets: [set(), set(), set()], epoch: 1, flushes: 0 }
    }
}

impl Tlb {
    /// The entry a linear address would be in.
    #[inline]
    pub fn entry(&self, select: u8, linear: u64) -> &Entry {
        // SAFETY: every set has ENTRIES entries and `select` is 0 to 2 (cpu.rs sets nothing else); both are masked or
        // compared against constants here.
        unsafe { self.sets.get_unchecked((select as usize).min(2)).get_unchecked((linear >> 12) as usize & (ENTRIES - 1)) }
    }
    #[inline]
    pub fn entry_mut(&mut self, select: u8, linear: u64) -> &mut Entry {
        &mut self.sets[(select as usize).min(2)][(linear >> 12) as usize & (ENTRIES - 1)]
    }
    /// The tag that a valid entry for this address holds now.
    #[inline]
    pub fn tag(&self, linear: u64) -> u64 {
        linear & !0xfff | self.epoch
    }
    /// Moves on at each flush, never back; what is derived from the address mapping is valid while it stands.
    #[inline]
    pub fn flushes(&self) -> u64 {
        self.flushes
    }
    /// Drops everything.
    pub fn flush(&mut self) {
        self.flushes += 1;
        self.epoch += 1;
        if self.epoch > 0xfff {
            self.sets.iter_mut().for_each(|s| s.fill(Entry::default()));
            self.epoch = 1;
        }
    }
    /// Drops one page in every set.
    pub fn flush_page(&mut self, linear: u64) {
        self.flushes += 1;
        for select in 0..3 {
            *self.entry_mut(select, linear) = Entry::default();
        }
    }
    /// Makes stores to a physical page take the slow path.
    pub fn forbid_writes(&mut self, physical_page: u64) {
        for e in self.sets.iter_mut().flatten().filter(|e| e.physical_page == physical_page) {
            e.write = 0;
        }
    }
}
