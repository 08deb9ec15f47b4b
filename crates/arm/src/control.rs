//! Bits of the registers that control EL2 and what is below it (Arm ARM D24.2).

/// HCR_EL2, Hypervisor Configuration Register.
pub mod hcr {
    /// Stage 2 translation is on.
    pub const VM: u64 = 1 << 0;
    /// Set/way invalidations of EL1 also clean.
    pub const SWIO: u64 = 1 << 1;
    pub const FMO: u64 = 1 << 3;
    pub const IMO: u64 = 1 << 4;
    pub const AMO: u64 = 1 << 5;
    pub const TWI: u64 = 1 << 13;
    pub const TWE: u64 = 1 << 14;
    /// SMC instructions of EL1 come to EL2.
    pub const TSC: u64 = 1 << 19;
    pub const TSW: u64 = 1 << 22;
    /// EL1 is AArch64.
    pub const RW: u64 = 1 << 31;
    /// Pointer authentication keys and instructions are EL1's own.
    pub const APK: u64 = 1 << 40;
    pub const API: u64 = 1 << 41;
    /// Memory tags are EL1's own.
    pub const ATA: u64 = 1 << 56;
}

/// SCTLR_EL2 and SCTLR_EL1, System Control Register.
pub mod sctlr {
    pub const M: u64 = 1 << 0;
    pub const C: u64 = 1 << 2;
    pub const SA: u64 = 1 << 3;
    pub const I: u64 = 1 << 12;
    /// Bits that are one in SCTLR_EL2 of ARMv8.0.
    pub const EL2_RES1: u64 = 0x30c5_0830;
    /// Bits that are one in SCTLR_EL1 of ARMv8.0.
    pub const EL1_RES1: u64 = 0x30d0_0800;
}

/// MAIR_EL2 as the hypervisor has it: index 0 device-nGnRE, 1 normal write-back.
pub const MAIR: u64 = 0xff04;

/// VTCR_EL2 (and, in the same places, TCR_EL2) fields.
pub mod tcr {
    /// Table walks: inner and outer write-back, inner shareable (IRGN0, ORGN0, SH0).
    pub const WALKS: u64 = 0b01 << 8 | 0b01 << 10 | 0b11 << 12;
    /// Of VTCR_EL2.
    pub const VTCR_RES1: u64 = 1 << 31;
    /// Of TCR_EL2 with HCR_EL2.E2H 0.
    pub const TCR_EL2_RES1: u64 = 1 << 31 | 1 << 23;
    pub const PS_SHIFT: u32 = 16;
    pub const SL0_SHIFT: u32 = 6;
}

/// VTCR_EL2 for stage 2 of `bits` bits of input address whose walk starts at `level`, 4 KiB granule; `parange` is
/// ID_AA64MMFR0_EL1.PARange. SL0 counts from level 2 upwards (D8.2.7).
pub const fn vtcr(bits: u32, level: u32, parange: u64) -> u64 {
    let parange = if parange > 5 { 5 } else { parange };
    tcr::VTCR_RES1
        | tcr::WALKS
        | parange << tcr::PS_SHIFT
        | ((2 - level) as u64) << tcr::SL0_SHIFT
        | (64 - bits) as u64
}

/// Bits of physical address by ID_AA64MMFR0_EL1.PARange, at most the 48 that 4 KiB granules reach without FEAT_LPA2.
pub const fn physical_bits(parange: u64) -> u32 {
    const BITS: [u32; 6] = [32, 36, 40, 42, 44, 48];
    let parange = parange as usize & 0xf;
    BITS[if parange < 5 { parange } else { 5 }]
}

/// HSCTLR, Hyp System Control Register (DDI 0406C B4.1.80): the bits are SCTLR's.
pub mod hsctlr {
    pub use super::sctlr::{C, I, M};
    /// Bits that are one, CP15BEN among them.
    pub const RES1: u64 = 0x30c5_0878;
}

/// VTCR of ARMv7 for stage 2 of `bits` (32 to 40) bits of input address whose walk starts at `level`, 1 or 2 (DDI 0406C B4.1.159): T0SZ
/// is a number of four bits with its sign, which S repeats.
pub const fn vtcr_v7(bits: u32, level: u32) -> u32 {
    let t0sz = 32u32.wrapping_sub(bits) & 0xf;
    tcr::VTCR_RES1 as u32 | tcr::WALKS as u32 | (2 - level) << tcr::SL0_SHIFT | (t0sz & 8) << 1 | t0sz
}

/// CPSR and SPSR: modes of AArch32 (DDI 0406C B1.3.1), and other bits.
pub mod mode {
    pub const MASK: u32 = 0x1f;
    pub const USR: u32 = 0x10;
    pub const FIQ: u32 = 0x11;
    pub const IRQ: u32 = 0x12;
    pub const SVC: u32 = 0x13;
    pub const ABT: u32 = 0x17;
    pub const HYP: u32 = 0x1a;
    pub const UND: u32 = 0x1b;
    pub const SYS: u32 = 0x1f;
    /// Asynchronous aborts, IRQ and FIQ masked.
    pub const AIF: u32 = 0b111 << 6;
    /// Thumb code.
    pub const T: u32 = 1 << 5;
}

/// SPSR and PSTATE: mode fields (C5.2.19).
pub mod spsr {
    pub const EL1H: u64 = 0b0101;
    pub const EL1T: u64 = 0b0100;
    pub const MODE: u64 = 0b1_1111;
    /// M\[4\]: AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// Debug, SError, IRQ and FIQ masked.
    pub const DAIF: u64 = 0xf << 6;
    pub const PAN: u64 = 1 << 22;
    pub const DIT: u64 = 1 << 24;
    pub const NZCV: u64 = 0xf << 28;
}

#[cfg(test)]
mod tests {
    #[test]
    fn vtcr_of_forty_bits_starts_at_level_1() {
        // T0SZ 24, SL0 1, PS 2: the usual value of a Cortex-A53 with 40-bit guests.
        assert_eq!(super::vtcr(40, 1, 2), 0x8002_3558);
        // Of ARMv7: T0SZ -8, S, SL0 1.
        assert_eq!(super::vtcr_v7(40, 1), 0x8000_3558);
        assert_eq!(super::vtcr_v7(32, 1), 0x8000_3540);
    }
}
