//! Bytes on their way from the guest's console to its reader, in bounded memory.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// Bytes kept for a reader, at most.
pub const CAPACITY: usize = 1 << 16;

/// A bounded queue of bytes. When it is full it either forgets the oldest or refuses more.
#[derive(Debug)]
pub struct Ring {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    forgets: bool,
    refused: bool,
    finished: bool,
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes taken.
    pub taken: usize,
    /// The ring was empty: the reader has to be woken.
    pub was_empty: bool,
}

impl Ring {
    /// `forgets`: a full ring forgets the oldest bytes instead of refusing new ones.
    pub fn new(forgets: bool) -> Self {
        let bytes = VecDeque::with_capacity(CAPACITY);
        Ring { state: Mutex::new(State { bytes, forgets, refused: false, finished: false }) }
    }

    /// Appends `bytes`, or as many as there is room for.
    pub fn write(&self, bytes: &[u8]) -> Written {
        let mut state = self.lock();
        let was_empty = state.bytes.is_empty();
        let taken = if state.forgets {
            // Only the newest of a write longer than the ring would survive it.
            let newest = &bytes[bytes.len().saturating_sub(CAPACITY)..];
            let excess = (state.bytes.len() + newest.len()).saturating_sub(CAPACITY);
            state.bytes.drain(..excess);
            state.bytes.extend(newest);
            bytes.len()
        } else {
            let taken = bytes.len().min(CAPACITY - state.bytes.len());
            state.bytes.extend(&bytes[..taken]);
            state.refused |= taken < bytes.len();
            taken
        };
        Written { taken, was_empty: was_empty && taken > 0 }
    }

    /// Whether bytes were refused since the last call and there is room for some now.
    pub fn take_refused(&self) -> bool {
        let mut state = self.lock();
        state.bytes.len() < CAPACITY && std::mem::take(&mut state.refused)
    }

    /// Offers the oldest bytes to `place`, which says how many it took; gives that number.
    pub fn offer<E>(&self, place: impl FnOnce(&[u8]) -> Result<usize, E>) -> Result<usize, E> {
        let mut state = self.lock();
        let (oldest, _) = state.bytes.as_slices();
        if oldest.is_empty() {
            return Ok(0);
        }
        let taken = place(oldest)?.min(oldest.len());
        state.bytes.drain(..taken);
        Ok(taken)
    }

    pub fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    /// Nothing more will be written.
    pub fn finish(&self) {
        self.lock().finished = true;
    }

    pub fn is_finished(&self) -> bool {
        self.lock().finished
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn take_all(ring: &Ring) -> Vec<u8> {
        let mut out = Vec::new();
        while ring
            .offer(|b| {
                out.extend_from_slice(b);
                Ok::<_, Infallible>(b.len())
            })
            .unwrap()
            > 0
        {}
        out
    }

    #[test]
    fn write_flood_keeps_the_newest_in_bounded_memory() {
        let ring = Ring::new(true);
        for round in 0..5u8 {
            ring.write(&vec![round; CAPACITY / 2 + 1]);
        }
        ring.write(b"end");
        let kept = take_all(&ring);
        assert_eq!(kept.len(), CAPACITY);
        assert!(kept.ends_with(b"\x04end"));
        assert!(ring.lock().bytes.capacity() < 2 * CAPACITY);
    }

    #[test]
    fn offer_partly_taken_keeps_the_rest_in_order() {
        let ring = Ring::new(true);
        assert!(ring.write(b"abc").was_empty);
        assert!(!ring.write(b"def").was_empty);
        assert_eq!(ring.offer(|_| Ok::<_, ()>(2)), Ok(2));
        assert_eq!(ring.offer(|_| Err(7)), Err(7));
        assert_eq!(take_all(&ring), b"cdef");
    }

    #[test]
    fn write_longer_than_the_ring_keeps_its_end() {
        let ring = Ring::new(true);
        let mut long = vec![1; 3 * CAPACITY];
        long.extend(b"end");
        assert_eq!(ring.write(&long).taken, long.len());
        let kept = take_all(&ring);
        assert_eq!((kept.len(), &kept[CAPACITY - 3..]), (CAPACITY, &b"end"[..]));
    }

    #[test]
    fn write_to_a_full_ring_that_keeps_is_refused_until_there_is_room() {
        let ring = Ring::new(false);
        assert_eq!(ring.write(&vec![1; CAPACITY - 1]).taken, CAPACITY - 1);
        assert!(!ring.take_refused());
        assert_eq!(ring.write(b"xy").taken, 1);
        assert_eq!(ring.write(b"y").taken, 0);
        assert!(!ring.take_refused());
        assert!(take_all(&ring).ends_with(b"\x01x"));
        assert!(ring.take_refused());
        assert!(!ring.take_refused());
        assert_eq!(ring.write(b"y"), Written { taken: 1, was_empty: true });
    }
}
