//! Where base address registers are put when the board is built, since no firmware runs to do it.

use super::Bar;
use std::ops::Range;

/// The board was given more devices than fit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no room for {size:#x} bytes in the PCI {space} window: the VM has too many devices")]
    Full { space: &'static str, size: u64 },
    #[error("PCI slot {device:02x}.{function} is not free: the VM has too many devices")]
    Slot { device: u8, function: u8 },
}

/// The parts of the address spaces that the board leaves to PCI; also what its ACPI tables must say.
#[derive(Clone, Debug)]
pub struct Windows {
    /// Ports; not 0.
    pub io: Range<u32>,
    /// Memory below 4 GiB.
    pub memory: Range<u64>,
}

impl Windows {
    /// Takes naturally aligned room for a base address register.
    pub(super) fn take(&mut self, bar: Bar) -> Result<u64, Error> {
        let size = bar.size();
        let (space, start, end) = match bar {
            Bar::Io { .. } => ("I/O", u64::from(self.io.start), u64::from(self.io.end)),
            Bar::Memory32 { .. } | Bar::Memory64 { .. } => {
                // Whole pages, so that two functions' registers never share one.
                ("memory", self.memory.start.next_multiple_of(4096), self.memory.end)
            }
        };
        let full = Error::Full { space, size };
        let Some(base) = start.checked_next_multiple_of(size) else { return Err(full) };
        let Some(next) = base.checked_add(size).filter(|&n| n <= end) else { return Err(full) };
        match bar {
            Bar::Io { .. } => self.io.start = next as u32,
            _ => self.memory.start = next,
        }
        Ok(base)
    }
}
