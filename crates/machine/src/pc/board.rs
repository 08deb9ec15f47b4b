//! The board itself: what the processors reach, how it is reset, paused and taken down.
//!
//! Order of locks, outermost first: [`Background`]'s; a device's own (a port device's or PCI function's); the
//! alarms'; the interrupt controllers' (see [`super::interrupts`]); the life cycle's gate. The engine may call any of
//! [`Bus`] with none of its own locks held, and is called with at most a device's and INTR's held.

use super::interrupts::Interrupts;
use super::io_map::LEVEL_IRQS;
use super::memory_map::{IOAPIC, MemoryMap};
use super::wiring::Devices;
use crate::alarms::Alarms;
use crate::background::Background;
use crate::boot::{self, Platform};
use crate::clock::BoardClock;
use crate::config::PcConfig;
use crate::lifecycle::{Board, Control};
use crate::machine::Front;
use crate::{Result, firmware, lock};
use address::GuestPhys;
use devices::wiring::{Clock, Nanos};
use engine::{Bus, VcpuState, Vm};
use memory::GuestMemory;
use std::sync::Arc;
use x86::state::Activity;

/// Everything of a pc but its processors.
pub struct PcBoard {
    config: PcConfig,
    map: MemoryMap,
    memory: Arc<GuestMemory>,
    background: Background,
    interrupts: Arc<Interrupts>,
    devices: Devices,
}

impl PcBoard {
    pub(super) fn new(
        config: PcConfig,
        map: MemoryMap,
        memory: Arc<GuestMemory>,
        vm: Arc<dyn Vm>,
        control: Arc<Control>,
    ) -> Result<Self> {
        let clock = Arc::new(BoardClock::default());
        let alarms = Alarms::new(clock.clone());
        let interrupts = Interrupts::new(vm, firmware::io_apic_id(config.vcpus));
        let mut runners = Vec::new();
        let devices =
            Devices::new(&config, &map, &memory, &clock, &alarms, &interrupts, control, &mut runners)?;
        let background = Background::start(&config.name, clock, alarms, runners)?;
        Ok(Self { config, map, memory, background, interrupts, devices })
    }

    /// Reads the kernel and modules anew and loads them.
    fn load_kernel(&self, rsdp: u64) -> Result<x86::State> {
        let platform = Platform { memory: &self.memory, map: &self.map, rsdp };
        self.config.boot.load(self.memory.ram_len(), |files| boot::load(platform, files))
    }
}

impl Board for PcBoard {
    fn reset(&self) -> Result<Vec<VcpuState>> {
        self.devices.reset();
        self.interrupts.reset(LEVEL_IRQS);
        let rsdp = firmware::install(&self.memory, self.config.vcpus)?;
        let mut first = self.load_kernel(rsdp)?;
        firmware::leave_local_apic(&mut first);
        let mut states = vec![VcpuState::X86(Box::new(first))];
        for _ in 1..self.config.vcpus {
            let waiting = x86::State { activity: Activity::WaitForSipi, ..x86::State::reset() };
            states.push(VcpuState::X86(Box::new(waiting)));
        }
        Ok(states)
    }

    fn set_running(&self, running: bool) {
        self.background.set_running(running);
    }

    fn finish(&self) -> std::result::Result<(), String> {
        self.background.finish()
    }

    fn now(&self) -> Nanos {
        self.background.clock.now()
    }
}

impl Front for PcBoard {
    fn press_power_button(&self) -> bool {
        lock(&self.devices.pm).press_power_button()
    }

    fn console_input(&self, bytes: &[u8]) -> usize {
        self.devices.console.input(bytes)
    }

    fn console_output_ready(&self) {
        self.devices.console.output_ready();
    }
}

impl Bus for PcBoard {
    fn io_read(&self, port: u16, data: &mut [u8]) {
        if !self.devices.ports.read(port, data) && !self.devices.pci.io_read(port, data) {
            log::trace!("nobody answers a read of {} bytes at port {port:#x}", data.len());
            data.fill(0xff);
        }
    }

    fn io_write(&self, port: u16, data: &[u8]) {
        if !self.devices.ports.write(port, data) && !self.devices.pci.io_write(port, data) {
            log::trace!("nobody takes a write of {data:x?} at port {port:#x}");
        }
    }

    fn mmio_read(&self, address: GuestPhys, data: &mut [u8]) {
        if address.page().0 == IOAPIC {
            self.interrupts.io_apic_read(address.page_offset() as u32, data);
        } else if !self.devices.pci.mmio_read(address, data) {
            data.fill(0xff);
        }
    }

    fn mmio_write(&self, address: GuestPhys, data: &[u8]) {
        if address.page().0 == IOAPIC {
            self.interrupts.io_apic_write(address.page_offset() as u32, data);
        } else if !self.devices.pci.mmio_write(address, data) {
            log::trace!("nobody takes a write of {data:x?} at {address}");
        }
    }

    fn acknowledge_interrupt(&self) -> Option<u8> {
        self.interrupts.acknowledge()
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.interrupts.end_of_interrupt(vector);
    }
}
