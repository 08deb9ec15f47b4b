//! Exceptions and interrupt vectors (SDM 3A 6.3.1, table 6-1; 6.13 error codes; 6.15 reference).

/// An exception vector, by the manual's mnemonic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Vector {
    DE = 0,
    DB = 1,
    NMI = 2,
    BP = 3,
    OF = 4,
    BR = 5,
    UD = 6,
    NM = 7,
    DF = 8,
    TS = 10,
    NP = 11,
    SS = 12,
    GP = 13,
    PF = 14,
    MF = 16,
    AC = 17,
    MC = 18,
    XM = 19,
}

impl Vector {
    /// Whether the processor pushes an error code with this exception (outside real mode).
    pub const fn has_error_code(self) -> bool {
        use Vector::*;
        matches!(self, DF | TS | NP | SS | GP | PF | AC)
    }

    /// Whether this one counts as "contributory" when deciding on a double fault (SDM 3A table 6-4).
    pub const fn is_contributory(self) -> bool {
        use Vector::*;
        matches!(self, DE | TS | NP | SS | GP)
    }
}

/// One exception, ready to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    pub vector: Vector,
    /// Pushed only where [`Vector::has_error_code`] says so.
    pub error_code: u32,
    /// What #PF loads into CR2; #DB's new DR6 bits (BS, B0-B3, BT). Zero for the others.
    pub payload: u64,
}

impl Exception {
    /// An exception with no error code.
    pub const fn plain(vector: Vector) -> Self {
        Self { vector, error_code: 0, payload: 0 }
    }
    /// An exception with an error code.
    pub const fn with_code(vector: Vector, error_code: u32) -> Self {
        Self { vector, error_code, payload: 0 }
    }
    /// #GP(code).
    pub const fn gp(error_code: u32) -> Self {
        Self::with_code(Vector::GP, error_code)
    }
    /// #UD.
    pub const fn ud() -> Self {
        Self::plain(Vector::UD)
    }
    /// #PF with its error code ([`PageFault`] bits) and linear address.
    pub const fn page_fault(error_code: u32, address: u64) -> Self {
        Self { vector: Vector::PF, error_code, payload: address }
    }
}

bitflags::bitflags! {
    /// #PF's error code (SDM 3A 4.7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PageFault: u32 {
        const P = 1 << 0;
        const W = 1 << 1;
        const U = 1 << 2;
        const RSVD = 1 << 3;
        const I = 1 << 4;
        const PK = 1 << 5;
    }
}
