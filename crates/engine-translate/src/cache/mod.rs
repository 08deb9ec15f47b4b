//! The code cache: decoded blocks and their translations, shared by all vCPUs of a VM.
//!
//! - [`epoch`]: when what was evicted may be freed
//! - [`segment`]: what is evicted together; [`arena`]: the memory of native code; [`faults`]: where that may fault
//! - [`vcpu`]: a vCPU's side: where it holds nothing, and how room is made
//!
//! A block is found by physical address and mode: [`CodeCache::find`], under the lock of one of many maps. Making one
//! (adding it, translating it, leading a jump to it) takes the one lock of the writer. What is found stays where it is: a
//! vCPU uses it without a lock until it *passes* ([`Cpu::pass`](crate::cpu::Cpu)), which it does only between two chains of blocks.
//!
//! The cache is a ring of [`SEGMENTS`] segments. New blocks go to the current one. When that is full the next one, which
//! is empty, becomes current, and the one behind it, which is the oldest, begins to leave: its blocks are taken out of the
//! maps, jumps into it from other segments are led back to where they were before, and the epoch is advanced. Once
//! every vCPU has passed that epoch nobody can be in it, and it is emptied. A block of an older segment that is to be
//! translated is decoded again, into the current one: its ops, the stubs that these call, and its code go together.
//!
//! What may hold the address of a block or its code, and why it is gone by then:
//!
//! | holder | why |
//! |---|---|
//! | the maps | taken out first |
//! | a direct jump in another segment | noted by [`CodeCache::link`], led back |
//! | a vCPU's jump caches, or whatever it guards with [`Cpu::jump_guard`](crate::cpu::Cpu) | passing moves the guard on |
//! | `T1::link_tail` | passing clears it |
//! | a vCPU's stack, registers | it passes where it holds none |
//!
//! Locks, in their order: the writer, then one map.

mod arena;
pub mod epoch;
pub mod faults;
mod segment;
#[cfg(test)]
mod tests;
mod vcpu;

pub(crate) use segment::Stub;
pub(crate) use vcpu::NOTHING_HELD;

use crate::block::{Block, Decoded, Key};
use crate::t1::{Entries, Made, Room, SharedCode, Translation, UNLINKED};
use arena::Arena;
use epoch::{Epochs, Reader};
use faults::Faults;
use iced_x86::Instruction;
use segment::{Link, Segment, State};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard};

/// Segments of the ring.
pub const SEGMENTS: usize = 8;
/// Bytes, unless an option says otherwise.
///
/// A compiler's run takes some 130 MiB, and no memory is taken before code is executed.
pub const DEFAULT_SIZE: usize = if cfg!(test) { MIN_SIZE } else { 256 << 20 };
/// Bytes, at least.
pub const MIN_SIZE: usize = 4 << 20;
/// Bytes, at most: jumps reach 2 GiB.
pub const MAX_SIZE: usize = 1 << 30;
/// Code memory in front of the segments, for the code that all blocks share.
const HEAD: usize = 16 << 10;
/// No stub is longer.
pub(crate) const MAX_STUB: usize = 1024;
/// Kept free in the current segment for one more block's translation or stubs: 64 instructions of at most [`MAX_STUB`] bytes.
const RESERVE: usize = 64 * MAX_STUB;
const MAPS: usize = 64;

/// Why there is no translation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum No {
    /// Somebody else is at it: try again later.
    Busy,
    /// The current segment is full.
    Full,
    /// It can't be translated.
    Unable,
    /// The host gives no executable memory.
    Refused(String),
}

type Map = HashMap<Key, *const Block, BuildHasherDefault<KeyHasher>>;

/// See the module.
pub struct CodeCache {
    pub(crate) epochs: Epochs,
    maps: [Mutex<Blocks>; MAPS],
    writer: Mutex<Writer>,
    /// [`Segment::number`] of the current one.
    number: AtomicU64,
    /// The current segment is full.
    full: AtomicBool,
    readers: Mutex<Vec<Arc<Reader>>>,
    /// Where translated code may fault.
    pub(crate) faults: Faults,
    /// Bytes that a segment may have.
    budget: usize,
}

