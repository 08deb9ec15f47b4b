//! Memory operands: the effective address, and the inline look at the soft TLB.
//!
//! A [`table`](crate::tlb) of the soft TLB begins at the host's GS base. The flags must be saved before any of this, where
//! they are live; RAX and R14 are clobbered.

use super::asm::{ABOVE, EQUAL, Label, Mem, NOT_EQUAL, R8, R9, R14, RAX};
use super::compile::Compiler;
use super::groups::{Access, Role};
use super::registers::{self, Place, STACK, slot};
use super::runtime::field;
use super::segments;
use super::special::FRAME;
use super::tails::Tail;
use crate::cpu::{Cpu, FS, GS, Mode, SS};
use crate::op::Op;
use crate::tlb::{ADDEND, READ, WRITE};
use address::PAGE_SIZE;
use iced_x86::{Instruction, Register};
use std::mem::offset_of;

/// What an address starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    None,
    Register(Place),
    /// The page that the code is in.
    Page,
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ea {
    pub base: Base,
    pub index: Option<Place>,
    pub scale: u8,
    pub disp: i32,
    /// Address size in bytes.
    pub size: u8,
    /// Index of a segment whose base is added, and whose limit is checked outside 64-bit code.
    pub seg: Option<u8>,
}

impl Ea {
    /// The register, where there is nothing but that and a displacement of 64 bits.
    fn plain(&self) -> Option<u8> {
        match (self.base, self.index, self.seg) {
            (Base::Register(Place::Host(h)), None, None) if self.size == 8 => Some(h),
            _ => None,
        }
    }
}

/// Where a group's addend is.
fn addend(group: usize) -> Mem {
    let mut first = field!(groups);
    first.disp += group as i32 * 8;
    first
}

