//! Operands of system instructions, and segment-checked accesses.

use crate::cpu::Cpu;
use crate::fault::{Fault, Guest};
use crate::mem::Scalar;
use crate::op::Op;
use x86::Exception;

impl Cpu {
    /// Offset of the memory operand in its segment.
    pub(crate) fn operand_offset(&self, op: &Op) -> u64 {
        let ea = self.regs[op.base as usize & 31]
            .wrapping_add(self.regs[op.index as usize & 31] << op.scale)
            .wrapping_add(op.disp);
        match op.addr_size {
            2 => ea & 0xffff,
            4 => ea & 0xffff_ffff,
            _ => ea,
        }
    }

    /// Linear address of `len` bytes of the memory operand, `skip` bytes into it; segment checks done.
    pub(crate) fn operand(&mut self, op: &Op, skip: u64, len: u64, write: bool) -> Guest<u64> {
        let offset = self.operand_offset(op).wrapping_add(skip);
        let offset = if op.addr_size == 8 { offset } else { offset & 0xffff_ffff };
        self.segment_linear(op.seg as usize, offset, len, write)
    }

    /// Loads a scalar memory operand.
    pub(crate) fn load<T: Scalar>(&mut self, op: &Op, skip: u64) -> Guest<T> {
        let at = self.operand(op, skip, T::SIZE as u64, false)?;
        self.read(at)
    }
    /// Stores a scalar memory operand.
    pub(crate) fn store<T: Scalar>(&mut self, op: &Op, skip: u64, value: T) -> Guest<()> {
        let at = self.operand(op, skip, T::SIZE as u64, true)?;
        self.write(at, value)
    }
    /// A 16-bit source that is a register (number in `reg`) or memory.
    pub(crate) fn source16(&mut self, op: &Op, reg: u8) -> Guest<u16> {
        if op.addr_size == 0 { Ok(self.regs[reg as usize & 15] as u16) } else { self.load(op, 0) }
    }
    /// Writes a general register: 16 bits keep the rest, 32 bits clear the upper half.
    pub(crate) fn set_reg(&mut self, reg: u8, size: u8, value: u64) {
        let r = &mut self.regs[reg as usize & 15];
        *r = match size {
            1 => *r & !0xff | value & 0xff,
            2 => *r & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    /// #GP(0) unless CPL is 0. Real mode has CPL 0, virtual-8086 mode 3.
    #[inline]
    pub(crate) fn require_cpl0(&mut self) -> Guest<()> {
        if self.cpl != 0 { self.gp(0) } else { Ok(()) }
    }
    /// #UD in real and virtual-8086 mode.
    pub(crate) fn require_protected(&mut self) -> Guest<()> {
        if self.protected() { Ok(()) } else { self.ud() }
    }

    /// Turns a non-canonical address met inside a longer operation into the exception it means.
    pub(crate) fn canonical_or<T>(&mut self, r: Guest<T>, otherwise: Exception) -> Guest<T> {
        if r.is_err() && self.fault == Some(Fault::NonCanonical) {
            self.fault = Some(Fault::Exception(otherwise));
        }
        r
    }
}

/// Bits 63:47 all equal (SDM 1 3.3.7.1, 48-bit linear addresses).
pub(crate) const fn canonical(linear: u64) -> bool {
    (linear as i64) << 16 >> 16 == linear as i64
}

/// Whether `len` bytes (not 0) at `offset` lie within a segment's limit, expand-down ones too (SDM 3A 5.3).
pub(crate) fn in_limit(s: &x86::Segment, offset: u64, len: u64) -> bool {
    let last = offset.wrapping_add(len - 1);
    if !s.is_code() && s.is_code_or_data() && s.conforming_or_expand_down() {
        let top = if s.big() { u32::MAX as u64 } else { 0xffff };
        offset > s.limit as u64 && last <= top && last >= offset
    } else {
        last <= s.limit as u64 && last >= offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86::Segment;

    #[test]
    fn in_limit_of_expand_up_and_down_segments_follows_the_manual() {
        let up = Segment { limit: 0xfff, attributes: 0x93, ..Default::default() };
        let down = Segment { limit: 0xfff, attributes: 0x97, ..Default::default() };
        let down_big = Segment { attributes: 0x4097, ..down };
        let table = [
            (&up, 0xffc, 4, true),
            (&up, 0xffd, 4, false),
            (&up, u64::MAX, 2, false),
            (&down, 0xfff, 1, false),
            (&down, 0x1000, 4, true),
            (&down, 0xfffd, 4, false),
            (&down_big, 0xfffd, 4, true),
            (&down_big, 0xffff_fffd, 4, false),
        ];
        for (s, offset, len, expected) in table {
            assert_eq!(in_limit(s, offset, len), expected, "{:#x} at {offset:#x}", s.attributes);
        }
    }
}
