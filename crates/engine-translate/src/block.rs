//! Decoded blocks and their cache.

use crate::cpu::{CS, Cpu, Mode, RIP};
use crate::decode;
use crate::fault::{Fault, Guest};
use crate::op::Op;
use crate::paging::Access;
use crate::t1::Translation;
use crate::tlb;
use address::{GuestPhys, PAGE_SIZE};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Most instructions in a block.
pub const MAX_OPS: usize = 64;
/// Ops kept before the whole cache is dropped: bounds its memory to some 60 MiB a vCPU.
const MAX_CACHED_OPS: usize = 1 << 20;
const JUMP_CACHE: usize = 1 << 14;

/// A run of instructions that ends with the first that may set RIP, or needs the outer loop's look.
pub struct Block {
    pub ops: Box<[Op]>,
    /// Bytes of all its instructions.
    pub len: u32,
    /// The pages it was decoded from: their generations then, and now. The second only where it crosses.
    generations: [Option<(Generation, u32)>; 2],
    /// Physical page numbers of the same.
    pub pages: [u64; 2],
    /// What it became, once it was executed often.
    pub translation: Translation,
}

/// A page's generation counter; the memory it lies in outlives the blocks of a [`Cpu`] with that memory.
#[derive(Clone, Copy)]
struct Generation(*const AtomicU32);

// SAFETY: it points to an atomic, which any thread may use.
unsafe impl Send for Generation {}
// SAFETY: as above.
unsafe impl Sync for Generation {}

impl Block {
    /// The counter of the page it lies in and its value when the block was decoded; `None` where it lies in two.
    pub fn generation(&self) -> Option<(*const AtomicU32, u32)> {
        match self.generations {
            [Some((g, then)), None] => Some((g.0, then)),
            _ => None,
        }
    }
    /// Whether no announced granule of its pages was overwritten since it was decoded.
    #[inline]
    pub fn valid(&self) -> bool {
        self.generations.iter().all(|g| match g {
            // SAFETY: the counter is in `Shared::memory`, which the `Cpu` that owns this block holds.
            Some((p, then)) => unsafe { &*p.0 }.load(Relaxed) == *then,
            None => true,
        })
    }
}

#[derive(Clone, Copy)]
struct Jump {
    /// Linear address of the block's first byte.
    linear: u64,
    /// TLB flush count and mode, or u64::MAX.
    guard: u64,
    block: *const Block,
}

/// Where a page of code was found.
#[derive(Clone, Copy)]
struct Fetch {
    linear_page: u64,
    /// As in [`Jump`].
    guard: u64,
    physical_page: u64,
}

/// No page: the guard is none that is ever looked for.
const NO_FETCH: Fetch = Fetch { linear_page: 0, guard: u64::MAX, physical_page: 0 };
const FETCHES: usize = 256;

/// A vCPU's decoded blocks: by physical address, with a direct-mapped cache by RIP in front.
pub struct BlockCache {
    blocks: HashMap<(u64, u8), Arc<Block>, BuildHasherDefault<KeyHasher>>,
    jumps: Vec<Jump>,
    /// The instruction TLB, by linear page.
    fetches: [Fetch; FETCHES],
    cached_ops: usize,
    /// Blocks that went out of date: the jump cache may still point at them, until the next clear.
    stale: Vec<Arc<Block>>,
    /// Where the one-instruction block of `single` lives.
    single: Option<Arc<Block>>,
}

impl Default for BlockCache {
    fn default() -> Self {
        let empty = Jump { linear: 0, guard: u64::MAX, block: std::ptr::null() };
        Self {
            blocks: HashMap::default(),
            jumps: vec![empty; JUMP_CACHE],
            fetches: [NO_FETCH; FETCHES],
            cached_ops: 0,
            stale: Vec::new(),
            single: None,
        }
    }
}

impl BlockCache {
    /// Drops every block. Translated code goes with it: [`Cpu::clear_blocks`].
    fn clear(&mut self) {
        self.blocks.clear();
        self.stale.clear();
        self.cached_ops = 0;
        self.jumps.fill(Jump { linear: 0, guard: u64::MAX, block: std::ptr::null() });
    }
}

