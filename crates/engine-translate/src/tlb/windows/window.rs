//! One window: which pages of an address space are mapped where.

use super::slot::{Slot, UNIT_BITS, unit_of};
use super::{CHUNK, CHUNK_BITS, FRAME, LARGE, MAPPED, WRITABLE};
use address::PAGE_SIZE;
use rustix::mm::{MprotectFlags, mprotect, munmap};
use std::collections::BTreeMap;
use std::ffi::c_void;

/// Of a stretch of 2 MiB, the pages' guest-physical addresses with [`MAPPED`] and [`WRITABLE`], or 0.
pub type Chunk = Box<[u64; CHUNK]>;

/// See the module.
pub struct Window {
    /// The address space: CR3's address, and the process-context identifier that the vCPU used it with last.
    pub root: u64,
    pub pcid: u16,
    /// The vCPU that used it last: what that one drops goes here, too.
    pub owner: u32,
    /// Whether it has to be compared with the page tables.
    pub suspected: bool,
    pub units: Vec<(u32, Slot)>,
    pub chunks: BTreeMap<u64, Chunk>,
    /// Pages mapped at most: each may cost the host a mapping of its own, of which there are not many.
    pub pages: usize,
    /// When it was used last, in uses of its owner's.
    pub used: u64,
}

impl Window {
    pub fn new(root: u64, pcid: u16, owner: u32, used: u64) -> Self {
        let (units, chunks) = (Vec::new(), BTreeMap::new());
        Self { root, pcid, owner, suspected: false, units, chunks, pages: 0, used }
    }
    pub fn slot(&self, unit: u32) -> Option<usize> {
        self.units.iter().find(|(u, _)| *u == unit).map(|(_, slot)| slot.0)
    }
    /// Where a linear address of one of its units is.
    pub fn place(&self, linear: u64) -> Option<u64> {
        Some(Slot::origin(self.slot(unit_of(linear)?)?) + (linear & ((1 << UNIT_BITS) - 1)))
    }
    /// Everything goes.
    pub fn clear(&mut self) {
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
    pub fn write_protect(&self, linear: u64, count: usize) {
        if let Some(at) = self.place(linear) {
            // SAFETY: pages of this window's own slot, which Rust has no reference to.
            let done =
                unsafe { mprotect(at as *mut c_void, count * PAGE_SIZE as usize, MprotectFlags::READ) };
            if done.is_err() {
                self.unmap(linear, count);
            }
        }
    }
    pub fn drop_page(&mut self, linear: u64) {
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
    pub fn compare(&mut self, key: u64, now: &[u64; CHUNK]) -> Compared {
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
    pub told: u64,
}
