//! Memory operands in code that has a [window](crate::tlb::windows): no look, but what is added to the address's unit.
//!
//! ```text
//! rorx  r14, address, 32      mov r14, [r15d + r14d*8 + units]      the instruction, on [address + r14]
//! ```
//!
//! Neither changes flags or any register but R14. The host's MMU finds the page; where it doesn't, [`super::faults`] leads on to where a
//! miss of the soft TLB would have gone, with all registers as they were before.
//!
//! The array is at the low half of R15 ([`crate::placed`]). No address leads anywhere else: R14D is the upper half, of which the index keeps bits 60 to 32, and what is added to one of those is the
//! same whatever the three bits above are. Unless they repeat the others, the sum isn't canonical, as the address wasn't.

use super::access::{Base, Ea};
use super::asm::{BIAS, Label, Mem, NOT_EQUAL, R14, R15, RAX};
use super::compile::Compiler;
use super::flags::Flags;
use super::groups::Values;
use super::registers::{self, MAPPED, Place, STACK, slot};
use super::runtime::field;
use super::segments;
use super::tails::Tail;
use crate::cpu::RSP;
use crate::op::Flow;
use crate::placed::UNITS;
use crate::tlb::windows::{NOWHERE, UNIT_BITS};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Where code may fault in the host, and where it goes then: offsets in the code, and a label.
pub struct MayFault {
    pub start: usize,
    pub end: Option<usize>,
    pub tail: Label,
}

/// What has a unit whose addend R14 may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitOf {
    /// A host register's value.
    Register(u8),
    /// The page that the code is in.
    Page,
}

/// The number that stands for the code's page among values, which count from 0.
const PAGE: u32 = u32::MAX;

/// What R14 is between two ops, as far as it is the addend of a unit that a register's value is in.
#[derive(Default)]
pub struct Units {
    values: Values,
    /// The value, and what was added to it, whose unit's addend R14 was before the op, is since the op's access, and will be behind the op.
    before: Option<(u32, i64)>,
    used: Option<(u32, i64)>,
    behind: Option<(u32, i64)>,
    /// By how much the stack pointer was moved since an access near it, or since its unit was looked up.
    moved: u64,
}

/// How far from the value a unit was found for its addend is used: slots are apart by four times as much.
const NEAR: u64 = 1 << 29;

/// How far the stack pointer may be moved without an access there: none faults until it is at the next slot, where nobody accesses anything
/// on the way.
const STRAYS: u64 = 1 << 16;

impl Units {
    /// R14 isn't known to be anything.
    pub fn give_up(&mut self) {
        (self.before, self.used, self.behind) = (None, None, None);
    }
    /// The op leaves R14 as its access did, or, having none, as it was.
    pub fn keep(&mut self) {
        self.behind = self.used.or(self.before);
    }
}

/// Whether the stack pointer moves only by what is accessed there: as long as that doesn't fault, it doesn't get past a slot's end.
fn moves_by_access(i: &Instruction) -> bool {
    match i.mnemonic() {
        Mnemonic::Push | Mnemonic::Call => true,
        Mnemonic::Pop => {
            i.op0_kind() == OpKind::Register && registers::number(i.op0_register()) != Some(RSP as u8)
        }
        _ => false,
    }
}