#[derive(Default)]
struct Blocks(Map);

// SAFETY: the pointers are to blocks of the cache's own, which any thread may look at.
unsafe impl Send for Blocks {}

struct Writer {
    /// `None` until code is to be put somewhere.
    arena: Option<Arena>,
    shared: SharedCode,
    segments: Vec<Segment>,
    current: usize,
    /// The last number that was given.
    last: u64,
}

impl CodeCache {
    /// A cache of at most `size` bytes, brought between [`MIN_SIZE`] and [`MAX_SIZE`].
    pub fn new(size: usize) -> Self {
        let budget = (size.clamp(MIN_SIZE, MAX_SIZE) / SEGMENTS) & !4095;
        let segments = (0..SEGMENTS).map(|n| Segment::new(HEAD + n * budget..HEAD + (n + 1) * budget));
        let mut segments: Vec<_> = segments.collect();
        segments[0].state = State::Live;
        segments[0].number = 1;
        Self {
            epochs: Epochs::default(),
            maps: std::array::from_fn(|_| Mutex::default()),
            writer: Mutex::new(Writer {
                arena: None,
                shared: SharedCode::default(),
                segments,
                current: 0,
                last: 1,
            }),
            number: AtomicU64::new(1),
            full: AtomicBool::new(false),
            readers: Mutex::default(),
            faults: Faults::new(budget),
            budget,
        }
    }

    /// A vCPU's part in freeing: what is evicted is kept until it has passed, is parked, or is gone.
    pub(crate) fn join(&self) -> Arc<Reader> {
        let reader = Arc::new(Reader::default());
        lock(&self.readers).push(reader.clone());
        reader
    }

