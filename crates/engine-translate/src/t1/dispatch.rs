//! The executor's side: entering translated code, T0's handlers called from it, leading jumps to their targets.

use super::compile::Site;
use super::jumps::{Jump, JumpCaches};
use super::runtime::{ASTRAY, CONTINUE, DELIVERED, FAULT, FUEL, LINK, LOOK, MOVED, SharedCode};
use super::{Entries, FAR, Translation};
use crate::block::Block;
use crate::cache::No;
use crate::cpu::{CS, Cpu, Mode, RIP, RSP};
use crate::fault::Fault;
use crate::op::Flow;
use address::PAGE_SIZE;
use std::sync::atomic::Ordering::Relaxed;

/// Instructions between two returns to the executor, where they are counted.
pub(super) const FUEL_GIVEN: i32 = 4096;

/// MXCSR's exception masks (SDM 1 10.2.3).
const MASKS: u32 = 0x1f80;

/// How a run of translated code ended.
pub(crate) enum Ran {
    /// RIP is that of the next instruction.
    On,
    /// The same, and it is time to look at the clock.
    LongEnough,
    /// A fault is noted; RIP is the instruction's. The segment that it accesses memory through.
    Fault(u8),
}

/// Runs T0's handler for op `number` of a block in translated code. Returns [`CONTINUE`], [`FAULT`] or [`DELIVERED`], or, in the middle of a block where
/// something is to be seen to before its next instruction, [`LOOK`]; [`MOVED`] at its end, where the address mapping isn't
/// what it was.
///
/// Only translated code calls this, with its vCPU and an op of the block it is.
pub(super) extern "sysv64" fn run_op(cpu: *mut Cpu, number: u32, block: *const Block) -> u32 {
    // SAFETY: the vCPU is the one that `enter` was given, whose reference isn't used meanwhile. The block is the one that
    // the code was made from, which lives until the code is dropped.
    let (cpu, block) = unsafe { (&mut *cpu, &*block) };
    let op = &block.ops[number as usize];
    cpu.executing = block.pages;
    let left = (block.ops.len() - number as usize) as i32;
    let (long, mask) = (cpu.mode.is64(), cpu.mode.rip_mask());
    cpu.regs[RIP] = (cpu.t1.page_rip + block.key.0 % PAGE_SIZE).wrapping_sub(cpu.seg_base[CS]) & mask;
    let faulted = std::mem::take(&mut cpu.t1.faulted);
    let delivered = (op.exec)(cpu, op).is_err();
    if delivered {
        cpu.regs[RIP] = cpu.this_rip(op);
        if !cpu.deliver_in_chain(op.seg) {
            cpu.t1.fault_seg = op.seg;
            cpu.t1.fuel += left;
            return FAULT;
        }
    }
    match (long, cpu.mode.is64()) {
        (false, true) => cpu.restore_upper(),
        (true, false) => cpu.keep_upper(),
        _ => {}
    }
    if faulted != 0 {
        cpu.window_faulted(faulted, delivered);
    }
    let before = cpu.t1.guard;
    cpu.refresh_translated();
    if delivered {
        return DELIVERED;
    }
    // Within a page blocks follow each other unchecked; what leaves it compares the guard. Returns that are foreseen don't look whether
    // their page has changed.
    let moved = std::mem::take(&mut cpu.t1.code_changed) || cpu.t1.guard != before;
    if op.flow == Flow::Next && (moved || cpu.remote.pending.load(Relaxed) != 0) {
        cpu.regs[RIP] = cpu.next_rip(op);
        cpu.t1.fuel += left - 1;
        return LOOK;
    }
    if moved { MOVED } else { CONTINUE }
}

