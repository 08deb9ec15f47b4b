//! Long-descriptor translation tables: stage 2 of the control domain and of guests, stage 1 of EL2 itself.

use address::HostPhys;
use arm::descriptor::{ADDRESS, ATTRIBUTES, LEVEL_BITS, TABLE, VALID, level_shift};

use crate::pool::{Pool, Word};

/// A translation table. Its pages are the pool's until [`Table::destroy`].
///
/// Changing it doesn't touch any TLB: who unmaps something that may be in use invalidates it afterwards.
#[derive(Debug)]
pub struct Table {
    /// The first page of the root.
    pub root: HostPhys,
    /// The level where a walk starts.
    pub level: u32,
    /// Bits of input address.
    pub bits: u32,
}

pub type Result<T> = core::result::Result<T, MapError>;

/// Why something wasn't mapped or unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Not aligned to 4 KiB, or beyond the input addresses.
    Range,
    /// Something is mapped there.
    Mapped,
    /// The pool is used up.
    NoMemory,
}

impl Table {
    /// An empty table for `bits` (32 to 48) bits of input address. Up to 16 tables side by side are the root of a walk that starts a
    /// level lower (Arm ARM D8.2.7, concatenated tables), as stage 2 can have it and of 40 or 42 bits must; the hypervisor's own stage 1
    /// has 48 or 32 bits, and so one.
    pub fn new(pool: &Pool, bits: u32) -> Option<Self> {
        let level = if bits > level_shift(0) + 4 { 0 } else { 1 };
        let table = Self { root: HostPhys(0), level, bits };
        Some(Self { root: pool.allocate(table.root_pages())?, ..table })
    }

    fn root_pages(&self) -> usize {
        1 << self.bits.saturating_sub(level_shift(self.level) + LEVEL_BITS)
    }

