//! One table of the soft TLB: four arrays with an element for each page of 4 GiB, in memory that is there where it's used.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Elements of an array: the page's place is bits 31:12 of the linear address.
const PAGES: usize = 1 << 20;
/// Offset of the tags for loads: the page's linear address, or [`invalid`].
pub const READ: usize = 0;
/// Offset of the tags for stores, for pages where a store needs nothing but the store.
pub const WRITE: usize = PAGES * 8;
/// Offset of the addends: host address minus linear address.
pub const ADDEND: usize = PAGES * 16;
/// Offset of what tells where code is: the page's linear address plus what stands for the code there, or 0. No code stands
/// for a multiple of 4096, so that no address makes a match of 0.
pub const CODE: usize = PAGES * 24;
const BYTES: usize = PAGES * 32;

/// Elements in a page of memory.
const GROUP: usize = 512;
const GROUPS: usize = PAGES / GROUP;

/// A table that has had more entries than this is cleared by giving its memory back.
const MANY: usize = 1 << 16;
/// Entries noted at most: then it is cleared.
const NOTED: usize = 1 << 18;

fn index(linear: u64) -> usize {
    (linear >> 12) as usize & (PAGES - 1)
}

/// A tag that matches no address: one that has its place elsewhere.
const fn invalid(index: usize) -> u64 {
    if index == 0 { 0x1000 } else { 0 }
}

/// What accesses look at: the start of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Entries(NonNull<u8>);

static NOTHING: [AtomicU64; PAGES * 4] = [const { AtomicU64::new(0) }; PAGES * 4];

impl Entries {
    /// Where no address matches.
    pub fn nothing() -> Self {
        NOTHING[READ / 8].store(invalid(0), Relaxed);
        NOTHING[WRITE / 8].store(invalid(0), Relaxed);
        Self(NonNull::from(&NOTHING).cast())
    }
    pub fn address(self) -> u64 {
        self.0.as_ptr() as u64
    }
    #[inline(always)]
    fn element(self, array: usize, index: usize) -> *mut u64 {
        // SAFETY: `array` is one of the four offsets and the index masked: within the table, which lives as long as
        // its vCPU does, or for ever.
        unsafe { self.0.as_ptr().add(array + (index & (PAGES - 1)) * 8).cast() }
    }
    #[inline(always)]
    fn get(self, array: usize, index: usize) -> u64 {
        // SAFETY: as in `element`; the table belongs to this thread.
        unsafe { *self.element(array, index) }
    }
    #[inline(always)]
    fn put(self, array: usize, index: usize, v: u64) {
        // SAFETY: as in `get`. `NOTHING` isn't written: it is no `Table`'s.
        unsafe { *self.element(array, index) = v }
    }
    /// The tag of the page that has the place of an address.
    pub fn tag(self, array: usize, linear: u64) -> u64 {
        self.get(array, index(linear))
    }
    /// Where `size` bytes at a linear address are, if the entry for `array` ([`READ`] or [`WRITE`]) matches and they lie within
    /// a page.
    #[inline(always)]
    pub fn look(self, array: usize, linear: u64, size: u64) -> Option<*mut u8> {
        let i = index(linear);
        if self.get(array, i) ^ linear > 4096u64.wrapping_sub(size) {
            return None;
        }
        Some(linear.wrapping_add(self.get(ADDEND, i)) as *mut u8)
    }
}

/// Whether an entry outlives a change of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Local,
    Global,
}

pub struct Table {
    entries: Entries,
    /// Places that were filled: of pages that aren't global, and of such as are.
    local: Vec<u32>,
    global: Vec<u32>,
    /// Places that tell where code is.
    code: Vec<u32>,
    /// Groups of elements with memory behind them.
    touched: Box<[u64; GROUPS / 64]>,
}

