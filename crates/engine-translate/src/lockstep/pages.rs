//! The leader's memory, the follower's, and both as they were before the chain.

use super::Journal;
use address::{GuestPhys, PAGE_SIZE};
use memory::GuestMemory;
use memory::tracking::GRANULE;
use rustix::fs::{SeekFrom, seek};
use std::sync::Arc;

/// Bits of a page table's entry that processors set (SDM 3A 4.8): accessed, dirty.
const ACCESSED_DIRTY: u64 = 0x60;
/// Differing bytes that a text lists.
const LISTED: usize = 16;

pub struct Pages {
    leader: Arc<GuestMemory>,
    follower: Arc<GuestMemory>,
    before: GuestMemory,
    /// Pages that may have been written since they were found alike, each once: region, page in it.
    written: Vec<(usize, usize)>,
    /// The same, one bit a page.
    noted: Vec<Vec<u64>>,
    /// Pages that the last chain changed.
    changed: Vec<GuestPhys>,
}

impl Pages {
    /// Of three memories with the same regions, of which the last two are new.
    pub fn new(leader: Arc<GuestMemory>, follower: Arc<GuestMemory>, before: GuestMemory) -> Self {
        let words = |r: &memory::Region| vec![0; ((r.len() / PAGE_SIZE) as usize).div_ceil(64)];
        let noted = leader.regions().iter().map(words).collect();
        leader.set_logging(true);
        follower.set_logging(true);
        let mut pages = Self { leader, follower, before, written: Vec::new(), noted, changed: Vec::new() };
        pages.note_contents();
        pages
    }

    /// Notes every page that the leader's memory has something in.
    fn note_contents(&mut self) {
        let leader = self.leader.clone();
        for (region, r) in leader.regions().iter().enumerate() {
            let mut at = 0;
            while at < r.len() {
                // Beyond the last data there is none; where the host can't tell, all may be data.
                let start = match seek(r.mapping().fd(), SeekFrom::Data(at)) {
                    Ok(start) => start.max(at),
                    Err(rustix::io::Errno::NXIO) => break,
                    Err(_) => at,
                };
                let end = seek(r.mapping().fd(), SeekFrom::Hole(start)).unwrap_or(r.len());
                let end = end.clamp(start + 1, r.len());
                for page in start / PAGE_SIZE..end.div_ceil(PAGE_SIZE) {
                    self.note(region, page as usize);
                }
                at = end;
            }
        }
    }

    fn note(&mut self, region: usize, page: usize) {
        let Some(word) = self.noted.get_mut(region).and_then(|r| r.get_mut(page / 64)) else { return };
        let bit = 1 << (page % 64);
        if *word & bit == 0 {
            *word |= bit;
            self.written.push((region, page));
        }
    }

    /// Notes what was written since the last call: by the leader and the follower, and with `all` by anything else.
    pub fn gather(&mut self, journals: [&mut Journal; 2], all: bool) {
        let mut enough = !all;
        for journal in journals {
            enough &= journal.drain(|at| self.note_at(at));
        }
        if !enough {
            self.gather_logs();
        }
    }

    /// Takes both dirty logs.
    fn gather_logs(&mut self) {
        for memory in [self.leader.clone(), self.follower.clone()] {
            for region in 0..memory.regions().len() {
                memory.drain_dirty(region, |page| self.note(region, page));
            }
        }
    }

    fn note_at(&mut self, at: GuestPhys) {
        let regions = self.leader.regions();
        let region = regions.partition_point(|r| r.base() <= at).wrapping_sub(1);
        if let Some(r) = regions.get(region) {
            let page = (at.0 - r.base().0) / PAGE_SIZE;
            self.note(region, page as usize);
        }
    }

    /// How many pages count as written.
    pub fn count(&self) -> usize {
        self.written.len()
    }

    /// No vCPU can write to any page unseen: none counts as written. All have to be alike.
    pub fn forget(&mut self) {
        for (region, page) in self.written.drain(..) {
            self.noted[region][page / 64] = 0;
        }
    }

    fn base(&self, (region, page): (usize, usize)) -> GuestPhys {
        self.leader.regions()[region].base().wrapping_add(page as u64 * PAGE_SIZE)
    }

    /// The leader's memory becomes everybody's.
    pub fn take_over(&mut self) {
        for &at in &self.written {
            let base = self.base(at);
            for memory in [&self.follower, &self.before] {
                if differ(&self.leader, memory, base) {
                    copy(&self.leader, memory, base);
                }
            }
        }
    }