impl Compiler<'_> {
    /// The memory operand of an instruction. `None` for what isn't taken: relative to EIP, far displacements.
    pub fn ea(&self, i: &Instruction, op: &Op) -> Option<Ea> {
        let mut disp = i.memory_displacement64();
        let base = match i.memory_base() {
            Register::None => Base::None,
            Register::RIP => {
                disp = disp.wrapping_sub(self.page);
                Base::Page
            }
            r => Base::Register(registers::place(registers::number(r)?)),
        };
        let disp = match op.addr_size {
            8 => i32::try_from(disp as i64).ok()?,
            // The sum is cut to the address size.
            _ => disp as i32,
        };
        let index = match i.memory_index() {
            Register::None => None,
            r => Some(registers::place(registers::number(r)?)),
        };
        let scale = i.memory_index_scale().trailing_zeros() as u8;
        let seg = (matches!(op.seg as usize, FS | GS) || !self.flat()).then_some(op.seg);
        Some(Ea { base, index, scale, disp, size: op.addr_size, seg })
    }

    /// An operand on the stack, `disp` bytes from what the host register `from` points to.
    pub fn stack(&self, from: u8, disp: i32) -> Ea {
        let seg = (!self.flat()).then_some(SS as u8);
        let base = Base::Register(Place::Host(from));
        Ea { base, index: None, scale: 0, disp, size: self.stack_size(), seg }
    }
    /// Bytes of the stack pointer.
    pub fn stack_size(&self) -> u8 {
        match self.mode {
            m if m.is64() => 8,
            Mode(m) if m & Mode::STACK32 != 0 => 4,
            _ => 2,
        }
    }
    /// The stack pointer becomes `disp` bytes more than host register `from`.
    pub fn set_stack(&mut self, from: u8, disp: i32) {
        match self.stack_size() {
            2 => {
                self.a.rm(false, &[0x8d], R9, Mem::at(from, disp));
                self.a.copy_sized(2, STACK, R9);
            }
            size => self.a.rm(size == 8, &[0x8d], STACK, Mem::at(from, disp)),
        }
    }

    /// Of 16- and 32-bit code: the linear address of `bytes` bytes into R8, or to `miss`. All of its registers have host
    /// registers.
    fn legacy(&mut self, ea: &Ea, bytes: usize, write: bool, miss: Label) {
        let host = |p| match p {
            Place::Host(h) => h,
            Place::Slot(_) => 0,
        };
        let base = match ea.base {
            Base::Register(p) => Some(host(p)),
            _ => None,
        };
        let index = ea.index.map(host);
        match (base, index, ea.disp) {
            (Some(b), None, 0) => self.a.rr(false, &[0x8b], R8, b),
            (None, None, d) => self.a.load_immediate(R8, d as u32 as u64),
            _ => self.a.rm(false, &[0x8d], R8, Mem { base, index, scale: ea.scale, disp: ea.disp }),
        }
        if ea.size == 2 {
            self.a.rr(false, &[0x0f, 0xb7], R8, R8);
        }
        if let Some(seg) = ea.seg {
            self.through_segment(seg, bytes, write, miss);
        }
    }

    /// Of 64-bit code: the linear address into RAX.
    fn linear(&mut self, ea: &Ea) {
        let wide = ea.size == 8;
        let mut m = Mem { base: None, index: None, scale: ea.scale, disp: ea.disp };
        let mut add = None;
        let base = match ea.base {
            Base::None => None,
            Base::Register(Place::Host(h)) => {
                m.base = Some(h);
                None
            }
            Base::Register(Place::Slot(n)) => Some(slot(n)),
            Base::Page => Some(field!(page_rip)),
        };
        match ea.index {
            Some(Place::Slot(n)) => {
                self.a.load(RAX, slot(n));
                m.index = Some(RAX);
                add = base;
            }
            index => {
                if let Some(Place::Host(h)) = index {
                    m.index = Some(h);
                }
                if let Some(from) = base {
                    self.a.load(RAX, from);
                    m.base = Some(RAX);
                }
            }
        }
        self.a.rm(wide, &[0x8d], RAX, m);
        if let Some(from) = add {
            self.a.rm(wide, &[0x03], RAX, from);
        }
        if let Some(seg) = ea.seg {
            self.a.rm(true, &[0x03], RAX, segments::base(seg));
        }
    }

    /// An instruction with RAX or R14 and what an array of the table holds for the page whose number R14 is.
    pub fn table(&mut self, opcode: u8, reg: u8, array: usize) {
        self.a.bytes(&[0x65]);
        self.a.rm(true, &[opcode], reg, Mem { base: None, index: Some(R14), scale: 3, disp: array as i32 });
    }

    /// Finds the page of an access of `size` bytes, which has to lie on a multiple of `align`: goes to `miss`, or R14
    /// becomes what is to be added to the linear address.
    pub fn check(&mut self, ea: &Ea, size: usize, align: u32, write: bool, miss: Label) {
        let access = Access { ea: *ea, size, write };
        let role = match self.planned.get(self.current) {
            Some(&Some((planned, role))) if planned == access => role,
            _ => return self.look(ea, size, align, write, miss),
        };
        let first = match role {
            Role::First { .. } => true,
            Role::Other { group } if self.led & 1 << group != 0 => false,
            Role::Other { .. } => return self.look(ea, size, align, write, miss),
        };
        if align > 1 {
            self.linear(ea);
            // test eax, align - 1
            self.a.bytes(&[0xa9]);
            self.a.bytes(&(align - 1).to_le_bytes());
            self.a.jump_if(NOT_EQUAL, miss);
        }
        let (alone, found) = (self.a.label(), self.a.label());
        let group = match role {
            Role::First { group, disp, len, write } => {
                self.look(&Ea { disp, ..*ea }, len, 1, write, alone);
                self.a.store(addend(group), R14);
                self.led |= 1 << group;
                group
            }
            Role::Other { group } => {
                self.a.load(R14, addend(group));
                // test r14, r14
                self.a.rr(true, &[0x85], R14, R14);
                self.a.jump_if(EQUAL, alone);
                group
            }
        };
        self.a.bind(found);
        let first = first.then_some(group);
        self.tails.push(Tail::Alone { from: alone, ea: *ea, size, write, miss, found, first });
    }

    /// Looks up an access of a group that is not in one page, or not in the TLB.
    pub fn check_alone(&mut self, ea: &Ea, size: usize, write: bool, miss: Label, first: Option<usize>) {
        if let Some(group) = first {
            self.a.rm(true, &[0xc7], 0, addend(group));
            self.a.bytes(&[0; 4]);
        }
        self.look(ea, size, 1, write, miss);
    }

    /// Looks an access up in the soft TLB.
    fn look(&mut self, ea: &Ea, size: usize, align: u32, write: bool, miss: Label) {
        let tags = if write { WRITE } else { READ };
        let register = if self.mode.is64() {
            ea.plain().filter(|_| ea.disp == 0)
        } else {
            self.legacy(ea, size, write, miss);
            Some(R8)
        };
        if register.is_none() {
            self.linear(ea);
        }
        self.a.page_number(register.unwrap_or(RAX));
        // The address without the page: more than an offset, where the entry is another page's.
        match register {
            Some(host) => {
                self.table(0x8b, RAX, tags);
                self.a.rr(true, &[0x33], RAX, host);
            }
            None => self.table(0x33, RAX, tags),
        }
        // cmp rax, the last offset from where the access doesn't reach into the next page
        self.a.bytes(&[0x48, 0x3d]);
        self.a.bytes(&(PAGE_SIZE as u32 - size as u32).to_le_bytes());
        self.a.jump_if(ABOVE, miss);
        if align > 1 {
            // test eax, align - 1
            self.a.bytes(&[0xa9]);
            self.a.bytes(&(align - 1).to_le_bytes());
            self.a.jump_if(NOT_EQUAL, miss);
        }
        let pointer =
            !matches!(ea.base, Base::Register(Place::Host(STACK | FRAME)) | Base::Page | Base::None);
        if write || !pointer {
            return self.table(0x8b, R14, ADDEND);
        }
        // What is loaded may be the next address, so this counts in cycles, and a segment's base costs some.
        self.a.load(RAX, Mem::cpu(offset_of!(Cpu, tlb_entries)));
        self.a.load(R14, Mem { base: Some(RAX), index: Some(R14), scale: 3, disp: ADDEND as i32 });
    }

    /// The host address of an access that was checked. With `free`, RAX isn't part of it.
    pub fn host(&mut self, ea: &Ea, free: bool) -> Mem {
        if !self.mode.is64() {
            return Mem::sum(R8, R14, 0);
        }
        if ea.size != 8 {
            // The sum is cut to 32 bits before it's one.
            self.linear(ea);
            if !free {
                return Mem::sum(RAX, R14, 0);
            }
            self.a.lea(R14, Mem::sum(RAX, R14, 0));
            return Mem::at(R14, 0);
        }
        if let Some(seg) = ea.seg {
            self.a.rm(true, &[0x03], R14, segments::base(seg));
        }
        let base = match ea.base {
            Base::None => None,
            Base::Register(Place::Host(h)) => Some(h),
            Base::Register(Place::Slot(n)) => {
                self.a.rm(true, &[0x03], R14, slot(n));
                None
            }
            Base::Page => {
                self.a.rm(true, &[0x03], R14, field!(page_rip));
                None
            }
        };
        let index = match ea.index {
            None => {
                return Mem {
                    base: Some(base.unwrap_or(R14)),
                    index: base.map(|_| R14),
                    scale: 0,
                    disp: ea.disp,
                };
            }
            Some(Place::Host(h)) => h,
            Some(Place::Slot(n)) => {
                self.a.load(RAX, slot(n));
                RAX
            }
        };
        let scaled = Mem { base: Some(R14), index: Some(index), scale: ea.scale, disp: 0 };
        let Some(base) = base else {
            if free && index == RAX {
                self.a.lea(R14, scaled);
                return Mem::at(R14, ea.disp);
            }
            return Mem { disp: ea.disp, ..scaled };
        };
        if free || index == RAX {
            self.a.lea(R14, scaled);
            return Mem::sum(base, R14, ea.disp);
        }
        // Not on the way from the table to the access.
        self.a.lea(RAX, Mem { base: Some(base), index: Some(index), scale: ea.scale, disp: ea.disp });
        Mem::sum(RAX, R14, 0)
    }
}
