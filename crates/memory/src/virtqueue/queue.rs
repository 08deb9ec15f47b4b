//! The rings: taking chains, giving them back, and when to tell the driver.

use super::layout::{DESCRIPTOR, USED_ELEMENT};
use super::{Chain, Error, Layout, Result, Segment};
use crate::GuestMemory;
use address::GuestPhys;
use std::sync::Arc;
use std::sync::atomic::{Ordering::SeqCst, fence};

/// The most entries an indirect table may have.
pub(super) const MAX_INDIRECT: u32 = 1024;

// Descriptor flags (VIRTIO 1.2, 2.7.5).
const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;
/// `flags` of the available ring: no interrupts, please.
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// `flags` of the used ring: no notifications, please.
const USED_F_NO_NOTIFY: u16 = 1;

/// What was negotiated, and the device's own limits.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// The most bytes a chain may hold in all; 2^32 is the standard's own limit.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { indirect: false, event_idx: false, max_bytes: 1 << 32 }
    }
}

/// A descriptor, copied out of guest memory.
struct Descriptor {
    segment: Segment,
    flags: u16,
    next: u16,
}

/// A live split virtqueue, from the device's side.
#[derive(Debug)]
pub struct Queue {
    memory: Arc<GuestMemory>,
    layout: Layout,
    options: Options,
    /// Chains taken so far, modulo 2^16.
    next_available: u16,
    /// Chains given back so far, modulo 2^16.
    next_used: u16,
    /// `next_used` when [`Self::needs_interrupt`] was last asked; `None` before the first time.
    signalled: Option<u16>,
    broken: bool,
}

impl Queue {
    /// A queue at its beginning. The layout is checked; memory's layout never changes, so the rings stay in reach.
    pub fn new(memory: Arc<GuestMemory>, layout: Layout, options: Options) -> Result<Self> {
        layout.check(&memory)?;
        Ok(Self { memory, layout, options, next_available: 0, next_used: 0, signalled: None, broken: false })
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }
    /// Whether the driver broke the queue's rules; [`Self::pop`] gives nothing any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }
    /// Marks the queue broken: the driver's request made no sense to the device.
    pub fn set_broken(&mut self) {
        self.broken = true;
    }

    /// How many chains wait to be taken.
    fn pending(&mut self) -> Result<u16> {
        if self.broken {
            return Err(Error::Broken);
        }
        let to = self.memory.read_u16(self.layout.available.wrapping_add(2))?;
        let pending = to.wrapping_sub(self.next_available);
        let in_flight = self.next_available.wrapping_sub(self.next_used);
        if pending > self.layout.size.saturating_sub(in_flight) {
            self.broken = true;
            return Err(Error::IndexJump { from: self.next_available, to });
        }
        Ok(pending)
    }

    /// Takes the next chain the driver made available, `None` where there is none. An error breaks the queue.
    pub fn pop(&mut self) -> Result<Option<Chain>> {
        let chain = self.try_pop();
        self.broken |= chain.is_err();
        chain
    }

