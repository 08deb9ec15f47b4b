//! Windows: pages of a user program, mapped where the host's own MMU finds them.
//!
//! A window belongs to an address space of the guest's. A *unit*, 4 GiB of linear addresses that are used, has a *slot* of host addresses,
//! and the vCPU's array of [`Units`] says what to add to get there; the addend of a unit that has none leads to a slot
//! where nothing ever is. A page that is mapped in a slot is one that user accesses may load from, and store to if it is mapped so, without
//! any look. Everything else faults, is done by T0, and mapped then if it can be.
//!
//! Between two slots nothing is mapped for at least 4 GiB, so that a displacement of 32 bits doesn't lead from one to another.
//!
//! What drops entries of the soft TLB drops pages here too, or has the window *suspected*: it is compared with the page tables before it is
//! used again, since most is as it was.
//!
//! One vCPU at a time uses a window. Those that none uses are [`Parked`], where a program finds its own when it goes on elsewhere.

mod parked;
mod slot;
mod units;
mod window;

pub use parked::Parked;
pub use slot::{NOWHERE, UNIT_BITS};
pub use units::{USER_UNITS, Units};
pub use window::Compared;

use address::{GuestPhys, PAGE_SIZE};
use memory::tracking::PageState;
use memory::{GuestMemory, Kind};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use slot::{Slot, addend, nowhere, unit_of};
use std::ffi::c_void;
use std::sync::Arc;
use window::{Rows, Window};

/// Windows of a vCPU at the same time.
const WINDOWS: usize = 8;
/// Units of a window.
const MAX_UNITS: usize = 16;
/// Stretches of 2 MiB of a window: each takes 8 KiB of the host's memory.
const MAX_CHUNKS: usize = 1024;
/// Pages of a stretch.
pub const CHUNK: usize = 512;
const CHUNK_BITS: u32 = 21;

/// Of a page in a window, beside its guest-physical address.
pub const MAPPED: u64 = 1;
/// Stores need nothing but the store.
pub const WRITABLE: u64 = 2;
/// It is part of a page of 2 MiB.
pub const LARGE: u64 = 4;
const FRAME: u64 = !0xfff;

/// The windows of one vCPU: the one that is in use, and those of the VM's parked ones that it used last.
pub struct Windows {
    memory: Arc<GuestMemory>,
    parked: Arc<Parked>,
    /// The vCPU's number, for pages' writers.
    id: u32,
    current: Option<Window>,
    /// The current one was parked for the time that the vCPU does nothing.
    left: bool,
    /// What leads to the current one, and whether it does.
    units: Units,
    installed: bool,
    uses: u64,
    /// Pages that all of them may map.
    limit: usize,
    /// Calls of the host's since [`Self::take_mappings`].
    mappings: u64,
    /// Frames that some page may allow stores to, one bit for many.
    written: Box<[u64; WRITTEN / 64]>,
}

/// Bits in [`Windows::written`].
const WRITTEN: usize = 1 << 16;

/// The bit of [`Windows::written`] that stands for a page's frame.
fn bit(page: u64) -> (usize, u64) {
    super::bit(page >> 12, WRITTEN)
}

/// Has the frame's stores allowed by some page.
fn note(written: &mut [u64; WRITTEN / 64], page: u64) {
    let (word, bit) = bit(page);
    written[word] |= bit;
}

/// Whether vCPU `id` may store to a page without a note. Only one who is known to do that may, from before a last look at whether there is code.
fn may_write(page: &PageState, id: u32) -> bool {
    page.add_writer(id);
    !page.has_code()
}

impl Windows {
    /// Of vCPU `id`, whose array `units` is, with at most `limit` pages mapped at the same time.
    pub fn new(memory: Arc<GuestMemory>, parked: Arc<Parked>, id: u32, units: Units, limit: usize) -> Self {
        units.clear();
        Self {
            memory,
            parked,
            id,
            current: None,
            left: false,
            units,
            installed: false,
            uses: 0,
            limit,
            mappings: 0,
            written: Box::new([0; WRITTEN / 64]),
        }
    }

