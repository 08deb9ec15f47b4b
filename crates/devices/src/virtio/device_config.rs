//! The device-specific configuration structure, read by the driver while the device works.

use crate::pci::lock;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// A device's configuration structure: little-endian bytes, of which the driver may write some.
#[derive(Debug)]
pub struct DeviceConfig {
    bytes: Mutex<Vec<u8>>,
    writable: Range<usize>,
    generation: AtomicU32,
}

impl DeviceConfig {
    /// `writable` are the offsets that the driver may write.
    pub fn new(bytes: Vec<u8>, writable: Range<usize>) -> Self {
        Self { bytes: Mutex::new(bytes), writable, generation: AtomicU32::new(0) }
    }
    /// Length in bytes.
    pub fn len(&self) -> usize {
        lock(&self.bytes).len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Byte `offset`; 0 past the end.
    pub fn byte(&self, offset: usize) -> u8 {
        lock(&self.bytes).get(offset).copied().unwrap_or(0)
    }
    /// The driver's read; zeroes past the end.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        let bytes = lock(&self.bytes);
        for (i, b) in out.iter_mut().enumerate() {
            let at = usize::try_from(offset.saturating_add(i as u64)).unwrap_or(usize::MAX);
            *b = bytes.get(at).copied().unwrap_or(0);
        }
    }
    /// The driver's write: changes what it may write.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut bytes = lock(&self.bytes);
        for (i, b) in data.iter().enumerate() {
            let at = usize::try_from(offset.saturating_add(i as u64)).unwrap_or(usize::MAX);
            if let (true, Some(byte)) = (self.writable.contains(&at), bytes.get_mut(at)) {
                *byte = *b;
            }
        }
    }
    /// The device's own change; the generation moves on.
    pub fn update(&self, change: impl FnOnce(&mut [u8])) {
        let mut bytes = lock(&self.bytes);
        change(&mut bytes);
        self.generation.fetch_add(1, SeqCst);
    }
    /// Moves on with each [`Self::update`]: a driver reads it before and after a field of several accesses.
    pub fn generation(&self) -> u8 {
        self.generation.load(SeqCst) as u8
    }
}
