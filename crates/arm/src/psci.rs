//! Function numbers of PSCI (DEN 0022) and of the SMC Calling Convention (DEN 0028).

/// The bit that says that a function takes 64-bit arguments.
pub const SMC64: u32 = 1 << 30;

pub const VERSION: u32 = 0x8400_0000;
pub const CPU_SUSPEND: u32 = 0x8400_0001;
pub const CPU_OFF: u32 = 0x8400_0002;
pub const CPU_ON: u32 = 0x8400_0003;
pub const AFFINITY_INFO: u32 = 0x8400_0004;
pub const MIGRATE: u32 = 0x8400_0005;
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
pub const MIGRATE_INFO_UP_CPU: u32 = 0x8400_0007;
pub const SYSTEM_OFF: u32 = 0x8400_0008;
pub const SYSTEM_RESET: u32 = 0x8400_0009;
pub const FEATURES: u32 = 0x8400_000a;
pub const CPU_DEFAULT_SUSPEND: u32 = 0x8400_000c;
pub const SYSTEM_SUSPEND: u32 = 0x8400_000e;
pub const SET_SUSPEND_MODE: u32 = 0x8400_000f;
pub const SYSTEM_RESET2: u32 = 0x8400_0012;
/// The last number that belongs to PSCI.
pub const LAST: u32 = 0x8400_001f;

/// SMCCC_VERSION and SMCCC_ARCH_FEATURES.
pub const SMCCC_VERSION: u32 = 0x8000_0000;
pub const SMCCC_FEATURES: u32 = 0x8000_0001;

pub const SUCCESS: i64 = 0;
pub const NOT_SUPPORTED: i64 = -1;
pub const INVALID_PARAMETERS: i64 = -2;
pub const DENIED: i64 = -3;
pub const ALREADY_ON: i64 = -4;
pub const ON_PENDING: i64 = -5;

/// Who answers a call: the owning entity, bits 29 to 24 of its number (DEN 0028 6.1).
pub const fn owner(function: u32) -> u32 {
    function >> 24 & 0x3f
}
/// Owners from which numbers belong to hypervisors: standard ones, and vendors'.
pub const OWNER_HYPERVISOR: core::ops::RangeInclusive<u32> = 5..=6;