impl Compiler<'_> {
    pub fn begin_op(&mut self) {
        self.units.before = self.units.behind.take();
        self.units.used = None;
    }
    /// The op that was translated ends here.
    pub fn end_of_op(&mut self, k: usize, i: &Instruction) {
        let here = self.a.here();
        self.may_fault.iter_mut().rev().take_while(|f| f.end.is_none()).for_each(|f| f.end = Some(here));
        if !self.windows {
            return;
        }
        let stack = self.units.values.now[RSP];
        self.units.values.step(i, self.encoding);
        let now = self.units.values.now[RSP];
        if now != stack && !moves_by_access(i) {
            let by = if now.0 == stack.0 { now.1.abs_diff(stack.1) } else { u64::MAX };
            self.units.moved = self.units.moved.saturating_add(by);
        }
        if self.units.moved > STRAYS && self.ops[k].flow == Flow::Next {
            self.follow_stack();
        }
        // Behind a handler it is found again, from a register that has the value.
        let now = &self.units.values.now;
        let found = self.units.behind.and_then(|(number, at)| {
            let has = |guest: u8| {
                let (n, from) = now[guest as usize];
                n == number && from.abs_diff(at) <= NEAR
            };
            let register =
                MAPPED.iter().find(|(guest, _)| has(*guest)).map(|(_, host)| UnitOf::Register(*host));
            if number == PAGE { Some(UnitOf::Page) } else { register }
        });
        match found {
            None => self.units.behind = None,
            Some(of) => {
                for t in &mut self.tails {
                    if let Tail::Handler { op, unit, .. } = t
                        && *op == k
                    {
                        *unit = Some(of);
                    }
                }
            }
        }
    }

    /// The operand of an access of `size` bytes, which has to lie on a multiple of `align`; `slow` is where it goes instead. With `free`, RAX isn't part
    /// of it.
    ///
    /// Up to the access, and from it to the op's end, there must be no change of anything that op `k`'s handler would look at.
    pub fn reach(
        &mut self,
        k: usize,
        ea: &Ea,
        size: usize,
        align: u32,
        write: bool,
        free: bool,
        slow: Label,
    ) -> Mem {
        if align == 1
            && let Some(m) = self.through_window(ea, free, slow)
        {
            if self.flags == Flags::Native && self.flags_live[k] {
                self.save_flags_at(slow);
            }
            return m;
        }
        self.units.give_up();
        self.save_live_flags(k);
        self.check(ea, size, align, write, slow);
        let m = self.host(ea, free);
        self.flags = Flags::Saved;
        m
    }

    /// The tail finds the flags in EFLAGS only.
    fn save_flags_at(&mut self, slow: Label) {
        for t in &mut self.tails {
            if let Tail::Handler { from, native, .. } = t
                && *from == slow
            {
                *native = true;
            }
        }
    }

    /// Whether an access goes through the window.
    pub fn windows_reach(&self, ea: &Ea) -> bool {
        self.windows && ea.size == 8
    }

    fn through_window(&mut self, ea: &Ea, free: bool, slow: Label) -> Option<Mem> {
        if !self.windows_reach(ea) {
            return None;
        }
        self.may_fault.push(MayFault { start: self.a.here(), end: None, tail: slow });
        if let (Base::Register(Place::Host(h)), None, None) = (ea.base, ea.index, ea.seg) {
            let guest = MAPPED.iter().find(|(_, host)| *host == h).map(|(guest, _)| *guest as usize)?;
            let (number, from) = self.units.values.now[guest];
            let known = self.units.used.or(self.units.before).filter(|(n, at)| {
                *n == number && from.abs_diff(*at).saturating_add(ea.disp.unsigned_abs() as u64) <= NEAR
            });
            if h == STACK && ea.disp.unsigned_abs() as u64 <= STRAYS {
                self.units.moved = 0;
            }
            if known.is_none() {
                if h == STACK && ea.disp.unsigned_abs() as u64 <= NEAR {
                    self.a.load(R14, field!(stack_addend));
                } else {
                    self.addend_of_unit(h);
                }
            }
            self.units.used = known.or(Some((number, from)));
            return Some(Mem::sum(h, R14, ea.disp));
        }
        let page = ea.base == Base::Page && ea.index.is_none() && ea.seg.is_none();
        let known = page && self.units.used.or(self.units.before).is_some_and(|(n, _)| n == PAGE);
        self.units.give_up();
        // Far displacements lead to where no page is.
        let disp = self.sum_without_flags(ea);
        if !known {
            self.addend_of_unit(RAX);
        }
        if page && !free {
            self.units.used = Some((PAGE, 0));
        }
        if !free {
            return Some(Mem::sum(RAX, R14, disp));
        }
        self.a.lea(R14, Mem::sum(RAX, R14, disp));
        Some(Mem::at(R14, 0))
    }

    /// The linear address into RAX, but for a displacement. Clobbers R14.
    fn sum_without_flags(&mut self, ea: &Ea) -> i32 {
        let scaled = |base, index| Mem { base, index: Some(index), scale: ea.scale, disp: ea.disp };
        let mut disp = 0;
        match (ea.base, ea.index) {
            (Base::None, None) if ea.seg.is_some() => disp = ea.disp,
            (Base::None, None) => self.a.load_immediate(RAX, ea.disp as i64 as u64),
            (Base::None, Some(Place::Host(x))) => self.a.lea(RAX, scaled(None, x)),
            (Base::None, Some(Place::Slot(x))) => {
                self.a.load(RAX, slot(x));
                self.a.lea(RAX, scaled(None, RAX));
            }
            (Base::Page, _) => {
                self.a.load(RAX, field!(page_rip));
                disp = ea.disp;
            }
            (Base::Register(Place::Slot(b)), None) => {
                self.a.load(RAX, slot(b));
                disp = ea.disp;
            }
            (Base::Register(Place::Host(h)), None) => self.a.lea(RAX, Mem::at(h, ea.disp)),
            (Base::Register(Place::Host(h)), Some(Place::Host(x))) => self.a.lea(RAX, scaled(Some(h), x)),
            (Base::Register(Place::Host(h)), Some(Place::Slot(x))) => {
                self.a.load(RAX, slot(x));
                self.a.lea(RAX, scaled(Some(h), RAX));
            }
            (Base::Register(Place::Slot(b)), Some(Place::Host(x))) => {
                self.a.load(RAX, slot(b));
                self.a.lea(RAX, scaled(Some(RAX), x));
            }
            (Base::Register(Place::Slot(b)), Some(Place::Slot(x))) => {
                self.a.load(R14, slot(b));
                self.a.load(RAX, slot(x));
                self.a.lea(RAX, scaled(Some(R14), RAX));
            }
        }
        if let Some(seg) = ea.seg {
            let base = segments::base(seg);
            if ea.base == Base::None && ea.index.is_none() {
                self.a.load(RAX, base);
            } else {
                self.a.load(R14, base);
                self.a.lea(RAX, Mem::sum(RAX, R14, disp));
                disp = 0;
            }
        }
        disp
    }

    /// Before a jump: the next access near the stack pointer may be anywhere.
    pub fn settle_stack(&mut self) {
        if self.units.moved > 0 {
            self.follow_stack();
        }
    }
    /// The stack pointer may be anywhere: what leads near it becomes that of its unit.
    fn follow_stack(&mut self) {
        self.units.moved = 0;
        let (from, resume) = (self.a.label(), self.a.label());
        let start = self.a.here();
        self.addend_of_unit(STACK);
        self.may_fault.push(MayFault { start, end: Some(self.a.here()), tail: from });
        self.a.bind(resume);
        self.a.store(field!(stack_addend), R14);
        self.tails.push(Tail::NoUnit { from, resume });
        self.units.give_up();
    }
    /// The tail of that, where no program's address can be: R14 becomes what leads nowhere.
    pub fn lead_stack_nowhere(&mut self) {
        // mov qword [faulted], 0
        self.a.rm(true, &[0xc7], 0, field!(faulted));
        self.a.bytes(&[0; 4]);
        // not r14, which leaves the flags
        self.a.copy(R14, STACK);
        self.a.rr(true, &[0xf7], 2, R14);
        self.a.load_immediate(RAX, NOWHERE + 1);
        self.a.lea(R14, Mem::sum(RAX, R14, 0));
    }

    /// R14 becomes what is to be added to the linear address in a register.
    fn addend_of_unit(&mut self, from: u8) {
        // rorx r14, from, 32
        let b = if from < 8 { 0x20 } else { 0 };
        self.a.bytes(&[0xc4, 0x43 | b, 0xfb, 0xf0, 0xf0 | from & 7, UNIT_BITS as u8]);
        // mov r14, [r15d + r14d*8 + units]
        self.a.bytes(&[0x67]);
        let disp = UNITS as i32 - BIAS;
        self.a.rm(true, &[0x8b], R14, Mem { base: Some(R15), index: Some(R14), scale: 3, disp });
    }

    /// The same where that can't fault; if it isn't a program's address, to `otherwise`. Clobbers RAX and flags.
    pub fn addend_of_user_unit(&mut self, of: UnitOf, otherwise: Label) {
        let from = match of {
            UnitOf::Register(host) => host,
            UnitOf::Page => {
                self.a.load(RAX, field!(page_rip));
                RAX
            }
        };
        // shr r14, 47
        self.a.copy(R14, from);
        self.a.rr(true, &[0xc1], 5, R14);
        self.a.bytes(&[47]);
        self.a.jump_if(NOT_EQUAL, otherwise);
        self.addend_of_unit(from);
    }
}
