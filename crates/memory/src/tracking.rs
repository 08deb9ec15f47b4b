//! Who wrote where: the dirty log, and which pages hold code that an engine has decoded.
//!
//! Code tracking is between a decoder (the translate engine) and writers (devices here, vCPUs in the engine):
//!
//! - A decoder reads a page's generation ([`PageState::settled_generation`]), announces the 64-byte granules it will read with
//!   [`PageState::announce_code`], and only then reads the bytes. What it decoded is valid while the generation
//!   stands.
//! - A writer writes, then calls [`PageState::note_write`], which moves the generation on if the write touched an
//!   announced granule, and forgets the page's granules.
//!
//! Both sides are sequentially consistent, so whichever comes second sees the other.
//!
//! A page whose code is overwritten is data again, and so is one that is written beside its code again and again: noting
//! each of those writes would cost more than decoding again. How many writes that takes doubles each time, so that a page
//! that is both keeps its code in the end.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};

/// Bytes in a code granule; 64 of them make a page.
pub const GRANULE: u64 = 64;

/// What is tracked of one 4 KiB page.
#[derive(Debug, Default)]
pub struct PageState {
    code: AtomicU64,
    generation: AtomicU32,
    token: AtomicU32,
    /// Who may store without noting it: a bit for each writer.
    writers: AtomicU16,
    /// Writes beside the code, and from bit 12 on how often code was given up for them.
    pressure: AtomicU16,
}

/// Writes beside code after which a page becomes data for the first time.
const PATIENCE: u16 = 32;
/// How often that number doubles.
const MAX_DOUBLINGS: u16 = 6;
/// The bits of [`PageState::pressure`] that count.
const COUNT: u16 = 0xfff;

/// The granule mask for `len` bytes at `offset` in a page, cut at the page's end.
pub fn granules(offset: u64, len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    let first = offset / GRANULE;
    let last = (offset.saturating_add(len - 1)).min(4095) / GRANULE;
    (u64::MAX >> (63 - (last - first))) << first
}

fn writer_bit(number: u32) -> u16 {
    1 << (number % 16)
}

/// Whether writer `number` may be among those that [`PageState::take_writers`] gave.
pub fn is_writer(writers: u16, number: u32) -> bool {
    writers & writer_bit(number) != 0
}

