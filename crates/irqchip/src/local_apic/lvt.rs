//! The local vector table (SDM 3A 10.5.1): what the processor's own interrupt sources do.

use crate::message::DeliveryMode;

/// A local interrupt source; the number is its slot from register 320h on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Timer = 0,
    Thermal = 1,
    PerformanceMonitor = 2,
    /// Pin 0: wired to the 8259s' INTR on the boot processor.
    Lint0 = 3,
    /// Pin 1: wired to NMI.
    Lint1 = 4,
    Error = 5,
}

/// Entries in the table.
pub(super) const COUNT: usize = 6;

pub(super) const MASKED: u32 = 1 << 16;
pub(super) const LEVEL: u32 = 1 << 15;
pub(super) const REMOTE_IRR: u32 = 1 << 14;
const VECTOR: u32 = 0xff;
const DELIVERY: u32 = 7 << 8;
const DELIVERY_STATUS: u32 = 1 << 12;
const POLARITY: u32 = 1 << 13;
const TIMER_MODE: u32 = 3 << 17;

/// The bits of each entry that a guest can write.
pub(super) const WRITABLE: [u32; COUNT] = [
    VECTOR | MASKED | TIMER_MODE,
    VECTOR | MASKED | DELIVERY,
    VECTOR | MASKED | DELIVERY,
    VECTOR | MASKED | DELIVERY | POLARITY | LEVEL,
    VECTOR | MASKED | DELIVERY | POLARITY | LEVEL,
    VECTOR | MASKED,
];

/// Bits that a guest may write back as it read them, without effect.
pub(super) const READ_ONLY: u32 = DELIVERY_STATUS | REMOTE_IRR;

/// What a local source does to its processor besides an interrupt with a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalEvent {
    Nmi,
    Smi,
    Init,
}

/// Delivery mode of an entry.
pub(super) fn delivery(entry: u32) -> Option<DeliveryMode> {
    DeliveryMode::from_bits(entry >> 8)
}
