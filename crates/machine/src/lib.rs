//! Boards: what a guest finds around its processors. `pc` is an i440FX/PIIX-like machine.
//!
//! A board owns the guest's memory, its devices and its vCPU threads; [`pc::Pc::run`] blocks until the machine has
//! ended and everything it started is gone. Nothing here opens a file by its path.

pub mod alarms;
pub mod boot;
pub mod clock;
pub mod config;
pub mod error;
pub mod firmware;
pub mod host_memory;
pub mod lifecycle;
pub mod pc;

pub use config::{Boot, Ending, Module, OnReset, Output, PcConfig, Source};
pub use error::Error;
pub use lifecycle::Status;
pub use pc::{Pc, PcHandle};

/// Result of a board's operations.
pub type Result<T> = std::result::Result<T, Error>;
