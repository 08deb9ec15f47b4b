//! Who wrote where: the dirty log, and which pages hold code that an engine has decoded.
//!
//! Code tracking is between a decoder (the translate engine) and writers (devices here, vCPUs in the engine):
//!
//! - A decoder reads a page's [`PageState::generation`], announces the 64-byte granules it will read with
//!   [`PageState::announce_code`], and only then reads the bytes. What it decoded is valid while the generation
//!   stands.
//! - A writer writes, then calls [`PageState::note_write`], which moves the generation on if the write touched an
//!   announced granule, and forgets the page's granules.
//!
//! Both sides are sequentially consistent, so whichever comes second sees the other.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst, fence};

/// Bytes in a code granule; 64 of them make a page.
pub const GRANULE: u64 = 64;

/// What is tracked of one 4 KiB page.
#[derive(Debug, Default)]
pub struct PageState {
    code: AtomicU64,
    generation: AtomicU32,
}

/// The granule mask for `len` bytes at `offset` in a page, cut at the page's end.
pub fn granules(offset: u64, len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    let first = offset / GRANULE;
    let last = (offset.saturating_add(len - 1)).min(4095) / GRANULE;
    (u64::MAX >> (63 - (last - first))) << first
}

impl PageState {
    /// Moves on whenever announced code on this page is overwritten.
    #[inline]
    pub fn generation(&self) -> &AtomicU32 {
        &self.generation
    }
    /// Whether any granule of this page is announced as code.
    #[inline]
    pub fn has_code(&self) -> bool {
        self.code.load(SeqCst) != 0
    }
    /// The announced granules, one bit each.
    #[inline]
    pub fn code(&self) -> u64 {
        self.code.load(SeqCst)
    }
    /// Announces that the granules in `mask` are about to be decoded. True if the page had no code before.
    pub fn announce_code(&self, mask: u64) -> bool {
        let before = self.code.fetch_or(mask, SeqCst);
        fence(SeqCst);
        before == 0
    }
    /// After a write to the granules in `mask`. True if it hit code, which is then out of date.
    #[inline]
    pub fn note_write(&self, mask: u64) -> bool {
        fence(SeqCst);
        if self.code.load(SeqCst) & mask == 0 {
            return false;
        }
        self.code.swap(0, SeqCst);
        self.generation.fetch_add(1, SeqCst);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granules_of_ranges() {
        assert_eq!(granules(0, 1), 1);
        assert_eq!(granules(63, 2), 3);
        assert_eq!(granules(4095, 1), 1 << 63);
        assert_eq!(granules(4095, 100), 1 << 63);
        assert_eq!(granules(0, 4096), u64::MAX);
        assert_eq!(granules(64, 64), 2);
        assert_eq!(granules(5, 0), 0);
        assert_eq!(granules(128, u64::MAX), u64::MAX << 2);
    }

    #[test]
    fn write_to_code_moves_generation_once() {
        let p = PageState::default();
        assert!(!p.note_write(u64::MAX));
        assert!(p.announce_code(granules(0, 64)));
        assert!(!p.note_write(granules(64, 64)), "a write beside the code is not one to it");
        assert_eq!(p.generation().load(SeqCst), 0);
        assert!(p.note_write(granules(60, 8)));
        assert_eq!(p.generation().load(SeqCst), 1);
        assert!(!p.note_write(granules(60, 8)), "the page is data again");
    }
}
