//! What a virtio device is to its transport.

use super::device_config::DeviceConfig;
use super::interrupts::Interrupts;
use super::runner::Runner;
use memory::virtqueue::{self, Queue};
use std::io;
use std::sync::{Arc, Weak};

/// Device IDs (VIRTIO 1.2, chapter 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceId {
    Block = 2,
    Console = 3,
    Entropy = 4,
}

impl DeviceId {
    /// The PCI device ID of a transitional device (VIRTIO 1.2, 4.1.2.1).
    pub const fn transitional(self) -> u16 {
        match self {
            DeviceId::Block => 0x1001,
            DeviceId::Console => 0x1003,
            DeviceId::Entropy => 0x1005,
        }
    }
    /// The PCI class that goes with it.
    pub const fn class(self) -> u32 {
        match self {
            DeviceId::Block => 0x01_00_00,
            DeviceId::Console => 0x07_80_00,
            DeviceId::Entropy => 0xff_00_00,
        }
    }
}

/// What became of a queue when it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A request, or a bounded part of one, was done; there may be more.
    Done,
    /// The driver has made nothing more available.
    Idle,
    /// Something other than the driver has to happen first; then the device rings its [`Doorbell`].
    Blocked,
}

/// A virtio device. Its runner calls it, one call at a time.
pub trait Device: Send {
    fn id(&self) -> DeviceId;
    /// The device's own feature bits; the transport adds those of rings and transport.
    fn features(&self) -> u64;
    /// The most descriptors each queue may have: powers of two. As many queues as there are entries.
    fn queue_sizes(&self) -> &[u16];
    /// The most bytes a descriptor chain may hold.
    fn max_chain_bytes(&self) -> u64 {
        1 << 32
    }
    /// The device's configuration structure, shared with the transport.
    fn config(&self) -> Arc<DeviceConfig>;
    /// Called once, before anything else, with the way to ask for service.
    fn attach(&mut self, _doorbell: Doorbell) {}
    /// The driver has finished negotiation: `features` are those both sides have.
    fn start(&mut self, _features: u64) {}
    /// Does at most one request of queue `index`. An error means that the driver broke the rules: the device then needs
    /// a reset. What goes wrong on the host is no error here, but the request's own status.
    fn process(&mut self, index: usize, queue: &mut Queue) -> virtqueue::Result<Progress>;
    /// Forgets requests under way and everything negotiated.
    fn reset(&mut self);
    /// The VM ends: whatever the guest wrote goes to where it is safe.
    fn stop(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A device's way to ask its runner for service. It keeps neither alive.
#[derive(Clone)]
pub struct Doorbell {
    pub(super) runner: Weak<Runner>,
    pub(super) interrupts: Arc<Interrupts>,
}

impl Doorbell {
    /// Has queue `index` served soon. From any thread.
    pub fn ring(&self, index: usize) {
        if let Some(runner) = self.runner.upgrade() {
            runner.kick(index);
        }
    }
    /// Tells the driver that the configuration structure changed.
    pub fn config_changed(&self) {
        self.interrupts.config_changed();
    }
}
