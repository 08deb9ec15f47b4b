//! MSI-X: a table of messages, each with a mask, and the bits that wait behind the masks.
//!
//! Source: PCI 3.0, 6.8.2.

use super::{ConfigSpace, lock};
use crate::wiring::MsiSink;
use std::sync::{Arc, Mutex};

/// The capability's ID.
const CAPABILITY: u8 = 0x11;
/// Bytes in a table entry.
const ENTRY: u64 = 16;
/// Message control: MSI-X on, all vectors masked.
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// Vector control: this vector masked.
const MASKED: u32 = 1;

/// Most vectors a table here has: one word of pending bits.
pub const MAX_VECTORS: u16 = 64;
/// Where the pending bits are in the register that holds the table.
const PENDING: u64 = 0x800;
/// Bytes the register that holds the table needs.
pub const BAR_SIZE: u32 = 0x1000;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Message address low, high, data, vector control.
    words: [u32; 4],
}

#[derive(Debug)]
struct State {
    entries: Vec<Entry>,
    pending: u64,
    control: u16,
}

/// A function's MSI-X table. Vectors may be signalled from any thread.
pub struct Msix {
    state: Mutex<State>,
    sink: Arc<dyn MsiSink>,
}

impl Msix {
    /// A table of `vectors` (1 to [`MAX_VECTORS`]) masked messages.
    pub fn new(vectors: u16, sink: Arc<dyn MsiSink>) -> Arc<Self> {
        let vectors = vectors.clamp(1, MAX_VECTORS);
        let entries = vec![Entry { words: [0, 0, 0, MASKED] }; vectors.into()];
        Arc::new(Self { state: Mutex::new(State { entries, pending: 0, control: 0 }), sink })
    }

    pub fn vectors(&self) -> u16 {
        lock(&self.state).entries.len() as u16
    }

    /// Adds the capability, with table and pending bits in base address register `bar`; gives its offset.
    pub fn add_capability(&self, config: &mut ConfigSpace, bar: u8) -> u8 {
        let mut body = [0u8; 10];
        body[0..2].copy_from_slice(&(self.vectors() - 1).to_le_bytes());
        body[2..6].copy_from_slice(&u32::from(bar).to_le_bytes());
        body[6..10].copy_from_slice(&(PENDING as u32 | u32::from(bar)).to_le_bytes());
        let at = config.add_capability(CAPABILITY, &body);
        config.allow(at + 2, &(ENABLE | FUNCTION_MASK).to_le_bytes());
        at
    }

    /// Follows a write to message control.
    pub fn set_control(&self, control: u16) {
        let mut s = lock(&self.state);
        s.control = control;
        self.deliver(&mut s);
    }

    /// Whether the function uses MSI-X, not its pin.
    pub fn enabled(&self) -> bool {
        lock(&self.state).control & ENABLE != 0
    }

    /// Sends a vector's message, now or when it is unmasked. A vector not in the table, or MSI-X off: nothing.
    pub fn signal(&self, vector: u16) {
        let mut s = lock(&self.state);
        if usize::from(vector) < s.entries.len() && s.control & ENABLE != 0 {
            s.pending |= 1 << vector;
            self.deliver(&mut s);
        }
    }

    /// Sends what is pending and not masked.
    fn deliver(&self, s: &mut State) {
        if s.control & (ENABLE | FUNCTION_MASK) != ENABLE {
            return;
        }
        for (i, e) in s.entries.iter().enumerate() {
            if s.pending >> i & 1 != 0 && e.words[3] & MASKED == 0 {
                s.pending &= !(1 << i);
                self.sink.signal(u64::from(e.words[0]) | u64::from(e.words[1]) << 32, e.words[2]);
            }
        }
    }

    /// The state at power on.
    pub fn reset(&self) {
        let mut s = lock(&self.state);
        s.entries.fill(Entry { words: [0, 0, 0, MASKED] });
        (s.pending, s.control) = (0, 0);
    }

