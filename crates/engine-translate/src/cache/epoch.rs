//! Grace periods: when nobody uses any more what was taken out of everybody's reach.
//!
//! Whoever takes something away calls [`Epochs::advance`] afterwards; once every [`Reader`] has [passed](Reader::passed) the
//! number it gave, the thing may be freed. A reader passes where it holds nothing: a vCPU between two chains of blocks.
//! One that is parked holds nothing until it passes again.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// What a parked reader shows: later than any epoch.
const PARKED: u64 = u64::MAX;

/// The current epoch.
pub struct Epochs(AtomicU64);

impl Default for Epochs {
    fn default() -> Self {
        Self(AtomicU64::new(1))
    }
}

impl Epochs {
    #[inline]
    pub fn now(&self) -> u64 {
        self.0.load(SeqCst)
    }
    /// Something was taken away: what readers have to pass before it is freed.
    pub fn advance(&self) -> u64 {
        self.0.fetch_add(1, SeqCst) + 1
    }
}

/// One thread that uses what others take away.
pub struct Reader(AtomicU64);

impl Default for Reader {
    /// Parked.
    fn default() -> Self {
        Self(AtomicU64::new(PARKED))
    }
}

impl Reader {
    /// Call where nothing is held, or what is held is dropped before it is used unless it is from the epoch returned.
    pub fn pass(&self, epochs: &Epochs) -> u64 {
        loop {
            let now = epochs.now();
            self.0.store(now, SeqCst);
            // Who advances looks at the readers afterwards. If it saw this one parked, the new epoch is seen here.
            if epochs.now() == now {
                return now;
            }
        }
    }
    /// Nothing is held until the next [`Self::pass`].
    pub fn park(&self) {
        self.0.store(PARKED, SeqCst);
    }
    /// Whether nothing is held any more that was taken away before the epoch began.
    pub fn passed(&self, epoch: u64) -> bool {
        self.0.load(SeqCst) >= epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicBool, AtomicPtr};
    use std::thread;

    #[test]
    fn reader_holds_an_epoch_until_it_passes_or_parks() {
        let (epochs, reader) = (Epochs::default(), Reader::default());
        let first = epochs.advance();
        assert!(reader.passed(first), "parked");
        assert_eq!(reader.pass(&epochs), first);
        let second = epochs.advance();
        assert!(!reader.passed(second));
        assert_eq!(reader.pass(&epochs), second);
        assert!(reader.passed(second));
        let third = epochs.advance();
        assert!(!reader.passed(third));
        reader.park();
        assert!(reader.passed(third));
    }

    /// Readers follow a pointer whose target is freed after each grace period. Under miri a use after free is found at once.
    #[test]
    fn what_readers_hold_is_not_freed() {
        const ROUNDS: u64 = if cfg!(miri) { 60 } else { 20_000 };
        let epochs = Epochs::default();
        let readers = [Reader::default(), Reader::default()];
        let place = AtomicPtr::new(Box::into_raw(Box::new([0u64; 2])));
        let done = AtomicBool::new(false);
        thread::scope(|s| {
            for (n, reader) in readers.iter().enumerate() {
                let (epochs, place, done) = (&epochs, &place, &done);
                s.spawn(move || {
                    let mut kept: *mut [u64; 2] = null_mut();
                    let mut from = 0;
                    let mut turn = n;
                    while !done.load(SeqCst) {
                        let epoch = reader.pass(epochs);
                        if epoch != from {
                            (kept, from) = (place.load(SeqCst), epoch);
                        }
                        for _ in 0..turn % 5 {
                            // SAFETY: what the test is about.
                            let v = unsafe { *kept };
                            assert_eq!(v[0], v[1]);
                        }
                        turn += 1;
                        if turn.is_multiple_of(7) {
                            reader.park();
                            thread::yield_now();
                        }
                    }
                    reader.park();
                });
            }
            for n in 1..ROUNDS {
                let old = place.swap(Box::into_raw(Box::new([n; 2])), SeqCst);
                let epoch = epochs.advance();
                while !readers.iter().all(|r| r.passed(epoch)) {
                    thread::yield_now();
                }
                // SAFETY: it came from a box, and everybody has passed.
                let mut old = unsafe { Box::from_raw(old) };
                *old = [n, n + 1];
            }
            done.store(true, SeqCst);
        });
        // SAFETY: the readers are gone.
        drop(unsafe { Box::from_raw(place.into_inner()) });
    }
}
