//! Where a queue's three parts lie in guest memory.

use super::{Error, Result};
use crate::GuestMemory;
use address::GuestPhys;

/// The most descriptors a split virtqueue can have (VIRTIO 1.2, 2.7).
pub const MAX_SIZE: u16 = 32768;

/// Bytes in a descriptor.
pub(super) const DESCRIPTOR: u64 = 16;
/// Bytes in an element of the used ring.
pub(super) const USED_ELEMENT: u64 = 8;
/// Alignment of the used ring, and unit of the queue's address, in the legacy interface over PCI.
const LEGACY_ALIGN: u64 = 4096;

/// Where a queue's descriptor table, available ring and used ring lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of descriptors: a power of two.
    pub size: u16,
    pub descriptors: GuestPhys,
    pub available: GuestPhys,
    pub used: GuestPhys,
}

impl Layout {
    /// The legacy interface's layout: one contiguous area from page frame `pfn`, the used ring on a page of its own
    /// (VIRTIO 1.2, 2.7.2).
    pub fn legacy(pfn: u32, size: u16) -> Self {
        let descriptors = u64::from(pfn) * LEGACY_ALIGN;
        let available = descriptors + DESCRIPTOR * u64::from(size);
        // flags, idx, ring, used_event
        let end = available + 2 * (3 + u64::from(size));
        Self {
            size,
            descriptors: GuestPhys(descriptors),
            available: GuestPhys(available),
            used: GuestPhys(end.next_multiple_of(LEGACY_ALIGN)),
        }
    }

    /// Checks sizes, alignments (VIRTIO 1.2, 2.7) and that all of it, with the event fields, is RAM.
    pub fn check(&self, memory: &GuestMemory) -> Result<()> {
        if !self.size.is_power_of_two() || self.size > MAX_SIZE {
            return Err(Error::BadSize(self.size));
        }
        let n = u64::from(self.size);
        for (part, address, alignment, len) in [
            ("descriptor table", self.descriptors, 16, DESCRIPTOR * n),
            ("available ring", self.available, 2, 6 + 2 * n),
            ("used ring", self.used, 4, 6 + USED_ELEMENT * n),
        ] {
            if address.0 % alignment != 0 {
                return Err(Error::Misaligned { part, address, alignment });
            }
            memory.check_ram(address, len).map_err(|_| Error::RingOutsideMemory { part, address })?;
        }
        Ok(())
    }
}
