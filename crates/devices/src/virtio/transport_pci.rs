//! Virtio over PCI: a transitional device, with the modern and the legacy interface both live (VIRTIO 1.2, 4.1).

use super::device::Device;
use super::registers::{Interface, Registers};
use super::runner::Runner;
use super::{legacy, modern};
use crate::pci::config_space::{command, reg};
use crate::pci::{Bar, ConfigSpace, Identity, Msix, PciFunction, msix};
use crate::wiring::{IrqLine, MsiSink};
use memory::GuestMemory;
use std::sync::Arc;

const VENDOR: u16 = 0x1af4;
const CAPABILITY_VENDOR: u8 = 9;

// Base address registers.
const LEGACY_BAR: usize = 0;
const MSIX_BAR: usize = 1;
const MODERN_BAR: usize = 4;

// Parts of the modern interface's register, each a page.
const COMMON: u64 = 0;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const PART: u64 = 0x1000;
const MODERN_SIZE: u64 = 0x4000;
/// notify_off_multiplier.
const NOTIFY_MULTIPLIER: u32 = 4;

// cfg_type (VIRTIO 1.2, 4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Offset of pci_cfg_data in its capability (VIRTIO 1.2, 4.1.4.9).
const PCI_CFG_DATA: u8 = 16;

/// A virtio device as a PCI function.
pub struct VirtioPci {
    config: ConfigSpace,
    registers: Registers,
    msix: Arc<Msix>,
    msix_capability: u8,
    pci_cfg: u8,
    identity: Identity,
}

impl VirtioPci {
    /// Wires a device to memory and interrupts. Requests are done once the [`Runner`] is spawned, or stepped.
    pub fn new(
        device: Box<dyn Device>,
        memory: Arc<GuestMemory>,
        line: Arc<dyn IrqLine>,
        msi: Arc<dyn MsiSink>,
    ) -> Self {
        let id = device.id();
        let identity = Identity {
            vendor: VENDOR,
            device: id.transitional(),
            revision: 0,
            class: id.class(),
            subsystem_vendor: VENDOR,
            subsystem: id as u16,
        };
        let queues = device.queue_sizes().len();
        let msix = Msix::new(queues as u16 + 1, msi);
        let registers = Registers::attach(device, memory, line, Some(msix.clone()));
        let (config, msix_capability, pci_cfg) = config_space(identity, &registers, &msix);
        Self { config, registers, msix, msix_capability, pci_cfg, identity }
    }

    /// What does the requests.
    pub fn runner(&self) -> &Arc<Runner> {
        &self.registers.runner
    }

    /// The access that pci_cfg describes: register, offset and length, where it is a valid one.
    fn pci_cfg_access(&self) -> Option<(usize, u64, usize)> {
        let bar = usize::from(self.config.u8(self.pci_cfg + 4));
        let offset = u64::from(self.config.u32(self.pci_cfg + 8));
        let len = self.config.u32(self.pci_cfg + 12);
        let fits = offset + u64::from(len) <= self.config.bar(bar)?.size();
        (matches!(len, 1 | 2 | 4) && offset % u64::from(len) == 0 && fits).then_some((
            bar,
            offset,
            len as usize,
        ))
    }

    fn is_pci_cfg_data(&self, offset: u8) -> bool {
        offset & !3 == self.pci_cfg + PCI_CFG_DATA
    }

    fn modern_read(&mut self, offset: u64, data: &mut [u8]) {
        match offset & !(PART - 1) {
            COMMON => modern::read(&self.registers, offset, data),
            ISR => {
                data.fill(0);
                if let (ISR, Some(b)) = (offset, data.first_mut()) {
                    *b = self.registers.interrupts.take_isr();
                }
            }
            DEVICE => self.registers.config.read(offset - DEVICE, data),
            _ => data.fill(0),
        }
    }

