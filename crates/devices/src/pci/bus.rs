//! Bus 0: its functions, and which of them an address belongs to.

use super::config_space::{BARS, command, reg};
use super::{Address, Error, IntxRouter, PciFunction, Pin, Windows, lock};
use address::GuestPhys;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A function, shared between the bus and whoever made it.
pub type SharedFunction = Arc<Mutex<dyn PciFunction>>;

/// What one base address register decodes at the moment.
#[derive(Clone, Copy, Debug)]
struct Decoded {
    io: bool,
    base: u64,
    size: u64,
    bar: usize,
}

struct Slot {
    address: Address,
    function: SharedFunction,
    /// What the board assigned: base address registers, interrupt pin and line.
    assigned: Vec<(usize, u64)>,
    line: u8,
}

/// Bus 0. Accesses come from any thread.
pub struct PciBus {
    windows: Windows,
    router: Arc<IntxRouter>,
    slots: Vec<Slot>,
    /// By slot. Written with the slot's function locked, never read so.
    decoded: RwLock<Vec<Vec<Decoded>>>,
}

impl PciBus {
    /// An empty bus; base address registers will be put into `windows`.
    pub fn new(windows: Windows, router: Arc<IntxRouter>) -> Self {
        Self { windows, router, slots: Vec::new(), decoded: RwLock::default() }
    }

    /// The interrupt pins' router.
    pub fn router(&self) -> &Arc<IntxRouter> {
        &self.router
    }

    /// The lowest device number from 1 up with no function.
    pub fn free_device(&self) -> Result<u8, Error> {
        let taken = |d| self.slots.iter().any(|s| s.address.device == d);
        (1..32).find(|&d| !taken(d)).ok_or(Error::Slot { device: 31, function: 0 })
    }

    /// Plugs a function in, assigns its addresses and (where it has a pin) its interrupt line, and switches decoding on.
    pub fn add(&mut self, address: Address, pin: Option<Pin>, function: SharedFunction) -> Result<(), Error> {
        let Address { device, function: number } = address;
        if self.slots.iter().any(|s| s.address == address) {
            return Err(Error::Slot { device, function: number });
        }
        let mut assigned = Vec::new();
        for (index, bar) in lock(&function).config().bars() {
            assigned.push((index, self.windows.take(bar)?));
        }
        let line = pin.map_or(0, |p| self.router.line(address.device, p));
        if let Some(p) = pin {
            lock(&function).config_mut().set_u8(reg::INTERRUPT_PIN, p as u8 + 1);
        }
        self.slots.push(Slot { address, function, assigned, line });
        self.decoded.get_mut().unwrap_or_else(PoisonError::into_inner).push(Vec::new());
        self.restore(self.slots.len() - 1);
        Ok(())
    }

    /// Resets the bus and all functions, and puts back the assigned addresses.
    pub fn reset(&self) {
        self.router.reset();
        for i in 0..self.slots.len() {
            lock(&self.slots[i].function).reset();
            self.restore(i);
        }
    }

    /// Does for one function what firmware does at power on.
    fn restore(&self, index: usize) {
        let slot = &self.slots[index];
        let mut f = lock(&slot.function);
        let mut bits = command::MASTER;
        for &(bar, base) in &slot.assigned {
            f.config_mut().set_bar_address(bar, base);
            bits |=
                if f.config().bar(bar).is_some_and(|b| b.is_io()) { command::IO } else { command::MEMORY };
        }
        f.config_write(reg::INTERRUPT_LINE, &[slot.line]);
        f.config_write(reg::COMMAND, &bits.to_le_bytes());
        self.redecode(index, &*f);
    }

    fn redecode(&self, index: usize, function: &dyn PciFunction) {
        let config = function.config();
        let new = (0..BARS).filter_map(|bar| {
            let io = config.bar(bar)?.is_io();
            config.decoded(bar).map(|(base, size)| Decoded { io, base, size, bar })
        });
        let mut decoded = self.decoded.write().unwrap_or_else(PoisonError::into_inner);
        decoded[index].clear();
        decoded[index].extend(new);
    }

    /// Reads configuration space at a double word's `offset` on; ones where there is no function.
    pub fn config_read(&self, address: Address, offset: u8, data: &mut [u8]) {
        match self.slots.iter().find(|s| s.address == address) {
            Some(s) => lock(&s.function).config_read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes configuration space; decoding follows at once.
    pub fn config_write(&self, address: Address, offset: u8, data: &[u8]) {
        if let Some(i) = self.slots.iter().position(|s| s.address == address) {
            let mut f = lock(&self.slots[i].function);
            f.config_write(offset, data);
            if offset < reg::CAPABILITIES {
                self.redecode(i, &*f);
            }
        }
    }

    /// Whose `len` bytes at `at` are, and where in its register. Where two overlap, the first function's.
    fn find(&self, io: bool, at: u64, len: usize) -> Option<(&SharedFunction, usize, u64)> {
        let decoded = self.decoded.read().unwrap_or_else(PoisonError::into_inner);
        let inside = |d: &&Decoded| {
            let offset = at.wrapping_sub(d.base);
            d.io == io && offset < d.size && len as u64 <= d.size - offset
        };
        let mut each = decoded.iter().zip(&self.slots);
        each.find_map(|(bars, slot)| bars.iter().find(inside).map(|d| (&slot.function, d.bar, at - d.base)))
    }

    /// A load from memory space. False, and `data` untouched, where no function decodes it.
    pub fn mmio_read(&self, at: GuestPhys, data: &mut [u8]) -> bool {
        self.read(false, at.0, data)
    }
    /// A store to memory space. False where no function decodes it.
    pub fn mmio_write(&self, at: GuestPhys, data: &[u8]) -> bool {
        self.write(false, at.0, data)
    }
    /// `IN`. False, and `data` untouched, where no function decodes it.
    pub fn io_read(&self, port: u16, data: &mut [u8]) -> bool {
        self.read(true, port.into(), data)
    }
    /// `OUT`. False where no function decodes it.
    pub fn io_write(&self, port: u16, data: &[u8]) -> bool {
        self.write(true, port.into(), data)
    }

    fn read(&self, io: bool, at: u64, data: &mut [u8]) -> bool {
        let Some((function, bar, offset)) = self.find(io, at, data.len()) else { return false };
        lock(function).bar_read(bar, offset, data);
        true
    }
    fn write(&self, io: bool, at: u64, data: &[u8]) -> bool {
        let Some((function, bar, offset)) = self.find(io, at, data.len()) else { return false };
        lock(function).bar_write(bar, offset, data);
        true
    }
}