impl Table {
    pub fn new() -> io::Result<Self> {
        let kind = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let p = unsafe { mmap_anonymous(null_mut(), BYTES, ProtFlags::READ | ProtFlags::WRITE, kind) }?;
        // SAFETY: the mapping just made. Large pages would have it take all its memory at once; where that isn't known, fine.
        let _ = unsafe { madvise(p, BYTES, Advice::LinuxNoHugepage) };
        let start = NonNull::new(p.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let t = Self {
            entries: Entries(start),
            local: Vec::new(),
            global: Vec::new(),
            code: Vec::new(),
            touched: Box::new([0; GROUPS / 64]),
        };
        t.first();
        Ok(t)
    }
    /// Memory is zero, which is an address in the first place.
    fn first(&self) {
        self.entries.put(READ, 0, invalid(0));
        self.entries.put(WRITE, 0, invalid(0));
    }
    pub fn entries(&self) -> Entries {
        self.entries
    }
    fn has(&self, index: usize) -> bool {
        let group = index / GROUP;
        self.touched[group / 64] & 1 << (group % 64) != 0
    }
    /// Notes that the place of an address gets memory; whether it had none.
    pub fn touch(&mut self, linear: u64) -> bool {
        let group = index(linear) / GROUP;
        let word = &mut self.touched[group / 64];
        let before = *word;
        *word |= 1 << (group % 64);
        *word != before
    }
    /// [`Self::touch`] was called.
    pub fn fill(&mut self, linear: u64, host: u64, plain_writes: bool, scope: Scope) {
        if self.local.len() + self.global.len() >= NOTED {
            self.clear();
        }
        let i = index(linear);
        let tag = linear & !0xfff;
        let e = self.entries;
        e.put(READ, i, tag);
        if plain_writes {
            e.put(WRITE, i, tag);
        } else if e.get(WRITE, i) != invalid(i) {
            e.put(WRITE, i, invalid(i));
        }
        e.put(ADDEND, i, host.wrapping_sub(linear));
        // What was there may have been of the other scope: the place is noted again.
        match scope {
            Scope::Local => self.local.push(i as u32),
            Scope::Global => self.global.push(i as u32),
        }
    }
    /// There is code at an address; [`Self::touch`] was called.
    pub fn fill_code(&mut self, linear: u64, token: u32) {
        let i = index(linear);
        if self.entries.get(CODE, i) == 0 {
            self.code.push(i as u32);
        }
        self.entries.put(CODE, i, (linear & !0xfff).wrapping_add(token as u64));
    }
    /// Whether [`Self::fill_code`] was called with the same, and nothing dropped it since.
    pub fn has_code(&self, linear: u64, token: u32) -> bool {
        let i = index(linear);
        self.entries.get(CODE, i) == (linear & !0xfff).wrapping_add(token as u64)
    }
    /// Drops where code is.
    pub fn clear_code(&mut self) {
        self.code.drain(..).for_each(|i| self.entries.put(CODE, i as usize, 0));
    }
    fn invalidate(entries: Entries, i: usize) {
        entries.put(READ, i, invalid(i));
        if entries.get(WRITE, i) != invalid(i) {
            entries.put(WRITE, i, invalid(i));
        }
    }
    pub fn forbid_write(&mut self, linear: u64) {
        let i = index(linear);
        if self.has(i) {
            self.entries.put(WRITE, i, invalid(i));
        }
    }
    /// Makes all stores take the slow path.
    pub fn forbid_all_writes(&mut self) {
        for i in self.local.iter().chain(&self.global).map(|i| *i as usize) {
            if self.entries.get(WRITE, i) != invalid(i) {
                self.entries.put(WRITE, i, invalid(i));
            }
        }
    }
    /// Drops a page.
    pub fn drop_page(&mut self, linear: u64) {
        let i = index(linear);
        if self.has(i) {
            Self::invalidate(self.entries, i);
            if self.entries.get(CODE, i) != 0 {
                // Its place stays noted.
                self.entries.put(CODE, i, 1 << 63);
            }
        }
    }
    /// Drops the pages that aren't global.
    pub fn clear_local(&mut self) {
        for i in self.local.drain(..) {
            Self::invalidate(self.entries, i as usize);
        }
    }
    /// Drops everything.
    pub fn clear(&mut self) {
        if self.local.len() + self.global.len() > MANY {
            self.drop_memory();
        }
        for i in self.local.drain(..).chain(self.global.drain(..)) {
            Self::invalidate(self.entries, i as usize);
        }
        self.clear_code();
    }
    /// Gives the memory back; the entries go.
    fn drop_memory(&mut self) {
        let start = self.entries.0.as_ptr().cast::<c_void>();
        // SAFETY: the whole of this table's own mapping, which reads as zeroes afterwards.
        if unsafe { madvise(start, BYTES, Advice::LinuxDontNeed) }.is_ok() {
            self.local.clear();
            self.global.clear();
            self.code.clear();
            self.first();
        }
    }
    /// Drops everything, and the memory with it.
    pub fn release(&mut self) {
        self.drop_memory();
        self.clear_local();
        for i in self.global.drain(..) {
            Self::invalidate(self.entries, i as usize);
        }
        self.clear_code();
        self.touched.fill(0);
    }
    /// Makes stores to a host page take the slow path; `other` gets the host pages of all other entries for stores.
    pub fn forbid_writes(&mut self, page: u64, mut other: impl FnMut(u64)) {
        for i in self.local.iter().chain(&self.global).map(|i| *i as usize) {
            let tag = self.entries.get(WRITE, i);
            if tag == invalid(i) {
                continue;
            }
            let host = tag.wrapping_add(self.entries.get(ADDEND, i));
            if host == page {
                self.entries.put(WRITE, i, invalid(i));
            } else {
                other(host);
            }
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; what points into it is only used through the vCPU that owns it.
        let _ = unsafe { munmap(self.entries.0.as_ptr().cast(), BYTES) };
    }
}

// SAFETY: the mapping belongs to this value alone, and moves between threads with its vCPU.
unsafe impl Send for Table {}
