//! Segments in 16- and 32-bit code: what of each may be accessed, so that translated code needs one comparison.
//!
//! Registers R8 to R11 of the host's are scratch there. The guest's that have their places in them, which only 64-bit code
//! sees, are kept beside.

use super::Translation;
use super::asm::{ABOVE, Label, Mem, R8, RAX};
use super::compile::Compiler;
use super::runtime::field;
use crate::cpu::{CS, Cpu, ES, FS, GS, Mode};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// Guest registers that 16- and 32-bit code does not have and whose host registers are scratch there.
const UPPER: Range<usize> = 12..16;

/// Offsets from a segment's start that may be read, and written: all below these.
pub type Room = [u64; 2];

/// Code that is bound to a place, because its segments are not flat, or its jumps wrap at 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Linear address of the page.
    pub page: u32,
    /// CS's base and limit.
    pub base: u32,
    pub limit: u32,
}

impl Place {
    /// The instruction pointer of the page's first byte.
    pub fn page_ip(&self) -> u32 {
        self.page.wrapping_sub(self.base)
    }
}

impl Translation {
    pub(super) fn bind(&self, p: Place) {
        self.page.store(p.page, Relaxed);
        self.base.store(p.base, Relaxed);
        self.limit.store(p.limit, Relaxed);
    }
    pub(super) fn bound_to(&self, p: Place) -> bool {
        let Self { page, base, limit, .. } = self;
        Place { page: page.load(Relaxed), base: base.load(Relaxed), limit: limit.load(Relaxed) } == p
    }
}

impl Cpu {
    /// After any change of a segment register outside 64-bit code, or of what gives segments their meaning.
    pub(crate) fn update_rooms(&mut self) {
        // Flat code doesn't look at the others.
        let from = if self.mode.0 & Mode::FLAT != 0 { FS } else { ES };
        for seg in from..=GS {
            self.t1.rooms[seg] = [false, true].map(|write| {
                let s = &self.seg[seg];
                let plain = s.is_code() || !s.conforming_or_expand_down();
                // What is odd has no room: the interpreter looks at it.
                if plain && self.segment_allows(seg, 0, 1, write) { s.limit as u64 + 1 } else { 0 }
            });
        }
    }

    /// Where code at `rip` is bound to, if it is.
    pub(super) fn code_place(&self, rip: u64) -> Option<Place> {
        if self.mode.0 & Mode::FLAT != 0 && !self.mode.is16() {
            return None;
        }
        let page = self.code_linear(rip) as u32 & !0xfff;
        Some(Place { page, base: self.seg_base[CS] as u32, limit: self.seg[CS].limit })
    }

    /// Keeps the registers whose host registers are scratch from now on.
    pub(super) fn keep_upper(&mut self) {
        self.t1.upper.copy_from_slice(&self.regs[UPPER]);
    }
    /// Puts them back.
    pub(super) fn restore_upper(&mut self) {
        self.regs[UPPER].copy_from_slice(&self.t1.upper);
    }
}

/// A segment's base in the vCPU.
pub fn base(seg: u8) -> Mem {
    Mem::cpu(offset_of!(Cpu, seg_base) + seg as usize * 8)
}

impl Compiler<'_> {
    /// Whether only FS and GS have bases and limits.
    pub fn flat(&self) -> bool {
        self.mode.0 & Mode::FLAT != 0
    }

    /// From an offset in R8, 32 bits, to the linear address of `size` bytes there, or to `miss`. Clobbers RAX and flags.
    pub fn through_segment(&mut self, seg: u8, size: usize, write: bool, miss: Label) {
        let mut room = field!(rooms);
        room.disp += (seg as usize * size_of::<Room>() + write as usize * 8) as i32;
        self.a.lea(RAX, Mem::at(R8, size as i32));
        self.a.rm(true, &[0x3b], RAX, room);
        self.a.jump_if(ABOVE, miss);
        self.a.rm(false, &[0x03], R8, base(seg));
    }
}
