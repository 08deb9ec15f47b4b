//! The `pc` board: an i440FX/PIIX-like machine that boots a kernel directly.

pub mod board;
pub mod interrupts;
pub mod io_map;
pub mod memory_map;
pub mod port_map;
pub mod wiring;

use crate::config::PcConfig;
use crate::lifecycle::{Board, Control};
use crate::machine::Machine;
use crate::{Error, Result, host_memory};
use board::PcBoard;
use engine::{Arch, Engine, VmConfig};
use memory_map::MemoryMap;
use std::sync::Arc;

/// Allocates memory, makes the devices and vCPUs, loads the kernel. Every error is a sentence for the user.
pub fn build(engine: &dyn Engine, config: PcConfig) -> Result<Machine> {
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
    Ok(Machine::new(name, on_reset, board, control, vcpus, states))
}

#[cfg(test)]
mod tests;