    /// Whether the address space in use has a window.
    #[inline]
    pub fn has_current(&self) -> bool {
        self.current.is_some()
    }
    /// Whether it may have one that was parked meanwhile: [`Self::choose`] finds it.
    #[inline]
    pub fn left(&self) -> bool {
        self.left
    }
    /// The address space of `root`, which has none, gets a window, and is the one in use.
    pub fn open(&mut self, root: u64, pcid: u16) {
        let before = self.current.replace(Window::new(root, pcid, self.id, self.uses));
        self.left = false;
        self.parked.put(before);
        if self.parked.count(self.id) >= WINDOWS {
            drop(self.parked.take_oldest(self.id));
        }
    }
    /// The current address space has no window from now on. After [`Self::uninstall`].
    pub fn close(&mut self) {
        self.current = None;
    }
    /// All windows go, as [`Self::close`] says.
    pub fn close_all(&mut self) {
        self.current = None;
        while self.parked.take_oldest(self.id).is_some() {}
    }
    /// Another address space is in use, or the same again. After [`Self::uninstall`].
    pub fn choose(&mut self, root: u64, pcid: u16) {
        self.left = false;
        if self.current.as_ref().is_none_or(|w| w.root != root) {
            self.current = self.parked.exchange(self.current.take(), root, self.id);
        }
        self.uses += 1;
        let (id, uses) = (self.id, self.uses);
        if let Some(w) = &mut self.current {
            // What was dropped of the one identifier was not of the other, nor what one vCPU drops of others'.
            w.suspected |= w.pcid != pcid || w.owner != id;
            (w.pcid, w.owner, w.used) = (pcid, id, uses);
        }
    }
    /// The vCPU does nothing for a time: another may have the current window. After [`Self::uninstall`].
    pub fn park(&mut self) {
        self.left |= self.current.is_some();
        self.parked.put(self.current.take());
    }
    /// For the current window, and those that this vCPU used last.
    fn each(&mut self, mut f: impl FnMut(&mut Window)) {
        self.current.iter_mut().for_each(&mut f);
        self.parked.each(self.id, f);
    }
    /// Windows are to be compared with the page tables before they are used again. After [`Self::uninstall`], if the current one may
    /// be among them.
    fn suspect(&mut self, which: impl Fn(&Window) -> bool) {
        self.each(|w| w.suspected |= which(w));
    }
    pub fn suspect_all(&mut self) {
        self.suspect(|_| true);
    }
    pub fn suspect_pcid(&mut self, pcid: u16) {
        self.suspect(|w| w.pcid == pcid);
    }

    /// The array leads nowhere any more.
    pub fn uninstall(&mut self) {
        if !std::mem::take(&mut self.installed) {
            return;
        }
        if let Some(w) = &self.current {
            w.units.iter().for_each(|(unit, _)| self.units.put(*unit, nowhere(*unit)));
        }
    }
    /// The array leads to the current window, which must not be suspected.
    pub fn install(&mut self) {
        if self.installed {
            return;
        }
        if let Some(w) = &self.current {
            w.units.iter().for_each(|(unit, slot)| self.units.put(*unit, addend(*unit, slot.0)));
            self.installed = true;
        }
    }

    /// What is added to a linear address, and to those near it, while the current window is installed.
    pub fn addend_of(&self, linear: u64) -> u64 {
        let Some(unit) = unit_of(linear) else { return NOWHERE.wrapping_sub(linear) };
        let w = self.current.as_ref().filter(|_| self.installed);
        addend(unit, w.and_then(|w| w.slot(unit)).unwrap_or(0))
    }

