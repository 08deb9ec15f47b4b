//! Virtio devices over PCI and MMIO: the devices themselves, and what lies between them and the guest.
//!
//! Source: Virtual I/O Device (VIRTIO) 1.2. A vCPU's access ends in the registers ([`transport_pci`], [`transport_mmio`]); requests are
//! done by the device's own thread ([`runner`]), one at a time, so that a vCPU never waits for a disk, except where it
//! resets the device during a request.

pub mod block;
pub mod console;
pub mod device;
pub mod device_config;
pub mod entropy;
pub mod interrupts;
mod legacy;
mod log_limit;
mod modern;
mod registers;
pub mod runner;
pub mod transport_mmio;
pub mod transport_pci;

#[cfg(test)]
mod test_driver;
#[cfg(test)]
mod transport_tests;

pub use block::Block;
pub use console::{Console, ConsoleHandle};
pub use device::{Device, DeviceId, Doorbell, Progress};
pub use entropy::Entropy;
pub use runner::Runner;
pub use transport_mmio::VirtioMmio;
pub use transport_pci::VirtioPci;

use crate::pci::{self, Address, PciBus, Pin};
use crate::wiring::MsiSink;
use memory::GuestMemory;
use std::sync::{Arc, Mutex};

/// What can go wrong when a device is plugged in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Pci(#[from] pci::Error),
    #[error("the host refused a thread for {name}: {source}")]
    Thread { name: String, source: std::io::Error },
}

/// Plugs a device into the bus's next free slot and starts its thread, called `name`. The board keeps the runner, to
/// hold the device while the VM is paused and to stop it at the end.
pub fn plug(
    bus: &mut PciBus,
    device: Box<dyn Device>,
    memory: Arc<GuestMemory>,
    msi: Arc<dyn MsiSink>,
    name: &str,
) -> Result<Arc<Runner>, Error> {
    let slot = bus.free_device()?;
    let line = bus.router().pin(slot, Pin::A);
    let function = VirtioPci::new(device, memory, line, msi);
    let runner = function.runner().clone();
    bus.add(Address::new(slot, 0), Some(Pin::A), Arc::new(Mutex::new(function)))?;
    runner.spawn(name).map_err(|source| Error::Thread { name: name.into(), source })?;
    Ok(runner)
}
