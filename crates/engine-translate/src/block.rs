//! Decoded blocks: how they are found and made. They are kept in [`crate::cache`].

use crate::cpu::{CS, Cpu, Mode, RIP};
use crate::decode;
use crate::fault::{Fault, Guest};
use crate::op::Op;
use crate::paging::Access;
use crate::t1::Translation;
use crate::tlb;
use address::{GuestPhys, PAGE_SIZE};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};

/// Most instructions in a block.
pub const MAX_OPS: usize = 64;
/// How often a block is translated for another place as if it had come there to stay.
const MOVES: u32 = 4;
const JUMP_CACHE: usize = 1 << 14;
/// Bytes that a block may have.
const SPAN: usize = 15 * MAX_OPS;

/// What a block is found by: the physical address of its first byte, and the mode.
pub type Key = (u64, u8);

/// A run of instructions that ends with the first that may set RIP, or needs the outer loop's look.
pub struct Block {
    pub ops: Ops,
    /// Bytes of all its instructions.
    pub len: u32,
    /// The pages it was decoded from: their generations then, and now. The second only where it crosses.
    pub(crate) generations: Generations,
    /// Physical page numbers of the same.
    pub pages: [u64; 2],
    /// What stands for the first page's code as it was decoded; 0 for nothing.
    pub(crate) token: u32,
    /// What it is found by.
    pub(crate) key: Key,
    /// The number of the cache's segment that it lies in.
    pub(crate) segment: u64,
    /// What it became, once it was executed often.
    pub translation: Translation,
    /// The offset in the page of what followed it last in T0, from 1 on; 0 if that was on another page.
    pub(crate) went: AtomicU16,
}

/// The ops of a block, which lie where the block does.
#[derive(Clone, Copy)]
pub struct Ops {
    start: NonNull<Op>,
    count: usize,
}

impl Ops {
    /// # Safety
    /// There are `count` ops at `start`, as long as this value or a copy of it is used.
    pub(crate) unsafe fn new(start: NonNull<Op>, count: usize) -> Self {
        Self { start, count }
    }
}

