//! SMMUs, version 3 (Arm IHI 0070): devices behind one reach what the control domain reaches, by the same stage 2.
//!
//! That stage 2 never changes, so an SMMU is given three commands when it starts, and none afterwards.

use address::HostPhys;
use arm::control::{physical_bits, vtcr};
use arrayvec::ArrayVec;
use spin::Mutex;

use crate::fdt::Node;
use crate::pool::Pool;
use crate::regions::Region;
use crate::table::Table;
use crate::{arch, console, say};

/// SMMUs, at most.
pub const MAX_SMMUS: usize = 8;
/// Bytes of its registers: two pages of 64 KiB.
pub const FRAME: u64 = 0x2_0000;

const IDR0: u64 = 0x0;
/// S2P, TTF with AArch64's format, and ST_LEVEL's stream tables of two levels.
const IDR0_NEEDED: u32 = 1 << 0 | 1 << 3 | 1 << 27;
const IDR1: u64 = 0x4;
const IDR5: u64 = 0x14;
const CR0: u64 = 0x20;
const SMMUEN: u32 = 1 << 0;
const EVENTQEN: u32 = 1 << 2;
const CMDQEN: u32 = 1 << 3;
const CR0ACK: u64 = 0x24;
/// And CR2.
const CR1: u64 = 0x28;
/// Tables and queues: inner and outer write-back, inner shareable.
const CR1_WRITE_BACK: u32 = 0b11_01_01 << 6 | 0b11_01_01;
/// Not told of the processors' TLB maintenance.
const CR2_PTM: u32 = 1 << 2;
/// And STRTAB_BASE_CFG.
const STRTAB_BASE: u64 = 0x80;
/// And CMDQ_PROD, CMDQ_CONS.
const CMDQ_BASE: u64 = 0x90;
const CMDQ_PROD: u64 = 0x98;
const CMDQ_CONS: u64 = 0x9c;
const EVENTQ_BASE: u64 = 0xa0;
/// And EVENTQ_CONS, which lie in the second page.
const EVENTQ_PROD: u64 = 0x1_00a8;
const EVENTQ_CONS: u64 = 0x1_00ac;

/// CMD_CFGI_ALL, CMD_TLBI_NSNH_ALL, CMD_SYNC; two words each.
const COMMANDS: [u64; 6] = [0x04, 31, 0x30, 0, 0x46, 0];
/// log2 of the event queue's records, of 32 bytes each.
const EVENTS_LOG2: u32 = 7;
/// Bits of a StreamID that the second level of the stream table translates: 256 entries of 64 bytes.
const SPLIT: u32 = 8;

/// One that is on.
pub struct Smmu {
    at: HostPhys,
    events: HostPhys,
    /// EVENTQ_CONS.
    seen: Mutex<u32>,
}

/// All that the control domain's devices are behind.
pub type Smmus = ArrayVec<Smmu, MAX_SMMUS>;

/// Whether a node of the device tree is one that may be used.
pub fn is_one(node: &Node) -> bool {
    node.is_compatible("arm,smmu-v3") && node.is_enabled()
}

/// Starts those with their registers in `regions`, as [`Smmu::start`] does.
pub fn start_all(pool: &Pool, own: Region, regions: &[Region], stage2: &Table) -> Smmus {
    let started = regions.iter().filter_map(|at| {
        Smmu::start(pool, own, at.address(), stage2).or_else(|| {
            say!("The SMMU at {at} can't be used: devices behind it reach all memory, the hypervisor's too.");
            None
        })
    });
    started.collect()
}

