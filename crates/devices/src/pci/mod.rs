//! The PCI bus: configuration mechanism #1, address decoding, the chipset's own functions, MSI-X and pin interrupts.
//!
//! Source: PCI Local Bus Specification 3.0 (configuration space: chapter 6, mechanism #1: 3.2.2.3, MSI-X: 6.8.2).

pub mod bus;
pub mod chipset;
pub mod config_ports;
pub mod config_space;
pub mod function;
pub mod intx;
pub mod msix;
pub mod windows;

#[cfg(test)]
mod bus_tests;

pub use bus::PciBus;
pub use config_ports::ConfigPorts;
pub use config_space::{Bar, ConfigSpace, Identity};
pub use function::{Address, PciFunction, Pin};
pub use intx::IntxRouter;
pub use msix::Msix;
pub use windows::{Error, Windows};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, even where a thread died holding it: a device's registers are valid between any two statements.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
