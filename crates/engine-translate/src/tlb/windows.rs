//! Windows: pages of a user program, mapped where the host's own MMU finds them.
//!
//! A window belongs to an address space of the guest's. A *unit*, 4 GiB of linear addresses that are used, has a *slot* of host addresses,
//! and the array of units of the soft TLB's table says what to add to get there; the addend of a unit that has none leads to a slot
//! where nothing ever is. A page that is mapped in a slot is one that user accesses may load from, and store to if it is mapped so, without
//! any look. Everything else faults, is done by T0, and mapped then if it can be.
//!
//! Between two slots nothing is mapped for at least 4 GiB, so that a displacement of 32 bits doesn't lead from one to another.
//!
//! What drops entries of the soft TLB drops pages here too, or has the window *suspected*: it is compared with the page tables before it is
//! used again, since most is as it was.

use super::table::{Table, USER_UNITS};
use address::{GuestPhys, PAGE_SIZE};
use memory::{GuestMemory, Kind};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io;
use std::sync::{Arc, Mutex};

/// Bits of an address within its unit.
pub const UNIT_BITS: u32 = 32;
/// Host addresses of a slot: its unit's, and as many around them where nothing is.
const SLOT: u64 = 2 << UNIT_BITS;
const GUARD: u64 = 1 << (UNIT_BITS - 1);
/// Where slots are. Linux puts nothing there by itself: it looks for room from the stack downwards, or, where a process wants
/// that, from 2A'AAAA'A000h upwards; and programs lie at 5555'5555'5000h and above, or below the first of these.
const SLOTS: std::ops::Range<u64> = 0x0100_0000_0000..0x2a00_0000_0000;

/// A host address where nothing ever is, nor near it.
pub const NOWHERE: u64 = Slot::origin(0);

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

/// Slots of this process in use.
static USED: Mutex<Vec<bool>> = Mutex::new(Vec::new());

/// A slot of host addresses.
struct Slot(usize);

impl Slot {
    /// `None` where all are in use, or something lies there.
    fn take() -> Option<Self> {
        let mut used = USED.lock().unwrap_or_else(|e| e.into_inner());
        // The first one stays empty.
        if used.is_empty() {
            used.push(true);
        }
        let n = match used.iter().position(|u| !u) {
            Some(n) => n,
            None => {
                let n = used.len();
                (Self::start(n) + SLOT <= SLOTS.end).then(|| used.push(true))?;
                n
            }
        };
        let kind = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        let at = Self::start(n) as *mut c_void;
        // SAFETY: nothing that is there is replaced; older kernels may give another place, which is new.
        let got = unsafe { mmap_anonymous(at, SLOT as usize, ProtFlags::empty(), kind) };
        used[n] = true;
        match got {
            Ok(p) => {
                // SAFETY: what was just mapped.
                let _ = unsafe { munmap(p, SLOT as usize) };
                (p == at).then_some(Self(n))
            }
            // It stays in use: by somebody else.
            Err(_) => None,
        }
    }
    const fn start(n: usize) -> u64 {
        SLOTS.start + n as u64 * SLOT
    }
    /// Where the first byte of its unit is.
    const fn origin(n: usize) -> u64 {
        Self::start(n) + GUARD
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: what is there was mapped by the window whose slot this was.
        let _ = unsafe { munmap(Self::start(self.0) as *mut c_void, SLOT as usize) };
        if let Some(used) = USED.lock().unwrap_or_else(|e| e.into_inner()).get_mut(self.0) {
            *used = false;
        }
    }
}

/// What is added to addresses of a unit to get to the slot that they lead to.
fn addend(unit: u32, slot: usize) -> u64 {
    Slot::origin(slot).wrapping_sub((unit as u64) << UNIT_BITS)
}
/// The same for a unit that has no slot.
fn nowhere(unit: u32) -> u64 {
    addend(unit, 0)
}

fn unit_of(linear: u64) -> Option<u32> {
    u32::try_from(linear >> UNIT_BITS).ok().filter(|u| *u < USER_UNITS)
}

/// Of a stretch of 2 MiB, the pages' guest-physical addresses with [`MAPPED`] and [`WRITABLE`], or 0.
type Chunk = Box<[u64; CHUNK]>;

