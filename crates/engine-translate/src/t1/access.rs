//! Memory operands: the effective address, and the inline look at the soft TLB.
//!
//! The flags must be saved before any of this; RAX and R14 are clobbered.

use super::asm::{Label, Mem, NOT_EQUAL, R14, RAX};
use super::compile::Compiler;
use super::registers::{self, Place, slot};
use super::runtime::field;
use crate::cpu::{Cpu, FS, GS};
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

/// A memory operand with a 64-bit address.
#[derive(Clone, Copy, Debug)]
pub struct Ea {
    pub base: Base,
    pub index: Option<Place>,
    pub scale: u8,
    pub disp: i32,
    /// Index of a segment whose base is added.
    pub seg: Option<u8>,
}

impl Ea {
    /// A host register plus a constant.
    pub const fn simple(host: u8, disp: i32) -> Self {
        Self { base: Base::Register(Place::Host(host)), index: None, scale: 0, disp, seg: None }
    }
    /// The register, where there is nothing but that and a displacement.
    fn plain(&self) -> Option<u8> {
        match (self.base, self.index, self.seg) {
            (Base::Register(Place::Host(h)), None, None) => Some(h),
            _ => None,
        }
    }
}

impl Compiler<'_> {
    /// The memory operand of an instruction. `None` for what isn't taken: 32-bit addresses, far displacements.
    pub fn ea(&self, i: &Instruction, op: &Op) -> Option<Ea> {
        if op.addr_size != 8 {
            return None;
        }
        let mut disp = i.memory_displacement64();
        let base = match i.memory_base() {
            Register::None => Base::None,
            Register::RIP => {
                disp = disp.wrapping_sub(self.page);
                Base::Page
            }
            r => Base::Register(registers::place(registers::number(r)?)),
        };
        let index = match i.memory_index() {
            Register::None => None,
            r => Some(registers::place(registers::number(r)?)),
        };
        let scale = i.memory_index_scale().trailing_zeros() as u8;
        let seg = matches!(op.seg as usize, FS | GS).then_some(op.seg);
        Some(Ea { base, index, scale, disp: i32::try_from(disp as i64).ok()?, seg })
    }

    /// The linear address into RAX.
    fn linear(&mut self, ea: &Ea) {
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
        self.a.lea(RAX, m);
        if let Some(from) = add {
            self.a.rm(true, &[0x03], RAX, from);
        }
        if let Some(seg) = ea.seg {
            let base = offset_of!(Cpu, seg_base) + seg as usize * 8;
            self.a.rm(true, &[0x03], RAX, Mem::cpu(base));
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