impl Deref for Ops {
    type Target = [Op];
    #[inline]
    fn deref(&self) -> &[Op] {
        // SAFETY: as `new` was told.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

/// A block before it has a place.
pub struct Decoded {
    pub(crate) ops: Vec<Op>,
    pub(crate) len: u32,
    pub(crate) generations: Generations,
    pub(crate) pages: [u64; 2],
    pub(crate) token: u32,
}

/// For each of its pages the counter, and its value when the block was decoded.
pub(crate) type Generations = [Option<(Generation, u32)>; 2];

/// A page's generation counter; the memory it lies in outlives the blocks of a [`Cpu`] with that memory.
#[derive(Clone, Copy)]
pub(crate) struct Generation(*const AtomicU32);

// SAFETY: it points to an atomic, which any thread may use.
unsafe impl Send for Generation {}
// SAFETY: as above.
unsafe impl Sync for Generation {}

impl Block {
    /// The counters of its pages and their values when the block was decoded.
    pub fn generations(&self) -> [Option<(*const AtomicU32, u32)>; 2] {
        self.generations.map(|g| g.map(|(g, then)| (g.0, then)))
    }
    /// The offset in the page of what followed it last in T0.
    pub(crate) fn went_to(&self) -> Option<u32> {
        (self.went.load(Relaxed) as u32).checked_sub(1)
    }
    /// Notes where it went, between two linear addresses.
    #[inline]
    pub(crate) fn note_went(&self, from: u64, to: u64) {
        let on_page = (from ^ to) >> 12 == 0;
        self.went.store(if on_page { (to & 0xfff) as u16 + 1 } else { 0 }, Relaxed);
    }
    /// Executions in T0 before a block is translated, `at_first`: more on pages whose code keeps changing, and where it is
    /// executed at several places in turn, each of which it would be translated for again.
    #[inline]
    pub(crate) fn patience(&self, at_first: u32) -> u32 {
        let changes = self.generations[0].map_or(0, |(_, then)| then);
        let (changes, moves) =
            ((changes / 16).min(6), self.translation.moves().saturating_sub(MOVES).min(16));
        let at_first = if moves > 0 { at_first.max(1) } else { at_first };
        at_first.saturating_mul(1 << (changes + moves))
    }
    /// Whether no announced granule of its pages was overwritten since it was decoded.
    #[inline]
    pub fn valid(&self) -> bool {
        self.generations.iter().all(|g| match g {
            // SAFETY: the counter is in `Shared::memory`, which lives as long as `Shared::code`, where the block is.
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

/// Where a vCPU has found blocks.
pub struct BlockCache {
    /// Direct-mapped, by RIP.
    jumps: Vec<Jump>,
    /// The instruction TLB, by linear page.
    fetches: [Fetch; FETCHES],
    /// Where the one-instruction block of `single` lives, and its op.
    single: Option<(Box<Block>, Vec<Op>)>,
}

impl Default for BlockCache {
    fn default() -> Self {
        let empty = Jump { linear: 0, guard: u64::MAX, block: std::ptr::null() };
        Self { jumps: vec![empty; JUMP_CACHE], fetches: [NO_FETCH; FETCHES], single: None }
    }
}

/// The place of an address in the jump cache: another one in each address space, since programs lie at the same addresses.
#[inline]
fn jump_index(linear: u64, guard: u64) -> usize {
    (linear ^ linear >> 14 ^ (guard >> 8).wrapping_mul(0x9e37_79b9) >> 8) as usize & (JUMP_CACHE - 1)
}

impl Cpu {
    /// The block at RIP. The pointer is good until the next call of this, which is where a vCPU may pass (see [`crate::cache`]).
    #[inline(always)]
    pub(crate) fn find_block(&mut self) -> Guest<*const Block> {
        if self.code_epoch != self.shared.code.epochs.now() {
            self.pass();
        }
        let linear = self.code_linear(self.regs[RIP]);
        let guard = self.jump_guard();
        let jump = self.blocks.jumps[jump_index(linear, guard)];
        // SAFETY: a jump entry's block is there until this vCPU passes, which moves the guard on.
        if jump.linear == linear && jump.guard == guard && !self.single && unsafe { &*jump.block }.valid() {
            // With another base the same place may be beyond CS's limit.
            // SAFETY: as above.
            let len = unsafe { &*jump.block }.len as u64;
            if self.mode.is64() || len <= self.code_room(self.regs[RIP]) {
                return Ok(jump.block);
            }
        }
        self.find_block_slow(linear)
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
    fn find_block_slow(&mut self, linear: u64) -> Guest<*const Block> {
        let rip = self.regs[RIP];
        if self.shared.code.is_full() {
            self.make_room();
        }
        self.check_fetch_limit(rip, 1)?;
        let physical = self.fetch_page(linear, self.jump_guard())?;
        if self.single {
            return self.single_block(rip, physical);
        }
        // Nothing in an op depends on CS's base, but how much was decoded depended on its limit, and where a block that
        // crosses a page goes on depends on the address mapping.
        let key = (physical.0, self.mode.0);
        let room = self.code_room(rip);
        let block = match self.shared.code.find(key) {
            // SAFETY: what was found is there until this vCPU passes.
            Some(b) if self.as_good(unsafe { &*b }, rip, room)? => b,
            _ => self.make_block(key, rip, physical, room)?,
        };
        // Making room may have moved it on.
        let guard = self.jump_guard();
        self.blocks.jumps[jump_index(linear, guard)] = Jump { linear, guard, block };
        Ok(block)
    }

    /// Whether a block that was found by its address is what would be decoded.
    fn as_good(&mut self, b: &Block, rip: u64, room: u64) -> Guest<bool> {
        if !b.valid() || b.len as u64 > room {
            return Ok(false);
        }
        if b.pages[0] == b.pages[1] {
            return Ok(true);
        }
        // Its one instruction goes on wherever the next page is now.
        let second = rip.wrapping_add(PAGE_SIZE - b.key.0 % PAGE_SIZE) & self.mode.rip_mask();
        self.check_fetch_limit(second, 1)?;
        let linear = self.code_linear(second);
        Ok(self.fetch_page(linear, self.jump_guard())?.page_number() == b.pages[1])
    }

    /// Decodes the block at RIP and adds it to the cache.
    fn make_block(&mut self, key: Key, rip: u64, physical: GuestPhys, room: u64) -> Guest<*const Block> {
        loop {
            let (number, made) = self.decode_with_room(rip, physical, MAX_OPS)?;
            let (pages, crosses) = (made.pages, made.pages[0] != made.pages[1]);
            let same = |b: &Block| {
                b.valid()
                    && b.len as u64 <= room
                    && (if crosses { b.pages == pages } else { b.pages[0] == b.pages[1] })
            };
            // Not if the segment with the stubs became full meanwhile.
            if let Some(block) = self.shared.code.add(key, made, number, same) {
                return Ok(block);
            }
        }
    }

    /// A block at RIP that lies in the cache's current segment, for one that was found in another: without making room, which
    /// might cost the one that was found. `None` if that can't be.
    pub(crate) fn again_in_current_segment(&mut self, old: &Block) -> Option<*const Block> {
        let (key, rip) = (old.key, self.regs[RIP]);
        let number = self.shared.code.number();
        let room = self.code_room(rip);
        let pages = old.pages;
        let good = |b: &Block| b.segment == number && b.valid() && b.len as u64 <= room && b.pages == pages;
        // SAFETY: what was found is there until this vCPU passes.
        let known = self.shared.code.find(key).filter(|b| good(unsafe { &**b }));
        let block = match known {
            Some(block) => block,
            None => {
                self.vector.refused = false;
                let Ok(made) = self.decode_block(rip, GuestPhys(key.0), MAX_OPS) else {
                    // It is raised again when the block is executed.
                    self.fault = None;
                    return None;
                };
                if self.vector.refused {
                    return None;
                }
                self.shared.code.add(key, made, number, good)?
            }
        };
        let (linear, guard) = (self.code_linear(rip), self.jump_guard());
        self.blocks.jumps[jump_index(linear, guard)] = Jump { linear, guard, block };
        Some(block)
    }

    /// Decodes one instruction for itself.
    fn single_block(&mut self, rip: u64, physical: GuestPhys) -> Guest<*const Block> {
        let (segment, made) = self.decode_with_room(rip, physical, 1)?;
        let Decoded { mut ops, len, generations, pages, token } = made;
        // SAFETY: the vector is kept beside the block.
        let kept =
            unsafe { Ops::new(NonNull::new(ops.as_mut_ptr()).unwrap_or(NonNull::dangling()), ops.len()) };
        let key = (physical.0, self.mode.0);
        let translation = Translation::default();
        let went = AtomicU16::new(0);
        let block =
            Box::new(Block { ops: kept, len, generations, pages, token, key, segment, translation, went });
        Ok(&*self.blocks.single.insert((block, ops)).0)
    }

    /// Decodes with room for all stubs in one segment of the cache, whose number is returned.
    fn decode_with_room(&mut self, rip: u64, physical: GuestPhys, max: usize) -> Guest<(u64, Decoded)> {
        const ATTEMPTS: u32 = 4;
        for attempt in 1.. {
            let number = self.shared.code.number();
            self.vector.refused = false;
            let made = self.decode_block(rip, physical, max)?;
            if attempt == ATTEMPTS || !self.vector.refused && number == self.shared.code.number() {
                return Ok((number, made));
            }
            self.make_room();
        }
        unreachable!()
    }

    /// The linear address of an instruction.
    #[inline]
    pub fn code_linear(&self, rip: u64) -> u64 {
        // CS's base is 0 here in 64-bit code.
        self.seg_base[CS].wrapping_add(rip) & self.mode.rip_mask()
    }

    /// Bytes of code from `rip` to CS's limit.
    pub(crate) fn code_room(&self, rip: u64) -> u64 {
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
    fn decode_block(&mut self, rip: u64, physical: GuestPhys, max: usize) -> Guest<Decoded> {
        let memory = self.shared.memory.clone();
        let first_len = (PAGE_SIZE - physical.page_offset()) as usize;
        let generation = |at: GuestPhys| {
            memory.page_at(at).map(|page| (Generation(page.generation()), page.settled_generation()))
        };
        let mut generations = [generation(physical), None];
        let mut pages = [physical.page_number(); 2];
        if generations[0].is_none() {
            return self.raise(Fault::Exit(engine::Exit::Failed(format!(
                "the guest's vCPU {} executes at guest-physical {physical} (RIP {rip:#x}), where there is no memory",
                self.id
            ))));
        }
        // Read, decode, announce what was decoded, and see that it is still the same: only what is executed is tracked, and
        // data close behind code is not. 15 bytes beyond the longest block is more than it can span.
        let span = first_len.min(if max == 1 { 16 } else { SPAN });
        // On the stack: this is done for every block.
        let (mut bytes, mut again) = ([0u8; SPAN], [0u8; SPAN]);
        let limit = if self.mode.is64() { span } else { self.code_room(rip).min(span as u64) as usize };
        let (mut ops, mut len);
        let mut attempt = 0;
        loop {
            if memory.read(physical, &mut bytes[..limit]).is_err() {
                return self.gp(0);
            }
            ops = decode::decode(self, &bytes[..limit], rip, max);
            len = ops.iter().map(|o| o.len as u32).sum::<u32>();
            // An instruction that isn't complete counts as well.
            let used = if ops.is_empty() { limit } else { len as usize };
            // Where somebody goes on writing, what was announced is out of date soon, but decoding comes to an end.
            attempt += 1;
            let announced = if attempt < 4 { used } else { limit };
            self.announce_code(physical, announced as u64);
            if memory.read(physical, &mut again[..used]).is_err() {
                return self.gp(0);
            }
            if again[..used] == bytes[..used] {
                break;
            }
            if attempt > 4 {
                // Whoever changed it moved the generation on: this is executed once.
                break;
            }
        }
        let bytes = &bytes[..limit];
        let limited = limit < span;
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
            let mut both = bytes.to_vec();
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
        // After the generation was read: it is right for as long as that is.
        let token = memory.page_at(physical).map_or(0, |page| page.token(|| self.shared.new_code_token()));
        Ok(Decoded { ops, len, generations, pages, token })
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