    /// A read of the register that holds the table.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let s = lock(&self.state);
        for (i, b) in data.iter_mut().enumerate() {
            let at = offset.wrapping_add(i as u64);
            let shift = 8 * (at % 4);
            *b = match s.entries.get((at / ENTRY) as usize) {
                Some(e) => (e.words[(at % ENTRY / 4) as usize] >> shift) as u8,
                None if (PENDING..PENDING + 8).contains(&at) => (s.pending >> (8 * (at - PENDING))) as u8,
                None => 0,
            };
        }
    }

    /// A write to it: aligned, of 4 or 8 bytes; others are not defined and do nothing.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(4) || !matches!(data.len(), 4 | 8) {
            return;
        }
        let mut s = lock(&self.state);
        for (i, word) in data.chunks_exact(4).enumerate() {
            let at = offset.wrapping_add(4 * i as u64);
            let value = word.iter().rev().fold(0, |v, &b| v << 8 | u32::from(b));
            if let Some(e) = s.entries.get_mut((at / ENTRY) as usize) {
                e.words[(at % ENTRY / 4) as usize] = match at % ENTRY {
                    0 => value & !3,
                    12 => value & MASKED,
                    _ => value,
                };
            }
        }
        self.deliver(&mut s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeMsi;

    fn msix() -> (Arc<Msix>, Arc<FakeMsi>) {
        let sink = FakeMsi::new();
        let m = Msix::new(3, sink.clone());
        for i in 0..3u64 {
            m.write(16 * i, &(0xfee0_1003u32).to_le_bytes());
            m.write(16 * i + 8, &(0x30 + i as u32).to_le_bytes());
        }
        (m, sink)
    }

    fn word(m: &Msix, at: u64) -> u32 {
        let mut b = [0; 4];
        m.read(at, &mut b);
        u32::from_le_bytes(b)
    }

    #[test]
    fn signal_while_masked_waits_and_is_sent_once_when_unmasked() {
        let (m, sink) = msix();
        m.set_control(ENABLE);
        m.signal(1);
        m.signal(1);
        assert_eq!((sink.take(), word(&m, PENDING)), (vec![], 2));
        m.write(16 + 12, &0u32.to_le_bytes());
        assert_eq!((sink.take(), word(&m, PENDING)), (vec![(0xfee0_1000, 0x31)], 0));
        m.signal(1);
        assert_eq!(sink.take().len(), 1);
    }

    #[test]
    fn function_mask_holds_all_vectors() {
        let (m, sink) = msix();
        (0..3).for_each(|i| m.write(16 * i + 12, &0u32.to_le_bytes()));
        m.set_control(ENABLE | FUNCTION_MASK);
        m.signal(0);
        m.signal(2);
        assert_eq!((sink.take(), word(&m, PENDING)), (vec![], 5));
        m.set_control(ENABLE);
        assert_eq!(sink.take(), [(0xfee0_1000, 0x30), (0xfee0_1000, 0x32)]);
    }

    #[test]
    fn signal_without_vector_or_while_off_does_nothing() {
        let (m, sink) = msix();
        m.signal(0);
        m.set_control(ENABLE);
        m.signal(3);
        m.signal(0xffff);
        (0..3).for_each(|i| m.write(16 * i + 12, &0u32.to_le_bytes()));
        assert_eq!((sink.take(), word(&m, PENDING)), (vec![], 0));
    }

    #[test]
    fn accesses_outside_the_table_or_of_odd_size_do_nothing() {
        let (m, sink) = msix();
        m.set_control(ENABLE);
        m.write(0x30, &[0xff; 8]);
        m.write(PENDING, &[0xff; 8]);
        m.write(0xffc, &[0xff; 8]);
        m.write(u64::MAX - 3, &[0xff; 8]);
        m.write(12, &[0; 1]);
        m.write(13, &[0; 4]);
        assert_eq!((word(&m, 12), word(&m, PENDING), word(&m, 0x30)), (1, 0, 0));
        m.read(u64::MAX - 3, &mut [0; 8]);
        m.write(8, &[7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((word(&m, 8), word(&m, 12)), (7, 0), "8 bytes are two words");
        assert!(sink.take().is_empty());
    }
}