/// See the module.
struct Window {
    /// The address space: CR3's address, and the process-context identifier it was last used with.
    root: u64,
    pcid: u16,
    /// Whether it has to be compared with the page tables.
    suspected: bool,
    units: Vec<(u32, Slot)>,
    chunks: BTreeMap<u64, Chunk>,
    /// Pages mapped at most: each may cost the host a mapping of its own, of which there are not many.
    pages: usize,
    used: u64,
}

impl Window {
    fn new(root: u64, pcid: u16) -> Self {
        Self { root, pcid, suspected: false, units: Vec::new(), chunks: BTreeMap::new(), pages: 0, used: 0 }
    }
    fn slot(&self, unit: u32) -> Option<usize> {
        self.units.iter().find(|(u, _)| *u == unit).map(|(_, slot)| slot.0)
    }
    /// Where a linear address of one of its units is.
    fn place(&self, linear: u64) -> Option<u64> {
        Some(Slot::origin(self.slot(unit_of(linear)?)?) + (linear & ((1 << UNIT_BITS) - 1)))
    }
    /// Everything goes.
    fn clear(&mut self) {
        self.units.clear();
        self.chunks.clear();
        (self.pages, self.suspected) = (0, false);
    }
    /// Has the host forget `count` pages.
    fn unmap(&self, linear: u64, count: usize) {
        if let Some(at) = self.place(linear) {
            // SAFETY: pages of this window's own slot.
            let _ = unsafe { munmap(at as *mut c_void, count * PAGE_SIZE as usize) };
        }
    }
    /// Stores to `count` pages fault from now on.
    fn write_protect(&self, linear: u64, count: usize) {
        if let Some(at) = self.place(linear) {
            // SAFETY: pages of this window's own slot, which Rust has no reference to.
            let done =
                unsafe { mprotect(at as *mut c_void, count * PAGE_SIZE as usize, MprotectFlags::READ) };
            if done.is_err() {
                self.unmap(linear, count);
            }
        }
    }
    fn drop_page(&mut self, linear: u64) {
        let Some(chunk) = self.chunks.get_mut(&(linear >> CHUNK_BITS)) else { return };
        if chunk.iter().any(|page| page & LARGE != 0) {
            // All of it goes with one of its parts.
            self.pages -= chunk.iter().filter(|page| **page != 0).count();
            self.chunks.remove(&(linear >> CHUNK_BITS));
            self.unmap(linear & !((1 << CHUNK_BITS) - 1), CHUNK);
            return;
        }
        let page = &mut chunk[(linear >> 12) as usize % CHUNK];
        if std::mem::take(page) != 0 {
            self.pages -= 1;
            self.unmap(linear & FRAME, 1);
        }
    }
    /// Compares a stretch with what its pages are now; forgets what differs.
    fn compare(&mut self, key: u64, now: &[u64; CHUNK]) -> Compared {
        let mut result = Compared::default();
        let Some(mut chunk) = self.chunks.remove(&key) else { return result };
        // The host is told of those in a row at once.
        let mut row = 0..0;
        let mut gone = false;
        let mut tell = |w: &Self, row: &std::ops::Range<usize>, gone: bool| {
            let linear = key << CHUNK_BITS | (row.start as u64) << 12;
            match row.len() {
                0 => return,
                n if gone => w.unmap(linear, n),
                n => w.write_protect(linear, n),
            }
            result.told += 1;
        };
        for (n, (was, is)) in chunk.iter_mut().zip(now).enumerate().filter(|(_, (was, _))| **was != 0) {
            let same = (*was ^ is) & FRAME == 0 && is & MAPPED != 0;
            // It may have become part of a large page, or be one's no more.
            let new = if same { *was & (is | !WRITABLE) & !LARGE | is & LARGE } else { 0 };
            result.kept += same as usize;
            if (new ^ std::mem::replace(was, new)) & !LARGE == 0 {
                continue;
            }
            result.dropped += !same as usize;
            if row.end != n || gone == same {
                tell(self, &row, gone);
                row = n..n;
            }
            (row.end, gone) = (n + 1, !same);
        }
        tell(self, &row, gone);
        self.pages -= result.dropped;
        if result.kept > 0 {
            self.chunks.insert(key, chunk);
        }
        result
    }
}

/// What became of pages that were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub kept: usize,
    pub dropped: usize,
    /// Calls of the host's.
    told: u64,
}

