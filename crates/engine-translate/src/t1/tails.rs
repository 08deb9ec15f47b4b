//! What is seldom executed, behind a translation's own code: misses, handlers, jumps that lead nowhere yet.

use super::FAR;
use super::access::Ea;
use super::ahead::Unsaved;
use super::asm::{Label, Mem, R14};
use super::compile::{Call, Compiler};
use super::flags::Flags;
use super::jumps::JUMP_CODE;
use super::live::Live;
use super::runtime::{drop_returns, field, probe_jump};
use super::through::UnitOf;

/// Code behind the block's own, for what is seldom.
pub enum Tail {
    /// Op `op`'s T0 handler; then to `resume`, with the flags loaded if so said, or out of the block, behind the op.
    /// `live` is to be loaded again at `resume`; `fpu`: whether the op is x87's or MMX's; `native`: whether the flags are in EFLAGS
    /// only when it comes here.
    /// `unit`: whose unit's addend R14 is to be at `resume`.
    Handler {
        from: Label,
        resume: Option<Label>,
        op: usize,
        flags: bool,
        live: Live,
        fpu: bool,
        native: bool,
        unit: Option<UnitOf>,
    },
    /// Load vector or x87 registers and go on at `resume`; or, if T0 is to execute the ops from the first to the second of
    /// `ops`, behind these.
    Begin { from: Label, resume: Label, ops: (usize, usize), need: Live },
    /// An access that its group has nothing for: looked up by itself, then on at `found`. The first of a group notes that.
    Alone { from: Label, ea: Ea, size: usize, write: bool, miss: Label, found: Label, first: Option<usize> },
    /// Leave, for the jump with the displacement at `site` to be led to the block at `delta` in the page. Other vCPUs may be
    /// executing the jump then: `site` is a multiple of four, and a store of four bytes is seen whole.
    Link { from: Label, site: usize, delta: i32, unsaved: Unsaved },
    /// A jump to another page, or a call that comes back to `back`, RAX being the linear address. `key` is the place of what is
    /// compared with what the target is known by, `site` that of the displacement that is right then; `from` is where it
    /// goes before it was led anywhere, `miss` where the comparison failed.
    Far { miss: Label, from: Label, key: usize, site: usize, back: Option<Label> },
    /// On at `delta` from the page, the flags being there.
    Away { from: Label, delta: i32, flags: Flags },
    /// There is no fuel for the `count` instructions from `delta` on.
    Empty { from: Label, delta: i32, count: u8 },
    /// Leave, to go on at `delta` from the page.
    Leave { from: Label, delta: i32, unsaved: Unsaved },
    /// Leave, to go on at the linear address in RAX.
    Unknown { from: Label },
    /// A return that came to the wrong place.
    Elsewhere { from: Label },
    /// The stack pointer is no program's address; on at `resume`.
    NoUnit { from: Label, resume: Label },
    /// No room for another return that is foreseen.
    NoRoom { from: Label, slow: Label },
}

