//! Effective addresses: from a memory operand to a linear address (SDM 1 3.7.5, 3A 5.3).

use super::regs::Word;
use crate::cpu::{Cpu, FS, GS, Mode, SS};
use crate::fault::Guest;
use crate::op::Op;
use x86::{Exception, Vector};

/// A way to compute addresses, chosen at decode time.
pub trait Ea: 'static {
    /// The offset, masked to the address size.
    fn offset(cpu: &Cpu, op: &Op) -> u64;
    /// The linear address of `len` bytes at `offset` (masked here once more) in the operand's segment.
    fn linear(cpu: &mut Cpu, op: &Op, offset: u64, len: u64, write: bool) -> Guest<u64>;

    /// The linear address of the operand, to be read.
    #[inline(always)]
    fn read<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<u64> {
        let offset = Self::offset(cpu, op);
        Self::linear(cpu, op, offset, W::SIZE as u64, false)
    }
    /// The linear address of the operand, to be written.
    #[inline(always)]
    fn write<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<u64> {
        let offset = Self::offset(cpu, op);
        Self::linear(cpu, op, offset, W::SIZE as u64, true)
    }
}

#[inline(always)]
fn sum(cpu: &Cpu, op: &Op) -> u64 {
    cpu.address_register(op.base)
        .wrapping_add(cpu.address_register(op.index) << (op.scale & 3))
        .wrapping_add(op.disp)
}

#[inline(always)]
fn segment_base(cpu: &Cpu, op: &Op) -> u64 {
    cpu.seg_base[op.seg as usize & 7]
}

/// 64-bit addresses in 64-bit code.
pub struct Long;
/// 32-bit addresses through a segment that needs no checks.
pub struct Flat;
/// Everything else.
pub struct Checked;

impl Ea for Long {
    #[inline(always)]
    fn offset(cpu: &Cpu, op: &Op) -> u64 {
        sum(cpu, op)
    }
    #[inline(always)]
    fn linear(cpu: &mut Cpu, op: &Op, offset: u64, _: u64, _: bool) -> Guest<u64> {
        Ok(offset.wrapping_add(segment_base(cpu, op)))
    }
}

impl Ea for Flat {
    #[inline(always)]
    fn offset(cpu: &Cpu, op: &Op) -> u64 {
        sum(cpu, op) & 0xffff_ffff
    }
    #[inline(always)]
    fn linear(_: &mut Cpu, _: &Op, offset: u64, _: u64, _: bool) -> Guest<u64> {
        Ok(offset & 0xffff_ffff)
    }
}

impl Ea for Checked {
    #[inline(always)]
    fn offset(cpu: &Cpu, op: &Op) -> u64 {
        sum(cpu, op) & address_mask(op.addr_size)
    }
    #[inline(always)]
    fn linear(cpu: &mut Cpu, op: &Op, offset: u64, len: u64, write: bool) -> Guest<u64> {
        cpu.segment_linear(op.seg as usize, offset & address_mask(op.addr_size), len, write)
    }
}

/// Mask of an address size of 2, 4 or 8 bytes.
#[inline]
pub fn address_mask(size: u8) -> u64 {
    match size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// Which of the three an operand takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Long,
    Flat,
    Checked,
}

/// The cheapest way that is right for an operand.
pub fn kind(op: &Op, mode: Mode) -> Kind {
    if mode.is64() {
        return if op.addr_size == 8 { Kind::Long } else { Kind::Checked };
    }
    let flat = mode.0 & Mode::FLAT != 0 && !matches!(op.seg as usize, FS | GS);
    if flat && op.addr_size == 4 { Kind::Flat } else { Kind::Checked }
}

impl Cpu {
    /// The linear address of `len` bytes at `offset` in a segment, with the limit and access rights checked outside 64-bit
    /// code: #SS(0) through SS, #GP(0) through the others.
    pub fn segment_linear(&mut self, seg: usize, offset: u64, len: u64, write: bool) -> Guest<u64> {
        let seg = seg.min(7);
        let base = self.seg_base[seg];
        if self.mode.is64() {
            return Ok(base.wrapping_add(offset));
        }
        if !self.segment_allows(seg, offset, len, write) {
            let vector = if seg == SS { Vector::SS } else { Vector::GP };
            return self.exception(Exception::with_code(vector, 0));
        }
        Ok(base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Whether a segment's limit and rights allow an access, outside 64-bit code (SDM 3A 5.3, 5.4, 5.5).
    pub fn segment_allows(&self, seg: usize, offset: u64, len: u64, write: bool) -> bool {
        if self.mode.0 & Mode::FLAT != 0 && !matches!(seg, FS | GS) {
            return true;
        }
        let Some(s) = self.seg.get(seg) else { return true };
        if self.protected() {
            let right = if s.is_code() {
                !write && s.readable_or_writable()
            } else {
                !write || s.readable_or_writable()
            };
            if s.unusable || !s.present() || !right {
                return false;
            }
        }
        let last = offset.saturating_add(len.saturating_sub(1));
        let limit = s.limit as u64;
        if !s.is_code() && s.conforming_or_expand_down() {
            let top = if s.big() { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top
        } else {
            // A whole 4 GiB segment lets an access wrap around its end.
            last <= limit || limit == 0xffff_ffff && offset <= limit
        }
    }
}