impl Smmu {
    /// Has whatever is behind the one at `at` go through `stage2`, which lies, as the pool does, in `own`. `None` if it can't do that.
    fn start(pool: &Pool, own: Region, at: HostPhys, stage2: &Table) -> Option<Self> {
        let smmu = Self { at, events: pool.allocate(1)?, seen: Mutex::new(0) };
        let (idr1, oas) = (smmu.read(IDR1), smmu.read(IDR5) as u64 & 7);
        let can = smmu.read(IDR0) & IDR0_NEEDED == IDR0_NEEDED && idr1 >> 16 & 0x1f >= EVENTS_LOG2;
        if !can || physical_bits(oas) < stage2.bits {
            return None;
        }
        // Who has a StreamID of more bits reaches nothing.
        let bits = (idr1 & 0x3f).min(22);
        let level1 = pool.allocate(1 << bits.saturating_sub(SPLIT + 9))?;
        let (level2, commands) = (pool.allocate(4)?, pool.allocate(1)?);
        // V, and Config: stage 2. SHCFG: as the device says. S2AA64, S2AFFD, S2R, and below them VTCR's fields. S2TTB.
        let control = vtcr(stage2.bits, stage2.level, oas) & 0x7_ffff;
        let flags = 1 << 51 | 1 << 53 | 1 << 58;
        let entry = [0b110 << 1 | 1, 1 << 44, control << 32 | flags, stage2.root.0, 0, 0, 0, 0];
        fill(pool, level2, &entry, 1 << SPLIT)?;
        fill(pool, level1, &[level2.0 | (SPLIT as u64 + 1)], 1 << bits.saturating_sub(SPLIT))?;
        fill(pool, commands, &COMMANDS, 1)?;
        arch::clean(own);

        smmu.turn(0)?;
        smmu.write(CR1, &[CR1_WRITE_BACK, CR2_PTM]);
        smmu.write(STRTAB_BASE, &[level1.0 as u32, (level1.0 >> 32) as u32, 0b01 << 16 | SPLIT << 6 | bits]);
        smmu.write(CMDQ_BASE, &[commands.0 as u32 | 2, (commands.0 >> 32) as u32, 0, 0]);
        smmu.write(EVENTQ_BASE, &[smmu.events.0 as u32 | EVENTS_LOG2, (smmu.events.0 >> 32) as u32]);
        smmu.write(EVENTQ_PROD, &[0, 0]);
        smmu.turn(CMDQEN)?;
        smmu.write(CMDQ_PROD, &[COMMANDS.len() as u32 / 2]);
        smmu.wait(CMDQ_CONS, COMMANDS.len() as u32 / 2)?;
        smmu.turn(CMDQEN | EVENTQEN | SMMUEN)?;
        Some(smmu)
    }

    fn read(&self, register: u64) -> u32 {
        arch::read32(HostPhys(self.at.0 + register))
    }
    /// Registers from this one on.
    fn write(&self, register: u64, values: &[u32]) {
        (register..).step_by(4).zip(values).for_each(|(r, v)| arch::write32(HostPhys(self.at.0 + r), *v));
    }
    fn turn(&self, on: u32) -> Option<()> {
        self.write(CR0, &[on]);
        self.wait(CR0ACK, on)
    }
    fn wait(&self, register: u64, value: u32) -> Option<()> {
        (0..1_000_000).any(|_| self.read(register) == value).then_some(())
    }

    /// Names what devices have tried since the last time, and weren't let.
    pub fn report(&self, pool: &Pool) {
        const WRAP: u32 = (2 << EVENTS_LOG2) - 1;
        let Some(mut seen) = self.seen.try_lock() else { return };
        let count = self.read(EVENTQ_PROD).wrapping_sub(*seen) & WRAP;
        let start = self.events.0 + (*seen as u64 * 32) % 4096;
        if let Some(page) = (count != 0).then(|| pool.page(self.events)).flatten() {
            arch::clean(Region { start, end: start + 32 });
            let word = |n| page.word((start / 8) as usize + n).get();
            let (device, event, address) = (word(0) >> 32, word(0) & 0xff, HostPhys(word(2)));
            console::limited_line(format_args!(
                "refused the control domain's device {device:#x} access to {address} (event {event:#x}), and {} more",
                count - 1
            ));
            *seen = (*seen + count) & WRAP;
            self.write(EVENTQ_CONS, &[*seen]);
        }
    }
}