    fn map(&self, key: Key) -> MutexGuard<'_, Blocks> {
        // By page.
        lock(&self.maps[((key.0 >> 12) ^ (key.0 >> 18)) as usize % MAPS])
    }

    /// The block at a physical address for a mode. Good until the vCPU passes.
    pub(crate) fn find(&self, key: Key) -> Option<*const Block> {
        self.map(key).0.get(&key).copied()
    }

    /// Names the current segment: what was looked up in it is still there while this stands.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Acquire)
    }

    /// Adds a block whose ops may refer to stubs of segment `number`; `None` if that is no longer the current one. Another
    /// vCPU's is returned if it has been added meanwhile and `same` likes it.
    pub(crate) fn add(
        &self,
        key: Key,
        made: Decoded,
        number: u64,
        same: impl Fn(&Block) -> bool,
    ) -> Option<*const Block> {
        let mut w = lock(&self.writer);
        if w.last != number {
            return None;
        }
        let mut map = self.map(key);
        // SAFETY: blocks in a map are there.
        if let Some(&known) = map.0.get(&key).filter(|b| same(unsafe { &***b })) {
            return Some(known);
        }
        let segment = w.segment();
        let block = segment.add_block(key, made);
        if segment.size() > self.budget {
            self.full.store(true, Release);
        }
        map.0.insert(key, block);
        Some(block)
    }

    /// The stub for an instruction, from the current segment. `None` if `make` gives none.
    pub(crate) fn stub(
        &self,
        key: Instruction,
        make: impl FnOnce() -> Option<crate::vector::stub::Built>,
    ) -> Option<Result<Stub, No>> {
        let mut w = lock(&self.writer);
        if let Some(stub) = w.segment().stubs.get(&key) {
            return Some(Ok(*stub));
        }
        let built = make()?;
        if let Err(e) = w.have_arena(self.budget, &self.faults) {
            return Some(Err(No::Refused(e.to_string())));
        }
        let Writer { arena: Some(arena), segments, current, .. } = &mut *w else { return None };
        let segment = &mut segments[*current];
        let at = segment.next_code();
        if built.code.len() > MAX_STUB || !segment.add_code(arena, &built.code) {
            self.full.store(true, Release);
            return Some(Err(No::Full));
        }
        let entry = arena.address(at);
        let instruction = entry + built.instruction as u64;
        let stub = Stub { entry: entry as *const u8, instruction, opcode: built.opcode };
        segment.stubs.insert(key, stub);
        self.note_room(segment);
        Some(Ok(stub))
    }

    /// Translates a block of the current segment, unless it is already and `fits` likes that: `make` is given the place
    /// for the code, and the shared code. What [`Translation::code`] gives.
    pub(crate) fn translate(
        &self,
        block: &Block,
        fits: impl FnOnce(&Block) -> bool,
        make: impl FnOnce(Room, SharedCode) -> Option<Made>,
    ) -> Result<u64, No> {
        let Ok(mut w) = self.writer.try_lock() else { return Err(No::Busy) };
        if let Some(code) = block.translation.code().filter(|_| fits(block)) {
            return Ok(code);
        }
        if self.full.load(Relaxed) {
            return Err(No::Full);
        }
        w.have_arena(self.budget, &self.faults).map_err(|e| No::Refused(e.to_string()))?;
        if block.segment != w.last {
            return Err(No::Busy);
        }
        let shared = w.shared;
        let Writer { arena: Some(arena), segments, current, .. } = &mut *w else { return Err(No::Unable) };
        let index = *current;
        let segment = &mut segments[index];
        let often = arena.address(segment.next_code());
        let room = Room { often, seldom_end: arena.address(segment.next_seldom()) };
        let made = make(room, shared).ok_or(No::Unable)?;
        let entry = |offset: usize| often + offset as u64;
        let [checked, entered, linked] = [0, made.entered, made.linked].map(entry);
        let code = Translation::pack(Entries { checked, entered, linked }).ok_or(No::Unable)?;
        if !segment.add_parts(arena, &made.code) {
            self.full.store(true, Release);
            return Err(No::Full);
        }
        if self.faults.add(index, &made.faults).is_err() {
            self.full.store(true, Release);
            return Err(No::Full);
        }
        segment.faults = self.faults.size(index);
        self.note_room(segment);
        block.translation.publish(code, made.bound);
        Ok(code)
    }

    /// Leads a jump to a block's code: `tail` is where the jump led so far, with the distance to the jump's displacement in
    /// the four bytes before. Nothing happens where that can't be done now.
    pub(crate) fn link(&self, tail: u64, target: u64) {
        self.lead(tail, target, None);
    }

    /// The same for a jump to a block on another page, whose code is known by `key` there. In the words before that one are the
    /// distances to what `key` is compared with, to where it goes if that is another, and to the displacement of the jump
    /// that goes there; each from its end.
    pub(crate) fn link_far(&self, tail: u64, target: u64, key: i32) {
        self.lead(tail, target, Some(key));
    }

    /// `None` where it can't be done now.
    fn lead(&self, tail: u64, target: u64, key: Option<i32>) -> Option<()> {
        let mut w = self.writer.try_lock().ok()?;
        let Writer { arena: Some(arena), segments, .. } = &mut *w else { return None };
        let live = |offset: usize| segments.iter().position(|s| s.state == State::Live && s.holds(offset));
        let (tail, target) = (arena.offset(tail)?, arena.offset(target)?);
        let (from, to) = (live(tail)?, live(target)?);
        let place = |n: usize| {
            let at = tail.checked_sub(4 * n)?;
            let place = usize::try_from((at + 4) as i64 + arena.read_i32(at)? as i64).ok()?;
            (live(place) == Some(from)).then_some(place)
        };
        let distance = |site: usize, to: usize| (to as i64 - site as i64 - 4) as u32;
        let site = place(1)?;
        let before = distance(site, tail);
        // Somebody else may have done it.
        if arena.read_i32(site)? as u32 != before {
            return None;
        }
        let far = match key {
            None => None,
            Some(key) => {
                let (known, other, otherwise) = (place(2)?, place(3)?, place(4)?);
                // What it is compared with never changes again: who executes this meanwhile may see any of these words as it was.
                let compared = arena.read_i32(known)?;
                if compared != UNLINKED && compared != key {
                    return None;
                }
                Some([(known, key as u32), (otherwise, distance(otherwise, other))])
            }
        };
        if from != to {
            let number = segments[from].number;
            segments[to].links.push(Link { site, before, from, number });
        }
        arena.change(site, distance(site, target));
        far.into_iter().flatten().for_each(|(place, value)| arena.change(place, value));
        Some(())
    }

    /// The code that all blocks share; zeros before anything was translated.
    pub(crate) fn shared_code(&self) -> SharedCode {
        lock(&self.writer).shared
    }

    fn note_room(&self, segment: &Segment) {
        if segment.size() > self.budget || segment.room() < RESERVE {
            self.full.store(true, Release);
        }
    }

    /// Whether the current segment is full: [`Self::advance`] before anything is added.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// Makes the next segment current if the current one is full. False if that has to wait for some vCPU to pass.
    pub(crate) fn advance(&self) -> bool {
        let mut w = lock(&self.writer);
        if !self.full.load(Relaxed) {
            return true;
        }
        self.free(&mut w);
        let next = (w.current + 1) % SEGMENTS;
        if w.segments[next].state != State::Free {
            return false;
        }
        w.current = next;
        w.last += 1;
        let number = w.last;
        let segment = w.segment();
        segment.state = State::Live;
        segment.number = number;
        log::debug!("code cache: segment {number} begins");
        self.number.store(number, Release);
        self.full.store(false, Release);
        let oldest = (next + 1) % SEGMENTS;
        if w.segments[oldest].state == State::Live {
            self.evict(&mut w, oldest);
        }
        true
    }

    /// Takes a segment out of everybody's reach.
    fn evict(&self, w: &mut Writer, index: usize) {
        let segment = &mut w.segments[index];
        for block in std::mem::take(&mut segment.blocks) {
            // SAFETY: the segment's own, which isn't emptied yet.
            let key = unsafe { &*block }.key;
            let mut map = self.map(key);
            if map.0.get(&key) == Some(&block) {
                map.0.remove(&key);
            }
        }
        let links = std::mem::take(&mut segment.links);
        for link in links {
            let Some(arena) = &w.arena else { break };
            let from = &w.segments[link.from];
            // The jump itself may be gone: its place is another's then.
            if from.number == link.number && from.state != State::Free {
                arena.change(link.site, link.before);
            }
        }
        w.segments[index].state = State::Leaving(self.epochs.advance());
    }

    /// Empties segments that everybody has left.
    fn free(&self, w: &mut Writer) {
        let mut readers = lock(&self.readers);
        // The others' vCPUs are gone.
        readers.retain(|r| Arc::strong_count(r) > 1);
        let Writer { arena, segments, .. } = w;
        for (n, segment) in segments.iter_mut().enumerate() {
            if let State::Leaving(epoch) = segment.state
                && readers.iter().all(|r| r.passed(epoch))
            {
                segment.clear(arena.as_mut());
                self.faults.clear(n);
            }
        }
    }

    /// Empties segments that everybody has left, unless the writer is busy.
    pub(crate) fn tidy(&self) {
        if let Ok(mut w) = self.writer.try_lock() {
            self.free(&mut w);
        }
    }

    /// The current segment counts as full from now on.
    #[cfg(test)]
    pub(crate) fn fill(&self) {
        self.full.store(true, Release);
    }

    /// Bytes in use, and the bound.
    pub fn size(&self) -> (usize, usize) {
        let used = lock(&self.writer).segments.iter().map(Segment::size).sum();
        (used, self.budget * SEGMENTS)
    }
}

impl Writer {
    fn segment(&mut self) -> &mut Segment {
        &mut self.segments[self.current]
    }

    fn have_arena(&mut self, budget: usize, faults: &Faults) -> io::Result<()> {
        if self.arena.is_none() {
            let mut arena = Arena::new("auberge-translated", HEAD + SEGMENTS * budget)?;
            let (code, shared) = SharedCode::make(arena.address(0));
            arena.put(0, &code);
            assert!(code.len() <= HEAD);
            for n in 0..SEGMENTS {
                let start = arena.address(HEAD + n * budget);
                faults.place(n, arena.address(0), start..start + budget as u64);
            }
            (self.arena, self.shared) = (Some(arena), shared);
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Hashes a block's key, which is two integers: looked up after every TLB flush, so it has to be quick.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

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