impl PageState {
    /// Moves on whenever announced code on this page is overwritten, by two; odd while that is going on.
    #[inline]
    pub fn generation(&self) -> &AtomicU32 {
        &self.generation
    }
    /// The generation to decode at: waits for a writer who is between two steps of [`Self::note_write`].
    pub fn settled_generation(&self) -> u32 {
        loop {
            let generation = self.generation.load(SeqCst);
            if generation & 1 == 0 {
                return generation;
            }
            std::thread::yield_now();
        }
    }
    /// A number for the page as it is in this generation, which no other has: what `fresh` gave when it was first asked for; 0
    /// if that was 0. If the generation still is what it was before this was called, the number is that generation's.
    pub fn token(&self, fresh: impl FnOnce() -> u32) -> u32 {
        match self.token.load(SeqCst) {
            0 => {}
            token => return token,
        }
        let token = fresh();
        match self.token.compare_exchange(0, token, SeqCst, SeqCst) {
            Ok(_) => token,
            Err(others) => others,
        }
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
    /// Writer `number` is about to store to the page without noting it, if [`Self::has_code`] still says no afterwards.
    #[inline]
    pub fn add_writer(&self, number: u32) {
        let bit = writer_bit(number);
        if self.writers.load(SeqCst) & bit == 0 {
            self.writers.fetch_or(bit, SeqCst);
        }
    }
    /// After [`Self::announce_code`]: those who may still store without noting it, as [`is_writer`] reads it. They have to be
    /// stopped before the code is read; they are forgotten here.
    pub fn take_writers(&self) -> u16 {
        match self.writers.load(SeqCst) {
            0 => 0,
            _ => self.writers.swap(0, SeqCst),
        }
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
        match self.code.load(SeqCst) {
            0 => return false,
            code if code & mask == 0 && !self.presses() => return false,
            _ => {}
        }
        // Odd before the granules are forgotten: another writer that finds none announced may rely on it that nothing
        // decoded before is valid any more. If it is odd already, another writer is at it; what is decoded from its end
        // on has this write.
        if self.generation.fetch_or(1, SeqCst) & 1 == 0 {
            self.code.swap(0, SeqCst);
            self.token.store(0, SeqCst);
            self.generation.fetch_add(1, SeqCst);
        }
        true
    }
    /// Counts a write beside the code; whether it is one too many. (Writers who count at the same time may lose a count.)
    fn presses(&self) -> bool {
        let before = self.pressure.load(Relaxed);
        let (count, doublings) = ((before & COUNT) + 1, before >> 12);
        let over = count >= PATIENCE << doublings;
        let after = match over {
            true => (doublings + 1).min(MAX_DOUBLINGS) << 12,
            false => count | doublings << 12,
        };
        self.pressure.store(after, Relaxed);
        // The last time was the last.
        over && doublings < MAX_DOUBLINGS
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
        assert_eq!(p.generation().load(SeqCst), 2);
        assert!(!p.note_write(granules(60, 8)), "the page is data again");
    }

    #[test]
    fn token_is_a_generations_own() {
        let p = PageState::default();
        assert_eq!((p.token(|| 0), p.token(|| 5), p.token(|| 6)), (0, 5, 5));
        p.announce_code(1);
        assert!(p.note_write(1));
        assert_eq!((p.token(|| 7), p.token(|| 8)), (7, 7));
    }

    #[test]
    fn writes_beside_code_make_it_data_until_it_is_code_too_often() {
        let p = PageState::default();
        let writes_until_data = |p: &PageState| {
            p.announce_code(1);
            (1..20_000).find(|_| p.note_write(1 << 40))
        };
        let mut expected = PATIENCE as u32;
        for _ in 0..MAX_DOUBLINGS {
            assert_eq!(writes_until_data(&p), Some(expected));
            assert!(!p.has_code());
            expected *= 2;
        }
        assert_eq!(p.generation().load(SeqCst), 2 * MAX_DOUBLINGS as u32);
        assert_eq!(writes_until_data(&p), None, "it is both");
        assert!(p.has_code() && p.note_write(1), "and its code is still watched");
    }

    /// Writers of the same code at once, each of which publishes what it wrote; a decoder that goes by the generation may use
    /// nothing older than what was published before it looked.
    #[test]
    fn concurrent_writers_leave_no_stale_code_valid() {
        use std::sync::atomic::AtomicBool;
        let page = PageState::default();
        let written = [AtomicU32::new(0), AtomicU32::new(0)];
        let published = [AtomicU32::new(0), AtomicU32::new(0)];
        let ended = AtomicBool::new(false);
        std::thread::scope(|s| {
            let writers = [0, 1].map(|w| {
                let (page, written, published) = (&page, &written, &published);
                s.spawn(move || {
                    for version in 1..8_000_000 {
                        written[w].store(version, Relaxed);
                        page.note_write(1);
                        published[w].store(version, SeqCst);
                    }
                })
            });
            s.spawn(|| {
                let mut decoded = (1, [0, 0]);
                while !ended.load(SeqCst) {
                    let before = [0, 1].map(|w| published[w].load(SeqCst));
                    if page.generation().load(SeqCst) != decoded.0 {
                        let generation = page.settled_generation();
                        page.announce_code(1);
                        decoded = (generation, [0, 1].map(|w| written[w].load(Relaxed)));
                    }
                    assert!((0..2).all(|w| decoded.1[w] >= before[w]), "{:?} after {before:?}", decoded.1);
                }
            });
            writers.into_iter().for_each(|w| w.join().unwrap());
            ended.store(true, SeqCst);
        });
    }

    #[test]
    fn writers_are_taken_once() {
        let p = PageState::default();
        assert_eq!(p.take_writers(), 0);
        p.add_writer(2);
        p.add_writer(2);
        p.add_writer(16);
        let writers = p.take_writers();
        assert!(is_writer(writers, 2) && is_writer(writers, 0) && !is_writer(writers, 1));
        assert_eq!(p.take_writers(), 0);
        assert!(size_of::<PageState>() == 24, "there is one for each 4 KiB of memory");
    }
}
