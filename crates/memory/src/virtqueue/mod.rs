//! Split virtqueues: rings of descriptor chains in guest memory, shared with a driver that may be hostile.
//!
//! Source: Virtual I/O Device (VIRTIO) 1.2, section 2.7 (split virtqueues), 2.7.2 (legacy layout).
//!
//! The driver may rewrite any byte of the rings at any time. So every field is copied out of guest memory once and
//! judged on the copy; a chain is at most as long as its table; what breaks the rules breaks the queue, which then
//! stays broken ([`Error::Broken`]) until the device is reset.

mod chain;
mod layout;
mod queue;

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod queue_tests;

pub use chain::{Chain, Reader, Segment, Writer};
pub use layout::{Layout, MAX_SIZE};
pub use queue::{Options, Queue};

use address::GuestPhys;

/// What a driver did wrong with a queue. Those that [`Queue::pop`] gives break the queue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a queue of {0} descriptors: the size has to be a power of two from 1 to {MAX_SIZE}")]
    BadSize(u16),
    #[error("the queue's {part} at {address} is not aligned to {alignment} bytes")]
    Misaligned { part: &'static str, address: GuestPhys, alignment: u64 },
    #[error("the queue's {part} at {address} is not all in RAM")]
    RingOutsideMemory { part: &'static str, address: GuestPhys },
    #[error("the driver's available index went from {from} to {to}, more than the queue holds")]
    IndexJump { from: u16, to: u16 },
    #[error("descriptor {index} is not in its table of {table}")]
    DescriptorIndex { index: u32, table: u32 },
    #[error("a descriptor chain is longer than its table of {0}: it loops")]
    Loop(u32),
    #[error("an indirect table of {0} bytes: its length has to be a multiple of 16, at least one entry and at most {max}", max = queue::MAX_INDIRECT)]
    IndirectLength(u32),
    #[error("an indirect descriptor where none is allowed: {0}")]
    Indirect(&'static str),
    #[error("a descriptor of no bytes")]
    EmptyDescriptor,
    #[error("a descriptor for the device to read follows one for it to write")]
    Order,
    #[error("{len} bytes at {address} in a descriptor are not all memory the device may use")]
    OutsideMemory { address: GuestPhys, len: u32 },
    #[error("a descriptor chain of more than {0} bytes")]
    TooLong(u64),
    #[error("the queue is broken and needs a reset of the device")]
    Broken,
    #[error("a request ends too early: {wanted} bytes wanted, {left} left")]
    Short { wanted: usize, left: u64 },
    #[error(transparent)]
    Memory(#[from] crate::Error),
}

/// Result of a queue operation.
pub type Result<T> = std::result::Result<T, Error>;
