//! Tier T1: hot blocks as near-verbatim host code.
//!
//! - [`asm`], [`runtime`]: the assembler, and the code that blocks share (entering, leaving, calling T0); the memory of all
//!   code is in [`crate::cache`]
//! - [`compile`]: a trace, instruction by instruction; [`lower`]: an instruction with its registers and memory operand
//!   replaced; [`access`]: the inline look at the soft TLB, [`groups`]: one look for several accesses, [`through`]: none, where there
//!   is a window, and [`faults`]; [`control`]: ends of blocks; [`special`]: implicit operands; [`system`]: system instructions;
//!   [`tails`]: what is seldom executed
//! - [`segments`]: what 16- and 32-bit code needs; [`high_bytes`]: AH, CH, DH, BH; [`count`]: LOOP and JCXZ
//! - [`vector`]: SSE, AVX, MMX and x87; [`live`]: their registers
//! - [`forms`]: which instructions are taken; [`flags`]: where the status flags are, [`ahead`]: where they matter
//! - [`kit`]: what is used from block to block; [`gs`]: the host's GS base, where translated code finds the soft TLB
//! - [`dispatch`]: what the executor does with it
//!
//! Guest registers have a host register each ([`registers`]), all but R8 to R11, which stay in the [`Cpu`]. RAX and R14
//! are scratch, R15 points into the `Cpu`, GS's base to the soft TLB, RSP is the host's own stack. Whatever T1 does not take, and every access that
//! misses in the soft TLB, is a call of the instruction's T0 handler, so faults, devices, self-modifying code and odd
//! instructions have one implementation only. Between blocks the status flags are in [`Cpu::status`], where they matter.
//!
//! Code does not depend on the linear address it runs at: a block knows its place in its page, and [`T1::page_rip`] says
//! where the page is. Blocks of one page jump to each other directly, and to other pages' behind a comparison of what the soft
//! TLB says of the code there; computed jumps go through a cache by linear address ([`jumps`]) and the entry of the block,
//! which checks the page's generation. [`trace`] says which blocks are translated together.

mod access;
mod ahead;
#[cfg(test)]
mod ahead_tests;
mod asm;
mod compile;
mod control;
mod count;
mod dispatch;
mod faults;
mod flags;
mod forms;
mod groups;
mod gs;
mod high_bytes;
mod jumps;
mod kit;
mod live;
mod lower;
mod registers;
mod runtime;
mod segments;
mod special;
mod system;
mod tails;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_changes;
#[cfg(test)]
mod tests_events;
#[cfg(test)]
mod tests_far;
#[cfg(test)]
mod tests_foreign;
#[cfg(test)]
mod tests_groups;
#[cfg(test)]
mod tests_legacy;
#[cfg(test)]
mod tests_vendor;
mod through;
mod trace;
mod vector;
#[cfg(test)]
mod vector_tests;

pub(crate) use asm::{Parts, Room};
pub(crate) use compile::Made;

/// What a jump to another page is compared with before it is led there: no difference of a token and an offset.
pub(crate) const UNLINKED: i32 = i32::MIN;
/// [`T1::link_token`] of a jump to another page.
const FAR: u32 = u32::MAX;
pub(crate) use dispatch::Ran;
pub use faults::handle as handle_faults;
pub use gs::forget_base as forget_gs_base;
pub(crate) use runtime::SharedCode;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

#[cfg(doc)]
use crate::cpu::Cpu;

/// Executions in T0 after which a block is translated, unless [`T1::threshold`] says otherwise.
const THRESHOLD: u32 = 16;

/// Fields that translated code finds at fixed places in the vCPU, and its memory.
#[repr(C)]
pub struct T1 {
    /// [`crate::remote::Remote::pending`]: what makes a chain of blocks come back to the executor.
    pending: *const AtomicU32,
    /// Linear address of the page being executed.
    page_rip: u64,
    /// The last return: its offset in its page, and from bit 12 on what it added to the stack pointer.
    returned: u32,
    /// Which vector registers are in the host's: see [`live`].
    live: u8,
    /// Whether x87's registers are in the host's.
    fpu: bool,
    /// How low [`runtime`] may take the host's stack pointer for returns that are foreseen, and what it is outside them.
    returns_limit: u64,
    /// The jump cache in use.
    jumps: *const jumps::Jump,
    /// What is added to addresses near the stack pointer, in code with a window.
    stack_addend: u64,
    /// Addends of the block's groups of accesses, or 0.
    groups: [u64; groups::GROUPS],
    host_stack: u64,
    /// Where code counts: instructions that blocks may still begin before they return to the executor.
    fuel: i32,
    /// Where the jump that was left through led, which is to be led to its target from now on; and that target.
    link_tail: u64,
    link_rip: u64,
    /// Target of an indirect call, and its code, while the return address is pushed.
    target_rip: u64,
    target_code: u64,
    /// Whether SSE's and AVX's instructions may be executed, as a byte of 0 or 1.
    sse: bool,
    avx: bool,
    /// Whether MXCSR masks all exceptions.
    masked: bool,
    /// What of each segment may be accessed, outside 64-bit code.
    rooms: [segments::Room; 6],
    /// R12 to R15 while translated 16- and 32-bit code runs.
    upper: [u64; 4],
    /// A value on its way from memory to the stack.
    stash: u64,
    /// Whether x87's and MMX's instructions may be executed, with every exception masked.
    x87: bool,
    /// Where an access through a window faulted that is T0's now; 0 where none did.
    faulted: u64,
    /// [`Cpu::jump_guard`].
    guard: u64,
    /// This vCPU has changed code since the chain began, or since returns were dropped for that.
    pub(crate) code_changed: bool,
    /// A control word to be loaded.
    control: u32,
    /// Segment of the instruction that faulted.
    fault_seg: u8,
    /// Executions after which a block is translated; `u32::MAX` for never.
    pub threshold: u32,
    /// Blocks count their instructions in [`Cpu::retired`], and come back to the executor after [`T1::budget`]. To be set
    /// before anything is translated.
    pub counting: bool,
    /// Whether status flags are right at every fault, those included that no instruction would read.
    pub exact_flags: bool,
    /// Exceptions in translated code are delivered there, and the chain goes on with their handlers.
    pub delivers: bool,
    /// Instructions after which a chain comes back to the executor, where code counts.
    pub(crate) budget: i32,
    /// The guard and CS's base there: the target may be looked at after an interrupt.
    link_from: (u64, u64),
    /// What stands for the code of the page that it is in, or [`FAR`].
    link_token: u32,
    /// [`SharedCode::enter`], once code was executed; and all jump caches.
    enter: u64,
    kit: Option<Box<kit::Kit>>,
    table: jumps::JumpCaches,
}