/// Fills the pool's pages from `at` on with `count` times `entry`.
fn fill(pool: &Pool, at: HostPhys, entry: &[u64], count: usize) -> Option<()> {
    entry.iter().cycle().take(entry.len() * count).enumerate().try_for_each(|(n, word)| {
        pool.page(HostPhys(at.0 + n as u64 * 8))?.word(n).set(*word);
        Some(())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;
    use crate::pool::test_pool;

    const AT: u64 = 0x905_0000;
    const OWN: Region = Region { start: 0x4000_0000, end: 0x4010_0000 };

    fn set(register: u64, value: u32) {
        arch::write32(HostPhys(AT + register), value);
    }
    fn get(register: u64) -> u64 {
        let word = |n| arch::read32(HostPhys(AT + register + n)) as u64;
        word(0) | word(4) << 32
    }

    /// As QEMU's: StreamIDs of 16 bits, addresses of 44.
    fn identify() {
        set(IDR0, IDR0_NEEDED | 1 << 1);
        set(IDR1, 19 << 21 | 19 << 16 | 16);
        set(IDR5, 1 << 4 | 4);
    }

    fn start(pool: &Pool) -> Option<Smmu> {
        let stage2 = Table::new(pool, 44).unwrap();
        Smmu::start(pool, OWN, HostPhys(AT), &stage2)
    }

    #[test]
    fn every_stream_goes_through_the_stage_2_given() {
        identify();
        let pool = test_pool(OWN.start, 64);
        let stage2 = Table::new(&pool, 44).unwrap();
        Smmu::start(&pool, OWN, HostPhys(AT), &stage2).unwrap();
        assert_eq!(get(CR0) as u32, SMMUEN | EVENTQEN | CMDQEN);
        let word = |at: u64| pool.page(HostPhys(at)).unwrap().word(at as usize / 8).get();
        // Two levels, split at 8 bits, 16 bits in all.
        assert_eq!(get(STRTAB_BASE + 8) as u32, 1 << 16 | 8 << 6 | 16);
        let level1 = get(STRTAB_BASE);
        for stream in [0u64, 1, 8, 255, 256, 0x1234, 0xffff] {
            let level2 = word(level1 + (stream >> 8) * 8);
            assert_eq!(level2 & 0x1f, 9, "256 entries");
            let entry = (level2 & !0x1f) + (stream & 0xff) * 64;
            // Valid, stage 2 only; T0SZ 20, SL0 and TG for level 0 of 4 KiB granules, 44 bits, AArch64; VMID 0.
            assert_eq!((word(entry), word(entry + 24)), (0b1101, stage2.root.0), "stream {stream:#x}");
            assert_eq!(word(entry + 16), 0x042c_3594_0000_0000);
        }
    }

    #[test]
    fn one_that_cannot_or_will_not_is_left_out() {
        let pool = test_pool(OWN.start, 256);
        assert!(start(&pool).is_none(), "no stage 2");
        identify();
        set(IDR5, 1 << 4 | 2);
        assert!(start(&pool).is_none(), "addresses of 40 bits only");
        identify();
        arch::stick(true);
        assert!(start(&pool).is_none(), "CR0 is never acknowledged");
        arch::stick(false);
        assert!(start(&test_pool(OWN.start, 6)).is_none(), "no pages for tables");
        let regions = [Region { start: AT, end: AT + FRAME }];
        assert_eq!(start_all(&pool, OWN, &regions, &Table::new(&pool, 44).unwrap()).len(), 1);
        identify();
        // More bits of StreamID than there are tables for.
        set(IDR1, 19 << 16 | 32);
        assert!(start(&pool).is_some());
        assert_eq!(get(STRTAB_BASE + 8) as u32 & 0x3f, 22);
    }

    proptest! {
        #[test]
        fn any_events_are_taken_once(produced: Vec<u32>) {
            identify();
            let pool = test_pool(OWN.start, 64);
            let smmu = start(&pool).unwrap();
            for value in produced {
                set(EVENTQ_PROD, value);
                smmu.report(&pool);
                prop_assert_eq!(get(EVENTQ_CONS) as u32, value & 0xff);
            }
        }
    }
}
