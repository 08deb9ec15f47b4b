//! Memory operands: where they are, and what stands in the way.

use crate::cpu::{Cpu, Mode, SS};
use crate::fault::Guest;
use crate::op::Op;
use x86::{Cr0, Cr4, Exception, Vector};

impl Cpu {
    /// The operand's offset in its segment.
    #[inline]
    pub(super) fn vector_offset(&self, op: &Op) -> u64 {
        let sum = self.regs[op.base as usize % 18]
            .wrapping_add(self.regs[op.index as usize % 18] << (op.scale & 3))
            .wrapping_add(op.disp);
        match op.addr_size {
            8 => sum,
            2 => sum & 0xffff,
            _ => sum & 0xffff_ffff,
        }
    }

    /// The operand's linear address; outside 64-bit code its segment's checks for `len` bytes (SDM 3A 5.3).
    #[inline]
    pub(super) fn vector_linear(&mut self, op: &Op, len: u64, write: bool) -> Guest<u64> {
        let offset = self.vector_offset(op);
        self.vector_segment(op, offset, len, write)
    }

    #[inline]
    pub(super) fn vector_segment(&mut self, op: &Op, offset: u64, len: u64, write: bool) -> Guest<u64> {
        if self.mode.is64() {
            return Ok(self.seg_base[op.seg as usize & 7].wrapping_add(offset));
        }
        if self.mode.0 & Mode::FLAT != 0 && op.seg < 4 {
            return Ok(offset & 0xffff_ffff);
        }
        self.segmented(op.seg, offset, len, write)
    }

    fn segmented(&mut self, seg: u8, offset: u64, len: u64, write: bool) -> Guest<u64> {
        let s = self.seg[(seg as usize).min(5)];
        let last = offset.wrapping_add(len.saturating_sub(1));
        let in_limit = if !s.is_code() && s.conforming_or_expand_down() {
            let top = if s.big() { 0xffff_ffff } else { 0xffff };
            offset > s.limit as u64 && last <= top
        } else {
            last <= s.limit as u64
        };
        let allowed = if self.protected() {
            let rights = if write {
                !s.is_code() && s.readable_or_writable()
            } else {
                !s.is_code() || s.readable_or_writable()
            };
            !s.unusable && s.present() && rights
        } else {
            true
        };
        if !in_limit || !allowed {
            let vector = if seg as usize == SS { Vector::SS } else { Vector::GP };
            return self.exception(Exception::with_code(vector, 0));
        }
        Ok(s.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// #UD and #NM for legacy SSE instructions (SDM 3A 13.1, 2.5).
    #[inline]
    pub(super) fn guard_sse(&mut self) -> Guest<()> {
        if self.cr0.intersects(Cr0::EM.union(Cr0::TS)) || !self.cr4.contains(Cr4::OSFXSR) {
            return self.denied(self.cr0.contains(Cr0::EM) || !self.cr4.contains(Cr4::OSFXSR));
        }
        Ok(())
    }
    /// Whether [`Self::guard_sse`] lets instructions pass.
    #[inline]
    pub(crate) fn sse_allowed(&self) -> bool {
        !self.cr0.intersects(Cr0::EM.union(Cr0::TS)) && self.cr4.contains(Cr4::OSFXSR)
    }
    /// Whether [`Self::guard_avx`] does.
    #[inline]
    pub(crate) fn avx_allowed(&self) -> bool {
        let enabled = self.cr4.contains(Cr4::OSXSAVE) && self.vector.xcr0 & 6 == 6 && self.protected();
        enabled && !self.cr0.contains(Cr0::TS)
    }
    /// Whether x87 and MMX instructions may be executed, and none of them can raise #MF: every exception is masked.
    #[inline]
    pub(crate) fn x87_masked(&self) -> bool {
        use super::state::{FCW, FSW};
        let masked = self.vector.get16(FCW) & 0x3f == 0x3f && self.vector.get16(FSW) & 0x80 == 0;
        masked && !self.cr0.intersects(Cr0::EM.union(Cr0::TS))
    }
    /// #UD and #NM for VEX-encoded instructions (SDM 2A 2.4, exception classes 1 to 8).
    #[inline]
    pub(super) fn guard_avx(&mut self) -> Guest<()> {
        let enabled = self.cr4.contains(Cr4::OSXSAVE) && self.vector.xcr0 & 6 == 6 && self.protected();
        if !enabled || self.cr0.contains(Cr0::TS) {
            return self.denied(!enabled);
        }
        Ok(())
    }
    /// #UD, #NM and #MF for MMX instructions (SDM 3A 12.1, 12.5).
    #[inline]
    pub(super) fn guard_mmx(&mut self) -> Guest<()> {
        if self.cr0.intersects(Cr0::EM.union(Cr0::TS)) {
            return self.denied(self.cr0.contains(Cr0::EM));
        }
        self.pending_x87()
    }
    /// #NM for x87 instructions.
    #[inline]
    pub(super) fn guard_x87(&mut self) -> Guest<()> {
        if self.cr0.intersects(Cr0::EM.union(Cr0::TS)) {
            return self.denied(false);
        }
        Ok(())
    }
    /// #MF where an earlier instruction raised an unmasked x87 exception. With CR0.NE clear a PC's board would raise IRQ 13
    /// instead; systems old enough to want that are given #MF all the same.
    #[inline]
    pub(super) fn pending_x87(&mut self) -> Guest<()> {
        if self.vector.get16(super::state::FSW) & 0x80 != 0 {
            return self.exception(Exception::plain(Vector::MF));
        }
        Ok(())
    }

    #[cold]
    fn denied(&mut self, undefined: bool) -> Guest<()> {
        if undefined { self.ud() } else { self.exception(Exception::plain(Vector::NM)) }
    }
}
