//! The board itself: what the processors reach, how it is reset, paused and taken down.
//!
//! Order of locks, outermost first: [`Background`]'s; a device's own (the power button's before the GPIO's); the alarms'; a
//! line's; the life cycle's gate. The engine may call any of [`Bus`] with none of its own locks held, and is called with at most a
//! device's and a line's held.

use super::memory_map::RAM;
use super::wiring::Devices;
use crate::alarms::Alarms;
use crate::background::Background;
use crate::boot::arm::{self, ArmPlatform};
use crate::clock::BoardClock;
use crate::config::VirtConfig;
use crate::firmware::device_tree;
use crate::lifecycle::Board;
use crate::machine::Front;
use crate::{Result, lock};
use address::GuestPhys;
use devices::wiring::{Clock, Nanos};
use engine::state::ArmState;
use engine::{Bus, GicVersion, VcpuState, Vm};
use memory::GuestMemory;
use std::sync::Arc;

/// Everything of a virt machine but its processors and their GIC.
pub struct VirtBoard {
    config: VirtConfig,
    gic: GicVersion,
    memory: Arc<GuestMemory>,
    background: Background,
    devices: Devices,
}

impl VirtBoard {
    pub(super) fn new(
        config: VirtConfig,
        gic: GicVersion,
        memory: Arc<GuestMemory>,
        vm: Arc<dyn Vm>,
    ) -> Result<Self> {
        let clock = Arc::new(BoardClock::default());
        let alarms = Alarms::new(clock.clone());
        let mut runners = Vec::new();
        let devices = Devices::new(&config, &memory, &clock, &alarms, &vm, &mut runners)?;
        let background = Background::start(&config.name, clock, alarms, runners)?;
        Ok(Self { config, gic, memory, background, devices })
    }

    /// Reads the kernel and modules anew and loads them, with a device tree made for them.
    fn load_kernel(&self) -> Result<ArmState> {
        let len = self.memory.ram_len();
        let platform = ArmPlatform { arch: self.config.arch, memory: &self.memory, ram: RAM..RAM + len };
        let board = device_tree::Board {
            arch: self.config.arch,
            vcpus: self.config.vcpus,
            gic: self.gic,
            ram_bytes: len,
            virtio_devices: self.devices.virtio.len(),
        };
        self.config
            .boot
            .load(len, |files| arm::load(&platform, files, |chosen| device_tree::build(&board, chosen)))
    }
}

impl Board for VirtBoard {
    fn reset(&self) -> Result<Vec<VcpuState>> {
        self.devices.reset();
        let first = self.load_kernel()?;
        let waiting = || arm::waiting(self.config.arch);
        let others = (1..self.config.vcpus).map(|_| waiting());
        Ok(std::iter::once(first).chain(others).map(|s| VcpuState::Arm(Box::new(s))).collect())
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

impl Front for VirtBoard {
    fn press_power_button(&self) -> bool {
        lock(&self.devices.power_button).press()
    }

    fn console_input(&self, bytes: &[u8]) -> usize {
        self.devices.console.input(bytes)
    }

    fn console_output_ready(&self) {
        self.devices.console.output_ready();
    }
}

impl Bus for VirtBoard {
    /// ARM has no ports.
    fn io_read(&self, _port: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn io_write(&self, _port: u16, _data: &[u8]) {}

    fn mmio_read(&self, address: GuestPhys, data: &mut [u8]) {
        if !self.devices.mmio.read(address, data) {
            log::trace!("nobody answers a read of {} bytes at {address}", data.len());
            data.fill(0xff);
        }
    }

    fn mmio_write(&self, address: GuestPhys, data: &[u8]) {
        if !self.devices.mmio.write(address, data) {
            log::trace!("nobody takes a write of {data:x?} at {address}");
        }
    }
}
