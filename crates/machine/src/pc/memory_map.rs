//! Where the pc's RAM, firmware area and holes lie in guest-physical space.

use crate::{Error, Result};
use address::{GuestPhys, PAGE_SIZE};
use memory::{GuestMemory, Kind, RegionConfig};

/// End of conventional memory; the VGA window follows.
pub const CONVENTIONAL_END: u64 = 0xa_0000;
/// Extended BIOS data area: the last KiB of conventional memory, reserved in the memory map.
pub const EBDA: u64 = 0x9_fc00;
/// Firmware: ACPI and MP tables, the reset stub. Read-only to the guest.
pub const FIRMWARE: u64 = 0xe_0000;
/// End of the firmware area, start of extended memory.
pub const EXTENDED: u64 = 0x10_0000;
/// Start of the PCI hole: RAM that would lie from here on lies from [`FOUR_GIB`] on instead.
pub const PCI_HOLE: u64 = 0xc000_0000;
/// End of the window that PCI BARs are placed in.
pub const PCI_WINDOW_END: u64 = 0xfe00_0000;
pub const IOAPIC: u64 = 0xfec0_0000;
pub const LOCAL_APIC: u64 = 0xfee0_0000;
pub const FOUR_GIB: u64 = 1 << 32;

/// Least RAM, in bytes.
pub const LEAST: u64 = 1 << 20;
/// Most RAM, in bytes: what fits under the 40 physical address bits that every engine has.
pub const MOST: u64 = 1 << 39;

/// What a range of the memory map is to the guest (ACPI 6.5 table 15.2, address range types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeKind {
    Ram = 1,
    Reserved = 2,
}

/// An entry of the map that boot protocols hand the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub base: u64,
    /// Bytes.
    pub len: u64,
    pub kind: RangeKind,
}

impl Range {
    pub const fn end(&self) -> u64 {
        self.base + self.len
    }
}

/// The layout for one amount of RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    ranges: Vec<Range>,
}

impl MemoryMap {
    /// The map of a machine with `bytes` of RAM, the 384 KiB under 1 MiB counted as on a real PC.
    pub fn new(bytes: u64) -> Result<Self> {
        if bytes < LEAST || !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(Error::Config(format!(
                "a pc needs at least 1 MiB of memory in whole pages of 4 KiB; {bytes} bytes is not that"
            )));
        }
        if bytes > MOST {
            return Err(Error::Config(format!("a pc has at most {} GiB of memory", MOST >> 30)));
        }
        let mut ranges = Vec::new();
        let mut add = |base, end, kind| {
            if base < end {
                ranges.push(Range { base, len: end - base, kind });
            }
        };
        add(0, EBDA, RangeKind::Ram);
        add(EBDA, CONVENTIONAL_END, RangeKind::Reserved);
        add(FIRMWARE, EXTENDED, RangeKind::Reserved);
        add(EXTENDED, bytes.min(PCI_HOLE), RangeKind::Ram);
        add(FOUR_GIB, FOUR_GIB + bytes.saturating_sub(PCI_HOLE), RangeKind::Ram);
        Ok(Self { ranges })
    }

    /// As the BIOS's INT 15h E820h would give it: by base, not overlapping, holes left out.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// End of the RAM that starts at 1 MiB and ends at or below the PCI hole; [`EXTENDED`] where there is none.
    pub fn extended_end(&self) -> u64 {
        self.ranges.iter().find(|r| r.base == EXTENDED).map_or(EXTENDED, Range::end)
    }

    /// Whether all of `base..base + len` is RAM the guest may use.
    pub fn is_ram(&self, base: u64, len: u64) -> bool {
        let Some(end) = base.checked_add(len) else { return false };
        self.ranges.iter().any(|r| r.kind == RangeKind::Ram && r.base <= base && end <= r.end())
    }

    /// Allocates the guest's memory.
    pub fn allocate(&self) -> Result<GuestMemory> {
        let mut regions = vec![
            RegionConfig { base: GuestPhys(0), len: CONVENTIONAL_END, kind: Kind::Ram },
            RegionConfig { base: GuestPhys(FIRMWARE), len: EXTENDED - FIRMWARE, kind: Kind::Rom },
        ];
        let above = self.ranges.iter().filter(|r| r.base >= EXTENDED);
        regions.extend(above.map(|r| RegionConfig { base: GuestPhys(r.base), len: r.len, kind: Kind::Ram }));
        Ok(GuestMemory::new(&regions)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_splits_ram_at_the_pci_hole() {
        let m = MemoryMap::new(5 << 30).unwrap();
        assert_eq!(m.extended_end(), PCI_HOLE);
        let last = m.ranges().last().unwrap();
        assert_eq!((last.base, last.len), (FOUR_GIB, 2 << 30));
        assert!(m.is_ram(FOUR_GIB, 2 << 30) && !m.is_ram(PCI_HOLE - 1, 2) && !m.is_ram(u64::MAX, 2));
        assert!(!m.is_ram(EBDA, 1) && m.is_ram(0, EBDA));
        assert!(m.ranges().windows(2).all(|w| w[0].end() <= w[1].base));
    }

    #[test]
    fn map_of_one_mebibyte_is_conventional_memory_only() {
        let m = MemoryMap::new(1 << 20).unwrap();
        assert_eq!(m.extended_end(), EXTENDED);
        assert_eq!(m.allocate().unwrap().ram_len(), CONVENTIONAL_END);
        assert!(MemoryMap::new(4096).is_err() && MemoryMap::new((2 << 20) + 1).is_err());
        assert!(MemoryMap::new(u64::MAX & !4095).is_err());
    }
}
