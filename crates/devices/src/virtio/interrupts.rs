//! How a device tells the driver: MSI-X vectors, or the ISR status and the interrupt pin. Over MMIO the ISR status is called
//! InterruptStatus, and there are no vectors.

use crate::pci::{Msix, lock};
use crate::wiring::IrqLine;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// VIRTIO_MSI_NO_VECTOR.
pub const NO_VECTOR: u16 = 0xffff;

/// ISR status bits (VIRTIO 1.2, 4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

struct PinState {
    isr: u8,
    /// The command register's interrupt disable bit.
    disabled: bool,
    level: bool,
    line: Arc<dyn IrqLine>,
}

/// A device's interrupts. From any thread.
pub struct Interrupts {
    /// Over PCI.
    msix: Option<Arc<Msix>>,
    pin: Mutex<PinState>,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    driver_ok: AtomicBool,
    needs_reset: AtomicBool,
}

impl Interrupts {
    pub fn new(msix: Option<Arc<Msix>>, line: Arc<dyn IrqLine>, queues: usize) -> Arc<Self> {
        Arc::new(Self {
            msix,
            pin: Mutex::new(PinState { isr: 0, disabled: false, level: false, line }),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            driver_ok: AtomicBool::new(false),
            needs_reset: AtomicBool::new(false),
        })
    }

    /// Whether MSI-X is on.
    pub fn msix_enabled(&self) -> bool {
        self.msix.as_ref().is_some_and(|m| m.enabled())
    }

    /// The used ring of queue `index` has news.
    pub fn queue(&self, index: usize) {
        self.send(self.queue_vector(index), ISR_QUEUE);
    }

    /// The configuration structure or the status has changed. Not before the driver is ready for it.
    pub fn config_changed(&self) {
        if self.driver_ok.load(SeqCst) {
            self.send(self.config_vector(), ISR_CONFIG);
        }
    }

    /// The driver broke the rules: DEVICE_NEEDS_RESET, until the reset.
    pub fn set_needs_reset(&self) {
        if !self.needs_reset.swap(true, SeqCst) {
            self.config_changed();
        }
    }
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(SeqCst)
    }
    pub fn set_driver_ok(&self) {
        self.driver_ok.store(true, SeqCst);
    }

    fn send(&self, vector: u16, isr: u8) {
        match &self.msix {
            Some(msix) if msix.enabled() => msix.signal(vector),
            _ => {
                let mut pin = lock(&self.pin);
                pin.isr |= isr;
                self.drive(&mut pin);
            }
        }
    }

    /// Puts the pin where it belongs; with the state locked, so that levels go out in order.
    fn drive(&self, pin: &mut PinState) {
        let level = pin.isr != 0 && !pin.disabled && !self.msix_enabled();
        if level != pin.level {
            pin.level = level;
            pin.line.set(level);
        }
    }

    /// A read of ISR status over PCI: gives it, clears it and releases the pin.
    pub fn take_isr(&self) -> u8 {
        let mut pin = lock(&self.pin);
        let isr = std::mem::take(&mut pin.isr);
        self.drive(&mut pin);
        isr
    }

    /// The ISR status; reading it so changes nothing.
    pub fn isr(&self) -> u8 {
        lock(&self.pin).isr
    }

    /// Clears `bits` of the ISR status, and releases the pin when none is left.
    pub fn acknowledge(&self, bits: u8) {
        let mut pin = lock(&self.pin);
        pin.isr &= !bits;
        self.drive(&mut pin);
    }

    /// Follows the PCI command register's interrupt disable bit and MSI-X being switched on or off.
    pub fn follow_pci(&self, intx_disabled: bool) {
        let mut pin = lock(&self.pin);
        pin.disabled = intx_disabled;
        self.drive(&mut pin);
    }

    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(SeqCst)
    }
    /// Sets the vector for configuration changes; one that there is not becomes [`NO_VECTOR`], so that the driver sees it.
    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.existing(vector), SeqCst);
    }
    pub fn queue_vector(&self, index: usize) -> u16 {
        self.queue_vectors.get(index).map_or(NO_VECTOR, |v| v.load(SeqCst))
    }
    /// As [`Self::set_config_vector`], for a queue.
    pub fn set_queue_vector(&self, index: usize, vector: u16) {
        if let Some(v) = self.queue_vectors.get(index) {
            v.store(self.existing(vector), SeqCst);
        }
    }
    fn existing(&self, vector: u16) -> u16 {
        if self.msix.as_ref().is_some_and(|m| vector < m.vectors()) { vector } else { NO_VECTOR }
    }

    /// The device was reset (VIRTIO 1.2, 2.4): no vectors, nothing pending.
    pub fn reset(&self) {
        self.driver_ok.store(false, SeqCst);
        self.needs_reset.store(false, SeqCst);
        self.config_vector.store(NO_VECTOR, SeqCst);
        self.queue_vectors.iter().for_each(|v| v.store(NO_VECTOR, SeqCst));
        self.take_isr();
    }
}