impl Cpu {
    /// Delivers the exception of the instruction at RIP, if the executor doesn't want to see it itself. False where it is to.
    #[cold]
    fn deliver_in_chain(&mut self, seg: u8) -> bool {
        let exception = matches!(self.fault, Some(Fault::Exception(_) | Fault::NonCanonical));
        if !exception || !self.t1.delivers || self.t1.counting || self.lockstep.is_some() {
            return false;
        }
        match self.on_fault(seg) {
            None => true,
            Some(exit) => {
                self.fault = Some(Fault::Exit(exit));
                false
            }
        }
    }

    /// Copies to where translated code looks what handlers may have changed.
    #[inline]
    fn refresh_translated(&mut self) {
        super::gs::set_base(self.tlb_entries.address());
        self.t1.groups = Default::default();
        if self.mode.0 & Mode::WINDOWS != 0 {
            self.t1.stack_addend = self.tlb.window_addend(self.regs[RSP]);
        }
        let guard = self.jump_guard();
        if self.t1.guard != guard {
            self.t1.guard = guard;
            self.choose_jumps();
        }
        (self.t1.sse, self.t1.avx) = (self.sse_allowed(), self.avx_allowed());
        self.t1.masked = self.vector.mxcsr() & MASKS == MASKS;
        self.t1.x87 = self.x87_masked();
    }

    #[inline]
    fn choose_jumps(&mut self) {
        self.t1.jumps = self.t1.table.choose(self.cpl == 3, self.t1.guard);
    }

    /// Runs the block's translated code and what it leads to. `None` if it has none.
    #[inline]
    pub(crate) fn run_translated(&mut self, block: &Block) -> Option<Ran> {
        if self.single || self.t1.threshold == u32::MAX {
            return None;
        }
        let code = match block.translation.code() {
            Some(code) if self.translated_for_this_place(block) => code,
            _ => {
                let heat = block.translation.heat.load(Relaxed);
                if heat < block.patience(self.t1.threshold) {
                    block.translation.heat.store(heat + 1, Relaxed);
                    return None;
                }
                if heat == u32::MAX {
                    return None;
                }
                self.translate_block(block)?
            }
        };
        if self.t1.enter == 0 {
            if let Err(e) = super::gs::try_base() {
                self.go_on_without(&e.to_string());
                return None;
            }
            self.t1.table = JumpCaches::new();
            self.t1.enter = self.shared.code.shared_code().enter;
            self.choose_jumps();
        }
        if self.lockstep.is_some() {
            return Some(crate::lockstep::chain(self, block, code));
        }
        Some(self.enter_translated(block, code))
    }

    /// Whether a translated block's code is for the place it is at now.
    #[inline]
    fn translated_for_this_place(&self, block: &Block) -> bool {
        match self.code_place(self.regs[RIP]) {
            Some(p) => block.translation.bound_to(p),
            None => true,
        }
    }

    /// Translates a block; the address of its checking entry.
    #[cold]
    #[inline(never)]
    fn translate_block(&mut self, block: &Block) -> Option<u64> {
        if self.shared.code.is_full() {
            // If there is no room yet, the next block that is not found waits for it.
            self.make_room_now();
        }
        // Across two pages one instruction, of 64-bit code.
        if block.pages[0] != block.pages[1] && !self.mode.is64() {
            block.translation.heat.store(u32::MAX, Relaxed);
            return None;
        }
        let block = match block.segment == self.shared.code.number() {
            true => block,
            // SAFETY: good until this vCPU passes.
            false => unsafe { &*self.again_in_current_segment(block)? },
        };
        let rip = self.regs[RIP];
        let bound = self.code_place(rip);
        let site = Site {
            mode: self.mode,
            rip,
            linear: self.code_linear(rip),
            bound,
            exact_flags: self.t1.exact_flags,
            announced: self.announced(block.pages[0]),
            alone: self.mode.0 & Mode::WINDOWS != 0 && self.shared.vcpus == 1,
        };
        let memory = &self.shared.memory;
        let counting = self.t1.counting;
        let mut kit = std::mem::take(&mut self.t1.kit).unwrap_or_default();
        let fits = |block: &Block| self.translated_for_this_place(block);
        let trace = self.trace(block);
        let made = self.shared.code.translate(block, fits, |room, shared| {
            let shared = SharedCode { counting, ..shared };
            let made = super::compile::compile(&trace, site, memory, room, shared, &mut kit)?;
            // What was read again is what was decoded, if the page did not change.
            trace.iter().all(|block| block.valid()).then_some(made)
        });
        self.t1.kit = Some(kit);
        match made {
            Ok(code) => {
                // For another place only after another lap of T0.
                block.translation.heat.store(0, Relaxed);
                return Some(code);
            }
            Err(No::Busy | No::Full) => {}
            Err(No::Unable) => block.translation.heat.store(u32::MAX, Relaxed),
            Err(No::Refused(e)) => self.go_on_without(&e),
        }
        None
    }

