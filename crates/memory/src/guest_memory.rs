//! All of a guest's memory, by guest-physical address.

use crate::mapping::Mapping;
use crate::tracking::{PageState, granules};
use crate::{Error, Result};
use address::{GuestPhys, PAGE_SIZE};
use std::ptr::NonNull;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::*};

/// What a region is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ram,
    /// Guest writes do not change it (and go to the bus).
    Rom,
}

/// Where a region lies and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionConfig {
    pub base: GuestPhys,
    /// Bytes, a multiple of 4 KiB.
    pub len: u64,
    pub kind: Kind,
}

/// One contiguous piece of guest memory.
#[derive(Debug)]
pub struct Region {
    config: RegionConfig,
    mapping: Mapping,
    pages: Box<[PageState]>,
    dirty: Box<[AtomicU64]>,
}

impl Region {
    pub fn base(&self) -> GuestPhys {
        self.config.base
    }
    /// Length in bytes.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> u64 {
        self.config.len
    }
    pub fn kind(&self) -> Kind {
        self.config.kind
    }
    /// First byte in this process, valid for [`Self::len`] bytes while the [`GuestMemory`] lives.
    pub fn host(&self) -> NonNull<u8> {
        self.mapping.host()
    }
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }
    /// Tracking state of page `index`, counted from the region's base.
    pub fn page(&self, index: usize) -> &PageState {
        &self.pages[index]
    }
    fn contains(&self, address: GuestPhys) -> bool {
        address.0.wrapping_sub(self.config.base.0) < self.config.len
    }
}

/// All of a guest's memory. Its layout never changes; its bytes always may.
#[derive(Debug)]
pub struct GuestMemory {
    /// By base, not overlapping.
    regions: Vec<Region>,
    logging: AtomicBool,
    /// See [`Self::writes`].
    writes: AtomicU64,
    watcher: Watcher,
}

