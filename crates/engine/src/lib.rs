//! The engine contract: what runs a guest's processors, whatever runs them.
//!
//! Shaped like KVM's: create a VM over guest memory, create vCPUs, run each on its own thread until it exits,
//! raise interrupts, kick a running vCPU from another thread, read and clear the dirty log. One difference:
//! port and memory-mapped I/O come as calls on the [`Bus`] that `run` is given instead of as exits, so that an
//! engine in the same process can serve an access in the middle of an instruction, and engines behind
//! `ioctl` or a hypercall turn their exit records into the same calls. See docs/decisions/0001-engine-contract.md.
#![forbid(unsafe_code)]

pub mod bus;
pub mod error;
pub mod exit;
pub mod fake;
pub mod state;
pub mod vcpu;
pub mod vm;

pub use bus::Bus;
pub use error::Error;
pub use exit::Exit;
pub use state::VcpuState;
pub use vcpu::{Kick, Vcpu};
pub use vm::{Arch, Engine, Gic, GicVersion, Msi, Probe, Vm, VmConfig};

/// Result of an engine's operations.
pub type Result<T> = std::result::Result<T, Error>;