    fn go_on_without(&mut self, why: &str) {
        log::warn!(
            "vCPU {}: the host lets no translated code be executed ({why}); going on without",
            self.id
        );
        self.t1.threshold = u32::MAX;
    }

    pub(crate) fn enter_translated(&mut self, block: &Block, code: u64) -> Ran {
        let Entries { checked: code, entered, linked } = Translation::entries(code);
        self.refresh_translated();
        let rip = self.code_linear(self.regs[RIP]);
        let guard = self.t1.guard;
        let tail = std::mem::take(&mut self.t1.link_tail);
        self.t1.table.note(Jump { rip, code });
        self.tlb.fill_code(self.tlb_select, rip, block.token);
        // Nothing else has been executed under another address mapping since.
        let from = (guard, self.seg_base[CS]);
        if tail != 0 && self.t1.link_rip == rip && self.t1.link_from == from {
            if self.t1.link_token == FAR && block.token != 0 {
                let key = block.token as i32 - (rip % PAGE_SIZE) as i32;
                self.shared.code.link_far(tail, entered, key);
            } else if self.t1.link_token == block.token && block.token != 0 {
                // Code of another generation may rely on what was there.
                self.shared.code.link(tail, linked);
            }
        }
        super::faults::expect(&self.shared.code.faults);
        let enter = self.t1.enter;
        self.t1.fuel = self.t1.budget;
        self.t1.code_changed = false;
        self.regs[RIP] = rip;
        if !self.mode.is64() {
            self.keep_upper();
        }
        // SAFETY: `enter` and `code` are in the VM's code cache, and stay until this vCPU passes. The code touches the
        // Cpu (by R15 and through `run_op`), guest memory by addresses that the soft TLB gave, and the stack below.
        let why = unsafe {
            let f: extern "sysv64" fn(*mut Cpu, u64) -> u32 = std::mem::transmute(enter as *const u8);
            f(self, code)
        };
        super::faults::expect_none();
        if !self.mode.is64() {
            self.restore_upper();
        }
        if why == LINK {
            self.t1.link_from = (self.t1.guard, self.seg_base[CS]);
        }
        if why != FAULT && why != LOOK {
            self.regs[RIP] = self.regs[RIP].wrapping_sub(self.seg_base[CS]) & self.mode.rip_mask();
        }
        if why == ASTRAY {
            // It is still to be executed.
            self.t1.fuel += 1;
        }
        let executed = if self.t1.counting { self.t1.budget - self.t1.fuel } else { 0 };
        self.retired += executed as u64;
        match why {
            FAULT => Ran::Fault(self.t1.fault_seg),
            FUEL => Ran::LongEnough,
            ASTRAY => {
                // The return faults, as T0 does it.
                let returned = self.t1.returned as u64;
                self.regs[RIP] = self.t1.page_rip + (returned & 0xfff);
                self.regs[RSP] = self.regs[RSP].wrapping_sub(returned >> 12);
                self.single = true;
                Ran::On
            }
            // Left for another reason, after a while all the same.
            _ if executed > FUEL_GIVEN / 8 => Ran::LongEnough,
            _ => Ran::On,
        }
    }
}
