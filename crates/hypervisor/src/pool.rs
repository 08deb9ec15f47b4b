//! The hypervisor's pages: a bounded number, given out in aligned runs.

use core::sync::atomic::{AtomicU64, Ordering};

use address::HostPhys;
use spin::Mutex;

/// Bytes of the pool that lies behind the hypervisor's image.
pub const POOL_BYTES: u64 = 16 << 20;
/// Pages a pool has, at most.
pub const MAX_PAGES: usize = (POOL_BYTES >> 12) as usize;

/// A 4 KiB page as 512 words: what a translation table is. Shared with the processors' table walks, so each access is whole.
#[repr(C, align(4096))]
pub struct Page([Word; 512]);
pub struct Word(AtomicU64);

impl Page {
    pub const fn zeroed() -> Self {
        Self([const { Word(AtomicU64::new(0)) }; 512])
    }
    /// Word `index` modulo 512.
    pub fn word(&self, index: usize) -> &Word {
        &self.0[index & 511]
    }
}

impl Word {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }
}

/// Pages, and which of them are in use.
pub struct Pool {
    base: HostPhys,
    pages: &'static [Page],
    used: Mutex<[u64; MAX_PAGES / 64]>,
}

impl Pool {
    /// Of `pages`, the first at physical address `base`; beyond [`MAX_PAGES`] they stay unused.
    pub fn new(base: HostPhys, pages: &'static [Page]) -> Self {
        Self { base, pages: &pages[..pages.len().min(MAX_PAGES)], used: Mutex::new([0; MAX_PAGES / 64]) }
    }

    /// `count` (a power of two) zeroed pages in a row, aligned to their size.
    pub fn allocate(&self, count: usize) -> Option<HostPhys> {
        let mut used = self.used.lock();
        let skip = (self.base.page_number() as usize).wrapping_neg() & (count - 1);
        let free = |used: &[u64], n: usize| used[n / 64] & 1 << (n % 64) == 0;
        let first = (skip..self.pages.len()).step_by(count).find(|first| {
            first + count <= self.pages.len() && (*first..first + count).all(|n| free(&*used, n))
        })?;
        for n in first..first + count {
            used[n / 64] |= 1 << (n % 64);
            (0..512).for_each(|word| self.pages[n].word(word).set(0));
        }
        Some(HostPhys(self.base.0 + (first as u64) * 4096))
    }

    /// Takes back what [`Self::allocate`] gave.
    pub fn free(&self, first: HostPhys, count: usize) {
        let mut used = self.used.lock();
        let start = (first.0.wrapping_sub(self.base.0) / 4096) as usize;
        for n in start..(start + count).min(self.pages.len()) {
            used[n / 64] &= !(1 << (n % 64));
        }
    }

    /// The page at a physical address, if it is one of the pool's.
    pub fn page(&self, address: HostPhys) -> Option<&'static Page> {
        self.pages.get(usize::try_from(address.0.checked_sub(self.base.0)? / 4096).ok()?)
    }

    /// Pages in use.
    pub fn used(&self) -> usize {
        self.used.lock().iter().map(|w| w.count_ones() as usize).sum()
    }
}

#[cfg(test)]
pub(crate) fn test_pool(base: u64, pages: usize) -> Pool {
    let pages: std::vec::Vec<Page> = (0..pages).map(|_| Page::zeroed()).collect();
    Pool::new(HostPhys(base), pages.leak())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_aligned_zeroed_and_come_back() {
        let pool = test_pool(0x4000_3000, 32);
        let one = pool.allocate(1).unwrap();
        let eight = pool.allocate(8).unwrap();
        assert_eq!((one.0, eight.0), (0x4000_3000, 0x4000_8000));
        pool.page(eight).unwrap().word(511).set(7);
        pool.free(eight, 8);
        assert_eq!(pool.used(), 1);
        assert_eq!(pool.page(pool.allocate(8).unwrap()).unwrap().word(511).get(), 0);
        assert_eq!((pool.allocate(32), pool.page(HostPhys(0)).is_none()), (None, true));
        while pool.allocate(1).is_some() {}
        assert_eq!(pool.used(), 32);
    }
}
