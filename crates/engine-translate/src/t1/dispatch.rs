//! The executor's side: entering translated code, T0's handlers called from it, leading jumps to their targets.

use super::compile::Site;
use super::runtime::{ASTRAY, CONTINUE, FAULT, FUEL, Jump, LINK, LOOK, MOVED, Runtime};
use crate::block::Block;
use crate::cpu::{CS, Cpu, RIP, RSP};
use crate::op::{Flow, Op};
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

/// Runs T0's handler for an op in translated code. `at`: the block's offset in its page, and from bit 16 on the
/// block's instructions from this one to its last. Returns [`CONTINUE`], [`FAULT`] or, in the middle of a block where
/// something is to be seen to before its next instruction, [`LOOK`]; [`MOVED`] at its end, where the address mapping isn't
/// what it was.
///
/// Only translated code calls this, with its vCPU and an op of the block it is.
pub(super) extern "sysv64" fn run_op(cpu: *mut Cpu, op: *const Op, at: u32) -> u32 {
    // SAFETY: the vCPU is the one that `enter` was given, whose reference isn't used meanwhile. The op is the block's that
    // the code was made from, which lives until the code is dropped.
    let (cpu, op) = unsafe { (&mut *cpu, &*op) };
    let (long, mask) = (cpu.mode.is64(), cpu.mode.rip_mask());
    cpu.regs[RIP] = (cpu.t1.page_rip + (at & 0xfff) as u64).wrapping_sub(cpu.seg_base[CS]) & mask;
    if (op.exec)(cpu, op).is_err() {
        cpu.regs[RIP] = cpu.this_rip(op);
        cpu.t1.fault_seg = op.seg;
        cpu.t1.fuel += (at >> 16) as i32;
        return FAULT;
    }
    match (long, cpu.mode.is64()) {
        (false, true) => cpu.restore_upper(),
        (true, false) => cpu.keep_upper(),
        _ => {}
    }
    let before = cpu.t1.guard;
    cpu.refresh_translated();
    // Within a page blocks follow each other unchecked; what leaves it compares the guard.
    let moved = cpu.t1.guard != before;
    if op.flow == Flow::Next && (moved || cpu.remote.pending.load(Relaxed) != 0) {
        cpu.regs[RIP] = cpu.next_rip(op);
        cpu.t1.fuel += (at >> 16) as i32 - 1;
        return LOOK;
    }
    if moved { MOVED } else { CONTINUE }
}

impl Cpu {
    /// Copies to where translated code looks what handlers may have changed.
    #[inline]
    fn refresh_translated(&mut self) {
        super::gs::set_base(self.tlb_entries.address());
        self.t1.groups = Default::default();
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
        let user = self.cpl == 3;
        if let Some(r) = &mut self.t1.runtime {
            self.t1.jumps = r.jump_cache(user, self.tlb.flushes(user));
        }
    }

    /// Runs the block's translated code and what it leads to. `None` if it has none.
    #[inline]
    pub(crate) fn run_translated(&mut self, block: &Block) -> Option<Ran> {
        if self.single {
            return None;
        }
        let code = match block.translation.checked.load(Relaxed) {
            code if code == 0 || !self.translated_for_this_place(block) => {
                let heat = block.translation.heat.load(Relaxed);
                if heat < self.t1.threshold {
                    block.translation.heat.store(heat + 1, Relaxed);
                    return None;
                }
                if self.t1.threshold == u32::MAX {
                    return None;
                }
                self.translate_block(block)?
            }
            code => code,
        };
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
        // Again only after another lap of T0, if it can't be done now.
        block.translation.heat.store(0, Relaxed);
        if self.t1.runtime.is_none() {
            match super::gs::try_base().and_then(|()| Runtime::new(self.t1.counting)) {
                Ok(r) => {
                    self.t1.runtime = Some(Box::new(r));
                    self.choose_jumps();
                }
                Err(e) => {
                    log::warn!(
                        "vCPU {}: no memory to execute translated code ({e}); going on without",
                        self.id
                    );
                    self.t1.threshold = u32::MAX;
                    return None;
                }
            }
        }
        let memory = self.shared.memory.clone();
        let rip = self.regs[RIP];
        let bound = self.code_place(rip);
        let site = Site {
            mode: self.mode,
            rip,
            linear: self.code_linear(rip),
            bound,
            exact_flags: self.t1.exact_flags,
        };
        let runtime = self.t1.runtime.as_mut()?;
        if runtime.full() {
            // The next block that is not found clears.
            return None;
        }
        let made = super::compile::compile(block, site, &memory, runtime.origin(), runtime.shared)?;
        // What was read again is what was decoded, if the page did not change.
        if !block.valid() {
            return None;
        }
        let origin = runtime.add(&made.code)?;
        if let Some(p) = bound {
            block.translation.bind(p);
        }
        block.translation.checked.store(origin + made.checked as u64, Relaxed);
        block.translation.linked.store(origin + made.linked as u64, Relaxed);
        Some(origin + made.checked as u64)
    }

    pub(crate) fn enter_translated(&mut self, block: &Block, code: u64) -> Ran {
        self.refresh_translated();
        let rip = self.code_linear(self.regs[RIP]);
        let guard = self.t1.guard;
        let site = std::mem::take(&mut self.t1.link_site);
        let Some(runtime) = &mut self.t1.runtime else { return Ran::On };
        runtime.note_jump(self.t1.jumps, Jump { rip, guard, code });
        // The jump was made on the page that `executing` names, and its target has not been interrupted.
        let from = (guard, self.seg_base[CS]);
        if site != 0
            && self.t1.link_rip == rip
            && self.t1.link_from == from
            && self.executing[0] == block.pages[0]
        {
            runtime.link(site, block.translation.linked.load(Relaxed));
        }
        let enter = runtime.shared.enter;
        self.t1.fuel = self.t1.budget;
        // Translated blocks lie in one page.
        self.executing = [block.pages[0], u64::MAX];
        self.regs[RIP] = rip;
        if !self.mode.is64() {
            self.keep_upper();
        }
        // SAFETY: `enter` and `code` are in this vCPU's code memory, and stay as long as `block` does. The code touches the
        // Cpu (by R15 and through `run_op`), guest memory by addresses that the soft TLB gave, and the stack below.
        let why = unsafe {
            let f: extern "sysv64" fn(*mut Cpu, u64) -> u32 = std::mem::transmute(enter as *const u8);
            f(self, code)
        };
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