impl Compiler<'_> {
    /// Where op `k`'s handler is called instead, flags being saved.
    pub fn slow(&mut self, k: usize) -> Label {
        let from = self.a.label();
        self.tails.push(Tail::Handler {
            from,
            resume: None,
            op: k,
            flags: false,
            live: Live::default(),
            fpu: false,
            native: false,
            unit: None,
        });
        from
    }
    /// The same for an instruction of x87's or MMX's.
    pub fn slow_fpu(&mut self, k: usize) -> Label {
        let slow = self.slow(k);
        if let Some(Tail::Handler { fpu, .. }) = self.tails.last_mut() {
            *fpu = true;
        }
        slow
    }

    /// The handler that `slow` gave comes back here.
    pub fn resume(&mut self, slow: Label) {
        let here = self.a.bound();
        let good = self.flags != Flags::Saved;
        for t in &mut self.tails {
            if let Tail::Handler { from, resume, flags, live, .. } = t
                && *from == slow
            {
                (*resume, *flags, *live) = (Some(here), good, self.live);
            }
        }
    }

    /// Where a jump goes that is to be led to its target: R14 becomes this place.
    fn bind_unled(&mut self, from: Label) {
        self.a.bind(from);
        // lea r14, [rip - its own length]
        self.a.bytes(&[0x4c, 0x8d, 0x35]);
        self.a.bytes(&(-7i32).to_le_bytes());
    }
    /// Leaves from there for the linear address in RAX; `token` as in [`super::T1::link_token`].
    fn leave_to_link(&mut self, token: u32) {
        self.a.rm(false, &[0xc7], 0, field!(link_token));
        self.a.bytes(&token.to_le_bytes());
        self.far_jump(self.shared.leave_to_link);
    }

    pub fn finish_tails(&mut self) {
        // The tails of what goes to another page have tails of their own.
        while !self.tails.is_empty() {
            self.finish_some_tails();
        }
    }

    fn finish_some_tails(&mut self) {
        for t in std::mem::take(&mut self.tails) {
            self.flags = Flags::Saved;
            match t {
                Tail::Handler { from, resume: None, op, native, .. } => {
                    self.a.bind(from);
                    self.save_native_flags(native);
                    self.handler(op, Call::Op);
                    self.after_handler(op);
                }
                Tail::Handler { from, resume: Some(resume), op, flags, live, fpu, native, unit } => {
                    self.a.bind(from);
                    self.save_native_flags(native);
                    self.handler(op, if fpu { Call::Op } else { Call::Miss });
                    // Only what the handler put back has to be loaded again.
                    let again = Live { fpu: live.fpu && fpu, ..live };
                    let refused = self.a.label();
                    self.begin(again, refused);
                    if let Some(of) = unit {
                        self.addend_of_user_unit(of, refused);
                    }
                    if flags {
                        self.restore_flags();
                    }
                    self.a.jump(resume);
                    self.a.bind(refused);
                    if again != Live::default() || unit.is_some() {
                        self.after_handler(op);
                    }
                }
                Tail::Begin { from, resume, ops: (first, op), need } => {
                    self.a.bind(from);
                    let refused = self.a.label();
                    self.begin(need, refused);
                    self.a.jump(resume);
                    self.a.bind(refused);
                    (first..=op).for_each(|op| self.handler(op, Call::Op));
                    self.after_handler(op);
                }
                Tail::Alone { from, ea, size, write, miss, found, first } => {
                    self.a.bind(from);
                    self.check_alone(&ea, size, write, miss, first);
                    self.a.jump(found);
                }
                Tail::Link { from, site, delta, unsaved } => {
                    // What `CodeCache::link` wants to find here.
                    self.a.distance(site);
                    self.bind_unled(from);
                    self.save_unsaved(unsaved);
                    self.at_page(delta);
                    self.leave_to_link(self.token);
                }
                Tail::Far { miss, from, key, site, back } => {
                    self.a.bind(miss);
                    self.a.align_behind(1);
                    self.a.jump(from);
                    let otherwise = self.a.here() - 4;
                    let other = self.a.here();
                    let unknown = self.a.label();
                    probe_jump(&mut self.a, unknown);
                    self.a.rm(false, &[0xff], if back.is_some() { 2 } else { 4 }, Mem::at(R14, JUMP_CODE));
                    if let Some(back) = back {
                        self.a.jump(back);
                    }
                    self.tails.push(Tail::Unknown { from: unknown });
                    // What `CodeCache::link_far` wants to find here.
                    [otherwise, other, key, site].into_iter().for_each(|to| self.a.distance(to));
                    self.bind_unled(from);
                    self.leave_to_link(FAR);
                }
                Tail::Away { from, delta, flags } => {
                    self.a.bind(from);
                    self.flags = flags;
                    self.save_flags_for(delta);
                    self.edge(delta);
                }
                Tail::Empty { from, delta, count } => {
                    self.a.bind(from);
                    self.a.rm(false, &[0x83], 0, field!(fuel));
                    self.a.bytes(&[count]);
                    self.at_page(delta);
                    self.far_jump(self.shared.leave_for_fuel);
                }
                Tail::Leave { from, delta, unsaved } => {
                    self.a.bind(from);
                    self.save_unsaved(unsaved);
                    self.at_page(delta);
                    self.far_jump(self.shared.leave);
                }
                Tail::Unknown { from } => {
                    self.a.bind(from);
                    self.far_jump(self.shared.leave);
                }
                Tail::Elsewhere { from } => {
                    self.a.bind(from);
                    self.far_jump(self.shared.lookup_return);
                }
                Tail::NoUnit { from, resume } => {
                    self.a.bind(from);
                    self.lead_stack_nowhere();
                    self.a.jump(resume);
                }
                Tail::NoRoom { from, slow } => {
                    self.a.bind(from);
                    drop_returns(&mut self.a);
                    self.a.jump(slow);
                }
            }
        }
    }
}