/// All windows of one vCPU.
pub struct Windows {
    memory: Arc<GuestMemory>,
    /// The vCPU's number, for pages' writers.
    id: u32,
    list: Vec<Window>,
    current: Option<usize>,
    /// Whether the table in use leads to the current one.
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

impl Windows {
    /// Of vCPU `id`, with at most `limit` pages mapped at the same time.
    pub fn new(memory: Arc<GuestMemory>, id: u32, limit: usize) -> Self {
        let written = Box::new([0; WRITTEN / 64]);
        Self {
            memory,
            id,
            list: Vec::new(),
            current: None,
            installed: false,
            uses: 0,
            limit,
            written,
            mappings: 0,
        }
    }

    /// Whether the address space in use has a window.
    #[inline]
    pub fn has_current(&self) -> bool {
        self.current.is_some()
    }
    fn current(&mut self) -> Option<&mut Window> {
        self.current.and_then(|n| self.list.get_mut(n))
    }
    /// The address space of `root` gets a window, and is the one in use.
    pub fn open(&mut self, root: u64, pcid: u16) {
        if self.list.len() >= WINDOWS
            && let Some(oldest) = self.list.iter().enumerate().min_by_key(|(_, w)| w.used).map(|(n, _)| n)
        {
            self.list.swap_remove(oldest);
        }
        self.uses += 1;
        self.list.push(Window { used: self.uses, ..Window::new(root, pcid) });
        self.current = Some(self.list.len() - 1);
    }
    /// The current address space has no window from now on; its table has to be told before ([`Self::uninstall`]).
    pub fn close(&mut self) {
        if let Some(n) = self.current.take() {
            self.list.swap_remove(n);
        }
    }
    /// All windows go, as [`Self::close`] says.
    pub fn close_all(&mut self) {
        self.current = None;
        self.list.clear();
    }
    /// Another address space is in use. After [`Self::uninstall`].
    pub fn choose(&mut self, root: u64, pcid: u16) {
        self.uses += 1;
        self.current = self.list.iter().position(|w| w.root == root);
        let uses = self.uses;
        if let Some(w) = self.current() {
            // What was dropped of the one identifier was not of the other.
            w.suspected |= w.pcid != pcid;
            (w.pcid, w.used) = (pcid, uses);
        }
    }
    /// Windows are to be compared with the page tables before they are used again. After [`Self::uninstall`], if the current one may
    /// be among them.
    fn suspect(&mut self, which: impl Fn(&Window) -> bool) {
        self.list.iter_mut().filter(|w| which(w)).for_each(|w| w.suspected = true);
    }
    pub fn suspect_all(&mut self) {
        self.suspect(|_| true);
    }
    pub fn suspect_pcid(&mut self, pcid: u16) {
        self.suspect(|w| w.pcid == pcid);
    }

    /// The table in use leads nowhere any more.
    pub fn uninstall(&mut self, table: Option<&mut Table>) {
        if !std::mem::take(&mut self.installed) {
            return;
        }
        if let (Some(t), Some(w)) = (table, self.current()) {
            w.units.iter().for_each(|(unit, _)| t.put_unit(*unit, nowhere(*unit)));
        }
    }
    /// The table in use leads to the current window, which must not be suspected.
    pub fn install(&mut self, table: &mut Table) -> io::Result<()> {
        if self.installed {
            return Ok(());
        }
        table.have_units(nowhere)?;
        if let Some(w) = self.current() {
            w.units.iter().for_each(|(unit, slot)| table.put_unit(*unit, addend(*unit, slot.0)));
            self.installed = true;
        }
        Ok(())
    }

    /// What is added to a linear address, and to those near it, while the current window is installed.
    pub fn addend_of(&self, linear: u64) -> u64 {
        let Some(unit) = unit_of(linear) else { return NOWHERE.wrapping_sub(linear) };
        let w = self.current.and_then(|n| self.list.get(n)).filter(|_| self.installed);
        addend(unit, w.and_then(|w| w.slot(unit)).unwrap_or(0))
    }

