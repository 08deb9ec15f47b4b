//! Guest memory: memfd-backed regions, volatile access by guest-physical address, write tracking.
//!
//! Works on 32- and 64-bit hosts. Every access is bounds-checked; an address outside memory is an
//! [`Error::OutOfRange`], never a panic. The guest may change any byte at any time, so nothing here hands out
//! references into guest memory.

pub mod error;
pub mod guest_memory;
pub mod mapping;
pub mod tracking;
pub mod virtqueue;

pub use error::Error;
pub use guest_memory::{GuestMemory, Kind, Region, RegionConfig};
pub use tracking::PageState;

/// Result of a memory operation.
pub type Result<T> = std::result::Result<T, Error>;
