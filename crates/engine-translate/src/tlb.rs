//! The soft TLB: guest-linear page to host address, per address space and privilege.
//!
//! A [`table`] has a place for every page of 4 GiB, so that looking a page up takes a shift and nothing else, and pages
//! hardly ever displace each other. Nothing tells entries of one address space from another's: each has a table of its
//! own for CPL 3, and switching is choosing a table. Supervisor accesses have tables of their own; pages that aren't global
//! leave those whenever CR3 is loaded, which are few.

mod table;
pub mod windows;

pub use table::{ADDEND, CODE, Entries, READ, WRITE};
use table::{Scope, Table};
use windows::Windows;

/// TLBs by privilege: [`crate::cpu::Cpu::tlb_select`].
pub const USER: u8 = 0;
/// Supervisor accesses where SMAP forbids user pages.
pub const SUPERVISOR: u8 = 1;
/// Supervisor accesses that may touch user pages.
pub const SUPERVISOR_ANY: u8 = 2;

/// Process-context identifiers whose entries are kept at the same time.
const CONTEXTS: usize = 8;
/// Groups of entries that all tables together may have memory for, up to 16 KiB each.
const GROUPS: usize = if cfg!(test) { 64 } else { 2560 };

/// An address space.
#[derive(Default)]
struct Context {
    pcid: u16,
    /// Its part of [`Tlb::flushes`]; 0 where its entries aren't good.
    epoch: u64,
    table: Option<Table>,
}

/// A page that was found, to be put into the TLB.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Where the byte at the linear address is in this process.
    pub host: *mut u8,
    /// A store needs nothing but the store: page dirty and writable, RAM, no decoded code, dirty-logged.
    pub plain_writes: bool,
    /// It has the same place in every address space (and CR4.PGE is set).
    pub global: bool,
}

/// All TLBs of one vCPU.
pub struct Tlb {
    contexts: [Context; CONTEXTS],
    current: usize,
    next_context: usize,
    supervisor: [Option<Table>; 2],
    /// Groups of entries in use.
    groups: usize,
    epoch: u64,
    last_epoch: u64,
    /// Of code found at CPL 3, and of code found below.
    flushes: [u64; 2],
    /// Code below CPL 3 was found on a page that isn't global.
    local_code: bool,
    /// Host pages that some entry may allow plain stores to, one bit for many pages.
    written: Box<[u64; WRITTEN / 64]>,
    /// Linear pages that code was found at while `flushes` stood, one bit for many pages. Most pages that are dropped
    /// one by one are data's, and must not cost the jump cache.
    code_pages: [Box<[u64; CODE_PAGES / 64]>; 2],
    /// For each size of [`STRETCHES`], where pages of that size were found, one bit for many.
    large: [Box<[u64; LARGE / 64]>; STRETCHES.len()],
    /// Where user programs' pages are mapped too; `None` before the first is.
    windows: Option<Box<Windows>>,
}

/// Bits in [`Tlb::code_pages`].
const CODE_PAGES: usize = 1 << 15;
/// Bits in each of [`Tlb::large`].
const LARGE: usize = 1 << 13;
/// Bits of an address within pages larger than 4 KiB: of 2 MiB, of 4 MiB, of 1 GiB.
const STRETCHES: [u32; 3] = [21, 22, 30];
/// The last of these: of larger pages everything is dropped.
const GIGABYTE: usize = 2;
/// Bits in [`Tlb::written`].
const WRITTEN: usize = 1 << 16;

/// The bit of `bits` that stands for a page.
fn bit(page: u64, bits: usize) -> (usize, u64) {
    let bit = (page ^ page >> 15) as usize % bits;
    (bit / 64, 1 << (bit % 64))
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            contexts: Default::default(),
            current: 0,
            next_context: 0,
            supervisor: [None, None],
            groups: 0,
            epoch: 1,
            last_epoch: 1,
            flushes: [0; 2],
            local_code: false,
            written: Box::new([0; WRITTEN / 64]),
            code_pages: [Box::new([0; CODE_PAGES / 64]), Box::new([0; CODE_PAGES / 64])],
            large: std::array::from_fn(|_| Box::new([0; LARGE / 64])),
            windows: None,
        }
    }
}

