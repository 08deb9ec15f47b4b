//! What a PCI function is to the bus.

use super::ConfigSpace;

/// A function's place on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// 0 to 31.
    pub device: u8,
    /// 0 to 7.
    pub function: u8,
}

impl Address {
    pub const fn new(device: u8, function: u8) -> Self {
        Self { device: device & 31, function: function & 7 }
    }
    /// As bits 7:0 of a requester ID.
    pub const fn devfn(self) -> u8 {
        self.device << 3 | self.function
    }
}

/// A function's interrupt pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    A,
    B,
    C,
    D,
}

/// One function of a device on the bus. The bus locks it around each call.
pub trait PciFunction: Send {
    fn config(&self) -> &ConfigSpace;
    fn config_mut(&mut self) -> &mut ConfigSpace;
    /// Reads configuration space; `data` lies in one aligned double word.
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        self.config().read(offset, data);
    }
    /// Writes configuration space; `data` lies in one aligned double word.
    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.config_mut().write(offset, data);
    }
    /// Reads `data.len()` bytes, 1 to 8, at `offset` of base address register `bar`; all of them lie in it.
    fn bar_read(&mut self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    /// Writes, as [`Self::bar_read`] reads.
    fn bar_write(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}
    /// The bus was reset: all registers to what they were at power on. The bus then restores the addresses it assigned.
    fn reset(&mut self) {}
}