/// Who is told of code that is out of date.
#[derive(Default)]
struct Watcher(RwLock<Option<Box<dyn Fn() + Send + Sync>>>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

macro_rules! scalar {
    ($read:ident, $write:ident, $t:ty, $atomic:ty) => {
        /// Reads a little-endian value; in one access where it is aligned.
        pub fn $read(&self, address: GuestPhys) -> Result<$t> {
            const N: u64 = size_of::<$t>() as u64;
            if address.0.is_multiple_of(N) {
                let p = self.host_range(address, N)?;
                // SAFETY: host_range gave a valid range of N bytes; it is aligned, since regions start on pages.
                let v = unsafe { &*p.as_ptr().cast::<$atomic>() }.load(Acquire);
                return Ok(<$t>::from_le(v));
            }
            let mut b = [0u8; N as usize];
            self.read(address, &mut b)?;
            Ok(<$t>::from_le_bytes(b))
        }
        /// Writes a little-endian value; in one access where it is aligned.
        pub fn $write(&self, address: GuestPhys, value: $t) -> Result<()> {
            const N: u64 = size_of::<$t>() as u64;
            if address.0.is_multiple_of(N) {
                let p = self.writable_range(address, N)?;
                // SAFETY: as in the read.
                unsafe { &*p.as_ptr().cast::<$atomic>() }.store(value.to_le(), Release);
                self.writes.fetch_add(1, Relaxed);
                self.note_foreign_write(address, N);
                return Ok(());
            }
            self.write(address, &value.to_le_bytes())
        }
    };
}

impl GuestMemory {
    /// Allocates the regions, zeroed.
    pub fn new(configs: &[RegionConfig]) -> Result<Self> {
        Self::with_huge_pages(configs, false)
    }

    /// The same, in huge pages where `huge` and the host has them.
    pub fn with_huge_pages(configs: &[RegionConfig], huge: bool) -> Result<Self> {
        let mut configs = configs.to_vec();
        configs.sort_by_key(|c| c.base);
        let mut end = 0u64;
        let mut regions = Vec::new();
        for c in configs {
            let bad = |why: &str| Error::BadLayout(format!("{} bytes at {}: {why}", c.len, c.base));
            if c.len == 0 || c.len % PAGE_SIZE != 0 || c.base.0 % PAGE_SIZE != 0 {
                return Err(bad("not whole pages"));
            }
            if c.base.0 < end {
                return Err(bad("overlaps the region below"));
            }
            end = c.base.0.checked_add(c.len).ok_or_else(|| bad("past the end of the address space"))?;
            let mapping = match huge {
                true => Mapping::with_huge_pages("guest-memory", c.len)?,
                false => Mapping::new("guest-memory", c.len)?,
            };
            let pages = mapping.len() / PAGE_SIZE as usize;
            regions.push(Region {
                config: c,
                mapping,
                pages: (0..pages).map(|_| PageState::default()).collect(),
                dirty: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            });
        }
        Ok(Self {
            regions,
            logging: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            watcher: Watcher::default(),
        })
    }

    /// The regions, by base.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }
    /// Bytes of RAM in all.
    pub fn ram_len(&self) -> u64 {
        self.regions.iter().filter(|r| r.kind() == Kind::Ram).map(Region::len).sum()
    }
    /// The region that holds `address`.
    #[inline]
    pub fn region_at(&self, address: GuestPhys) -> Option<&Region> {
        let i = self.regions.partition_point(|r| r.config.base <= address);
        self.regions.get(i.checked_sub(1)?).filter(|r| r.contains(address))
    }

    /// Tracking state of the page that holds `address`.
    pub fn page_at(&self, address: GuestPhys) -> Option<&PageState> {
        let region = self.region_at(address)?;
        Some(region.page(((address.0 - region.base().0) / PAGE_SIZE) as usize))
    }

    /// The host address of `len` bytes that all lie in one region, for reading.
    /// It stays valid while `self` lives; the guest may change what is there at any time.
    pub fn host_range(&self, address: GuestPhys, len: u64) -> Result<NonNull<u8>> {
        let out = Error::OutOfRange { address, len };
        let Some(r) = self.region_at(address) else { return Err(out) };
        let offset = address.0 - r.config.base.0;
        if len > r.config.len - offset {
            return Err(out);
        }
        // SAFETY: offset is below the mapping's length.
        Ok(unsafe { r.host().add(offset as usize) })
    }

    fn writable_range(&self, address: GuestPhys, len: u64) -> Result<NonNull<u8>> {
        if self.region_at(address).is_some_and(|r| r.kind() == Kind::Rom) {
            return Err(Error::ReadOnly { address });
        }
        self.host_range(address, len)
    }

    /// Copies guest memory out. It may lie across adjoining regions.
    pub fn read(&self, address: GuestPhys, out: &mut [u8]) -> Result<()> {
        self.pieces(address, out.len() as u64, |_, p, range| {
            // SAFETY: `pieces` gives `range.len()` valid bytes at `p`; `out` is ours alone. A concurrent guest write
            // can only make the copied bytes a mix of old and new, which every reader of guest memory must expect.
            unsafe { std::ptr::copy_nonoverlapping(p.as_ptr(), out[range.clone()].as_mut_ptr(), range.len()) }
            Ok(())
        })
    }

    /// Copies into guest RAM and notes the write. Nothing is written if any byte is outside RAM.
    pub fn write(&self, address: GuestPhys, data: &[u8]) -> Result<()> {
        self.check_ram(address, data.len() as u64)?;
        self.store(address, data)
    }

    /// Copies into guest memory, read-only regions included: for the board's own loading of firmware and tables.
    pub fn load(&self, address: GuestPhys, data: &[u8]) -> Result<()> {
        self.pieces(address, data.len() as u64, |_, _, _| Ok(()))?;
        self.store(address, data)
    }

    fn store(&self, address: GuestPhys, data: &[u8]) -> Result<()> {
        self.pieces(address, data.len() as u64, |_, p, range| {
            // SAFETY: as in `read`, the other way round.
            unsafe { std::ptr::copy_nonoverlapping(data[range.clone()].as_ptr(), p.as_ptr(), range.len()) }
            Ok(())
        })?;
        self.writes.fetch_add(1, Relaxed);
        self.note_foreign_write(address, data.len() as u64);
        Ok(())
    }

    /// Sets `len` bytes of RAM to `byte`.
    pub fn fill(&self, address: GuestPhys, len: u64, byte: u8) -> Result<()> {
        self.check_ram(address, len)?;
        self.pieces(address, len, |_, p, range| {
            // SAFETY: as in `write`.
            unsafe { std::ptr::write_bytes(p.as_ptr(), byte, range.len()) }
            Ok(())
        })?;
        self.writes.fetch_add(1, Relaxed);
        self.note_foreign_write(address, len);
        Ok(())
    }

    /// Whether all `len` bytes at `address` are RAM.
    pub fn check_ram(&self, address: GuestPhys, len: u64) -> Result<()> {
        self.pieces(address, len, |r, _, _| match r.kind() {
            Kind::Ram => Ok(()),
            Kind::Rom => Err(Error::ReadOnly { address }),
        })
    }

    scalar!(read_u8, write_u8, u8, AtomicU8);
    scalar!(read_u16, write_u16, u16, AtomicU16);
    scalar!(read_u32, write_u32, u32, AtomicU32);
    scalar!(read_u64, write_u64, u64, AtomicU64);

    /// Calls `f` with each region's part of a range: the host address and the part's place in the caller's buffer.
    fn pieces(
        &self,
        address: GuestPhys,
        len: u64,
        mut f: impl FnMut(&Region, NonNull<u8>, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0u64;
        while done < len {
            let out = || Error::OutOfRange { address, len };
            let at = address.checked_add(done).ok_or_else(out)?;
            let r = self.region_at(at).ok_or_else(out)?;
            let offset = at.0 - r.config.base.0;
            let n = (len - done).min(r.config.len - offset);
            // SAFETY: offset is below the mapping's length.
            let p = unsafe { r.host().add(offset as usize) };
            f(r, p, done as usize..(done + n) as usize)?;
            done += n;
        }
        Ok(())
    }

    /// Has `watcher` called, instead of any before it, whenever a write by others than the engine hits decoded code.
    pub fn watch_code(&self, watcher: Box<dyn Fn() + Send + Sync>) {
        *self.watcher.0.write().unwrap_or_else(|e| e.into_inner()) = Some(watcher);
    }

    /// Notes a write that no instruction of a guest's made, and tells who watches code.
    pub fn note_foreign_write(&self, address: GuestPhys, len: u64) {
        if self.note_write(address, len)
            && let Some(watcher) = &*self.watcher.0.read().unwrap_or_else(|e| e.into_inner())
        {
            watcher();
        }
    }

    /// Notes that `len` bytes at `address` were written: dirty log and code tracking. True if decoded code was hit: then the
    /// engine whose store it was has to see to it that nobody goes on executing it.
    pub fn note_write(&self, address: GuestPhys, len: u64) -> bool {
        let mut hit = false;
        let mut at = address.0;
        let end = address.0.saturating_add(len);
        let logging = self.logging.load(Relaxed);
        while at < end {
            let Some(r) = self.region_at(GuestPhys(at)) else { return hit };
            let stop = end.min(r.config.base.0 + r.config.len);
            while at < stop {
                let offset = at - r.config.base.0;
                let page = (offset / PAGE_SIZE) as usize;
                let n = (PAGE_SIZE - offset % PAGE_SIZE).min(stop - at);
                hit |= r.pages[page].note_write(granules(offset % PAGE_SIZE, n));
                if logging {
                    r.dirty[page / 64].fetch_or(1 << (page % 64), AcqRel);
                }
                at += n;
            }
        }
        hit
    }

    /// Whether writes are to be logged; an engine that caches writability asks when it fills its cache.
    pub fn logging(&self) -> bool {
        self.logging.load(SeqCst)
    }
    /// Starts (with a clean log) or stops logging.
    pub fn set_logging(&self, on: bool) {
        if on {
            self.regions.iter().flat_map(|r| r.dirty.iter()).for_each(|w| w.store(0, SeqCst));
        }
        self.logging.store(on, SeqCst);
    }
    /// Marks one page dirty.
    pub fn mark_dirty(&self, address: GuestPhys) {
        if let Some(r) = self.region_at(address) {
            let page = ((address.0 - r.config.base.0) / PAGE_SIZE) as usize;
            r.dirty[page / 64].fetch_or(1 << (page % 64), AcqRel);
        }
    }
    /// How many writes went through this type's functions: the board's and its devices', not the processors'.
    pub fn writes(&self) -> u64 {
        self.writes.load(Relaxed)
    }
    /// Takes and clears the dirty bits of region `index`, and calls `f` with each page's number, counted from the region's base.
    pub fn drain_dirty(&self, index: usize, mut f: impl FnMut(usize)) {
        for (n, word) in self.regions[index].dirty.iter().enumerate() {
            // Most are clear, and a load is cheaper than an exchange.
            if word.load(Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, AcqRel);
            while bits != 0 {
                f(n * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
    /// Takes and clears the dirty bits of region `index`: one bit a page, 64 pages a word.
    pub fn take_dirty(&self, index: usize) -> Vec<u64> {
        self.regions[index].dirty.iter().map(|w| w.swap(0, AcqRel)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        let ram = |base, len| RegionConfig { base: GuestPhys(base), len, kind: Kind::Ram };
        let rom = RegionConfig { base: GuestPhys(0x3000), len: 0x1000, kind: Kind::Rom };
        GuestMemory::new(&[ram(0x8000, 0x2000), ram(0, 0x3000), rom]).unwrap()
    }

    #[test]
    fn reads_and_writes_across_pages_not_past_the_end() {
        let m = memory();
        m.write(GuestPhys(0xffe), &[1, 2, 3, 4]).unwrap();
        assert_eq!(m.read_u32(GuestPhys(0xffe)).unwrap(), 0x04030201);
        assert_eq!(m.read_u16(GuestPhys(0x1000)).unwrap(), 0x0403);
        assert!(m.write(GuestPhys(0x9fff), &[0; 2]).is_err());
        assert!(m.read_u64(GuestPhys(u64::MAX - 3)).is_err());
        assert!(m.read_u64(GuestPhys(u64::MAX - 7)).is_err());
        assert!(m.fill(GuestPhys(0x8000), u64::MAX, 0).is_err());
    }

    #[test]
    fn rom_is_loaded_but_not_written() {
        let m = memory();
        m.load(GuestPhys(0x2ffe), b"rom!").unwrap();
        assert_eq!(m.read_u16(GuestPhys(0x3000)).unwrap(), u16::from_le_bytes(*b"m!"));
        assert!(matches!(m.write_u8(GuestPhys(0x3000), 0), Err(Error::ReadOnly { .. })));
        assert!(m.write(GuestPhys(0x2fff), &[9, 9]).is_err());
        assert_eq!(m.read_u8(GuestPhys(0x2fff)).unwrap(), b'o', "a refused write changes nothing");
    }

    #[test]
    fn dirty_log_takes_and_clears() {
        let m = memory();
        m.write_u8(GuestPhys(0), 1).unwrap();
        m.set_logging(true);
        m.write(GuestPhys(0x1fff), &[1, 2]).unwrap();
        m.write_u64(GuestPhys(0x9000), 1).unwrap();
        assert_eq!(m.take_dirty(0), [0b110]);
        assert_eq!(m.take_dirty(2), [0b10]);
        assert_eq!(m.take_dirty(0), [0]);
    }

    #[test]
    fn bad_layouts_are_refused() {
        let r = |base, len| RegionConfig { base: GuestPhys(base), len, kind: Kind::Ram };
        assert!(matches!(GuestMemory::new(&[r(0, 0x2000), r(0x1000, 0x1000)]), Err(Error::BadLayout(_))));
        assert!(matches!(GuestMemory::new(&[r(0, 100)]), Err(Error::BadLayout(_))));
        assert!(matches!(GuestMemory::new(&[r(!0xfff, 0x2000)]), Err(Error::BadLayout(_))));
        assert!(GuestMemory::new(&[r(0, 1 << 62)]).is_err(), "more than any host has");
    }
}
