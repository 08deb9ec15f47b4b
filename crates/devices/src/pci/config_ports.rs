//! Configuration mechanism #1: CONFIG_ADDRESS at CF8h, CONFIG_DATA at CFCh; the reset control register at CF9h.
//!
//! Source: PCI 3.0, 3.2.2.3.2. Only double words reach CONFIG_ADDRESS, only bytes the register that lies in its middle.

use super::{Address, PciBus};
use crate::legacy::reset_control::ResetControl;
use crate::wiring::{BoardControl, PortDevice};
use std::sync::Arc;

/// First of the 8 ports.
pub const BASE: u16 = 0xcf8;

const ENABLE: u32 = 1 << 31;

/// Ports CF8h to CFFh.
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    address: u32,
    reset_control: ResetControl,
}

impl ConfigPorts {
    /// `board` is told of resets.
    pub fn new(bus: Arc<PciBus>, board: Arc<dyn BoardControl>) -> Self {
        Self { bus, address: 0, reset_control: ResetControl::new(board) }
    }

    /// The state at power on. The bus is reset apart from it: [`PciBus::reset`].
    pub fn reset(&mut self) {
        self.address = 0;
        self.reset_control.reset();
    }

    /// The function and first byte an access at `offset` (4 to 7) means: `None` for another bus or with ENABLE off.
    fn target(&self, offset: u16, len: usize) -> Option<(Address, u8)> {
        let a = self.address;
        let on_bus_0 = a & ENABLE != 0 && a >> 16 & 0xff == 0;
        let in_dword = usize::from(offset) + len <= 8;
        let address = Address::new((a >> 11) as u8 & 31, (a >> 8) as u8 & 7);
        (on_bus_0 && in_dword).then_some((address, (a as u8 & 0xfc) + (offset as u8 & 3)))
    }
}

impl PortDevice for ConfigPorts {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (1, 1) => self.reset_control.read(0, data),
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
            (1, &[_]) => self.reset_control.write(0, data),
            (4..8, _) => {
                if let Some((address, at)) = self.target(offset, data.len()) {
                    self.bus.config_write(address, at, data);
                }
            }
            _ => {}
        }
    }
}