/// Hashes a block's key, which is two integers: looked up after every TLB flush, so it has to be quick.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        // The table takes its index from the low bits and a tag from the high ones.
        self.0 ^ self.0 >> 32
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u8(*b));
    }
    fn write_u8(&mut self, v: u8) {
        self.write_u64(v as u64);
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0.rotate_left(5) ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The place of an address in the jump cache: another one in each address space, since programs lie at the same addresses.
#[inline]
fn jump_index(linear: u64, guard: u64) -> usize {
    (linear ^ linear >> 14 ^ (guard >> 8).wrapping_mul(0x9e37_79b9) >> 8) as usize & (JUMP_CACHE - 1)
}

impl Cpu {
    /// The block at RIP. The pointer is good until the next call of this.
    #[inline(always)]
    pub(crate) fn find_block(&mut self) -> Guest<*const Block> {
        let linear = self.code_linear(self.regs[RIP]);
        let guard = self.jump_guard();
        let jump = self.blocks.jumps[jump_index(linear, guard)];
        // SAFETY: a jump entry's block is in `blocks` or `stale` until `clear`, which empties the jumps too.
        if jump.linear == linear && jump.guard == guard && !self.single && unsafe { &*jump.block }.valid() {
            // With another base the same place may be beyond CS's limit.
            // SAFETY: as above.
            let len = unsafe { &*jump.block }.len as u64;
            if self.mode.is64() || len <= self.code_room(self.regs[RIP]) {
                return Ok(jump.block);
            }
        }
        self.find_block_slow(linear, guard)
    }

    /// Drops every block, and what was made for them.
    pub(crate) fn clear_blocks(&mut self) {
        self.blocks.clear();
        self.vector_clear_stubs();
        self.t1.clear();
    }

    /// What has to be as it was for an address to mean the same block: address mapping, mode, user or supervisor.
    #[inline]
    pub(crate) fn jump_guard(&self) -> u64 {
        self.tlb.flushes(self.cpl == 3) << 8 | self.jump_mode()
    }

    /// Everything but the address mapping that decides what RIP means: mode, and user or supervisor.
    fn jump_mode(&self) -> u64 {
        (self.mode.0 as u64) << 1 | (self.cpl == 3) as u64
    }

    #[cold]
    #[inline(never)]
    fn find_block_slow(&mut self, linear: u64, guard: u64) -> Guest<*const Block> {
        let rip = self.regs[RIP];
        if self.vector_stubs_full() || self.t1.full() {
            self.clear_blocks();
        }
        self.check_fetch_limit(rip, 1)?;
        let physical = self.fetch_page(linear, guard)?;
        if self.single {
            let block = Arc::new(self.decode_block(rip, physical, 1)?);
            return Ok(Arc::as_ptr(self.blocks.single.insert(block)));
        }
        // Nothing in an op depends on CS's base, but how much was decoded depended on its limit, and where a block that
        // crosses a page goes on depends on the address mapping: that one is good for its entry in the jump cache only.
        let key = (physical.0, self.mode.0);
        let room = self.code_room(rip);
        if let Some(b) = self.blocks.blocks.get(&key)
            && b.valid()
            && b.pages[1] == b.pages[0]
            && b.len as u64 <= room
        {
            let block = Arc::as_ptr(b);
            self.blocks.jumps[jump_index(linear, guard)] = Jump { linear, guard, block };
            return Ok(block);
        }
        if self.blocks.cached_ops > MAX_CACHED_OPS {
            self.clear_blocks();
        }
        let block = Arc::new(self.decode_block(rip, physical, MAX_OPS)?);
        self.blocks.cached_ops += block.ops.len() + 8;
        let pointer = Arc::as_ptr(&block);
        if let Some(old) = self.blocks.blocks.insert(key, block) {
            self.blocks.stale.push(old);
        }
        self.blocks.jumps[jump_index(linear, guard)] = Jump { linear, guard, block: pointer };
        Ok(pointer)
    }

    /// The linear address of an instruction.
    #[inline]
    pub fn code_linear(&self, rip: u64) -> u64 {
        // CS's base is 0 here in 64-bit code.
        self.seg_base[CS].wrapping_add(rip) & self.mode.rip_mask()
    }

    /// Bytes of code from `rip` to CS's limit.
    fn code_room(&self, rip: u64) -> u64 {
        if self.mode.is64() {
            return u64::MAX;
        }
        (self.seg[CS].limit as u64 + 1).saturating_sub(rip)
    }

    /// Faults where `len` bytes of code at `rip` lie outside CS's limit or aren't canonical.
    fn check_fetch_limit(&mut self, rip: u64, len: u64) -> Guest<()> {
        let ok = if self.mode.is64() {
            (rip as i64) << 16 >> 16 == rip as i64
        } else {
            rip.saturating_add(len - 1) <= self.seg[CS].limit as u64
        };
        if ok { Ok(()) } else { self.gp(0) }
    }

    /// Where the code at `linear` is: from the instruction TLB, or by a walk.
    fn fetch_page(&mut self, linear: u64, guard: u64) -> Guest<GuestPhys> {
        let page = linear >> 12;
        let slot = page as usize % FETCHES;
        let f = self.blocks.fetches[slot];
        if f.linear_page == page && f.guard == guard {
            return Ok(GuestPhys(f.physical_page << 12 | linear & 0xfff));
        }
        let physical = self.fetch_translate(linear)?;
        self.blocks.fetches[slot] = Fetch { linear_page: page, guard, physical_page: physical.page_number() };
        Ok(physical)
    }

    fn fetch_translate(&mut self, linear: u64) -> Guest<GuestPhys> {
        let select = if self.cpl == 3 { tlb::USER } else { tlb::SUPERVISOR };
        let t = self.translate(linear, Access { write: false, fetch: true, select })?;
        self.tlb.note_code_page(linear, self.cpl == 3, t.global);
        Ok(GuestPhys(t.physical))
    }

    /// Decodes up to `max` instructions at `rip`.
    fn decode_block(&mut self, rip: u64, physical: GuestPhys, max: usize) -> Guest<Block> {
        let memory = self.shared.memory.clone();
        let first_len = (PAGE_SIZE - physical.page_offset()) as usize;
        let generation = |at: GuestPhys| {
            memory.region_at(at).map(|r| {
                let g = r.page(((at.0 - r.base().0) / PAGE_SIZE) as usize).generation();
                (Generation(g), g.load(std::sync::atomic::Ordering::SeqCst))
            })
        };
        let mut generations = [generation(physical), None];
        let mut pages = [physical.page_number(); 2];
        if generations[0].is_none() {
            return self.raise(Fault::Exit(engine::Exit::Failed(format!(
                "the guest's vCPU {} executes at guest-physical {physical} (RIP {rip:#x}), where there is no memory",
                self.id
            ))));
        }
        // Announce generously, read, decode: 15 bytes beyond the longest block is more than it can span.
        let span = first_len.min(if max == 1 { 16 } else { 15 * MAX_OPS });
        let mut bytes = vec![0u8; span];
        self.announce_code(physical, span.min(if max == 1 { 16 } else { 256 }) as u64);
        if memory.read(physical, &mut bytes).is_err() {
            return self.gp(0);
        }
        // Beyond CS's limit nothing may be fetched.
        if !self.mode.is64() {
            bytes.truncate(self.code_room(rip).min(span as u64) as usize);
        }
        let limited = bytes.len() < span;
        let mut ops = decode::decode(self, &bytes, rip, max);
        let mut len: u32 = ops.iter().map(|o| o.len as u32).sum();
        if len > 256 {
            self.announce_code(physical, len as u64);
            // What was read before the wider announcement may be out of date.
            let mut again = vec![0u8; len as usize];
            if memory.read(physical, &mut again).is_err() || again != bytes[..len as usize] {
                return self.decode_block(rip, physical, 8.min(max));
            }
        }
        if ops.is_empty() {
            // The first instruction crosses the page's end, is cut by CS's limit, or is longer than 15 bytes.
            let available = bytes.len();
            if limited || available >= 15 {
                return self.gp(0);
            }
            let second_rip = rip.wrapping_add(available as u64) & self.mode.rip_mask();
            self.check_fetch_limit(second_rip, 1)?;
            let linear = self.code_linear(second_rip);
            let second = self.fetch_translate(linear)?;
            generations[1] = generation(second);
            pages[1] = second.page_number();
            if generations[1].is_none() {
                return self.raise(Fault::Exit(engine::Exit::Failed(format!(
                    "the guest's vCPU {} executes at guest-physical {second}, where there is no memory",
                    self.id
                ))));
            }
            self.announce_code(second, 16);
            let mut both = bytes;
            both.resize(available + 15, 0);
            if memory.read(second, &mut both[available..]).is_err() {
                return self.gp(0);
            }
            if !self.mode.is64() {
                both.truncate(self.code_room(rip).min(both.len() as u64) as usize);
            }
            ops = decode::decode(self, &both, rip, 1);
            if ops.is_empty() {
                return self.gp(0);
            }
            len = ops[0].len as u32;
        }
        Ok(Block { ops: ops.into(), len, generations, pages, translation: Translation::default() })
    }
}

/// Keeps the mode in a block's key honest at compile time: it has to fit the guard's low byte.
const _: () = assert!(size_of::<Mode>() == 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::RAX;
    use crate::testing::{CODE, cpu16, cpu64, poke};
    use x86::Segment;

    /// Runs the one block at RIP.
    fn run_at(cpu: &mut Cpu, rip: u64) {
        cpu.regs[RIP] = rip;
        assert_eq!(cpu.run_block(), None);
    }

    #[test]
    fn same_ip_in_two_segments_is_two_blocks() {
        let mut cpu = cpu16(&[]);
        poke(&cpu, 0x10100, &[0xb0, 1, 0xeb, 0]);
        poke(&cpu, 0x20100, &[0xb0, 2, 0xeb, 0]);
        for (selector, al) in [(0x1000, 1), (0x2000, 2), (0x1000, 1)] {
            cpu.seg[CS] = Segment::real_mode(selector, true);
            cpu.update_mode();
            run_at(&mut cpu, 0x100);
            assert_eq!(cpu.regs[RAX], al);
        }
    }

    #[test]
    fn lower_code_limit_is_seen_by_a_block_decoded_before() {
        let mut cpu = cpu16(&[0xb0, 1, 0xb0, 2, 0xb0, 3, 0xeb, 0]);
        run_at(&mut cpu, CODE);
        assert_eq!(cpu.regs[RAX], 3);
        cpu.seg[CS].limit = CODE as u32 + 3;
        cpu.update_mode();
        run_at(&mut cpu, CODE);
        assert_eq!((cpu.regs[RAX], cpu.regs[RIP]), (2, CODE + 4), "what is within the limit, and no more");
    }

    #[test]
    fn block_known_by_another_base_is_cut_by_the_limit() {
        // inc ax, twice; jmp +0: at 1:fffd it reaches beyond the segment.
        let mut cpu = cpu16(&[]);
        poke(&cpu, 0x1000d, &[0x40, 0x40, 0xeb, 0]);
        for (selector, ip, ax) in [(0x1000, 0xd, 2), (1, 0xfffd, 4)] {
            cpu.seg[CS] = Segment::real_mode(selector, true);
            cpu.update_mode();
            run_at(&mut cpu, ip);
            assert_eq!(cpu.regs[RAX], ax);
        }
        assert_eq!(cpu.regs[RIP], 0xffff);
        cpu.regs[RIP] = 0x1_0000;
        assert!(cpu.execute_block().is_err(), "beyond the limit");
    }

    #[test]
    fn store_to_the_next_instruction_takes_effect() {
        // mov byte [rip+1], 7; mov al, 1; jmp +0
        let mut cpu = cpu64(&[0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1, 0xeb, 0]);
        for _ in 0..2 {
            cpu.regs[RIP] = CODE;
            for _ in 0..4 {
                if cpu.regs[RIP] == CODE + 11 {
                    break;
                }
                assert_eq!(cpu.run_block(), None);
            }
            assert_eq!((cpu.regs[RAX], cpu.regs[RIP]), (7, CODE + 11));
            poke(&cpu, CODE + 8, &[1]);
        }
    }

    #[test]
    fn block_overwritten_by_a_device_is_decoded_again() {
        let mut cpu = cpu64(&[0xb0, 1, 0xeb, 0]);
        run_at(&mut cpu, CODE);
        cpu.shared.memory.write(GuestPhys(CODE), &[0xb0, 9]).unwrap();
        run_at(&mut cpu, CODE);
        assert_eq!(cpu.regs[RAX], 9);
    }

    #[test]
    fn dropped_page_is_looked_for_again_where_it_held_code() {
        let mut cpu = cpu64(&[0xb0, 1, 0xeb, 0]);
        run_at(&mut cpu, CODE);
        let before = cpu.tlb.flushes(false);
        cpu.tlb.flush_page(CODE + 0x5000);
        assert_eq!(cpu.tlb.flushes(false), before, "a data page's going leaves the jump cache alone");
        cpu.tlb.flush_page(CODE);
        assert_ne!(cpu.tlb.flushes(false), before);
        let after = cpu.tlb.flushes(false);
        cpu.tlb.flush_page(CODE);
        assert_eq!(cpu.tlb.flushes(false), after, "nothing was found since");
    }

    #[test]
    fn instruction_across_two_pages_follows_either() {
        let mut cpu = cpu64(&[]);
        poke(&cpu, 0x1ffe, &[0xb8, 1, 0, 0, 0, 0xeb, 0]);
        run_at(&mut cpu, 0x1ffe);
        assert_eq!(cpu.regs[RAX], 1);
        cpu.shared.memory.write(GuestPhys(0x2001), &[0x12]).unwrap();
        run_at(&mut cpu, 0x1ffe);
        assert_eq!(cpu.regs[RAX], 0x0012_0001);
    }
}
