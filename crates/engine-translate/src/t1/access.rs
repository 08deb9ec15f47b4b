//! Memory operands: the effective address, and the inline look at the soft TLB.
//!
//! The flags must be saved before any of this; RAX and R14 are clobbered.

use super::asm::{Label, Mem, NOT_EQUAL, R8, R9, R14, RAX};
use super::compile::Compiler;
use super::registers::{self, Place, STACK, slot};
use super::runtime::field;
use super::segments;
use crate::cpu::{Cpu, FS, GS, Mode, SS};
use crate::op::Op;
use crate::tlb::{ENTRIES, Entry};
use iced_x86::{Instruction, Register};
use std::mem::offset_of;

const _: () = assert!(size_of::<Entry>() == 32 && ENTRIES.is_power_of_two());
/// What a linear address shifted right by [`ENTRY_SHIFT`] keeps: the entry's offset in the set.
const ENTRY_MASK: u32 = (ENTRIES as u32 - 1) * 32;
const ENTRY_SHIFT: u8 = 7;

/// What an address starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    None,
    Register(Place),
    /// The page that the code is in.
    Page,
}

/// A memory operand.
#[derive(Clone, Copy, Debug)]
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

    /// Looks an access of `size` bytes, which has to lie on a multiple of `align`, up in the soft TLB: goes to `miss`, or
    /// R14 becomes what is to be added to the linear address.
    pub fn check(&mut self, ea: &Ea, size: usize, align: u32, write: bool, miss: Label) {
        let last = size as i32 - 1;
        let plain = ea.plain().and_then(|h| Some((h, ea.disp.checked_add(last)?)));
        if let Some((host, end)) = plain {
            if ea.disp == 0 {
                self.a.rr(false, &[0x8b], R14, host);
            } else {
                self.a.rm(false, &[0x8d], R14, Mem::at(host, ea.disp));
            }
            self.a.lea(RAX, Mem::at(host, end));
        } else if !self.mode.is64() {
            self.legacy(ea, size, write, miss);
            self.a.rr(false, &[0x8b], R14, R8);
            self.a.lea(RAX, Mem::at(R8, last));
        } else {
            self.linear(ea);
            self.a.rr(false, &[0x8b], R14, RAX);
            if last > 0 {
                self.a.lea(RAX, Mem::at(RAX, last));
            }
        }
        if align > 1 {
            // test r14d, align - 1
            self.a.rr(false, &[0xf7], 0, R14);
            self.a.bytes(&(align - 1).to_le_bytes());
            self.a.jump_if(NOT_EQUAL, miss);
        }
        // shr r14d, 7; and r14d, mask; add r14, [set]
        self.a.rr(false, &[0xc1], 5, R14);
        self.a.bytes(&[ENTRY_SHIFT]);
        self.a.rr(false, &[0x81], 4, R14);
        self.a.bytes(&ENTRY_MASK.to_le_bytes());
        self.a.rm(true, &[0x03], R14, Mem::cpu(offset_of!(Cpu, tlb_entries)));
        // The page of the last byte: an access across pages finds no match. and rax, -4096
        self.a.bytes(&[0x48, 0x25, 0, 0xf0, 0xff, 0xff]);
        let tag = if write { offset_of!(Entry, write) } else { offset_of!(Entry, read) };
        self.a.rm(true, &[0x33], RAX, Mem::at(R14, tag as i32));
        self.a.rm(true, &[0x3b], RAX, field!(epoch));
        self.a.jump_if(NOT_EQUAL, miss);
        self.a.load(R14, Mem::at(R14, offset_of!(Entry, addend) as i32));
    }

    /// The host address of an access that was checked. With `free`, RAX isn't part of it.
    pub fn host(&mut self, ea: &Ea, free: bool) -> Mem {
        if !self.mode.is64() {
            return Mem::sum(R8, R14, 0);
        }
        if let Some(host) = ea.plain() {
            return Mem::sum(host, R14, ea.disp);
        }
        self.linear(ea);
        if !free {
            return Mem::sum(RAX, R14, 0);
        }
        self.a.lea(R14, Mem::sum(RAX, R14, 0));
        Mem::at(R14, 0)
    }
}