    /// Whether the current window has to be compared.
    pub fn suspected(&self) -> bool {
        self.current.and_then(|n| self.list.get(n)).is_some_and(|w| w.suspected)
    }
    /// Compares the current window with the page tables: `now` says what the pages of a stretch of 2 MiB are, as [`Self::fill`] gets it.
    pub fn compare(&mut self, mut now: impl FnMut(u64, &mut [u64; CHUNK])) -> Compared {
        let mut all = Compared::default();
        let Self { memory, list, current, .. } = self;
        let Some(w) = current.and_then(|n| list.get_mut(n)) else { return all };
        let keys: Vec<u64> = w.chunks.keys().copied().collect();
        let mut pages = [0; CHUNK];
        for key in keys {
            pages.fill(0);
            now(key << CHUNK_BITS, &mut pages);
            // It may be that it was asked for stores to a page to be noted, and everything was dropped instead.
            for page in pages.iter_mut().filter(|page| **page & WRITABLE != 0) {
                if memory.page_at(GuestPhys(*page & FRAME)).is_none_or(|p| p.has_code()) {
                    *page &= !WRITABLE;
                }
            }
            let one = w.compare(key, &pages);
            all.kept += one.kept;
            all.dropped += one.dropped;
            all.told += one.told;
        }
        w.suspected = false;
        self.mappings += all.told;
        all
    }

    /// Maps the page at a linear address in the current window, and those of `around` (pages of its stretch of 2 MiB) that can be.
    /// `now` is what the stretch's pages are: guest-physical addresses that user accesses reach, those that may be stored to [`WRITABLE`],
    /// both with their accessed and dirty bits set; the others 0. False if no page can be mapped as long as the window stays as it is.
    pub fn fill(
        &mut self,
        table: &mut Table,
        linear: u64,
        around: std::ops::Range<usize>,
        now: &[u64; CHUNK],
    ) -> bool {
        let total: usize = self.list.iter().map(|w| w.pages).sum();
        let Some(n) = self.current else { return true };
        let Self { memory, list, installed, id, written, mappings, .. } = self;
        let w = &mut list[n];
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
                table.put_unit(unit, addend(unit, slot.0));
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
            // Stores need no note only by one who is known to make them, from before a last look at whether there is code.
            let access = |page: u64, offset: u64| {
                if page & WRITABLE != 0 {
                    state(offset).add_writer(*id);
                    if state(offset).has_code() {
                        return page & !WRITABLE;
                    }
                }
                page
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
                            let (word, bit) = bit(page);
                            written[word] |= bit;
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
        let slot = usize::try_from(host.checked_sub(SLOTS.start)? / SLOT).ok()?;
        let within = host.wrapping_sub(Slot::origin(slot));
        if slot == 0 {
            return Some(tag(within & ((1 << UNIT_BITS) - 1)));
        }
        let w = self.list.get(self.current?)?;
        let (unit, _) = w.units.iter().find(|(_, s)| s.0 == slot)?;
        Some(((*unit as u64) << UNIT_BITS).wrapping_add(within))
    }

    /// Drops one page of all windows.
    pub fn drop_page(&mut self, linear: u64) {
        self.list.iter_mut().for_each(|w| w.drop_page(linear));
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
        self.written.fill(0);
        for w in &mut self.list {
            let mut found = Vec::new();
            for (key, chunk) in &mut w.chunks {
                for (n, page) in chunk.iter_mut().enumerate().filter(|(_, page)| **page & WRITABLE != 0) {
                    if physical.contains(&(*page & FRAME)) {
                        *page &= !WRITABLE;
                        found.push(key << CHUNK_BITS | (n as u64) << 12);
                    } else {
                        let (word, bit) = bit(*page);
                        self.written[word] |= bit;
                    }
                }
            }
            found.into_iter().for_each(|linear| w.write_protect(linear, 1));
        }
    }
    /// Empties the current window, which stays.
    pub fn clear(&mut self, table: &mut Table) {
        self.uninstall(Some(table));
        if let Some(w) = self.current() {
            w.clear();
        }
    }
    /// How often the host was called since the last time.
    pub fn take_mappings(&mut self) -> u64 {
        std::mem::take(&mut self.mappings)
    }
    /// Stretches of 2 MiB that the current window has.
    pub fn stretches(&mut self) -> u64 {
        self.current().map_or(0, |w| w.chunks.len() as u64)
    }
    /// Pages mapped.
    pub fn pages(&self) -> usize {
        self.list.iter().map(|w| w.pages).sum()
    }
}
