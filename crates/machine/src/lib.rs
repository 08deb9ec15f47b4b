//! Boards: what a guest finds around its processors. [`pc`] is an i440FX/PIIX-like machine, [`virt`] an ARM one that a device
//! tree describes.
//!
//! A board owns the guest's memory, its devices and its vCPU threads; [`Machine::run`] blocks until the machine has
//! ended and everything it started is gone. Nothing here opens a file by its path.

pub mod alarms;
pub mod background;
pub mod boot;
pub mod clock;
pub mod config;
pub mod console;
pub mod error;
pub mod firmware;
pub mod host_memory;
pub mod lifecycle;
pub mod machine;
pub mod pc;
pub mod virt;

pub use config::{Boot, Ending, Module, OnReset, Output, PcConfig, Source, VirtConfig};
pub use error::Error;
pub use lifecycle::Status;
pub use machine::{Handle, Machine};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Result of a board's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Locks, even where a thread died holding it: a device's registers are valid between any two statements.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device as boards hold it.
pub(crate) fn shared<T>(device: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(device))
}