    /// Whether the current window has to be compared.
    pub fn suspected(&self) -> bool {
        self.current.as_ref().is_some_and(|w| w.suspected)
    }
    /// Compares the current window with the page tables: `now` says what the pages of a stretch of 2 MiB are, as [`Self::fill`] gets it.
    ///
    /// With `give_up`, nothing else happens where most of the pages are others: the window, which stays suspected, is to be closed.
    pub fn compare(&mut self, give_up: bool, mut now: impl FnMut(u64, &mut [u64; CHUNK])) -> Compared {
        let mut all = Compared::default();
        let Self { memory, id, written, .. } = self;
        let Some(w) = &mut self.current else { return all };
        let keys: Vec<u64> = w.chunks.keys().copied().collect();
        let mut pages = [0; CHUNK];
        let mut rows = Rows::default();
        for key in keys {
            pages.fill(0);
            now(key << CHUNK_BITS, &mut pages);
            // It may be that it was asked for stores to a page to be noted, and everything was dropped instead, or that somebody else
            // was asked, who used the window then.
            let was = w.chunks.get(&key).map_or(&[][..], |chunk| &chunk[..]);
            for (page, _) in pages.iter_mut().zip(was).filter(|(page, was)| **page & **was & WRITABLE != 0) {
                match memory.page_at(GuestPhys(*page & FRAME)) {
                    Some(state) if may_write(state, *id) => note(written, *page),
                    _ => *page &= !WRITABLE,
                }
            }
            let one = w.compare(key, &pages, &mut rows);
            all.kept += one.kept;
            all.dropped += one.dropped;
        }
        if !give_up || all.dropped <= all.kept {
            w.tell(&rows);
            w.suspected = false;
            self.mappings += rows.calls();
        }
        all
    }

