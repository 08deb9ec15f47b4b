//! From a block to host code.

use super::ahead;
use super::asm::{Asm, Label, Mem, NOT_EQUAL, Parts, R14, RAX, Room, SIGN};
use super::flags::{Flags, live};
use super::groups::{self, Access, Role};
use super::kit::{Encoding, Kit};
use super::live::Live;
use super::registers::slot;
use super::runtime::{SharedCode, field};
use super::segments::{self, Place};
use super::tails::Tail;
use super::through::{MayFault, Units};
use crate::block::Block;
use crate::cache::faults::Fault;
use crate::cpu::{CS, Cpu, Mode, RIP};
use crate::op::{Flow, Op};
use crate::vendor;
use address::{GuestPhys, PAGE_SIZE};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use memory::GuestMemory;
use std::mem::offset_of;
use std::sync::atomic::AtomicU32;

/// A block's code, to be put where it was made for.
pub struct Made {
    pub code: Parts,
    /// Offsets of the entries in what is executed often, but for the first, which is at its start: see [`Entries`](super::Entries).
    pub entered: usize,
    pub linked: usize,
    /// Where it is bound to.
    pub bound: Option<Place>,
    /// Where it may fault in the host.
    pub faults: Vec<Fault>,
}

/// One of the blocks of a translation: on one page, each the one that the block before goes on to most.
struct Part {
    block: *const Block,
    /// The number of its first op among all.
    first: usize,
    count: usize,
    /// Call the handler of the op whose number in the block is in AL: [`SharedCode::call_op`] and [`SharedCode::call_miss`].
    calls: [Label; 2],
    /// Whether they are called.
    called: [bool; 2],
}

/// Which of [`Part::calls`].
#[derive(Clone, Copy)]
pub enum Call {
    Op = 0,
    Miss = 1,
}

/// Blocks under translation.
pub struct Compiler<'a> {
    pub a: Asm,
    pub flags: Flags,
    /// For each op, whether it or anything after it reads flags that were set before it.
    pub flags_live: Vec<bool>,
    /// The op being translated.
    pub current: usize,
    /// For each op, the access that has to do with a group.
    pub planned: Vec<Option<(Access, Role)>>,
    /// Whether there is a window, and accesses through it.
    pub windows: bool,
    pub may_fault: Vec<MayFault>,
    pub units: Units,
    /// Groups whose first access was translated, one bit each.
    pub led: u32,
    /// What edges may rely on.
    pub page_ahead: &'a ahead::Page,
    parts: Vec<Part>,
    /// The ops of all, their offsets from the first's.
    pub ops: &'a [Op],
    pub mode: Mode,
    /// Where it is bound to.
    pub bound: Option<Place>,
    /// The instruction pointer of the page's first byte, for what is relative to it.
    pub page: u64,
    /// The block's offset in it.
    pub offset: u32,
    room: Room,
    pub shared: SharedCode,
    pub tails: Vec<Tail>,
    /// The entry for jumps within the page.
    pub linked: Label,
    /// The same behind what made sure of `loop_live`.
    pub looped: Label,
    pub loop_live: Live,
    /// Leaves, the page having changed.
    stale: Label,
    /// The page's generation counter, and its value.
    counter: *const AtomicU32,
    generation: u32,
    /// What stands for the page's code.
    pub token: u32,
    /// What of vector and x87 registers is known to be in the host's here.
    pub live: Live,
    pub encoding: &'a mut Encoding,
}

/// What a block is translated for.
#[derive(Clone, Copy)]
pub struct Site {
    pub mode: Mode,
    /// The instruction pointer, and its linear address.
    pub rip: u64,
    pub linear: u64,
    pub bound: Option<Place>,
    /// Status flags are right at every fault.
    pub exact_flags: bool,
    /// The granules of its page that are announced as code.
    pub announced: u64,
    /// Only one vCPU executes the code.
    pub alone: bool,
}

