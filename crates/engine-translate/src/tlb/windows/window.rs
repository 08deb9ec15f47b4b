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
    /// Compares a stretch with what its pages are now; forgets what differs. The host is to be told `rows`.
    pub fn compare(&mut self, key: u64, now: &[u64; CHUNK], rows: &mut Rows) -> Compared {
        let mut result = Compared::default();
        let Some(mut chunk) = self.chunks.remove(&key) else { return result };
        for (n, (was, is)) in chunk.iter_mut().zip(now).enumerate().filter(|(_, (was, _))| **was != 0) {
            let same = (*was ^ is) & FRAME == 0 && is & MAPPED != 0;
            // It may have become part of a large page, or be one's no more.
            let new = if same { *was & (is | !WRITABLE) & !LARGE | is & LARGE } else { 0 };
            let changed = (new ^ std::mem::replace(was, new)) & !LARGE != 0;
            rows.add(key << (CHUNK_BITS - 12) | n as u64, !same, changed);
            *(if same { &mut result.kept } else { &mut result.dropped }) += 1;
        }
        self.pages -= result.dropped;
        if result.kept > 0 {
            self.chunks.insert(key, chunk);
        }
        result
    }
    /// Tells the host.
    pub fn tell(&self, rows: &Rows) {
        for Row { first, pages, gone } in &rows.list {
            match gone {
                true => self.unmap(first << 12, *pages as usize),
                false => self.write_protect(first << 12, *pages as usize),
            }
        }
    }
}

/// Pages that the host is to be told of at once.
struct Row {
    first: u64,
    pages: u64,
    /// Or they only lose the right to be stored to.
    gone: bool,
}

/// What the host is to be told of pages, which are added in their order.
#[derive(Default)]
pub struct Rows {
    list: Vec<Row>,
    /// A page that stays lies behind the last.
    ended: bool,
}

impl Rows {
    fn add(&mut self, page: u64, gone: bool, changed: bool) {
        let last = self.list.last_mut().filter(|row| changed && row.gone == gone);
        match last {
            // Nothing lies in between, if they are in the same slot.
            Some(row) if gone && !self.ended && (row.first ^ page) << 12 >> UNIT_BITS == 0 => {
                row.pages = page + 1 - row.first;
            }
            Some(row) if !gone && row.first + row.pages == page => row.pages += 1,
            _ if changed => self.list.push(Row { first: page, pages: 1, gone }),
            _ => {}
        }
        self.ended = !gone;
    }
    /// Calls of the host's.
    pub fn calls(&self) -> u64 {
        self.list.len() as u64
    }
}

/// What became of pages that were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub kept: usize,
    pub dropped: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pages: &[(u64, bool, bool)]) -> Vec<(u64, u64, bool)> {
        let mut rows = Rows::default();
        pages.iter().for_each(|(page, gone, changed)| rows.add(*page, *gone, *changed));
        rows.list.iter().map(|row| (row.first, row.pages, row.gone)).collect()
    }

    #[test]
    fn pages_that_are_gone_are_one_row_up_to_one_that_stays_or_to_another_slot() {
        let (gone, stays, protected) = ((true, true), (false, false), (false, true));
        let page = |n: u64, (gone, changed): (bool, bool)| (n, gone, changed);
        assert_eq!(told(&[page(3, gone), page(9, gone), page(700, gone)]), [(3, 698, true)]);
        assert_eq!(told(&[page(3, gone), page(4, stays), page(5, gone)]), [(3, 1, true), (5, 1, true)]);
        assert_eq!(
            told(&[page(3, gone), page(4, protected), page(5, gone)]),
            [(3, 1, true), (4, 1, false), (5, 1, true)]
        );
        let unit = 1 << (UNIT_BITS - 12);
        assert_eq!(told(&[page(unit - 1, gone), page(unit, gone)]), [(unit - 1, 1, true), (unit, 1, true)]);
        // What was never there can't be protected.
        assert_eq!(
            told(&[page(3, protected), page(4, protected), page(6, protected), page(8, stays)]),
            [(3, 2, false), (6, 1, false)]
        );
        assert_eq!(told(&[page(1, stays), page(2, stays)]), []);
    }
}