impl Tlb {
    fn table(&mut self, select: u8) -> &mut Option<Table> {
        match select {
            USER => &mut self.contexts[self.current].table,
            SUPERVISOR => &mut self.supervisor[0],
            _ => &mut self.supervisor[1],
        }
    }
    fn tables(&mut self) -> impl Iterator<Item = &mut Table> {
        self.contexts.iter_mut().map(|c| &mut c.table).chain(&mut self.supervisor).flatten()
    }
    /// The entries for [`crate::cpu::Cpu::tlb_entries`]: good until the address space changes, as long as `self` lives.
    pub fn set(&mut self, select: u8) -> Entries {
        let table = self.table(select);
        if table.is_none() {
            match Table::new() {
                Ok(t) => *table = Some(t),
                Err(e) => {
                    log::warn!("no memory for a soft TLB ({e}); every memory access of the guest is slow")
                }
            }
        }
        self.entries(select)
    }
    /// Entries that never match: every access takes the slow path.
    pub fn nothing() -> Entries {
        Entries::nothing()
    }
    /// The entries there are now.
    #[inline]
    pub fn entries(&self, select: u8) -> Entries {
        let table = match select {
            USER => &self.contexts[self.current].table,
            SUPERVISOR => &self.supervisor[0],
            _ => &self.supervisor[1],
        };
        table.as_ref().map_or_else(Entries::nothing, Table::entries)
    }
    /// Enters what an access to `linear` found.
    pub fn fill(&mut self, select: u8, linear: u64, found: Found) {
        if found.plain_writes {
            let (word, bit) = bit(found.host as u64 >> 12, WRITTEN);
            self.written[word] |= bit;
        }
        let scope = if select != USER && found.global { Scope::Global } else { Scope::Local };
        if let Some(t) = self.with_memory(select, linear) {
            t.fill(linear, found.host as u64, found.plain_writes, scope);
        }
    }
    /// There is code at a linear address, and `token` stands for it ([`memory::tracking::PageState::token`]): until what has
    /// [`Self::flushes`] move on, or [`Self::clear_code`].
    pub fn fill_code(&mut self, select: u8, linear: u64, token: u32) {
        if token == 0 || self.table(select).as_ref().is_some_and(|t| t.has_code(linear, token)) {
            return;
        }
        if let Some(t) = self.with_memory(select, linear) {
            t.fill_code(linear, token);
        }
    }
    /// Drops where code is, everywhere: some of it may have changed.
    pub fn clear_code(&mut self) {
        self.tables().for_each(Table::clear_code);
    }
    /// A table whose place for an address has memory.
    fn with_memory(&mut self, select: u8, linear: u64) -> Option<&mut Table> {
        let t = self.table(select).as_mut()?;
        if t.touch(linear) {
            if self.groups >= GROUPS {
                self.tables().for_each(Table::release);
                self.groups = 0;
                if let Some(t) = self.table(select) {
                    t.touch(linear);
                }
            }
            self.groups += 1;
        }
        self.table(select).as_mut()
    }
    /// Makes stores to the page of `linear` take the slow path.
    ///
    /// A page that is in a window was looked at in the same way when it got there.
    pub fn forbid_write(&mut self, select: u8, linear: u64) {
        if let Some(t) = self.table(select) {
            t.forbid_write(linear);
        }
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
        self.suspect(Windows::suspect_all);
        for c in &mut self.contexts {
            (c.pcid, c.epoch) = (0, 0);
        }
        self.tables().for_each(Table::clear);
        self.written.fill(0);
        self.large.iter_mut().for_each(|bits| bits.fill(0));
        self.epoch = self.new_epoch();
        self.forget_jumps_of(false);
    }
    /// CR3 was loaded where there are no process-context identifiers: drops all but global pages.
    pub fn flush_local(&mut self) {
        self.suspect(Windows::suspect_all);
        for c in &mut self.contexts {
            (c.pcid, c.epoch) = (0, 0);
        }
        self.contexts.iter_mut().filter_map(|c| c.table.as_mut()).for_each(Table::clear);
        self.supervisor.iter_mut().flatten().for_each(Table::clear_local);
        self.epoch = self.new_epoch();
        self.leave_local_code();
    }
    /// The address space changes or loses its entries: code that isn't global is to be looked for again.
    fn leave_local_code(&mut self) {
        if self.local_code {
            self.forget_jumps_of(false);
        }
    }
    /// CR3 chooses another address space, whose entries are kept or dropped. [`Self::set`] gives other entries after this.
    /// And after either, [`Self::choose_window`].
    pub fn switch(&mut self, pcid: u16, keep: bool) {
        self.suspect(|w| match keep {
            true => {}
            false => w.suspect_pcid(pcid),
        });
        self.leave_local_code();
        // What supervisor accesses left of the address space that is left: pages of the program's own, mostly.
        self.supervisor.iter_mut().flatten().for_each(Table::clear_local);
        let known = self.contexts.iter().position(|c| c.pcid == pcid && c.epoch != 0);
        if let (Some(i), true) = (known, keep) {
            self.current = i;
            self.epoch = self.contexts[i].epoch;
            return;
        }
        let i = known.unwrap_or_else(|| {
            self.next_context = (self.next_context + 1) % CONTEXTS;
            self.next_context
        });
        self.epoch = self.new_epoch();
        self.current = i;
        let c = &mut self.contexts[i];
        (c.pcid, c.epoch) = (pcid, self.epoch);
        c.table.iter_mut().for_each(Table::clear);
    }
    /// Drops the entries of one address space that is not the current one.
    pub fn forget(&mut self, pcid: u16) {
        self.suspect(|w| w.suspect_pcid(pcid));
        for c in self.contexts.iter_mut().filter(|c| c.pcid == pcid) {
            (c.pcid, c.epoch) = (0, 0);
        }
    }
    /// An epoch that no address space has.
    fn new_epoch(&mut self) -> u64 {
        self.last_epoch += 1;
        if self.last_epoch > 0xfff {
            for c in &mut self.contexts {
                (c.pcid, c.epoch) = (0, 0);
            }
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
        match user {
            true => self.contexts.iter_mut().filter_map(|c| c.table.as_mut()).for_each(Table::clear_code),
            false => self.supervisor.iter_mut().flatten().for_each(Table::clear_code),
        }
    }
    /// Code was found at a linear address, for CPL 3 or below, and the finding is kept while [`Self::flushes`] stands.
    pub fn note_code_page(&mut self, linear: u64, user: bool, global: bool) {
        let (word, bit) = bit(linear >> 12, CODE_PAGES);
        self.code_pages[!user as usize][word] |= bit;
        self.local_code |= !user && !global;
    }
    /// A page of `size` bytes was found at a linear address: what is known of any part of it is to go when one part is flushed.
    #[inline]
    pub fn note_size(&mut self, linear: u64, size: u64) {
        if let Some(n) = STRETCHES.iter().position(|bits| size == 1 << bits) {
            let (word, bit) = bit(linear >> STRETCHES[n], LARGE);
            self.large[n][word] |= bit;
        }
    }
    fn has_large(&self, linear: u64, n: usize) -> bool {
        let (word, bit) = bit(linear >> STRETCHES[n], LARGE);
        self.large[n][word] & bit != 0
    }
    /// Drops one page in every address space, all of it (SDM 3A 4.10.4.1: INVLPG).
    pub fn flush_page(&mut self, linear: u64) {
        if self.has_large(linear, GIGABYTE) {
            return self.flush();
        }
        for (n, bits) in STRETCHES[..GIGABYTE].iter().enumerate() {
            if !self.has_large(linear, n) {
                continue;
            }
            self.forget_jumps();
            let first = linear & !((1 << bits) - 1);
            let pages = (0..1u64 << (bits - 12)).map(|n| first + (n << 12));
            pages.for_each(|page| self.tables().for_each(|t| t.drop_page(page)));
        }
        let (word, bit) = bit(linear >> 12, CODE_PAGES);
        for user in [true, false] {
            if self.code_pages[!user as usize][word] & bit != 0 {
                self.forget_jumps_of(user);
            }
        }
        self.tables().for_each(|t| t.drop_page(linear));
        if let Some(w) = &mut self.windows {
            w.drop_page(linear);
        }
    }

    /// The windows that there are.
    pub fn windows(&mut self) -> Option<&mut Windows> {
        self.windows.as_deref_mut()
    }
    /// The windows, for who needs the rest of the vCPU beside; [`Self::put_windows`] puts them back.
    pub fn take_windows(&mut self) -> Option<Box<Windows>> {
        self.windows.take()
    }
    pub fn put_windows(&mut self, windows: Box<Windows>) {
        self.windows = Some(windows);
    }
    /// From now on there are some.
    pub fn have_windows(&mut self, windows: impl FnOnce() -> Windows) -> &mut Windows {
        self.windows.get_or_insert_with(|| Box::new(windows()))
    }
    /// The vCPU does nothing for a time: others may have the window.
    pub fn park_window(&mut self) {
        self.uninstall_window();
        if let Some(w) = &mut self.windows {
            w.park();
        }
    }
    /// Whether the address space in use may have a window that was parked meanwhile: [`Self::choose_window`] finds it.
    #[inline]
    pub fn left_window(&self) -> bool {
        self.windows.as_ref().is_some_and(|w| w.left())
    }
    /// Whether the address space in use has a window.
    #[inline]
    pub fn has_window(&self) -> bool {
        self.windows.as_ref().is_some_and(|w| w.has_current())
    }
    /// What is added to a linear address to get to its place in the current window, or to where nothing is.
    pub fn window_addend(&self, linear: u64) -> u64 {
        self.windows.as_ref().map_or(0, |w| w.addend_of(linear))
    }
    /// Nothing leads to the current window any more, until it is installed again.
    pub fn uninstall_window(&mut self) {
        if let Some(w) = &mut self.windows {
            w.uninstall();
        }
    }
    fn suspect(&mut self, whom: impl FnOnce(&mut Windows)) {
        self.uninstall_window();
        if let Some(w) = &mut self.windows {
            whom(w);
        }
    }
    /// After CR3 was loaded: the window of the address space whose tables are at `root`, if it has one.
    pub fn choose_window(&mut self, root: u64, pcid: u16) {
        self.uninstall_window();
        if let Some(w) = &mut self.windows {
            w.choose(root, pcid);
        }
    }
    /// The address space in use has no window any more.
    pub fn close_window(&mut self) {
        self.uninstall_window();
        if let Some(w) = &mut self.windows {
            w.close();
        }
    }
    /// No address space has a window any more.
    pub fn close_windows(&mut self) {
        self.uninstall_window();
        if let Some(w) = &mut self.windows {
            w.close_all();
        }
    }
    /// Makes stores to every page take the slow path once.
    pub fn forbid_all_writes(&mut self) {
        self.close_windows();
        self.tables().for_each(Table::forbid_all_writes);
    }
    /// Makes stores to the page of RAM at a host address take the slow path.
    pub fn forbid_writes(&mut self, host: *const u8) {
        let host = host as u64 & !0xfff;
        // Its pages outlive the entries that had them noted.
        if let Some(w) = &mut self.windows {
            w.forbid_writes(host);
        }
        let (word, mask) = bit(host >> 12, WRITTEN);
        if self.written[word] & mask == 0 {
            return;
        }
        // Having to look at all entries, it finds out which bits still stand for one.
        let mut written = std::mem::replace(&mut self.written, Box::new([0; WRITTEN / 64]));
        written.fill(0);
        self.tables().for_each(|t| {
            t.forbid_writes(host, |host| {
                let (word, mask) = bit(host >> 12, WRITTEN);
                written[word] |= mask;
            });
        });
        self.written = written;
    }
}

#[cfg(test)]
mod tests;
