//! The board itself: what is on it and how it is reset.

use super::memory_map::MemoryMap;
use crate::boot::{self, Files, ModuleBytes, Platform};
use crate::config::PcConfig;
use crate::lifecycle::{Board, Control};
use crate::{Error, Result};
use address::GuestPhys;
use devices::wiring::{Clock, Nanos};
use engine::{Bus, VcpuState, Vm};
use memory::GuestMemory;
use std::sync::Arc;

/// Everything of a pc but its processors.
pub struct PcBoard {
    config: PcConfig,
    map: MemoryMap,
    memory: Arc<GuestMemory>,
    vm: Arc<dyn Vm>,
    control: Arc<Control>,
    clock: Arc<crate::clock::BoardClock>,
}

impl PcBoard {
    pub(super) fn new(
        config: PcConfig,
        map: MemoryMap,
        memory: Arc<GuestMemory>,
        vm: Arc<dyn Vm>,
        control: Arc<Control>,
    ) -> Result<Self> {
        Ok(Self { config, map, memory, vm, control, clock: Arc::default() })
    }

    pub(super) fn press_power_button(&self) {}

    pub(super) fn console_input(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    pub(super) fn console_output_ready(&self) {}

    /// Reads the kernel and modules anew and loads them.
    fn load_kernel(&self) -> Result<x86::State> {
        let boot = &self.config.boot;
        let limit = self.memory.ram_len();
        let kernel = boot.kernel.read("kernel", limit)?;
        let mut modules = Vec::new();
        for m in &boot.modules {
            modules.push((m.source.read("initrd", limit)?, m.command_line.as_str()));
        }
        let modules: Vec<_> =
            modules.iter().map(|(bytes, command_line)| ModuleBytes { bytes, command_line }).collect();
        let platform = Platform { memory: &self.memory, map: &self.map, rsdp: 0 };
        let files = Files {
            kernel_name: boot.kernel.name(),
            kernel: &kernel,
            modules: &modules,
            command_line: &boot.command_line,
        };
        boot::load(platform, files)
            .map_err(|source| Error::Boot { name: boot.kernel.name().to_string(), source })
    }
}

impl Board for PcBoard {
    fn reset(&self) -> Result<Vec<VcpuState>> {
        let first = self.load_kernel()?;
        let mut states = vec![VcpuState::X86(Box::new(first))];
        for _ in 1..self.config.vcpus {
            let mut waiting = x86::State::reset();
            waiting.activity = x86::state::Activity::WaitForSipi;
            states.push(VcpuState::X86(Box::new(waiting)));
        }
        Ok(states)
    }
    fn set_running(&self, running: bool) {
        if running { self.clock.unpause() } else { self.clock.pause() }
    }
    fn finish(&self) -> std::result::Result<(), String> {
        let errors: Vec<_> = self.config.disks.iter().filter_map(|d| d.flush().err()).collect();
        match errors.first() {
            None => Ok(()),
            Some(e) => {
                Err(format!("a disk could not be flushed, so the guest's last writes may be lost: {e}"))
            }
        }
    }
    fn now(&self) -> Nanos {
        self.clock.now()
    }
}

impl Bus for PcBoard {
    fn io_read(&self, _port: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn io_write(&self, _port: u16, _data: &[u8]) {}
    fn mmio_read(&self, _address: GuestPhys, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _address: GuestPhys, _data: &[u8]) {}
}
