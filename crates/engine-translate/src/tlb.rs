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

/// Process-context identifiers whose entries are kept at the same time.
const CONTEXTS: usize = 16;

/// All TLBs of one vCPU.
///
/// The epoch stands for one address space: a process-context identifier whose entries are still good. Since an address
/// has one place whatever its epoch, dropping a page drops it in every address space, global ones too.
pub struct Tlb {
    sets: [Vec<Entry>; 3],
    epoch: u64,
    last_epoch: u64,
    /// Of code found at CPL 3, and of code found below.
    flushes: [u64; 2],
    /// Code below CPL 3 was found on a page that isn't global.
    local_code: bool,
    /// (PCID, its epoch; 0 for none), and which to replace next.
    contexts: [(u16, u64); CONTEXTS],
    next_context: usize,
    /// Linear pages that code was found at while `flushes` stood, one bit for many pages. Most pages that are dropped
    /// one by one are data's, and must not cost the jump cache.
    code_pages: [Box<[u64; CODE_PAGES / 64]>; 2],
}

/// Bits in [`Tlb::code_pages`].
const CODE_PAGES: usize = 1 << 15;

/// The bit that stands for a linear page.
fn code_bit(linear: u64) -> (usize, u64) {
    let page = linear >> 12;
    let bit = (page ^ page >> 15) as usize % CODE_PAGES;
    (bit / 64, 1 << (bit % 64))
}

impl Default for Tlb {
    fn default() -> Self {
        let set = || vec![Entry::default(); ENTRIES];
        Self {
            sets: [set(), set(), set()],
            epoch: 1,
            last_epoch: 1,
            flushes: [0; 2],
            local_code: false,
            contexts: [(0, 0); CONTEXTS],
            next_context: 0,
            code_pages: [Box::new([0; CODE_PAGES / 64]), Box::new([0; CODE_PAGES / 64])],
        }
    }
}

impl Tlb {
    /// The first entry of a set, for [`crate::cpu::Cpu::tlb_entries`]: good as long as `self` lives.
    pub fn set(&self, select: u8) -> *const Entry {
        self.sets[(select as usize).min(2)].as_ptr()
    }
    /// Entries that never match: every access takes the slow path.
    pub fn nothing() -> *const Entry {
        static NOTHING: [Entry; ENTRIES] =
            [Entry { read: 0, write: 0, addend: 0, physical_page: 0 }; ENTRIES];
        NOTHING.as_ptr()
    }
    /// The entry a linear address would be in.
    #[inline]
    pub fn entry(&self, select: u8, linear: u64) -> &Entry {
        // SAFETY: every set has ENTRIES entries and `select` is 0 to 2 (cpu.rs sets nothing else); both are masked or
        // compared against constants here.
        unsafe {
            self.sets
                .get_unchecked((select as usize).min(2))
                .get_unchecked((linear >> 12) as usize & (ENTRIES - 1))
        }
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
    /// Names the address mapping as code at CPL 3 (`user`) or below it sees it: what is derived from it (code found by its
    /// linear address) is valid while it stands, or stands again. Below CPL 3 the code is global, and stays where it is
    /// when CR3 is loaded.
    #[inline]
    pub fn flushes(&self, user: bool) -> u64 {
        if user { self.flushes[0] << 12 | self.epoch } else { self.flushes[1] << 12 }
    }
    /// Drops everything, of all address spaces.
    pub fn flush(&mut self) {
        self.contexts = [(0, 0); CONTEXTS];
        self.epoch = self.new_epoch();
        self.forget_jumps_of(false);
    }
    /// CR3 was loaded where there are no process-context identifiers: drops all but global pages.
    pub fn flush_local(&mut self) {
        self.contexts = [(0, 0); CONTEXTS];
        self.epoch = self.new_epoch();
        self.leave_local_code();
    }
    /// The address space changes or loses its entries: code that isn't global is to be looked for again.
    fn leave_local_code(&mut self) {
        if self.local_code {
            self.forget_jumps_of(false);
        }
    }
    /// CR3 chooses another address space, whose entries are kept or dropped.
    pub fn switch(&mut self, pcid: u16, keep: bool) {
        self.leave_local_code();
        let known = self.contexts.iter().position(|&(p, e)| p == pcid && e != 0);
        if let (Some(i), true) = (known, keep) {
            self.epoch = self.contexts[i].1;
            return;
        }
        let i = known.unwrap_or_else(|| {
            self.next_context = (self.next_context + 1) % CONTEXTS;
            self.next_context
        });
        self.epoch = self.new_epoch();
        self.contexts[i] = (pcid, self.epoch);
    }
    /// Drops the entries of one address space that is not the current one.
    pub fn forget(&mut self, pcid: u16) {
        self.contexts.iter_mut().filter(|c| c.0 == pcid).for_each(|c| *c = (0, 0));
    }
    /// An epoch that no entry has.
    fn new_epoch(&mut self) -> u64 {
        self.last_epoch += 1;
        if self.last_epoch > 0xfff {
            self.sets.iter_mut().for_each(|s| s.fill(Entry::default()));
            self.contexts = [(0, 0); CONTEXTS];
            self.forget_jumps();
            self.last_epoch = 1;
        }
        self.last_epoch
    }
    /// Makes [`Self::flushes`] move on; the entries stay.
    pub fn forget_jumps(&mut self) {
        [true, false].into_iter().for_each(|user| self.forget_jumps_of(user));
    }
    fn forget_jumps_of(&mut self, user: bool) {
        self.flushes[!user as usize] += 1;
        self.code_pages[!user as usize].fill(0);
        self.local_code &= user;
    }
    /// Code was found at a linear address, for CPL 3 or below, and the finding is kept while [`Self::flushes`] stands.
    pub fn note_code_page(&mut self, linear: u64, user: bool, global: bool) {
        let (word, bit) = code_bit(linear);
        self.code_pages[!user as usize][word] |= bit;
        self.local_code |= !user && !global;
    }
    /// Drops one page in every set.
    pub fn flush_page(&mut self, linear: u64) {
        let (word, bit) = code_bit(linear);
        for user in [true, false] {
            if self.code_pages[!user as usize][word] & bit != 0 {
                self.forget_jumps_of(user);
            }
        }
        for select in 0..3 {
            *self.entry_mut(select, linear) = Entry::default();
        }
    }
    /// Makes stores to every page take the slow path once.
    pub fn forbid_all_writes(&mut self) {
        self.sets.iter_mut().flatten().for_each(|e| e.write = 0);
    }
    /// Makes stores to a physical page take the slow path.
    pub fn forbid_writes(&mut self, physical_page: u64) {
        for e in self.sets.iter_mut().flatten().filter(|e| e.physical_page == physical_page) {
            e.write = 0;
        }
    }
}
