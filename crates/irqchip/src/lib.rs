//! The PC's interrupt controllers and the GIC as pure state machines: no threads, no clocks, no I/O of their own.
//!
//! Time comes in as numbers, messages to other chips go out as values or through a closure, so that the same models
//! serve a hosted engine, the bare-metal hypervisor and a board, and every transition can be tested in isolation.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod gic;
pub mod io_apic;
pub mod local_apic;
pub mod message;
pub mod pic8259;

pub use gic::Gic;
pub use io_apic::IoApic;
pub use local_apic::LocalApic;
pub use message::{DeliveryMode, DestinationMode, EVERYONE, Ipi, Message, Shorthand};
pub use pic8259::Pic8259;
