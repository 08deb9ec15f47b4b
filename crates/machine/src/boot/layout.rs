//! Who lies where in guest memory while a kernel is loaded: nothing outside RAM, nothing on top of another.

use super::{Error, Platform};
use crate::pc::memory_map::RangeKind;
use address::GuestPhys;
use memory::GuestMemory;
use std::ops::Range;

/// Where the loaders may put their own structures: above the BIOS data area, in conventional memory.
const LOW_FLOOR: u64 = 0x1000;

#[derive(Debug)]
struct Taken {
    base: u64,
    end: u64,
    what: String,
}

/// The pieces placed so far.
#[derive(Debug)]
pub struct Layout<'a> {
    memory: &'a GuestMemory,
    ram: Vec<Range<u64>>,
    taken: Vec<Taken>,
}

impl<'a> Layout<'a> {
    /// Of a pc.
    pub fn new(platform: Platform<'a>) -> Self {
        let ram = platform.map.ranges().iter().filter(|r| r.kind == RangeKind::Ram);
        let mut layout = Self::over(platform.memory, ram.map(|r| r.base..r.end()));
        // Interrupt vectors and BIOS data area.
        layout.taken.push(Taken { base: 0, end: 0x500, what: "the BIOS data area".to_string() });
        layout
    }

    /// Of a board with RAM in these ranges, all of it free.
    pub fn over(memory: &'a GuestMemory, ram: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self { memory, ram: ram.into_iter().collect(), taken: Vec::new() }
    }

    pub fn memory(&self) -> &'a GuestMemory {
        self.memory
    }

    /// Whether all of `base..base + len` is RAM, taken or not.
    pub fn is_ram(&self, base: u64, len: u64) -> bool {
        let Some(end) = base.checked_add(len) else { return false };
        self.ram.iter().any(|r| r.start <= base && end <= r.end)
    }

    /// Takes a range: all RAM, not taken yet. Takes nothing where `len` is 0.
    pub fn claim(&mut self, what: &str, base: u64, len: u64) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        if !self.is_ram(base, len) {
            return Err(Error::NotRam { what: what.to_string(), base, len });
        }
        let end = base + len;
        if let Some(t) = self.taken.iter().find(|t| base < t.end && t.base < end) {
            let (what, other) = (what.to_string(), t.what.clone());
            return Err(Error::Overlap { what, other, base: base.max(t.base) });
        }
        self.taken.push(Taken { base, end, what: what.to_string() });
        Ok(())
    }

    /// Claims `len` bytes and puts `bytes` at their start, zeroes in the rest.
    pub fn place(&mut self, what: &str, base: u64, bytes: &[u8], len: u64) -> Result<(), Error> {
        self.claim(what, base, len.max(bytes.len() as u64))?;
        self.memory.write(GuestPhys(base), bytes)?;
        let rest = len.saturating_sub(bytes.len() as u64);
        if rest > 0 {
            self.memory.fill(GuestPhys(base + bytes.len() as u64), rest, 0)?;
        }
        Ok(())
    }

    /// The lowest free place for `len` bytes in `floor..ceiling`; `align` is a power of two.
    pub fn lowest(&self, what: &str, len: u64, align: u64, floor: u64, ceiling: u64) -> Result<u64, Error> {
        let starts = self.ram.iter().map(|r| r.start).chain(self.taken.iter().map(|t| t.end)).chain([floor]);
        starts
            .filter_map(|s| s.max(floor).checked_next_multiple_of(align))
            .filter(|&base| self.is_free(base, len, ceiling))
            .min()
            .ok_or_else(|| Error::NoRoom { what: what.to_string(), len, ceiling })
    }

    /// The highest free place for `len` bytes in `floor..ceiling`; `align` is a power of two.
    pub fn highest(&self, what: &str, len: u64, align: u64, floor: u64, ceiling: u64) -> Result<u64, Error> {
        let ends = self.ram.iter().map(|r| r.end).chain(self.taken.iter().map(|t| t.base)).chain([ceiling]);
        ends.filter_map(|e| e.min(ceiling).checked_sub(len))
            .map(|base| base & !(align - 1))
            .filter(|&base| base >= floor && self.is_free(base, len, ceiling))
            .max()
            .ok_or_else(|| Error::NoRoom { what: what.to_string(), len, ceiling })
    }

    /// Places a loader's own structure in conventional memory, at an 8-byte boundary; gives its address.
    pub fn place_low(&mut self, what: &str, bytes: &[u8]) -> Result<u64, Error> {
        let at =
            self.lowest(what, bytes.len() as u64, 8, LOW_FLOOR, crate::pc::memory_map::CONVENTIONAL_END)?;
        self.place(what, at, bytes, bytes.len() as u64)?;
        Ok(at)
    }

    /// Places a string and its NUL in conventional memory; gives its address.
    pub fn place_string(&mut self, what: &str, s: &str) -> Result<u64, Error> {
        let mut bytes = s.as_bytes().to_vec();
        bytes.push(0);
        self.place_low(what, &bytes)
    }

    /// End of the highest piece placed at or above `floor`, or `floor`.
    pub fn end_above(&self, floor: u64) -> u64 {
        self.taken.iter().map(|t| t.end).filter(|&e| e > floor).max().unwrap_or(floor)
    }

    fn is_free(&self, base: u64, len: u64, ceiling: u64) -> bool {
        let Some(end) = base.checked_add(len) else { return false };
        end <= ceiling && self.is_ram(base, len) && !self.taken.iter().any(|t| base < t.end && t.base < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Board;

    #[test]
    fn claim_outside_ram_or_on_another_is_refused() {
        let b = Board::new(4 << 20);
        let mut l = Layout::new(b.platform());
        l.claim("a", 0x10_0000, 0x1000).unwrap();
        assert!(matches!(l.claim("b", 0x10_0fff, 1), Err(Error::Overlap { base: 0x10_0fff, .. })));
        assert!(matches!(l.claim("b", 0x9_ffff, 2), Err(Error::NotRam { .. })));
        assert!(matches!(l.claim("b", 0xf_ffff, 2), Err(Error::NotRam { .. })));
        assert!(matches!(l.claim("b", u64::MAX, 2), Err(Error::NotRam { .. })));
        assert!(matches!(l.claim("b", 0x400, 1), Err(Error::Overlap { .. })));
        l.claim("b", 0x10_1000, (3 << 20) - 0x1000).unwrap();
        l.claim("nothing", 0x10_0000, 0).unwrap();
    }

    #[test]
    fn highest_and_lowest_keep_clear_of_what_is_taken() {
        let b = Board::new(4 << 20);
        let mut l = Layout::new(b.platform());
        l.claim("top", 0x3f_0000, 0x1_0000).unwrap();
        assert_eq!(l.highest("x", 0x1001, 0x1000, 0x10_0000, 1 << 32), Ok(0x3e_e000));
        l.claim("bottom", 0x10_0000, 0x1234).unwrap();
        assert_eq!(l.lowest("x", 16, 0x1000, 0x10_0000, 1 << 32), Ok(0x10_2000));
        assert!(matches!(l.highest("x", 4 << 20, 1, 0x10_0000, 1 << 32), Err(Error::NoRoom { .. })));
        assert!(matches!(l.lowest("x", u64::MAX, 0x1000, 0, u64::MAX), Err(Error::NoRoom { .. })));
    }
}
