//! The `virt` board: an ARM machine without a PC's past, that its device tree describes to the kernel.

pub mod board;
pub mod interrupts;
pub mod memory_map;
pub mod mmio_map;
pub mod wiring;

use crate::boot::arm;
use crate::config::{Boot, VirtConfig};
use crate::lifecycle::{Board, Control};
use crate::machine::Machine;
use crate::{Error, Result, host_memory};
use board::VirtBoard;
use engine::{Arch, Engine, VmConfig};
use std::sync::Arc;

/// What processors the kernel is for, as [`VirtConfig::arch`] wants it; `limit` bounds the bytes read and unpacked.
pub fn arch_of(boot: &Boot, limit: u64) -> Result<Arch> {
    let kernel = boot.kernel.read("kernel", limit)?;
    arm::arch_of(&kernel, limit)
        .map_err(|source| Error::Boot { name: boot.kernel.name().to_string(), source })
}

/// Allocates memory, makes the devices and vCPUs, loads the kernel. Every error is a sentence for the user.
pub fn build(engine: &dyn Engine, config: VirtConfig) -> Result<Machine> {
    if config.arch == Arch::X86 {
        return Err(Error::Config("a virt machine has ARM processors, not x86 ones".to_string()));
    }
    let gic = engine.gic().ok_or_else(|| {
        Error::Config(format!("the {} engine has no GIC, which a virt machine needs", engine.name()))
    })?;
    let most = memory_map::most_vcpus(gic);
    if !(1..=most).contains(&config.vcpus) {
        return Err(Error::Config(format!(
            "a virt machine has 1 to {most} vCPUs on this host, not {}",
            config.vcpus
        )));
    }
    memory_map::check_ram(config.memory_bytes)?;
    host_memory::check(config.memory_bytes)?;
    let memory = Arc::new(memory_map::allocate(config.memory_bytes, engine.huge_pages())?);
    let vm = engine.create_vm(VmConfig {
        arch: config.arch,
        vcpus: config.vcpus,
        memory: Arc::clone(&memory),
        gic: Some(memory_map::gic(gic)),
    })?;
    let vcpus = (0..config.vcpus).map(|id| vm.create_vcpu(id)).collect::<engine::Result<Vec<_>>>()?;
    let (name, on_reset) = (config.name.clone(), config.on_reset);
    let board = Arc::new(VirtBoard::new(config, gic, memory, vm)?);
    let states = board.reset()?;
    Ok(Machine::new(name, on_reset, board, Arc::new(Control::default()), vcpus, states))
}

#[cfg(test)]
mod tests;