impl T1 {
    /// That of a vCPU with these pending bits, which have to live as long.
    pub(crate) fn new(pending: *const AtomicU32) -> Self {
        Self {
            pending,
            fuel: 0,
            groups: [0; groups::GROUPS],
            page_rip: 0,
            stack_addend: 0,
            guard: 0,
            code_changed: false,
            jumps: std::ptr::null(),
            link_tail: 0,
            link_rip: 0,
            host_stack: 0,
            returns_limit: 0,
            returned: 0,
            target_rip: 0,
            target_code: 0,
            sse: false,
            avx: false,
            masked: false,
            rooms: [[0; 2]; 6],
            upper: [0; 4],
            stash: 0,
            x87: false,
            live: 0,
            fpu: false,
            faulted: 0,
            control: 0,
            fault_seg: 0,
            threshold: THRESHOLD,
            counting: false,
            exact_flags: false,
            delivers: false,
            budget: dispatch::FUEL_GIVEN,
            link_from: (0, 0),
            link_token: 0,
            enter: 0,
            kit: None,
            table: jumps::JumpCaches::default(),
        }
    }

    /// What [`Cpu::jump_guard`] does not guard is dropped: code may be evicted.
    pub(crate) fn forget(&mut self) {
        self.link_tail = 0;
    }
}

/// What a block knows of its translated form.
#[derive(Default)]
pub struct Translation {
    /// Executions in T0; `u32::MAX` where translating has failed.
    heat: AtomicU32,
    /// See [`Self::entries`]; 0 for none.
    code: AtomicU64,
    /// How often it was translated for another place than before.
    moves: AtomicU32,
    /// Where the code is bound to, if the mode says so.
    page: AtomicU32,
    base: AtomicU32,
    limit: AtomicU32,
}

/// Where the distances from the first entry to the others are in [`Translation::code`], from 6 and 10 bits on: host addresses
/// have 47 bits.
const ENTERED: u32 = 48;
const LINKED: u32 = 54;

/// The addresses of a block's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entries {
    /// With RAX = RIP: checks the page's generation.
    pub checked: u64,
    /// The same for who knows the generation.
    pub entered: u64,
    /// For jumps within the page.
    pub linked: u64,
}

impl Translation {
    /// The code, as [`Self::entries`] reads it.
    #[inline]
    pub(crate) fn code(&self) -> Option<u64> {
        Some(self.code.load(Acquire)).filter(|code| *code != 0)
    }
    /// The addresses of the entries. All in one value, since another vCPU may be putting other code in its place.
    #[inline]
    pub(crate) fn entries(code: u64) -> Entries {
        let checked = code & ((1 << ENTERED) - 1);
        let entered = checked + (code >> ENTERED & 0x3f);
        Entries { checked, entered, linked: checked + (code >> LINKED) }
    }
    /// What [`Self::entries`] reads; `None` if they are too far from each other.
    pub(crate) fn pack(e: Entries) -> Option<u64> {
        let entered = e.entered.checked_sub(e.checked).filter(|d| *d < 1 << (LINKED - ENTERED))?;
        let linked = e.linked.checked_sub(e.checked).filter(|d| *d < 1 << (64 - LINKED))?;
        (e.checked >> ENTERED == 0).then_some(e.checked | entered << ENTERED | linked << LINKED)
    }
    /// Whether translating it hasn't failed.
    pub(crate) fn possible(&self) -> bool {
        self.heat.load(Relaxed) != u32::MAX
    }
    /// How often it was translated for another place than before.
    #[inline]
    pub(crate) fn moves(&self) -> u32 {
        self.moves.load(Relaxed)
    }
    /// The code is in its place. Under the lock of the cache's writer.
    pub(crate) fn publish(&self, code: u64, bound: Option<segments::Place>) {
        if let Some(place) = bound {
            // Who sees the one and not yet the other is turned away by the code, and asks again.
            self.bind(place);
        }
        if self.code.swap(code, Release) != 0 {
            self.moves.fetch_add(1, Relaxed);
        }
    }
}
