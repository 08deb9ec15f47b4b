//! The wires from the board's devices to the engine's GIC.

use super::memory_map::FIRST_SPI;
use crate::lock;
use devices::wiring::IrqLine;
use engine::Vm;
use std::sync::{Arc, Mutex};

/// A shared peripheral interrupt, level-sensitive, with one device at it.
pub struct Spi {
    vm: Arc<dyn Vm>,
    intid: u32,
    /// The level that the engine was last told. Held while it is told, so that levels come in order.
    level: Mutex<bool>,
}

impl Spi {
    /// SPI `number`, counted from 0; low.
    pub fn line(vm: &Arc<dyn Vm>, number: u32) -> Arc<dyn IrqLine> {
        Arc::new(Self { vm: vm.clone(), intid: FIRST_SPI + number, level: Mutex::new(false) })
    }
}

impl IrqLine for Spi {
    fn set(&self, high: bool) {
        let mut level = lock(&self.level);
        if *level == high {
            return;
        }
        match self.vm.set_line(self.intid, high) {
            Ok(()) => *level = high,
            Err(e) => log::error!("interrupt {} could not be made {high}: {e}", self.intid),
        }
    }
}