    fn try_pop(&mut self) -> Result<Option<Chain>> {
        if self.pending()? == 0 {
            return Ok(None);
        }
        let slot = u64::from(self.next_available & (self.layout.size - 1));
        let head = self.memory.read_u16(self.layout.available.wrapping_add(4 + 2 * slot))?;
        let chain = self.walk(head)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Copies the chain that begins at `head`: each descriptor is read once.
    fn walk(&self, head: u16) -> Result<Chain> {
        let mut chain = Chain::new(self.memory.clone(), head);
        let mut table = self.layout.descriptors;
        let mut entries = u32::from(self.layout.size);
        let mut left = entries;
        let mut in_indirect = false;
        let mut index = head;
        loop {
            left = left.checked_sub(1).ok_or(Error::Loop(entries))?;
            let d = self.descriptor(table, entries, index)?;
            if d.flags & DESC_F_INDIRECT != 0 {
                if !self.options.indirect {
                    return Err(Error::Indirect("the feature was not negotiated"));
                }
                if in_indirect {
                    return Err(Error::Indirect("inside an indirect table"));
                }
                if d.flags & DESC_F_NEXT != 0 {
                    return Err(Error::Indirect("with a next descriptor"));
                }
                let bytes = d.segment.len;
                entries = bytes / DESCRIPTOR as u32;
                if bytes % DESCRIPTOR as u32 != 0 || entries == 0 || entries > MAX_INDIRECT {
                    return Err(Error::IndirectLength(bytes));
                }
                table = d.segment.address;
                if table.checked_add(u64::from(bytes)).is_none() {
                    return Err(Error::OutsideMemory { address: table, len: bytes });
                }
                (left, index, in_indirect) = (entries, 0, true);
                continue;
            }
            chain.add(d.segment, d.flags & DESC_F_WRITE != 0, self.options.max_bytes)?;
            if d.flags & DESC_F_NEXT == 0 {
                return Ok(chain);
            }
            index = d.next;
        }
    }

    fn descriptor(&self, table: GuestPhys, entries: u32, index: u16) -> Result<Descriptor> {
        if u32::from(index) >= entries {
            return Err(Error::DescriptorIndex { index: index.into(), table: entries });
        }
        let mut raw = [0u8; DESCRIPTOR as usize];
        let address = table.wrapping_add(DESCRIPTOR * u64::from(index));
        self.memory.read(address, &mut raw)?;
        let raw = u128::from_le_bytes(raw);
        Ok(Descriptor {
            segment: Segment { address: GuestPhys(raw as u64), len: (raw >> 64) as u32 },
            flags: (raw >> 96) as u16,
            next: (raw >> 112) as u16,
        })
    }

    /// Gives a chain back, with the number of bytes written to it from its first writable byte on.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<()> {
        let slot = u64::from(self.next_used & (self.layout.size - 1));
        let element = self.layout.used.wrapping_add(4 + USED_ELEMENT * slot);
        self.memory.write_u32(element, head.into())?;
        self.memory.write_u32(element.wrapping_add(4), written)?;
        self.next_used = self.next_used.wrapping_add(1);
        // The store of the index releases those of the element.
        self.memory.write_u16(self.layout.used.wrapping_add(2), self.next_used)?;
        Ok(())
    }

    /// Whether the driver wants to be interrupted for what was given back since this was last asked
    /// (VIRTIO 1.2, 2.7.7.2).
    pub fn needs_interrupt(&mut self) -> Result<bool> {
        // Our index has to be out before the driver's wish is read, or both sides could wait for each other.
        fence(SeqCst);
        let new = self.next_used;
        let old = self.signalled.replace(new);
        if old == Some(new) || (old.is_none() && new == 0) {
            return Ok(false);
        }
        if !self.options.event_idx {
            return Ok(self.memory.read_u16(self.layout.available)? & AVAIL_F_NO_INTERRUPT == 0);
        }
        let used_event = self.layout.available.wrapping_add(4 + 2 * u64::from(self.layout.size));
        let event = self.memory.read_u16(used_event)?;
        Ok(old.is_none_or(|old| new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)))
    }

    /// Asks the driver to notify of new chains. True if some came meanwhile, of which it may not notify.
    pub fn enable_notification(&mut self) -> Result<bool> {
        if self.options.event_idx {
            self.set_available_event(self.next_available)?;
        } else {
            self.memory.write_u16(self.layout.used, 0)?;
        }
        fence(SeqCst);
        Ok(self.pending()? != 0)
    }

    /// Tells the driver that it needn't notify of new chains; a hint.
    pub fn disable_notification(&mut self) -> Result<()> {
        if self.options.event_idx {
            // An event far behind: the driver has passed it already.
            return Ok(());
        }
        Ok(self.memory.write_u16(self.layout.used, USED_F_NO_NOTIFY)?)
    }

    fn set_available_event(&self, value: u16) -> Result<()> {
        let at = self.layout.used.wrapping_add(4 + USED_ELEMENT * u64::from(self.layout.size));
        Ok(self.memory.write_u16(at, value)?)
    }
}
