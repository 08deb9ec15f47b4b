//! The guest's FPU and vector registers, as XSAVE's standard format lays them out.

use thiserror::Error;

/// Bytes of the state: legacy region, header, upper halves of YMM0 to YMM15 (SDM 1 13.4.1 to 13.5.3).
pub const AREA: usize = 832;
/// Bytes of legacy region and header.
pub const HEADER_END: usize = 576;
/// Offsets in the area.
pub const FCW: usize = 0;
pub const FSW: usize = 2;
pub const FTW: usize = 4;
pub const FOP: usize = 6;
pub const FIP: usize = 8;
pub const FDP: usize = 16;
pub const MXCSR: usize = 24;
pub const MXCSR_MASK: usize = 28;
pub const ST0: usize = 32;
pub const XMM0: usize = 160;
pub const XSTATE_BV: usize = 512;
pub const YMM_HIGH: usize = 576;

/// State components (SDM 1 13.1): bits of XCR0 and XSTATE_BV.
pub const X87: u64 = 1;
pub const SSE: u64 = 2;
pub const AVX: u64 = 4;

/// MXCSR after reset: round to nearest, everything masked.
pub const MXCSR_RESET: u32 = 0x1f80;
/// FCW after FNINIT.
pub const FCW_INIT: u16 = 0x037f;

/// Saved vector state that can't be loaded.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum StateError {
    #[error("saved vector state has {0} bytes; at least {HEADER_END} are needed")]
    Short(usize),
    #[error("saved vector state holds components {0:#x}, of which this engine has only x87, SSE and AVX")]
    Components(u64),
    #[error("saved MXCSR {0:#x} has reserved bits set")]
    Mxcsr(u32),
    #[error("XCR0 {0:#x} is not one that this machine's processor takes")]
    Xcr0(u64),
}

#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Aligned<const N: usize>(pub [u8; N]);

/// The FPU and vector state of a vCPU.
#[repr(C, align(64))]
pub struct VectorState {
    /// Every register, always current. The header is not kept.
    pub(crate) area: Aligned<AREA>,
    /// Where stubs find a memory operand, and leave one.
    pub(super) bounce: Aligned<128>,
    /// MXCSR of the stub's instruction: the guest's with everything masked, then with the flags it raised.
    pub(super) mxcsr_run: u32,
    /// MXCSR that Rust code runs with.
    pub(crate) mxcsr_host: u32,
    /// Which components XSAVE and VEX-encoded instructions may use (SDM 1 13.3).
    pub xcr0: u64,
    /// There was no room for a stub since this was last reset.
    pub(crate) refused: bool,
}

impl Default for VectorState {
    fn default() -> Self {
        let mut s = Self {
            area: Aligned([0; AREA]),
            bounce: Aligned([0; 128]),
            mxcsr_run: 0,
            mxcsr_host: MXCSR_RESET,
            xcr0: X87,
            refused: false,
        };
        s.init_x87();
        s.set_mxcsr(MXCSR_RESET);
        s
    }
}