    fn modern_write(&mut self, offset: u64, data: &[u8]) {
        match offset & !(PART - 1) {
            COMMON => modern::write(&mut self.registers, offset, data),
            DEVICE => self.registers.config.write(offset - DEVICE, data),
            NOTIFY => {
                let index = (offset - NOTIFY) / u64::from(NOTIFY_MULTIPLIER);
                self.registers.notify(index as usize, Interface::Modern);
            }
            _ => {}
        }
    }
}

/// The configuration space at power on; offsets of the MSI-X and the pci_cfg capability.
fn config_space(identity: Identity, registers: &Registers, msix: &Msix) -> (ConfigSpace, u8, u8) {
    let mut c = ConfigSpace::new(identity);
    let device_len = registers.config.len() as u32;
    let legacy_size = (legacy::HEADER_MAX as u32 + device_len).next_power_of_two().min(256);
    c.set_bar(LEGACY_BAR, Bar::Io { size: legacy_size });
    c.set_bar(MSIX_BAR, Bar::Memory32 { size: msix::BAR_SIZE });
    c.set_bar(MODERN_BAR, Bar::Memory64 { size: MODERN_SIZE });
    let msix_capability = msix.add_capability(&mut c, MSIX_BAR as u8);
    let mut add = |kind, offset: u64, len: u32, tail: Option<u32>| {
        let mut body = vec![if tail.is_some() { 20 } else { 16 }, kind, MODERN_BAR as u8, 0, 0, 0];
        body.extend((offset as u32).to_le_bytes());
        body.extend(len.to_le_bytes());
        body.extend(tail.into_iter().flat_map(u32::to_le_bytes));
        c.add_capability(CAPABILITY_VENDOR, &body)
    };
    add(COMMON_CFG, COMMON, modern::LEN as u32, None);
    add(ISR_CFG, ISR, 1, None);
    if device_len != 0 {
        add(DEVICE_CFG, DEVICE, device_len, None);
    }
    add(NOTIFY_CFG, NOTIFY, PART as u32, Some(NOTIFY_MULTIPLIER));
    let pci_cfg = add(PCI_CFG, 0, 0, Some(0));
    c.allow(pci_cfg + 4, &[0xff]);
    c.allow(pci_cfg + 8, &[0xff; 12]);
    c.set_u8(pci_cfg + 4, 0);
    (c, msix_capability, pci_cfg)
}

impl PciFunction for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        if self.is_pci_cfg_data(offset)
            && let Some((bar, at, len)) = self.pci_cfg_access()
        {
            let mut window = [0; 4];
            self.bar_read(bar, at, &mut window[..len]);
            self.config.set_u32(self.pci_cfg + PCI_CFG_DATA, u32::from_le_bytes(window));
        }
        self.config.set_interrupt_status(self.registers.interrupts.isr() != 0);
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.config.write(offset, data);
        if self.is_pci_cfg_data(offset) {
            if let Some((bar, at, len)) = self.pci_cfg_access() {
                let window = self.config.u32(self.pci_cfg + PCI_CFG_DATA).to_le_bytes();
                self.bar_write(bar, at, &window[..len]);
            }
        } else if offset & !3 == reg::COMMAND || offset & !3 == self.msix_capability {
            self.msix.set_control(self.config.u16(self.msix_capability + 2));
            self.registers.interrupts.follow_pci(self.config.command() & command::INTX_DISABLE != 0);
        }
    }

    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        match bar {
            LEGACY_BAR => legacy::read(&mut self.registers, offset, data),
            MSIX_BAR => self.msix.read(offset, data),
            MODERN_BAR => self.modern_read(offset, data),
            _ => data.fill(0xff),
        }
    }

    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]) {
        match bar {
            LEGACY_BAR => legacy::write(&mut self.registers, offset, data),
            MSIX_BAR => self.msix.write(offset, data),
            MODERN_BAR => self.modern_write(offset, data),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.registers.reset();
        self.msix.reset();
        self.registers.interrupts.follow_pci(false);
        self.config = config_space(self.identity, &self.registers, &self.msix).0;
    }
}
