//! What ESR_EL2 says about an exception (Arm ARM D24.2.40; HSR of ARMv7 has the same fields).

/// An exception syndrome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syndrome(pub u64);

/// Exception classes.
pub mod class {
    pub const WFX: u8 = 0x01;
    pub const MCR_CP15: u8 = 0x03;
    pub const MCRR_CP15: u8 = 0x04;
    pub const MCR_CP14: u8 = 0x05;
    pub const HVC32: u8 = 0x12;
    pub const SMC32: u8 = 0x13;
    pub const HVC64: u8 = 0x16;
    pub const SMC64: u8 = 0x17;
    pub const SYSTEM_REGISTER: u8 = 0x18;
    pub const INSTRUCTION_ABORT_LOWER: u8 = 0x20;
    pub const INSTRUCTION_ABORT: u8 = 0x21;
    pub const DATA_ABORT_LOWER: u8 = 0x24;
    pub const DATA_ABORT: u8 = 0x25;
}

/// IL: the instruction has 32 bits.
pub const IL: u64 = 1 << 25;
/// DFSC and IFSC: synchronous external abort, not on a table walk.
pub const EXTERNAL_ABORT: u64 = 0x10;

impl Syndrome {
    pub const fn new(class: u8, iss: u64) -> Self {
        Self((class as u64) << 26 | IL | iss)
    }
    /// EC, a number of [`class`].
    pub const fn class(self) -> u8 {
        (self.0 >> 26 & 0x3f) as u8
    }
    /// Bytes of the instruction: 2 or 4.
    pub const fn instruction_length(self) -> u64 {
        if self.0 & IL != 0 { 4 } else { 2 }
    }
    /// S1PTW: the fault was met while walking the tables of stage 1.
    pub const fn stage1_walk(self) -> bool {
        self.0 & 1 << 7 != 0
    }
    /// Whether DFSC or IFSC is a translation, access flag or permission fault, of any level.
    pub const fn is_stage2_fault(self) -> bool {
        matches!(self.0 & 0x3c, 0x04 | 0x08 | 0x0c)
    }
    /// WnR of a data abort, when it isn't from cache maintenance.
    pub const fn write(self) -> bool {
        self.0 & 1 << 6 != 0 && self.0 & 1 << 8 == 0
    }
    /// The load or store behind a data abort, where the processor has decoded it (ISV).
    pub const fn access(self) -> Option<Access> {
        if self.0 & 1 << 24 == 0 {
            return None;
        }
        Some(Access {
            size: 1 << (self.0 >> 22 & 3),
            write: self.write(),
            register: (self.0 >> 16 & 0x1f) as u8,
            sign_extend: self.0 & 1 << 21 != 0,
            register64: self.0 & 1 << 15 != 0,
        })
    }
}

/// A load or store of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    pub write: bool,
    /// 0 to 30; 31 is the zero register.
    pub register: u8,
    /// A load extends the sign.
    pub sign_extend: bool,
    /// The register has 64 bits, else 32.
    pub register64: bool,
}

impl Access {
    /// What a load leaves in its register when `data` came from the bus.
    pub const fn loaded(self, data: u64) -> u64 {
        let unused = 64 - 8 * self.size as u32;
        let mut value = data << unused >> unused;
        if self.sign_extend {
            value = ((value << unused) as i64 >> unused) as u64;
        }
        if self.register64 { value } else { value & 0xffff_ffff }
    }
    /// The bytes that a store takes from its register's `value`.
    pub const fn stored(self, value: u64) -> u64 {
        let unused = 64 - 8 * self.size as u32;
        value << unused >> unused
    }
}

/// The guest-physical page that HPFAR_EL2 names.
pub const fn fault_page(hpfar: u64) -> u64 {
    (hpfar >> 4 & 0xff_ffff_ffff) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_decoded() {
        // str w3, [x0]: EC 0x24, IL, ISV, SAS 2, SRT 3, WnR, level 3 translation fault.
        let s = Syndrome(0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 3 << 16 | 1 << 6 | 7);
        assert_eq!(s.class(), class::DATA_ABORT_LOWER);
        let access = s.access().unwrap();
        assert_eq!((access.size, access.write, access.register), (4, true, 3));
        assert_eq!(access.stored(0x1_2345_6789), 0x2345_6789);
        assert!(s.is_stage2_fault());
        assert_eq!(Syndrome(0x24 << 26).access(), None);
    }

    #[test]
    fn loads_extend_as_told() {
        let a = Access { size: 1, write: false, register: 0, sign_extend: true, register64: true };
        assert_eq!(a.loaded(0x180), 0xffff_ffff_ffff_ff80);
        assert_eq!(Access { register64: false, ..a }.loaded(0x80), 0xffff_ff80);
        assert_eq!(Access { sign_extend: false, ..a }.loaded(0x180), 0x80);
        assert_eq!(Access { size: 8, ..a }.loaded(u64::MAX), u64::MAX);
    }

    #[test]
    fn fault_pages() {
        assert_eq!(fault_page(0x0000_0000_0090_0000), 0x9000_0000);
    }
}