    /// After a chain without differences: the next one begins with what this one made.
    pub fn settle(&mut self) {
        for base in self.changed.drain(..) {
            copy(&self.leader, &self.before, base);
        }
    }

    /// Both get back what they had before the chain.
    pub fn undo(&mut self) {
        self.gather_logs();
        self.changed.clear();
        for &at in &self.written {
            let base = self.base(at);
            for memory in [&self.leader, &self.follower] {
                if differ(&self.before, memory, base) {
                    copy(&self.before, memory, base);
                }
            }
        }
    }

    /// Adds a line for each byte that differs after a chain, and gives the number of differences let pass.
    ///
    /// When accessed and dirty bits are set depends on what a TLB holds, and the follower's holds less. So an entry that one
    /// of the two has set such bits in during this chain (`updates`: guest-physical addresses) may differ in them; the leader's holds.
    pub fn compare(&mut self, updates: [&[u64]; 2], differences: &mut Vec<String>) -> u64 {
        let mut passed = 0;
        let mut listed = 0;
        self.changed.clear();
        for &at in &self.written {
            let base = self.base(at);
            if differ(&self.follower, &self.before, base) {
                self.changed.push(base);
            }
            if !differ(&self.leader, &self.follower, base) {
                continue;
            }
            let (leader, follower) = (page(&self.leader, base), page(&self.follower, base));
            for (n, (l, f)) in leader.chunks_exact(8).zip(follower.chunks_exact(8)).enumerate() {
                let address = base.0 + n as u64 * 8;
                let word = |b: &[u8]| b.iter().rev().fold(0u64, |v, b| v << 8 | *b as u64);
                let bits = word(l) ^ word(f);
                if bits == 0 {
                    continue;
                }
                // Entries have four or eight bytes.
                let updated = |a: u64| updates.iter().any(|u| u.contains(&a));
                let low = if updated(address) { ACCESSED_DIRTY } else { 0 };
                let high = if updated(address + 4) { ACCESSED_DIRTY << 32 } else { 0 };
                if bits & !(low | high) == 0 {
                    passed += 1;
                    // Only the follower's changes: nothing that runs looks at the copy before.
                    let _ = self.follower.load(GuestPhys(address), l);
                    continue;
                }
                listed += 1;
                if listed <= LISTED {
                    let before = page(&self.before, base);
                    let before = &before[n * 8..n * 8 + 8];
                    differences.push(format!(
                        "      memory: {address:#x}: T1 {:016x}, T0 {:016x}, at the start {:016x}",
                        word(l),
                        word(f),
                        word(before)
                    ));
                }
            }
        }
        if listed > LISTED {
            differences.push(format!("      memory: {} more words differ", listed - LISTED));
        }
        passed
    }
}

/// A page's bytes.
fn page(memory: &GuestMemory, base: GuestPhys) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE as usize];
    // The page is one of a region's.
    let read = memory.read(base, &mut bytes);
    debug_assert!(read.is_ok());
    bytes
}

/// Whether a page differs.
fn differ(a: &GuestMemory, b: &GuestMemory, base: GuestPhys) -> bool {
    let (Ok(a), Ok(b)) = (a.host_range(base, PAGE_SIZE), b.host_range(base, PAGE_SIZE)) else { return false };
    let (a, b) = (a.cast::<u64>(), b.cast::<u64>());
    let mut n = 0;
    while n < PAGE_SIZE as usize / 8 {
        let mut bits = 0;
        for k in n..n + 16 {
            // SAFETY: both pointers are valid for a page, which is where they point. A device may write at the same time:
            // either value is as good, hence volatile.
            bits |= unsafe { a.add(k).read_volatile() ^ b.add(k).read_volatile() };
        }
        if bits != 0 {
            return true;
        }
        n += 16;
    }
    false
}

/// Copies what differs of a page, by granules: code beside it stays decoded.
fn copy(from: &GuestMemory, to: &GuestMemory, base: GuestPhys) {
    let (new, old) = (page(from, base), page(to, base));
    let granules = new.chunks_exact(GRANULE as usize).zip(old.chunks_exact(GRANULE as usize));
    for (n, (new, old)) in granules.enumerate() {
        if new != old {
            let done = to.load(base.wrapping_add(n as u64 * GRANULE), new);
            debug_assert!(done.is_ok());
        }
    }
}