    /// Maps the page at a linear address in the current window, and those of `around` (pages of its stretch of 2 MiB) that can be.
    /// `now` is what the stretch's pages are: guest-physical addresses that user accesses reach, those that may be stored to [`WRITABLE`],
    /// both with their accessed and dirty bits set; the others 0. False if no page can be mapped as long as the window stays as it is.
    pub fn fill(&mut self, linear: u64, around: std::ops::Range<usize>, now: &[u64; CHUNK]) -> bool {
        let total = self.pages();
        let Self { memory, units, installed, id, written, mappings, .. } = self;
        let Some(w) = &mut self.current else { return true };
        let Some(unit) = unit_of(linear) else { return true };
        if now[(linear >> 12) as usize % CHUNK] & MAPPED == 0 {
            return true;
        }
        let key = linear >> CHUNK_BITS;
        if total + around.len() > self.limit || !w.chunks.contains_key(&key) && w.chunks.len() >= MAX_CHUNKS {
            return false;
        }
        if w.place(linear).is_none() {
            let slot = if w.units.len() < MAX_UNITS { Slot::take() } else { None };
            let Some(slot) = slot else { return true };
            if *installed {
                units.put(unit, addend(unit, slot.0));
            }
            w.units.push((unit, slot));
        }
        let mut chunk = w.chunks.remove(&key).unwrap_or_else(|| Box::new([0; CHUNK]));
        let mut n = around.start;
        let mut room = true;
        while n < around.end.min(CHUNK) {
            let (was, is) = (chunk[n], now[n]);
            let better =
                is & MAPPED != 0 && (was == 0 || was & WRITABLE < is & WRITABLE && (was ^ is) & FRAME == 0);
            let region = memory.region_at(GuestPhys(is & FRAME)).filter(|r| r.kind() == Kind::Ram);
            let Some(region) = region.filter(|_| better) else {
                n += 1;
                continue;
            };
            let offset = (is & FRAME) - region.base().0;
            let state = |offset: u64| region.page((offset / PAGE_SIZE) as usize);
            let access = |page: u64, offset: u64| match page & WRITABLE {
                0 => page,
                _ if may_write(state(offset), *id) => page,
                _ => page & !WRITABLE,
            };
            let first = access(is, offset);
            if was == first {
                // Only its code is in the way.
                n += 1;
                continue;
            }
            let mut len = 1;
            while n + len < around.end.min(CHUNK)
                && chunk[n + len] == 0
                && was == 0
                && now[n + len] & FRAME == (is & FRAME) + len as u64 * PAGE_SIZE
                && now[n + len] & MAPPED != 0
                && offset + len as u64 * PAGE_SIZE < region.len()
                && access(now[n + len], offset + len as u64 * PAGE_SIZE) & WRITABLE == first & WRITABLE
            {
                len += 1;
            }
            let Some(at) = w.place(key << CHUNK_BITS | (n as u64) << 12) else { break };
            let prot =
                if first & WRITABLE != 0 { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
            let fixed = if was == 0 { MapFlags::FIXED_NOREPLACE } else { MapFlags::FIXED };
            let kind = MapFlags::SHARED | MapFlags::POPULATE | fixed;
            let bytes = len * PAGE_SIZE as usize;
            *mappings += 1;
            // SAFETY: a place in this window's own slot, where nothing is, or a page of this window's own.
            let got = unsafe { mmap(at as *mut c_void, bytes, prot, kind, region.mapping().fd(), offset) };
            match got {
                Ok(p) if p as u64 == at => {
                    for k in 0..len {
                        let page = (now[n + k] & !WRITABLE) | first & WRITABLE;
                        chunk[n + k] = page;
                        if page & WRITABLE != 0 {
                            note(written, page);
                        }
                    }
                    w.pages += if was == 0 { len } else { 0 };
                }
                Ok(p) => {
                    // SAFETY: what was just mapped, at a place that wasn't asked for.
                    let _ = unsafe { munmap(p, bytes) };
                    room = false;
                }
                Err(_) => room = false,
            }
            n += len;
        }
        w.chunks.insert(key, chunk);
        room
    }

    /// The linear address that an access to a host address meant, in the current window or where no unit leads; of the latter only
    /// the bits within the unit are known, and `tag` gives the whole of it.
    pub fn linear_of(&self, host: u64, tag: impl Fn(u64) -> u64) -> Option<u64> {
        let slot = Slot::number(host)?;
        let within = host.wrapping_sub(Slot::origin(slot));
        if slot == 0 {
            return Some(tag(within & ((1 << UNIT_BITS) - 1)));
        }
        let (unit, _) = self.current.as_ref()?.units.iter().find(|(_, s)| s.0 == slot)?;
        Some(((*unit as u64) << UNIT_BITS).wrapping_add(within))
    }

    /// Drops one page of all windows.
    pub fn drop_page(&mut self, linear: u64) {
        self.each(|w| w.drop_page(linear));
    }
    /// Makes stores to a page of guest memory fault, in all windows.
    pub fn forbid_writes(&mut self, host: u64) {
        let regions = self.memory.regions().iter();
        let physical = regions.filter_map(|r| {
            let offset = host.checked_sub(r.host().as_ptr() as u64).filter(|o| *o < r.len())?;
            Some((r.base().0 + offset) & FRAME)
        });
        let physical: Vec<u64> = physical.collect();
        let may = |frame: &u64| {
            let (word, bit) = bit(*frame);
            self.written[word] & bit != 0
        };
        if !physical.iter().any(may) {
            return;
        }
        // Having to look at all pages, it finds out which bits still stand for one.
        let mut written = std::mem::replace(&mut self.written, Box::new([0; WRITTEN / 64]));
        written.fill(0);
        self.each(|w| {
            let mut found = Vec::new();
            for (key, chunk) in &mut w.chunks {
                for (n, page) in chunk.iter_mut().enumerate().filter(|(_, page)| **page & WRITABLE != 0) {
                    if physical.contains(&(*page & FRAME)) {
                        *page &= !WRITABLE;
                        found.push(key << CHUNK_BITS | (n as u64) << 12);
                    } else {
                        note(&mut written, *page);
                    }
                }
            }
            found.into_iter().for_each(|linear| w.write_protect(linear, 1));
        });
        self.written = written;
    }
    /// Makes room for pages of the current window, which stays: drops the one that was used longest ago, or empties it.
    pub fn make_room(&mut self) {
        let alone = self.current.as_ref().is_some_and(|w| w.chunks.len() >= MAX_CHUNKS);
        if !alone && self.parked.take_oldest(self.id).is_some() {
            return;
        }
        self.uninstall();
        if let Some(w) = &mut self.current {
            w.clear();
        }
    }
    /// How often the host was called since the last time.
    pub fn take_mappings(&mut self) -> u64 {
        std::mem::take(&mut self.mappings)
    }
    /// Stretches of 2 MiB that the current window has.
    pub fn stretches(&mut self) -> u64 {
        self.current.as_ref().map_or(0, |w| w.chunks.len() as u64)
    }
    /// Pages mapped.
    pub fn pages(&mut self) -> usize {
        let mut total = 0;
        self.each(|w| total += w.pages);
        total
    }
}
