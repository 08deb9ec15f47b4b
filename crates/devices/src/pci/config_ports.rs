//! Configuration mechanism #1: CONFIG_ADDRESS at CF8h, CONFIG_DATA at CFCh; the reset control register at CF9h.
//!
//! Source: PCI 3.0, 3.2.2.3.2; PIIX4 datasheet, RC at CF9h.

use super::{Address, PciBus};
use crate::wiring::{BoardControl, BoardEvent, PortDevice};
use std::sync::Arc;

/// First of the 8 ports.
pub const BASE: u16 = 0xcf8;

const ENABLE: u32 = 1 << 31;
/// RC: reset the processor on this bit's change from 0 to 1.
const RESET_CPU: u8 = 1 << 2;

/// Ports CF8h to CFFh.
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    board: Arc<dyn BoardControl>,
    address: u32,
    reset_control: u8,
}

impl ConfigPorts {
    /// `board` is told of resets.
    pub fn new(bus: Arc<PciBus>, board: Arc<dyn BoardControl>) -> Self {
        Self { bus, board, address: 0, reset_control: 0 }
    }

    /// The function and first byte an access at `offset` (4 to 7) means: `None` for another bus or with ENABLE off.
    fn target(&self, offset: u16, len: usize) -> Option<(Address, u8)> {
        let a = self.address;
        let on_bus_0 = a & ENABLE != 0 && a >> 16 & 0xff == 0;
        let in_dword = usize::from(offset) + len <= 8;
        let address = Address::new((a >> 11) as u8 & 31, (a >> 8) as u8 & 7);
        (on_bus_0 && in_dword).then_some((address, (a as u8 & 0xfc) + (offset as u8 & 3)))
    }

    fn write_reset_control(&mut self, value: u8) {
        if value & !self.reset_control & RESET_CPU != 0 {
            self.board.request(BoardEvent::Reset);
        }
        // The bit that pulled the line falls back with the reset.
        self.reset_control = value & 0x0a;
    }
}

impl PortDevice for ConfigPorts {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (1, 1) => data[0] = self.reset_control,
            (4..8, len) => match self.target(offset, len) {
                Some((address, at)) => self.bus.config_read(address, at, data),
                None => data.fill(0xff),
            },
            _ => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.address = u32::from_le_bytes([a, b, c, d]) & 0x80ff_fffc,
            (1, &[value]) => self.write_reset_control(value),
            (4..8, _) => {
                if let Some((address, at)) = self.target(offset, data.len()) {
                    self.bus.config_write(address, at, data);
                }
            }
            _ => {}
        }
    }
}