/// Translates blocks, which go on to each other, to be put at `room`. `None` if they can't be.
///
/// The bytes are read again: all have to be [`Block::valid`] after this.
pub fn compile(
    blocks: &[&Block],
    site: Site,
    memory: &GuestMemory,
    room: Room,
    shared: SharedCode,
    kit: &mut Kit,
) -> Option<Made> {
    let Site { mode, rip, linear, bound, exact_flags, announced, alone } = site;
    let block = *blocks.first()?;
    let [first, second] = block.generations();
    let (counter, generation) = first?;
    let offset = (linear % PAGE_SIZE) as u32;
    let Kit { asm, tails, instructions, ops, bytes, ahead, encoding } = kit;
    ahead.bytes.clear();
    // Counting changes the flags on the way into a block.
    if !exact_flags && !shared.counting {
        ahead.announced = announced;
        ahead.bytes.resize(PAGE_SIZE as usize, 0);
        memory.read(GuestPhys(block.pages[0] << 12), &mut ahead.bytes).ok()?;
    }
    instructions.clear();
    ops.clear();
    for b in blocks {
        let at = (b.key.0 % PAGE_SIZE) as usize;
        let behind = at.checked_sub(offset as usize)?;
        bytes.clear();
        bytes.resize(b.len as usize, 0);
        let on_first = bytes.len().min(PAGE_SIZE as usize - at);
        memory.read(GuestPhys(b.pages[0] << 12 | at as u64), &mut bytes[..on_first]).ok()?;
        memory.read(GuestPhys(b.pages[1] << 12), &mut bytes[on_first..]).ok()?;
        let rip = rip.wrapping_add(behind as u64) & mode.rip_mask();
        let mut decoder = Decoder::with_ip(mode.bits(), bytes, rip, DecoderOptions::NONE);
        for op in b.ops.iter() {
            let mut i = Instruction::default();
            vendor::decode(&mut decoder, bytes, &mut i);
            // What doesn't decode is T0's, and the block's last.
            if i.len() != op.len as usize && op.flow == Flow::Next {
                return None;
            }
            instructions.push(i);
            ops.push(Op { offset: op.offset + behind as u16, ..op.clone() });
        }
    }
    #[cfg(test)]
    crate::lockstep::tests::spoil(instructions);

    let mut a = std::mem::take(asm);
    a.clear();
    a.alone = alone;
    let mut first = 0;
    let part = |b: &&Block| {
        let count = b.ops.len();
        first += count;
        Part { block: *b, first: first - count, count, calls: [a.label(), a.label()], called: [false; 2] }
    };
    let parts: Vec<_> = blocks.iter().map(part).collect();
    let linked = a.label();
    let stale = a.label();
    let mut c = Compiler {
        a,
        flags: Flags::Saved,
        flags_live: live(instructions, |k| ops[k].flow != Flow::Next, exact_flags),
        current: 0,
        planned: Vec::new(),
        windows: mode.0 & Mode::WINDOWS != 0,
        may_fault: Vec::new(),
        units: Units::default(),
        led: 0,
        page_ahead: ahead,
        parts,
        ops,
        mode,
        bound,
        page: rip.wrapping_sub(offset as u64) & mode.rip_mask(),
        offset,
        room,
        shared,
        tails: std::mem::take(tails),
        linked,
        looped: linked,
        loop_live: Live::default(),
        stale,
        counter,
        generation,
        token: block.token,
        live: Live::default(),
        encoding,
    };
    c.tails.clear();
    // Read before the blocks are found to be valid still: it is their generation's then.
    let second_token = memory.page_at(GuestPhys(block.pages[1] << 12)).map_or(0, |page| page.token(|| 0));
    let made = c.block(instructions, second, second_token);
    (*asm, *tails) = (c.a, c.tails);
    made
}

