//! The `pc` board: an i440FX/PIIX-like machine that boots a kernel directly.

pub mod board;
pub mod console;
pub mod interrupts;
pub mod io_map;
pub mod memory_map;
pub mod port_map;
pub mod wiring;

use crate::config::{Ending, OnReset, PcConfig};
use crate::lifecycle::{Board, Control, Status};
use crate::{Error, Result, host_memory, lifecycle};
use board::PcBoard;
use engine::{Arch, Engine, Vcpu, VcpuState, VmConfig};
use memory_map::MemoryMap;
use std::sync::Arc;

/// A machine put together, its kernel loaded, not running yet.
pub struct Pc {
    name: String,
    on_reset: OnReset,
    handle: PcHandle,
    vcpus: Vec<Box<dyn Vcpu>>,
    states: Vec<VcpuState>,
}

/// What other threads do to a machine, running or not.
#[derive(Clone)]
pub struct PcHandle {
    board: Arc<PcBoard>,
    control: Arc<Control>,
}

impl Pc {
    /// Allocates memory, makes the devices and vCPUs, loads the kernel. Every error is a sentence for the user.
    pub fn new(engine: &dyn Engine, config: PcConfig) -> Result<Pc> {
        if !(1..=255).contains(&config.vcpus) {
            return Err(Error::Config(format!("a pc has 1 to 255 vCPUs, not {}", config.vcpus)));
        }
        let map = MemoryMap::new(config.memory_bytes)?;
        host_memory::check(config.memory_bytes)?;
        let memory = Arc::new(map.allocate()?);
        let vm = engine.create_vm(VmConfig {
            arch: Arch::X86,
            vcpus: config.vcpus,
            memory: Arc::clone(&memory),
            gic: None,
        })?;
        let vcpus = (0..config.vcpus).map(|id| vm.create_vcpu(id)).collect::<engine::Result<Vec<_>>>()?;
        let control = Arc::new(Control::default());
        let (name, on_reset) = (config.name.clone(), config.on_reset);
        let board = Arc::new(PcBoard::new(config, map, memory, vm, Arc::clone(&control))?);
        let states = board.reset()?;
        Ok(Pc { name, on_reset, handle: PcHandle { board, control }, vcpus, states })
    }

    /// For pausing, stopping and the console; outlives `self`.
    pub fn handle(&self) -> PcHandle {
        self.handle.clone()
    }

    /// Runs the machine until it ends. When this returns its threads are gone, its devices drained and its disks
    /// flushed; an error in that is told as [`Ending::Crashed`].
    pub fn run(self) -> Ending {
        let PcHandle { board, control } = &self.handle;
        lifecycle::run(&self.name, control, &**board, self.vcpus, self.states, self.on_reset)
    }
}

impl PcHandle {
    /// Returns once no vCPU runs and the guest's clock stands still. Before [`Pc::run`] it makes the machine start paused.
    pub fn pause(&self) {
        self.control.pause(&*self.board);
    }
    pub fn unpause(&self) {
        self.control.unpause(&*self.board);
    }
    /// Presses the ACPI power button: the guest is asked to power off, and may take its time or not do it. False: it
    /// doesn't listen to the button (yet), and likely won't.
    pub fn press_power_button(&self) -> bool {
        self.board.press_power_button()
    }
    /// Pulls the reset line.
    pub fn reset(&self) {
        self.control.reset(None);
    }
    /// Ends the machine now, as if its plug were pulled; [`Pc::run`] still flushes the disks before it returns.
    pub fn stop(&self) {
        self.control.end(Ending::Stopped);
    }
    /// What a person types, for the device that the guest wrote to the console through last: COM1, where it starts, or
    /// hvc0. Gives how many bytes were taken; offer the rest after [`crate::Output::input_room`].
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        self.board.console_input(bytes)
    }
    /// The console's [`crate::Output`] has room again after it took less than it was given.
    pub fn console_output_ready(&self) {
        self.board.console_output_ready();
    }
    pub fn status(&self) -> Status {
        self.control.status()
    }
}

#[cfg(test)]
mod tests;
