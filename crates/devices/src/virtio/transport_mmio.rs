//! Virtio over MMIO: registers in memory space and one interrupt line, no bus (VIRTIO 1.2, 4.2). Version 2, no legacy interface.

use super::device::Device;
use super::registers::{Area, Half, Interface, Registers};
use super::runner::Runner;
use crate::wiring::{IrqLine, MmioDevice};
use memory::GuestMemory;
use std::sync::Arc;

/// Bytes of address space that a device is given.
pub const LEN: u64 = 0x200;

// Offsets of the registers, all 32 bits wide (table 4.1).
const MAGIC_VALUE: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const VENDOR_ID: u64 = 0x00c;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SEL: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SEL: u64 = 0x024;
const QUEUE_SEL: u64 = 0x030;
const QUEUE_NUM_MAX: u64 = 0x034;
const QUEUE_NUM: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_DESC_LOW: u64 = 0x080;
const QUEUE_DESC_HIGH: u64 = 0x084;
const QUEUE_DRIVER_LOW: u64 = 0x090;
const QUEUE_DRIVER_HIGH: u64 = 0x094;
const QUEUE_DEVICE_LOW: u64 = 0x0a0;
const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
/// SHMLenLow to SHMBaseHigh: all ones, since there is no shared memory region.
const SHM_LEN_LOW: u64 = 0x0b0;
const SHM_BASE_HIGH: u64 = 0x0bc;
const CONFIG_GENERATION: u64 = 0x0fc;
/// The device's configuration structure, accessed by its fields' sizes.
const CONFIG: u64 = 0x100;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// The PCI vendor's number too.
const VENDOR: u32 = 0x1af4;

/// A virtio device in memory space.
pub struct VirtioMmio {
    registers: Registers,
    device: u32,
}

impl VirtioMmio {
    /// Wires a device to memory and its interrupt. Requests are done once the [`Runner`] is spawned, or stepped.
    pub fn new(device: Box<dyn Device>, memory: Arc<GuestMemory>, line: Arc<dyn IrqLine>) -> Self {
        let id = device.id() as u32;
        Self { registers: Registers::attach(device, memory, line, None), device: id }
    }

    /// What does the requests.
    pub fn runner(&self) -> &Arc<Runner> {
        &self.registers.runner
    }

    /// The board's reset.
    pub fn reset(&mut self) {
        self.registers.reset();
    }

    fn register(&self, offset: u64) -> u32 {
        let r = &self.registers;
        match offset {
            MAGIC_VALUE => MAGIC,
            VERSION => 2,
            DEVICE_ID => self.device,
            VENDOR_ID => VENDOR,
            DEVICE_FEATURES => r.device_features_selected(),
            QUEUE_NUM_MAX => r.queue().map_or(0, |q| q.max.into()),
            QUEUE_READY => r.queue().is_some_and(|q| q.enabled).into(),
            INTERRUPT_STATUS => r.interrupts.isr().into(),
            STATUS => r.status().into(),
            SHM_LEN_LOW..=SHM_BASE_HIGH => u32::MAX,
            CONFIG_GENERATION => r.config.generation().into(),
            // Those that are only written, and the holes.
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        let r = &mut self.registers;
        match offset {
            DEVICE_FEATURES_SEL => r.device_feature_select = value,
            DRIVER_FEATURES => r.set_driver_features_selected(value),
            DRIVER_FEATURES_SEL => r.driver_feature_select = value,
            // One that there is not, of 16 bits too: no device has that many.
            QUEUE_SEL => r.queue_select = u16::try_from(value).unwrap_or(u16::MAX),
            QUEUE_NUM => r.set_queue_size(u16::try_from(value).unwrap_or(0)),
            QUEUE_READY if value == 1 => r.enable_queue(),
            QUEUE_READY if value == 0 => r.disable_queue(),
            QUEUE_NOTIFY => r.notify(value as usize, Interface::Modern),
            INTERRUPT_ACK => r.interrupts.acknowledge(value as u8),
            STATUS => r.set_status(value as u8, Interface::Modern),
            QUEUE_DESC_LOW => r.set_queue_address(Area::Descriptors, Half::Low, value),
            QUEUE_DESC_HIGH => r.set_queue_address(Area::Descriptors, Half::High, value),
            QUEUE_DRIVER_LOW => r.set_queue_address(Area::Available, Half::Low, value),
            QUEUE_DRIVER_HIGH => r.set_queue_address(Area::Available, Half::High, value),
            QUEUE_DEVICE_LOW => r.set_queue_address(Area::Used, Half::Low, value),
            QUEUE_DEVICE_HIGH => r.set_queue_address(Area::Used, Half::High, value),
            _ => {}
        }
    }
}

impl MmioDevice for VirtioMmio {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset >= CONFIG {
            return self.registers.config.read(offset - CONFIG, data);
        }
        // Drivers must use aligned 32-bit accesses (4.2.2.2); anything else reads as 0.
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) if offset.is_multiple_of(4) => *word = self.register(offset).to_le_bytes(),
            _ => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= CONFIG {
            self.registers.config.write(offset - CONFIG, data);
        } else if let (true, Ok(word)) = (offset.is_multiple_of(4), <[u8; 4]>::try_from(data)) {
            self.set_register(offset, u32::from_le_bytes(word));
        }
    }
}

#[cfg(test)]
#[path = "transport_mmio_tests.rs"]
mod tests;
