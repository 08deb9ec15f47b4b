//! Long-descriptor translation table entries, 4 KiB granule (Arm ARM D8.3; the same in ARMv7's LPAE).

/// The entry says something.
pub const VALID: u64 = 1;
/// Levels 0 to 2: a table follows; level 3: it is a page.
pub const TABLE: u64 = 1 << 1;
/// The output address.
pub const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Access flag: without it the first access faults.
pub const ACCESS: u64 = 1 << 10;
pub const INNER_SHAREABLE: u64 = 0b11 << 8;
/// Everything of a leaf but the address and the kind.
pub const ATTRIBUTES: u64 = !(ADDRESS | VALID | TABLE);

/// Bits of an address that one level translates.
pub const LEVEL_BITS: u32 = 9;

/// log2 of the bytes that an entry at `level` (0 to 3) stands for.
pub const fn level_shift(level: u32) -> u32 {
    12 + LEVEL_BITS * (3 - level)
}

/// Leaf attributes of stage 2 (D8.3.2).
pub mod stage2 {
    use super::{ACCESS, INNER_SHAREABLE};
    /// Normal write-back, inner shareable: stage 1 decides, since the stricter of both holds (D8.6.2).
    pub const NORMAL: u64 = 0b1111 << 2 | INNER_SHAREABLE | ACCESS;
    /// Device-nGnRE, whatever stage 1 says.
    pub const DEVICE: u64 = 0b0001 << 2 | ACCESS;
    pub const READ: u64 = 1 << 6;
    pub const WRITE: u64 = 1 << 7;
    pub const EXECUTE_NEVER: u64 = 1 << 54;
}

/// Leaf attributes of EL2's own stage 1 (D8.3.1), with [`crate::control::MAIR`].
pub mod stage1 {
    use super::{ACCESS, INNER_SHAREABLE};
    /// AP\[1\] is one in a regime of one privilege level.
    const RES1: u64 = 1 << 6;
    pub const NORMAL: u64 = 1 << 2 | INNER_SHAREABLE | ACCESS | RES1;
    pub const DEVICE: u64 = 0 << 2 | ACCESS | RES1 | EXECUTE_NEVER;
    pub const READ_ONLY: u64 = 1 << 7;
    pub const EXECUTE_NEVER: u64 = 1 << 54;
}