    /// The entry of `input` in the table at `table`.
    fn entry<'p>(&self, pool: &'p Pool, table: HostPhys, level: u32, input: u64) -> Option<&'p Word> {
        let index = input >> level_shift(level);
        // Only the root can have more than one page; elsewhere the index's upper bits were translated already.
        let page = if level == self.level { index >> LEVEL_BITS } else { 0 };
        Some(pool.page(table.checked_add(page * 4096)?)?.word(index as usize))
    }

    /// Maps `size` bytes from `input` on to those from `output` on, with the largest blocks that both allow. `attributes` are the leaf's
    /// ([`ATTRIBUTES`]). If it fails, a part may be mapped.
    pub fn map(&self, pool: &Pool, input: u64, output: HostPhys, size: u64, attributes: u64) -> Result<()> {
        self.check(input, size)?;
        if output.0 & 0xfff != 0 || output.0.checked_add(size).is_none_or(|end| end > 1 << 48) {
            return Err(MapError::Range);
        }
        let mut done = 0;
        while done < size {
            done +=
                self.map_one(pool, input + done, output.0 + done, size - done, attributes & ATTRIBUTES)?;
        }
        Ok(())
    }

    fn check(&self, input: u64, size: u64) -> Result<()> {
        let end = input.checked_add(size).ok_or(MapError::Range)?;
        if (input | size) & 0xfff != 0 || end > 1 << self.bits { Err(MapError::Range) } else { Ok(()) }
    }

    /// Maps one block, and says how large it is.
    fn map_one(&self, pool: &Pool, input: u64, output: u64, size: u64, attributes: u64) -> Result<u64> {
        let mut table = self.root;
        for level in self.level..=3 {
            let block = 1u64 << level_shift(level);
            let entry = self.entry(pool, table, level, input).ok_or(MapError::Range)?;
            let old = entry.get();
            if old & VALID == 0 && level > 0 && (input | output) & (block - 1) == 0 && size >= block {
                entry.set(output | attributes | VALID | if level == 3 { TABLE } else { 0 });
                return Ok(block);
            }
            table = if old & VALID == 0 && level < 3 {
                let new = pool.allocate(1).ok_or(MapError::NoMemory)?;
                entry.set(new.0 | TABLE | VALID);
                new
            } else if level < 3 && old & TABLE != 0 {
                HostPhys(old & ADDRESS)
            } else {
                return Err(MapError::Mapped);
            };
        }
        Err(MapError::Range)
    }

    /// Unmaps `size` bytes from `input` on, mapped or not. A block of which a part stays is split: in a table that a processor may be
    /// walking, unmap only what was mapped in the same pieces.
    pub fn unmap(&self, pool: &Pool, input: u64, size: u64) -> Result<()> {
        self.check(input, size)?;
        let mut done = 0;
        while done < size {
            done += self.unmap_one(pool, input + done, size - done)?;
        }
        Ok(())
    }

    /// Unmaps up to the end of one block, and says how far that is.
    fn unmap_one(&self, pool: &Pool, input: u64, size: u64) -> Result<u64> {
        let mut table = self.root;
        for level in self.level..=3 {
            let block = 1u64 << level_shift(level);
            let entry = self.entry(pool, table, level, input).ok_or(MapError::Range)?;
            let old = entry.get();
            if old & VALID == 0 {
                return Ok(block - (input & (block - 1)));
            }
            if level < 3 && old & TABLE != 0 {
                table = HostPhys(old & ADDRESS);
                continue;
            }
            if input & (block - 1) == 0 && size >= block {
                entry.set(0);
                return Ok(block);
            }
            table = pool.allocate(1).ok_or(MapError::NoMemory)?;
            let smaller = pool.page(table).ok_or(MapError::Range)?;
            for n in 0..512 {
                let part = (n as u64) << level_shift(level + 1);
                smaller.word(n).set((old + part) | if level + 1 == 3 { TABLE } else { 0 });
            }
            entry.set(table.0 | TABLE | VALID);
        }
        Err(MapError::Range)
    }

    /// Gives every page back.
    pub fn destroy(self, pool: &Pool) {
        for n in 0..self.root_pages() {
            Self::free_below(pool, HostPhys(self.root.0 + n as u64 * 4096), self.level);
        }
        pool.free(self.root, self.root_pages());
    }

    /// Frees the tables that the one at `table` leads to; three levels deep at most.
    fn free_below(pool: &Pool, table: HostPhys, level: u32) {
        let Some(page) = pool.page(table).filter(|_| level < 3) else { return };
        for entry in (0..512).map(|n| page.word(n).get()).filter(|e| e & (VALID | TABLE) == VALID | TABLE) {
            Self::free_below(pool, HostPhys(entry & ADDRESS), level + 1);
            pool.free(HostPhys(entry & ADDRESS), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arm::descriptor::stage2::{NORMAL, READ, WRITE};
    use proptest::prelude::*;

    use super::*;
    use crate::pool::test_pool;

    /// Where an input address leads.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Leaf {
        /// Of the input address itself.
        pub output: HostPhys,
        pub attributes: u64,
        /// Bytes of the block or page.
        pub size: u64,
    }

    impl Table {
        /// Where `input` leads.
        pub fn lookup(&self, pool: &Pool, input: u64) -> Option<Leaf> {
            self.check(input & !0xfff, 4096).ok()?;
            let mut table = self.root;
            for level in self.level..=3 {
                let entry = self.entry(pool, table, level, input)?.get();
                if entry & VALID == 0 {
                    return None;
                }
                if level < 3 && entry & TABLE != 0 {
                    table = HostPhys(entry & ADDRESS);
                    continue;
                }
                let size = 1 << level_shift(level);
                let output = HostPhys((entry & ADDRESS & !(size - 1)) | (input & (size - 1)));
                return Some(Leaf { output, attributes: entry & ATTRIBUTES, size });
            }
            None
        }
    }

    #[test]
    fn the_largest_blocks_are_used() {
        let pool = test_pool(0x1000_0000, 64);
        let table = Table::new(&pool, 40).unwrap();
        assert_eq!((table.level, table.root_pages(), pool.used()), (1, 2, 2));
        table.map(&pool, 0, HostPhys(0), 1 << 40, NORMAL | READ | WRITE).unwrap();
        assert_eq!(pool.used(), 2);
        assert_eq!(table.lookup(&pool, 0xff_8000_1234).unwrap().output, HostPhys(0xff_8000_1234));
        table.unmap(&pool, 0x4020_0000, 0x20_0000).unwrap();
        table.unmap(&pool, 0x800_1000, 0x1000).unwrap();
        assert_eq!(pool.used(), 5);
        assert_eq!(table.lookup(&pool, 0x4020_0000), None);
        assert_eq!(table.lookup(&pool, 0x4040_0000).unwrap().size, 2 << 20);
        assert_eq!(table.lookup(&pool, 0x800_1fff), None);
        let page = Leaf { output: HostPhys(0x800_2fff), attributes: NORMAL | READ | WRITE, size: 4096 };
        assert_eq!(table.lookup(&pool, 0x800_2fff), Some(page));
        table.destroy(&pool);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let pool = test_pool(0x1000_0000, 8);
        let table = Table::new(&pool, 40).unwrap();
        for (input, size) in
            [(1, 4096), (0, 1), (1 << 40, 4096), (u64::MAX - 4095, 4096), (0, u64::MAX - 4095)]
        {
            assert_eq!(table.map(&pool, input, HostPhys(0), size, 0), Err(MapError::Range));
            assert_eq!(table.unmap(&pool, input, size), Err(MapError::Range));
        }
        assert_eq!(table.map(&pool, 0, HostPhys(1 << 48), 4096, 0), Err(MapError::Range));
        assert_eq!(table.map(&pool, 0, HostPhys(0xfff), 4096, 0), Err(MapError::Range));
        table.map(&pool, 0x1000, HostPhys(0), 4096, 0).unwrap();
        assert_eq!(table.map(&pool, 0x1000, HostPhys(0), 4096, 0), Err(MapError::Mapped));
        assert_eq!(table.map(&pool, 0x4000_0000, HostPhys(0x1000), 4 << 30, 0), Err(MapError::NoMemory));
        table.destroy(&pool);
        assert_eq!(pool.used(), 0);
    }

    proptest! {
        /// Against a map of pages, over two places that share tables, with every size of block.
        #[test]
        fn it_is_what_a_map_of_pages_is(
            bits in prop_oneof![Just(36u32), Just(40), Just(44)],
            steps in proptest::collection::vec((any::<bool>(), 0u64..1024, 1u64..700, 0u64..3, any::<bool>()), 1..40),
        ) {
            let pool = test_pool(0x8000_0000, 256);
            let table = Table::new(&pool, bits).unwrap();
            let mut model: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            for (map, page, count, shift, write) in steps {
                let at = (1 << 30) - (512 << 12) + (page << 12);
                let (size, to) = (count << 12, at + (shift << 21) + if count % 7 == 0 { 4096 } else { 0 });
                let attributes = NORMAL | READ | if write { WRITE } else { 0 };
                let pages = (0..count).map(|n| n << 12);
                if map {
                    let free = pages.clone().all(|n| !model.contains_key(&(at + n)));
                    if free {
                        table.map(&pool, at, HostPhys(to), size, attributes).unwrap();
                        model.extend(pages.map(|n| (at + n, (to + n, attributes))));
                    } else if model.contains_key(&at) {
                        prop_assert_eq!(table.map(&pool, at, HostPhys(to), size, attributes), Err(MapError::Mapped));
                    }
                } else {
                    table.unmap(&pool, at, size).unwrap();
                    model.retain(|page, _| !(at..at + size).contains(page));
                }
            }
            for page in 0..2048u64 {
                let at = (1 << 30) - (512 << 12) + (page << 12);
                let found = table.lookup(&pool, at + 5).map(|l| (l.output.0 - 5, l.attributes));
                prop_assert_eq!(found, model.get(&at).copied());
            }
            table.destroy(&pool);
            prop_assert_eq!(pool.used(), 0);
        }
    }
}
