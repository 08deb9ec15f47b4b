//! A segment of the cache: blocks, their ops, their code and their stubs, which come and go together.

use super::arena::Arena;
use crate::block::{Block, Decoded, Key, Ops};
use crate::op::Op;
use crate::t1::{Parts, Translation};
use iced_x86::Instruction;
use std::alloc::Layout;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU16;

/// Bytes of a chunk of data, a multiple of 8.
const CHUNK: usize = 64 << 10;
type Chunk = [MaybeUninit<u64>];

/// What a block costs beyond its own memory: its places in the map and in [`Segment::blocks`].
const PER_BLOCK: usize = 72;
/// What a stub costs beyond its code: its place in [`Segment::stubs`].
const PER_STUB: usize = 160;

/// A stub: where it is, and what the caller has to know.
#[derive(Clone, Copy)]
pub struct Stub {
    pub entry: *const u8,
    /// Where the guest's instruction lies in it: what the processor leaves in FIP.
    pub instruction: u64,
    /// The instruction's x87 opcode as the stub encodes it: what the processor may leave in FOP.
    pub opcode: u16,
}

/// What a segment is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Empty.
    Free,
    /// Blocks are found in it.
    Live,
    /// Nothing leads to it any more; it is empty once everybody has passed this epoch.
    Leaving(u64),
}

/// A direct jump that leads into a segment from another one.
#[derive(Clone, Copy)]
pub struct Link {
    /// Offset in the arena of the jump's displacement, and what it was before.
    pub site: usize,
    pub before: u32,
    /// The segment that the jump is in, and its number then.
    pub from: usize,
    pub number: u64,
}

pub struct Segment {
    pub state: State,
    /// Which filling this is; no two fillings of any segments have the same.
    pub number: u64,
    /// Where its code may be, in the arena.
    code: Range<usize>,
    /// Used from its start to here, and, by what is seldom executed, from `seldom` to its end; both multiples of 16.
    used: usize,
    seldom: usize,
    /// From boxes.
    chunks: Vec<*mut Chunk>,
    /// Bytes used of the last chunk.
    in_chunk: usize,
    pub blocks: Vec<*const Block>,
    pub links: Vec<Link>,
    pub stubs: HashMap<Instruction, Stub>,
    /// Bytes of what is known of its code's faults.
    pub faults: usize,
}

// SAFETY: the pointers are to the segment's own memory.
unsafe impl Send for Segment {}

impl Segment {
    pub fn new(code: Range<usize>) -> Self {
        Self {
            state: State::Free,
            number: 0,
            used: code.start,
            seldom: code.end,
            code,
            chunks: Vec::new(),
            in_chunk: CHUNK,
            blocks: Vec::new(),
            links: Vec::new(),
            stubs: HashMap::new(),
            faults: 0,
        }
    }

    /// Bytes of memory in use.
    pub fn size(&self) -> usize {
        (self.used - self.code.start)
            + (self.code.end - self.seldom)
            + self.chunks.len() * CHUNK
            + self.blocks.len() * PER_BLOCK
            + self.links.capacity() * size_of::<Link>()
            + self.stubs.len() * PER_STUB
            + self.faults
    }
    /// Bytes of code that still fit.
    pub fn room(&self) -> usize {
        self.seldom - self.used
    }
    /// Where the next code will be in the arena: a multiple of 16.
    pub fn next_code(&self) -> usize {
        self.used
    }
    /// Where the next code that is seldom executed will end.
    pub fn next_seldom(&self) -> usize {
        self.seldom
    }
    pub fn holds(&self, offset: usize) -> bool {
        self.code.contains(&offset)
    }

    /// Puts code at [`Self::next_code`]; false if it doesn't fit.
    pub fn add_code(&mut self, arena: &mut Arena, code: &[u8]) -> bool {
        if code.len() > self.room() {
            return false;
        }
        arena.put(self.used, code);
        self.used = (self.used + code.len()).next_multiple_of(16).min(self.seldom);
        true
    }
    /// Puts code at [`Self::next_code`] and before [`Self::next_seldom`]; false if it doesn't fit.
    pub fn add_parts(&mut self, arena: &mut Arena, code: &Parts) -> bool {
        let seldom = code.seldom.len().next_multiple_of(16);
        if seldom > self.room() || code.often.len() > self.room() - seldom {
            return false;
        }
        self.seldom -= seldom;
        arena.put(self.seldom, &code.seldom);
        self.add_code(arena, &code.often)
    }

    /// Memory for a value or several, which lives until [`Self::clear`].
    fn allocate(&mut self, layout: Layout) -> NonNull<u8> {
        assert!(layout.align() <= 8 && layout.size() <= CHUNK);
        let size = layout.size().next_multiple_of(8);
        if self.in_chunk + size > CHUNK {
            self.chunks.push(Box::into_raw(Box::new_uninit_slice(CHUNK / 8)));
            self.in_chunk = 0;
        }
        let at = self.in_chunk;
        self.in_chunk += size;
        let Some(chunk) = self.chunks.last().copied().and_then(NonNull::new) else { unreachable!() };
        // SAFETY: `at..at + size` lies in the chunk.
        unsafe { chunk.cast::<u8>().add(at) }
    }

    /// Keeps a block. It lives until [`Self::clear`].
    pub fn add_block(&mut self, key: Key, made: Decoded) -> *const Block {
        let Decoded { ops, len, generations, pages, token } = made;
        let count = ops.len();
        let to = self.allocate(Layout::for_value(&ops[..])).cast::<Op>();
        // SAFETY: the memory was just allocated for that many ops. They have nothing to drop; the vector frees its memory.
        unsafe { std::ptr::copy_nonoverlapping(ops.as_ptr(), to.as_ptr(), count) };
        // SAFETY: as many as were just copied, which live as long as the block will.
        let ops = unsafe { Ops::new(to, count) };
        let block = Block {
            ops,
            len,
            generations,
            pages,
            token,
            key,
            segment: self.number,
            translation: Translation::default(),
            went: AtomicU16::new(0),
        };
        let p = self.allocate(Layout::new::<Block>()).cast::<Block>();
        // SAFETY: just allocated for it.
        unsafe { p.write(block) };
        self.blocks.push(p.as_ptr());
        p.as_ptr()
    }

    /// Drops everything. Nobody may be using any of it.
    pub fn clear(&mut self, arena: Option<&mut Arena>) {
        if let Some(arena) = arena {
            arena.release(self.code.start..self.used);
            arena.release(self.seldom..self.code.end);
        }
        *self = Self::new(self.code.clone());
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        for chunk in self.chunks.drain(..) {
            // SAFETY: it came from a box, and what lies in it has nothing to drop.
            drop(unsafe { Box::from_raw(chunk) });
        }
    }
}

const _: () = assert!(!std::mem::needs_drop::<Block>() && !std::mem::needs_drop::<Op>());
const _: () = assert!(align_of::<Block>() <= 8 && align_of::<Op>() <= 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_do_not_overlap_and_are_counted() {
        let mut s = Segment::new(0..0);
        let mut ends = Vec::new();
        for n in 1..3000usize {
            let layout = Layout::array::<u64>(n % 100 + 1).unwrap();
            let p = s.allocate(layout).as_ptr() as usize;
            assert!(p.is_multiple_of(8));
            ends.push((p, p + layout.size()));
        }
        ends.sort();
        assert!(ends.windows(2).all(|w| w[0].1 <= w[1].0));
        assert!(s.size() >= ends.iter().map(|(a, b)| b - a).sum());
        s.clear(None);
        assert_eq!(s.size(), 0);
    }
}
