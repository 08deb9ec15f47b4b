//! Descriptors as they lie in memory (SDM 3A 3.4.5, 3.5, 5.8.3, 6.11, 6.14.1).

use crate::segment::Segment;

/// Types of system descriptors, S = 0 (SDM 3A table 3-2).
pub mod kind {
    pub const TSS16_AVAILABLE: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE16: u8 = 6;
    pub const TRAP_GATE16: u8 = 7;
    pub const TSS32_AVAILABLE: u8 = 9;
    pub const TSS32_BUSY: u8 = 11;
    pub const CALL_GATE32: u8 = 12;
    pub const INTERRUPT_GATE32: u8 = 14;
    pub const TRAP_GATE32: u8 = 15;
}

/// The first (or only) eight bytes of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// Base, bits 31:0.
    pub const fn base(self) -> u32 {
        (self.0 >> 16 & 0xff_ffff) as u32 | ((self.0 >> 56) as u32) << 24
    }
    /// Limit in bytes, granularity applied.
    pub const fn limit(self) -> u32 {
        let raw = (self.0 & 0xffff) as u32 | (self.0 >> 32) as u32 & 0xf_0000;
        if self.0 & 1 << 55 != 0 { raw << 12 | 0xfff } else { raw }
    }
    /// As [`Segment::attributes`].
    pub const fn attributes(self) -> u16 {
        (self.0 >> 40) as u16 & 0xf0ff
    }
    /// Type field, 0-15.
    pub const fn kind(self) -> u8 {
        (self.0 >> 40) as u8 & 0xf
    }
    /// S: code or data.
    pub const fn is_code_or_data(self) -> bool {
        self.0 & 1 << 44 != 0
    }
    /// S = 1 and executable.
    pub const fn is_code(self) -> bool {
        self.is_code_or_data() && self.0 & 1 << 43 != 0
    }
    /// S = 1, executable and conforming.
    pub const fn is_conforming_code(self) -> bool {
        self.is_code() && self.0 & 1 << 42 != 0
    }
    /// Descriptor privilege level.
    pub const fn dpl(self) -> u8 {
        (self.0 >> 45) as u8 & 3
    }
    /// P: present.
    pub const fn present(self) -> bool {
        self.0 & 1 << 47 != 0
    }
    /// L: 64-bit code.
    pub const fn long(self) -> bool {
        self.0 & 1 << 53 != 0
    }
    /// D/B.
    pub const fn big(self) -> bool {
        self.0 & 1 << 54 != 0
    }
    /// The segment register that `selector` loads from this; the accessed bit as it stands.
    pub const fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base() as u64,
            limit: self.limit(),
            attributes: self.attributes(),
            unusable: false,
        }
    }

    /// Gates: the selector.
    pub const fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }
    /// Gates: the offset, 32 bits; of 16-bit gates only the lower half counts.
    pub const fn gate_offset(self) -> u32 {
        (self.0 & 0xffff) as u32 | (self.0 >> 48 << 16) as u32
    }
    /// Call gates: how many parameters are copied, 0-31.
    pub const fn gate_parameters(self) -> u8 {
        (self.0 >> 32) as u8 & 0x1f
    }
    /// 64-bit interrupt gates: the interrupt stack table index, 0-7.
    pub const fn gate_ist(self) -> u8 {
        (self.0 >> 32) as u8 & 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_of_flat_code_gives_its_fields() {
        let d = Descriptor(0x00cf_9b00_0000_ffff);
        assert_eq!((d.base(), d.limit(), d.attributes(), d.dpl()), (0, u32::MAX, 0xc09b, 0));
        assert!(d.present() && d.is_code() && !d.is_conforming_code() && d.big() && !d.long());
        let s = Descriptor(0x12_40_f2_345678_9abc).segment(0x33);
        assert_eq!((s.base, s.limit, s.attributes, s.selector), (0x1234_5678, 0x9abc, 0x40f2, 0x33));
    }

    #[test]
    fn descriptor_of_call_gate_gives_selector_offset_and_count() {
        let d = Descriptor(0x1234_ec1f_0008_5678);
        assert_eq!((d.gate_selector(), d.gate_offset(), d.gate_parameters()), (8, 0x1234_5678, 31));
        assert_eq!((d.kind(), d.dpl()), (kind::CALL_GATE32, 3));
    }
}
