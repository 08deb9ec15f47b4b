//! Reading descriptors, and loading segment registers from them (SDM 3A 3.4, 5.6 to 5.8).

use super::operand::in_limit;
use crate::cpu::{Cpu, DS, ES, FS, GS, SS};
use crate::fault::Guest;
use x86::{Descriptor, Exception, Segment, Vector};

/// The accessed bit of code and data descriptors, and the busy bit of TSS ones, in byte 5.
const ACCESSED: u8 = 1;
const BUSY: u8 = 2;

impl Cpu {
    /// A selector as an error code: without RPL, with EXT while an event from outside the program is being delivered.
    pub(crate) fn selector_code(&self, selector: u16) -> u32 {
        (selector & 0xfffc) as u32 | self.sys.external
    }
    /// Raises `vector` with a selector's error code.
    #[cold]
    pub(crate) fn selector_fault<T>(&mut self, vector: Vector, selector: u16) -> Guest<T> {
        let code = self.selector_code(selector);
        self.exception(Exception::with_code(vector, code))
    }

    /// Linear address of a selector's descriptor of `len` bytes; `None` where it lies outside its table.
    fn descriptor_address(&self, selector: u16, len: u64) -> Option<u64> {
        let offset = (selector & !7) as u64;
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, self.gdtr.limit as u64)
        } else if self.ldtr.unusable || !self.ldtr.present() {
            return None;
        } else {
            (self.ldtr.base, self.ldtr.limit as u64)
        };
        let mask = if self.long_mode() { u64::MAX } else { 0xffff_ffff };
        (offset + len - 1 <= limit).then(|| base.wrapping_add(offset) & mask)
    }

    /// The descriptor of a selector that isn't null; `vector` with the selector where it lies outside its table.
    pub(crate) fn descriptor(&mut self, selector: u16, vector: Vector) -> Guest<Descriptor> {
        match self.descriptor_address(selector, 8) {
            Some(at) => Ok(Descriptor(self.system_read(at)?)),
            None => self.selector_fault(vector, selector),
        }
    }
    /// The upper eight bytes of a 16-byte descriptor (long mode).
    pub(crate) fn descriptor_upper(&mut self, selector: u16, vector: Vector) -> Guest<u64> {
        match self.descriptor_address(selector, 16) {
            Some(at) => self.system_read(at.wrapping_add(8)),
            None => self.selector_fault(vector, selector),
        }
    }
    /// The descriptor for LAR, LSL, VERR, VERW: `None` for null selectors and those outside their table.
    pub(crate) fn descriptor_if_any(&mut self, selector: u16, len: u64) -> Guest<Option<(Descriptor, u64)>> {
        if selector & 0xfffc == 0 {
            return Ok(None);
        }
        let Some(at) = self.descriptor_address(selector, len) else { return Ok(None) };
        let low = self.system_read(at)?;
        let high = if len == 16 { self.system_read(at.wrapping_add(8))? } else { 0 };
        Ok(Some((Descriptor(low), high)))
    }

    /// Sets the accessed bit in a code or data descriptor, in memory and in what is returned.
    pub(crate) fn set_accessed(&mut self, selector: u16, d: Descriptor) -> Guest<Descriptor> {
        self.set_type_bit(selector, d, ACCESSED)
    }
    /// Sets the busy bit of a TSS descriptor.
    pub(crate) fn set_busy(&mut self, selector: u16, d: Descriptor) -> Guest<Descriptor> {
        self.set_type_bit(selector, d, BUSY)
    }
    fn set_type_bit(&mut self, selector: u16, d: Descriptor, bit: u8) -> Guest<Descriptor> {
        let type_byte = (d.0 >> 40) as u8;
        if type_byte & bit == 0
            && let Some(at) = self.descriptor_address(selector, 8)
        {
            self.system_write(at.wrapping_add(5), type_byte | bit)?;
        }
        Ok(Descriptor(d.0 | (bit as u64) << 40))
    }
    /// Clears the busy bit of a TSS descriptor.
    pub(crate) fn clear_busy(&mut self, selector: u16) -> Guest<()> {
        if let Some(at) = self.descriptor_address(selector, 8) {
            let type_byte: u8 = self.system_read(at.wrapping_add(5))?;
            self.system_write(at.wrapping_add(5), type_byte & !BUSY)?;
        }
        Ok(())
    }

    /// A data segment register (DS, ES, FS, GS) for `selector`, checked (SDM 2, MOV): `vector` is #GP, or #TS in task switches.
    pub(crate) fn fetch_data_segment(&mut self, selector: u16, vector: Vector) -> Guest<Segment> {
        if selector & 0xfffc == 0 {
            return Ok(Segment { selector, unusable: true, ..Segment::default() });
        }
        let d = self.descriptor(selector, vector)?;
        let rpl = (selector & 3) as u8;
        let readable = d.is_code_or_data() && (!d.is_code() || d.0 & 1 << 41 != 0);
        let privileged = d.is_conforming_code() || rpl.max(self.cpl) <= d.dpl();
        if !readable || !privileged {
            return self.selector_fault(vector, selector);
        }
        if !d.present() {
            return self.selector_fault(Vector::NP, selector);
        }
        Ok(self.set_accessed(selector, d)?.segment(selector))
    }

    /// The stack segment register for `selector` at privilege `cpl`; the exceptions of MOV SS are #GP and #SS, those of gates and task
    /// switches #TS in #GP's place.
    pub(crate) fn fetch_stack_segment(&mut self, selector: u16, cpl: u8, vector: Vector) -> Guest<Segment> {
        let rpl = (selector & 3) as u8;
        if selector & 0xfffc == 0 {
            if vector == Vector::GP && self.mode.is64() && cpl < 3 && rpl == cpl {
                return Ok(null_stack(selector, cpl));
            }
            let code = if vector == Vector::GP { self.sys.external } else { self.selector_code(selector) };
            return self.exception(Exception::with_code(vector, code));
        }
        let d = self.descriptor(selector, vector)?;
        let writable = d.is_code_or_data() && !d.is_code() && d.0 & 1 << 41 != 0;
        if rpl != cpl || !writable || d.dpl() != cpl {
            return self.selector_fault(vector, selector);
        }
        if !d.present() {
            return self.selector_fault(Vector::SS, selector);
        }
        Ok(self.set_accessed(selector, d)?.segment(selector))
    }

    /// MOV, POP and LxS to a segment register other than CS.
    pub(crate) fn load_segment(&mut self, reg: usize, selector: u16) -> Guest<()> {
        if !self.protected() {
            return self.load_real_segment(reg, selector);
        }
        let new = if reg == SS {
            self.fetch_stack_segment(selector, self.cpl, Vector::GP)?
        } else {
            self.fetch_data_segment(selector, Vector::GP)?
        };
        self.seg[reg] = new;
        if self.mode.is64() && matches!(reg, FS | GS) {
            self.seg_base[reg] = new.base;
        } else {
            self.update_mode();
        }
        Ok(())
    }

    /// Real and virtual-8086 mode: the base follows from the selector; real mode keeps limit and rights (SDM 3A 20.1.1).
    fn load_real_segment(&mut self, reg: usize, selector: u16) -> Guest<()> {
        if self.v86() {
            self.seg[reg] = v86_segment(selector);
        } else {
            let s = &mut self.seg[reg];
            s.selector = selector;
            s.base = (selector as u64) << 4;
            s.unusable = false;
        }
        self.update_mode();
        Ok(())
    }

    /// After a return to an outer privilege: data segments that CPL may no longer use become null (SDM 2, RET).
    pub(crate) fn drop_inaccessible_segments(&mut self) {
        for reg in [ES, DS, FS, GS] {
            let s = &mut self.seg[reg];
            let conforming = s.is_code() && s.conforming_or_expand_down();
            // What is null already keeps its base: in 64-bit mode FS and GS are used that way.
            if !s.unusable && !conforming && s.dpl() < self.cpl {
                *s = Segment { selector: 0, unusable: true, base: 0, ..*s };
            }
        }
    }

    /// #GP(0) where a new instruction pointer lies outside its code segment (16- and 32-bit code).
    pub(crate) fn check_code_limit(&mut self, cs: &Segment, rip: u64) -> Guest<()> {
        if in_limit(cs, rip, 1) { Ok(()) } else { self.gp(self.sys.external) }
    }
}

/// SS with a null selector, in 64-bit mode.
pub(crate) fn null_stack(selector: u16, cpl: u8) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attributes: 0xc093 | (cpl as u16) << 5, unusable: true }
}

/// A segment register in virtual-8086 mode (SDM 3A 20.2).
pub(crate) fn v86_segment(selector: u16) -> Segment {
    Segment { selector, base: (selector as u64) << 4, limit: 0xffff, attributes: 0xf3, unusable: false }
}
