//! Segment registers and descriptors (SDM 3A 3.4).

/// A segment register, numbered as instructions encode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum SegReg {
    ES = 0,
    CS = 1,
    SS = 2,
    DS = 3,
    FS = 4,
    GS = 5,
}

/// A segment register with its hidden part, or LDTR/TR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Segment {
    pub selector: u16,
    pub base: u64,
    /// Limit in bytes, granularity already applied: the last valid offset (expand-up).
    pub limit: u32,
    /// Access rights as in bits 8-23 of a descriptor's second doubleword, shifted down by 8:
    /// type 0-3, S 4, DPL 5-6, P 7, (limit 19:16 masked to 0) 8-11, AVL 12, L 13, D/B 14, G 15.
    pub attributes: u16,
    /// The register holds a null selector and may not be used (outside 64-bit mode's exemptions).
    pub unusable: bool,
}

impl Segment {
    /// Type field, 0-15 (SDM 3A 3.4.5.1 for S=1, 3.5 for S=0).
    pub const fn kind(&self) -> u8 {
        (self.attributes & 0xf) as u8
    }
    /// S: code or data (true), system (false).
    pub const fn is_code_or_data(&self) -> bool {
        self.attributes & (1 << 4) != 0
    }
    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        ((self.attributes >> 5) & 3) as u8
    }
    /// P: present.
    pub const fn present(&self) -> bool {
        self.attributes & (1 << 7) != 0
    }
    /// L: 64-bit code segment.
    pub const fn long(&self) -> bool {
        self.attributes & (1 << 13) != 0
    }
    /// D/B: 32-bit default operand size, stack or upper bound.
    pub const fn big(&self) -> bool {
        self.attributes & (1 << 14) != 0
    }
    /// S=1 and executable.
    pub const fn is_code(&self) -> bool {
        self.attributes & 0x18 == 0x18
    }
    /// Code: readable. Data: writable.
    pub const fn readable_or_writable(&self) -> bool {
        self.attributes & 2 != 0
    }
    /// Code: conforming. Data: expand-down.
    pub const fn conforming_or_expand_down(&self) -> bool {
        self.attributes & 4 != 0
    }
    /// The segment as real mode loads it: base selector*16, 64 KiB, read/write or code, accessed.
    pub const fn real_mode(selector: u16, code: bool) -> Self {
        let kind = if code { 0xb } else { 0x3 };
        Self {
            selector,
            base: (selector as u64) << 4,
            limit: 0xffff,
            attributes: 0x90 | kind,
            unusable: false,
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Table {
    pub base: u64,
    pub limit: u16,
}