impl Compiler<'_> {
    /// All of the block. `second`: the generation counter of its second page, and its value, if it has one; `second_token` stands for
    /// the code there, or is 0.
    fn block(
        &mut self,
        instructions: &[Instruction],
        second: Option<(*const AtomicU32, u32)>,
        second_token: u32,
    ) -> Option<Made> {
        if !self.windows {
            self.planned = groups::plan(self, instructions);
        }
        let entered = self.enter_page(second);
        let entered = if second.is_some() { 0 } else { entered };
        let body = self.a.bound();
        // What follows the page depends on where it is mapped: a jump within the page has that compared (`enter_by_link`).
        if second.is_none() {
            self.a.bind(self.linked);
        }
        if second.is_none() && !self.shared.counting {
            self.prepare_loop(instructions);
        }
        let last = self.ops.len().checked_sub(1)?;
        for (k, i) in instructions.iter().enumerate() {
            self.current = k;
            self.begin_op();
            if let Some(p) = self.parts.iter().find(|p| p.first == k) {
                self.begin_part(k, p.count as u8);
            }
            if self.ops[k].flow != Flow::Next && !matches!(i.mnemonic(), Mnemonic::Call | Mnemonic::Ret) {
                self.settle_stack();
            }
            if self.ops[k].flow == Flow::Next {
                self.attempt(|c| c.instruction(k, i)).or_else(|| self.call_handler(k))?;
            } else if k == last {
                self.attempt(|c| c.end(k, i)).or_else(|| self.call_last(k))?;
            } else {
                let next = (self.offset + self.ops[k + 1].offset as u32) as i32;
                self.side_exit(k, i, next)?;
            }
            self.end_of_op(k, i);
        }
        let end = &self.ops[last];
        if end.flow == Flow::Next {
            let next = (self.offset + end.offset as u32 + end.len as u32) as i32;
            self.settle_stack();
            self.save_flags_for(next);
            self.edge(next);
        }
        let look = self.a.label();
        if second.is_some() {
            self.enter_by_link(second_token, body, look);
        }
        self.a.seldom_from_here();
        if second.is_some() {
            self.a.bind(look);
            self.at_page(self.offset as i32);
            self.far_jump(self.shared.lookup);
        }
        self.finish_tails();
        self.a.bind(self.stale);
        self.far_jump(self.shared.leave);
        let entries = [self.shared.call_op, self.shared.call_miss];
        for part in std::mem::take(&mut self.parts) {
            for n in (0..2).filter(|n| part.called[*n]) {
                self.a.bind(part.calls[n]);
                self.a.load_immediate(R14, part.block as u64);
                self.far_jump(entries[n]);
            }
        }
        let linked = self.a.place(self.linked)?;
        let code = self.a.finish(self.room)?;
        let address = self.a.addresses(self.room);
        let faults = self.may_fault.iter().filter_map(|f| {
            let tail = self.a.place(f.tail)?;
            Some(Fault { start: address(f.start), end: address(f.end?), tail: address(tail) })
        });
        Some(Made { code, entered, linked, bound: self.bound, faults: faults.collect() })
    }

    /// Where a jump on its first page comes to an instruction across two: on to `body` if the soft TLB says that behind the page is the
    /// code that it was translated from, to `look` otherwise.
    fn enter_by_link(&mut self, second_token: u32, body: Label, look: Label) {
        self.a.bind(self.linked);
        if second_token == 0 {
            return self.a.jump(look);
        }
        self.at_page(PAGE_SIZE as i32);
        self.page_token(RAX);
        // cmp r14, second_token
        self.a.rr(true, &[0x81], 7, R14);
        self.a.bytes(&second_token.to_le_bytes());
        self.a.jump_if(NOT_EQUAL, look);
        self.a.jump(body);
    }

    /// Where code counts: takes the fuel for the instructions of the block that begins with op `k`.
    fn begin_part(&mut self, k: usize, count: u8) {
        if !self.shared.counting {
            return;
        }
        self.save_flags();
        self.flags = Flags::Saved;
        self.units.give_up();
        let from = self.a.label();
        self.a.rm(false, &[0x83], 5, field!(fuel));
        self.a.bytes(&[count]);
        self.a.jump_if(SIGN, from);
        let delta = (self.offset + self.ops[k].offset as u32) as i32;
        self.tails.push(Tail::Empty { from, delta, count });
    }

    /// Instructions of the first block.
    pub fn first_block(&self) -> usize {
        self.parts.first().map_or(0, |p| p.count)
    }

    /// Does `f`, or nothing at all where it gives up.
    fn attempt(&mut self, f: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let (mark, flags, tails) = (self.a.mark(), self.flags, self.tails.len());
        let (live, may_fault) = (self.live, self.may_fault.len());
        let done = f(self);
        if done.is_none() {
            self.a.reset(mark);
            self.flags = flags;
            self.tails.truncate(tails);
            self.may_fault.truncate(may_fault);
            self.units.give_up();
            self.live = live;
        }
        done
    }

    /// Appends an instruction.
    pub fn encode(&mut self, i: &Instruction) -> Option<()> {
        // Lock elision is a hint, and the host's business.
        let mut plain = *i;
        plain.set_has_xacquire_prefix(false);
        plain.set_has_xrelease_prefix(false);
        self.encoding.encode(&plain, &mut self.a)
    }

    /// The call of op `k`'s T0 handler, flags being saved.
    pub fn handler(&mut self, k: usize, call: Call) {
        let Some(part) = self.parts.iter_mut().rfind(|p| p.first <= k) else { return };
        // mov al, its number in the block
        self.a.bytes(&[0xb0, (k - part.first) as u8]);
        self.a.call(part.calls[call as usize]);
        part.called[call as usize] = true;
    }

    /// An op in the middle that T0 does.
    fn call_handler(&mut self, k: usize) -> Option<()> {
        self.save_flags();
        self.handler(k, Call::Op);
        self.flags = Flags::Saved;
        self.live = Live::default();
        Some(())
    }

    /// A last op that T0 does.
    fn call_last(&mut self, k: usize) -> Option<()> {
        self.save_flags();
        self.handler(k, Call::Op);
        self.after_handler(k);
        Some(())
    }

    /// On to wherever op `k`'s handler left RIP, through the jump cache.
    pub fn after_handler(&mut self, k: usize) {
        let op = &self.ops[k];
        if op.flow == Flow::EndSet {
            self.a.load(RAX, slot(RIP as u8));
            self.a.rm(true, &[0x03], RAX, segments::base(CS as u8));
        } else {
            if self.shared.counting {
                // What is left of the block isn't executed.
                self.a.rm(false, &[0x83], 0, field!(fuel));
                let part = self.parts.iter().rfind(|p| p.first <= k);
                self.a.bytes(&[part.map_or(0, |p| p.first + p.count - k - 1) as u8]);
            }
            self.at_page((self.offset + op.offset as u32 + op.len as u32) as i32);
        }
        self.far_jump(self.shared.lookup);
    }

    /// RAX becomes the linear address `delta` from the page.
    pub fn at_page(&mut self, delta: i32) {
        if let Some(p) = self.bound {
            return self.a.load_immediate(RAX, p.page.wrapping_add_signed(delta) as u64);
        }
        let wide = self.mode.is64();
        self.a.rm(wide, &[0x8b], RAX, field!(page_rip));
        self.a.rm(wide, &[0x8d], RAX, Mem::at(RAX, delta));
    }
    /// RAX becomes the instruction pointer `delta` from the page.
    pub fn ip_at_page(&mut self, delta: i32) {
        match self.bound {
            Some(p) => self.a.load_immediate(RAX, p.page_ip().wrapping_add_signed(delta) as u64),
            None => self.at_page(delta),
        }
    }

    pub fn far_jump(&mut self, target: u64) {
        self.a.far(0xe9, target);
    }

    /// A way into the page: RAX is the linear address to go on at. Leaves with that where the page's code has changed.
    /// Gives the offset of what follows the look at its generation.
    pub fn enter_page(&mut self, second: Option<(*const AtomicU32, u32)>) -> usize {
        self.require_generation(self.counter, self.generation);
        self.enter_unchanged_page(second)
    }

    /// The same where the page's code is what it was.
    pub fn enter_unchanged_page(&mut self, second: Option<(*const AtomicU32, u32)>) -> usize {
        let entered = self.a.here();
        if let Some((counter, generation)) = second {
            self.require_generation(counter, generation);
        }
        if let Some(p) = self.bound {
            // mov r14, rax; and r14, -4096
            self.a.copy(R14, RAX);
            self.a.rr(true, &[0x81], 4, R14);
            self.a.bytes(&(-4096i32).to_le_bytes());
            let code = [(segments::base(CS as u8), p.base), (Mem::cpu(offset_of!(Cpu, code_limit)), p.limit)];
            for (m, v) in code {
                self.a.rm(false, &[0x81], 7, m);
                self.a.bytes(&v.to_le_bytes());
                self.a.jump_if(NOT_EQUAL, self.stale);
            }
            // cmp r14d, page
            self.a.rr(false, &[0x81], 7, R14);
            self.a.bytes(&p.page.to_le_bytes());
            self.a.jump_if(NOT_EQUAL, self.stale);
            self.a.store(field!(page_rip), R14);
        } else {
            // and rax, -4096
            self.a.bytes(&[0x48, 0x25]);
            self.a.bytes(&(-4096i32).to_le_bytes());
            self.a.store(field!(page_rip), RAX);
        }
        entered
    }

    /// Leaves where a page's code has changed, to go on at the linear address in RAX.
    fn require_generation(&mut self, counter: *const AtomicU32, generation: u32) {
        self.a.load_immediate(R14, counter as u64);
        self.a.rm(false, &[0x81], 7, Mem::at(R14, 0));
        self.a.bytes(&generation.to_le_bytes());
        self.a.jump_if(NOT_EQUAL, self.stale);
    }
}
