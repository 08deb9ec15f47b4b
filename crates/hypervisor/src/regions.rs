//! Regions of physical memory, and lists of them.

use address::HostPhys;
use arrayvec::ArrayVec;

use crate::problem::Problem;

/// Physical memory from `start` up to, but not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub start: u64,
    pub end: u64,
}

/// Regions in a list, at most.
pub const MAX_REGIONS: usize = 64;
/// Regions, in no order; empty ones are not in it.
pub type Regions = ArrayVec<Region, MAX_REGIONS>;

impl Region {
    /// `None` if it would wrap.
    pub fn sized(start: u64, size: u64) -> Option<Self> {
        Some(Self { start, end: start.checked_add(size)? })
    }
    pub const fn size(&self) -> u64 {
        self.end - self.start
    }
    pub const fn contains(&self, inner: &Region) -> bool {
        self.start <= inner.start && inner.end <= self.end
    }
    pub const fn overlaps(&self, other: &Region) -> bool {
        self.start < other.end && other.start < self.end
    }
    /// The 4 KiB pages it touches.
    pub const fn pages(&self) -> Self {
        Self { start: self.start & !0xfff, end: self.end.saturating_add(0xfff) & !0xfff }
    }
    pub const fn address(&self) -> HostPhys {
        HostPhys(self.start)
    }
}

impl core::fmt::Display for Region {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end.wrapping_sub(1))
    }
}

/// `memory` without what of it is in `taken`.
pub fn without(memory: &[Region], taken: Region) -> Result<Regions, Problem> {
    let mut rest = Regions::new();
    for region in memory {
        let before = Region { start: region.start, end: region.end.min(taken.start) };
        let after = Region { start: region.start.max(taken.end), end: region.end };
        for part in [before, after] {
            if part.start < part.end {
                rest.try_push(part).map_err(|_| Problem::TooManyRegions)?;
            }
        }
    }
    Ok(rest)
}

/// The lowest place for `size` bytes at `offset` beyond a multiple of `align` (a power of two), in one of `memory`, that touches
/// none of `taken`.
pub fn place(memory: &[Region], taken: &[Region], size: u64, align: u64, offset: u64) -> Option<Region> {
    let mut best: Option<Region> = None;
    for region in memory {
        let mut from = region.start;
        while let Some(start) =
            from.saturating_sub(offset).checked_next_multiple_of(align).and_then(|s| s.checked_add(offset))
        {
            let Some(found) = Region::sized(start, size).filter(|f| region.contains(f)) else { break };
            match taken.iter().filter(|t| t.overlaps(&found)).map(|t| t.end).max() {
                Some(end) => from = end.max(start + 1),
                None => {
                    if best.is_none_or(|b| found.start < b.start) {
                        best = Some(found);
                    }
                    break;
                }
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn region(start: u64, end: u64) -> Region {
        Region { start, end }
    }

    #[test]
    fn what_is_taken_splits_memory() {
        let memory = [region(0x1000, 0x9000), region(0x10000, 0x20000)];
        let rest = without(&memory, region(0x3000, 0x4000)).unwrap();
        assert_eq!(rest[..], [region(0x1000, 0x3000), region(0x4000, 0x9000), region(0x10000, 0x20000)]);
        assert_eq!(
            without(&memory, region(0x8000, 0x18000)).unwrap()[..],
            [region(0x1000, 0x8000), region(0x18000, 0x20000)]
        );
        assert!(without(&memory, region(0, u64::MAX)).unwrap().is_empty());
        let many: Regions = (0..MAX_REGIONS as u64).map(|n| region(n * 4096, n * 4096 + 4096)).collect();
        assert_eq!(without(&many, region(0x10, 0x20)), Err(Problem::TooManyRegions));
    }

    #[test]
    fn places_avoid_what_is_taken() {
        let memory = [region(0x8000_0000, 0x9000_0000), region(0x4000_0000, 0x4100_0000)];
        let taken = [region(0x4000_0000, 0x4000_0001), region(0x4030_0000, 0x4040_0000)];
        assert_eq!(place(&memory, &taken, 0x10_0000, 0x20_0000, 0), Some(region(0x4020_0000, 0x4030_0000)));
        assert_eq!(place(&memory, &taken, 0x20_0000, 0x20_0000, 0), Some(region(0x4040_0000, 0x4060_0000)));
        assert_eq!(place(&memory, &taken, 0x100_0000, 0x20_0000, 0x8_0000).unwrap().start, 0x8008_0000);
        assert_eq!(place(&memory, &taken, 0x1000_0001, 1, 0), None);
        assert_eq!(place(&[region(0, u64::MAX)], &[region(0, u64::MAX)], 1, 4096, 0), None);
    }
}