impl VectorState {
    /// The state after RESET.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a field of the area; a place beyond it reads as zero.
    #[inline]
    pub(super) fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.area.0.get(at..).and_then(|s| s.first_chunk()).copied().unwrap_or([0; N])
    }
    #[inline]
    pub(super) fn put(&mut self, at: usize, data: &[u8]) {
        if let Some(to) = self.area.0.get_mut(at..at + data.len()) {
            to.copy_from_slice(data);
        }
    }
    #[inline]
    pub(super) fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.get(at))
    }
    #[inline]
    pub(super) fn get64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    /// MXCSR (SDM 1 10.2.3).
    #[inline]
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(self.get(MXCSR))
    }
    #[inline]
    pub(super) fn set_mxcsr(&mut self, value: u32) {
        self.put(MXCSR, &value.to_le_bytes());
    }
    /// Register XMMn; `n` is taken modulo 16.
    #[inline]
    pub fn xmm(&self, n: usize) -> u128 {
        u128::from_le_bytes(self.get(XMM0 + (n & 15) * 16))
    }
    #[inline]
    pub fn set_xmm(&mut self, n: usize, value: u128) {
        self.put(XMM0 + (n & 15) * 16, &value.to_le_bytes());
    }
    /// Bits 255:128 of YMMn.
    #[inline]
    pub fn ymm_high(&self, n: usize) -> u128 {
        u128::from_le_bytes(self.get(YMM_HIGH + (n & 15) * 16))
    }
    #[inline]
    pub fn set_ymm_high(&mut self, n: usize, value: u128) {
        self.put(YMM_HIGH + (n & 15) * 16, &value.to_le_bytes());
    }

    /// x87 state as FNINIT and XRSTOR's initial configuration leave it (SDM 1 13.6).
    pub(super) fn init_x87(&mut self) {
        self.area.0[..MXCSR].fill(0);
        self.area.0[ST0..XMM0].fill(0);
        self.put(FCW, &FCW_INIT.to_le_bytes());
    }
    pub(super) fn init_sse(&mut self) {
        self.area.0[XMM0..XMM0 + 256].fill(0);
    }
    pub(super) fn init_avx(&mut self) {
        self.area.0[YMM_HIGH..AREA].fill(0);
    }

    /// Components that are not in their initial configuration: XINUSE (SDM 1 13.6).
    pub(super) fn in_use(&self) -> u64 {
        let mut bits = 0;
        let used = |part: std::ops::Range<usize>| self.area.0[part].iter().fold(0, |all, b| all | b) != 0;
        if self.get16(FCW) != FCW_INIT || used(FSW..MXCSR) || used(ST0..XMM0) {
            bits |= X87;
        }
        if used(XMM0..XMM0 + 256) {
            bits |= SSE;
        }
        if used(YMM_HIGH..AREA) {
            bits |= AVX;
        }
        bits
    }

    /// The whole state in XSAVE's standard format, 832 bytes, all three components marked as present.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.area.0.to_vec();
        bytes[MXCSR_MASK..MXCSR_MASK + 4].copy_from_slice(&super::features::mxcsr_mask().to_le_bytes());
        bytes[512..HEADER_END].fill(0);
        bytes[XSTATE_BV] = (X87 | SSE | AVX) as u8;
        bytes
    }

    /// Loads what [`Self::to_bytes`] or an XSAVE gave: at least 576 bytes. Components not marked as present in XSTATE_BV, or
    /// not within the bytes, get their initial values.
    pub fn load_bytes(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        if bytes.len() < HEADER_END {
            return Err(StateError::Short(bytes.len()));
        }
        let word =
            |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes.get(at + i).copied().unwrap_or(0)));
        let components = word(XSTATE_BV);
        if components & !(X87 | SSE | AVX) != 0 {
            return Err(StateError::Components(components));
        }
        let mxcsr = word(MXCSR) as u32;
        if mxcsr & !super::features::mxcsr_mask() != 0 {
            return Err(StateError::Mxcsr(mxcsr));
        }
        self.init_x87();
        self.init_sse();
        self.init_avx();
        self.set_mxcsr(mxcsr);
        if components & X87 != 0 {
            self.put(0, &bytes[..MXCSR]);
            self.put(ST0, &bytes[ST0..XMM0]);
        }
        if components & SSE != 0 {
            self.put(XMM0, &bytes[XMM0..XMM0 + 256]);
        }
        if components & AVX != 0
            && let Some(high) = bytes.get(YMM_HIGH..AREA)
        {
            self.put(YMM_HIGH, high);
        }
        Ok(())
    }

    /// Sets XCR0, as XSETBV would.
    pub fn set_xcr0(&mut self, value: u64) -> Result<(), StateError> {
        let ok = value & X87 != 0
            && value & !super::features::host_features().xcr0 == 0
            && (value & AVX == 0 || value & SSE != 0);
        if !ok {
            return Err(StateError::Xcr0(value));
        }
        self.xcr0 = value;
        Ok(())
    }
}
