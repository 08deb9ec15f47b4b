//! x86 architecture facts in code: control registers, segments, exceptions, register files.
//!
//! Source throughout: Intel 64 and IA-32 Architectures Software Developer's Manual ("SDM"), volume and
//! section named per item, and AMD64 Architecture Programmer's Manual ("APM") where they differ.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod control;
pub mod descriptor;
pub mod exception;
pub mod msr;
pub mod paging;
pub mod segment;
pub mod state;

pub use control::{Cr0, Cr4, Efer, Rflags};
pub use descriptor::Descriptor;
pub use exception::{Exception, Vector};
pub use segment::{SegReg, Segment};
pub use state::State;
