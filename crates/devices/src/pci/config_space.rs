//! A function's 256 bytes of configuration space, header type 0.

/// Offsets in the type 0 header (PCI 3.0, 6.1).
pub mod reg {
    pub const COMMAND: u8 = 0x04;
    pub const STATUS: u8 = 0x06;
    pub const HEADER_TYPE: u8 = 0x0e;
    pub const BAR0: u8 = 0x10;
    pub const CAPABILITIES: u8 = 0x34;
    pub const INTERRUPT_LINE: u8 = 0x3c;
    pub const INTERRUPT_PIN: u8 = 0x3d;
}

/// Bits of the command register (PCI 3.0, 6.2.2).
pub mod command {
    pub const IO: u16 = 1;
    pub const MEMORY: u16 = 1 << 1;
    pub const MASTER: u16 = 1 << 2;
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Bits of the status register (PCI 3.0, 6.2.3).
pub mod status {
    pub const INTERRUPT: u16 = 1 << 3;
    pub const CAPABILITIES: u16 = 1 << 4;
}

/// Base address registers of a type 0 header.
pub const BARS: usize = 6;

/// Who a function says it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Class, subclass and programming interface, from the high byte down.
    pub class: u32,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

/// What a base address register decodes. Sizes are in bytes and powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// At least 4, at most 256.
    Io { size: u32 },
    /// At least 16.
    Memory32 { size: u32 },
    /// At least 16; takes two registers. Prefetchable.
    Memory64 { size: u64 },
}

impl Bar {
    /// Bytes it decodes.
    pub fn size(self) -> u64 {
        match self {
            Bar::Io { size } | Bar::Memory32 { size } => size.into(),
            Bar::Memory64 { size } => size,
        }
    }
    pub fn is_io(self) -> bool {
        matches!(self, Bar::Io { .. })
    }
}

/// A type 0 configuration space: what is in it, and which bits of it software may change.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
    bars: [Option<Bar>; BARS],
    /// Where the next capability goes.
    next_capability: u8,
    /// The pointer that leads to it.
    last_pointer: u8,
}

impl ConfigSpace {
    pub fn new(id: Identity) -> Self {
        let mut c = Self {
            bytes: [0; 256],
            writable: [0; 256],
            bars: [None; BARS],
            next_capability: 0x40,
            last_pointer: reg::CAPABILITIES,
        };
        c.set_u16(0x00, id.vendor);
        c.set_u16(0x02, id.device);
        c.set_u32(0x08, id.class << 8 | u32::from(id.revision));
        c.set_u16(0x2c, id.subsystem_vendor);
        c.set_u16(0x2e, id.subsystem);
        c.allow(
            reg::COMMAND,
            &(command::IO | command::MEMORY | command::MASTER | command::INTX_DISABLE).to_le_bytes(),
        );
        // Cache line size and latency timer do nothing here, but software sets them.
        c.allow(0x0c, &[0xff, 0xff]);
        c.allow(reg::INTERRUPT_LINE, &[0xff]);
        c
    }

    /// Makes the bits of `mask` writable by software.
    pub fn allow(&mut self, offset: u8, mask: &[u8]) {
        for (i, m) in mask.iter().enumerate() {
            self.writable[usize::from(offset) + i] = *m;
        }
    }

    /// Declares base address register `index` (0 to 5).
    pub fn set_bar(&mut self, index: usize, bar: Bar) {
        debug_assert!(bar.size().is_power_of_two());
        let at = reg::BAR0 + 4 * index as u8;
        let mask = !(bar.size() - 1);
        let (flags, wide) = match bar {
            Bar::Io { .. } => (1, false),
            Bar::Memory32 { .. } => (0, false),
            Bar::Memory64 { .. } => (0xc, true),
        };
        self.set_u32(at, flags);
        self.allow(at, &(mask as u32 & if bar.is_io() { 0xffff_fffc } else { 0xffff_fff0 }).to_le_bytes());
        if wide {
            self.allow(at + 4, &((mask >> 32) as u32).to_le_bytes());
        }
        self.bars[index] = Some(bar);
    }

    /// The base address registers, by index.
    pub fn bars(&self) -> impl Iterator<Item = (usize, Bar)> + '_ {
        self.bars.iter().enumerate().filter_map(|(i, b)| b.map(|b| (i, b)))
    }

    /// Base address register `index`.
    pub fn bar(&self, index: usize) -> Option<Bar> {
        self.bars.get(index).copied().flatten()
    }

    /// The address programmed into a base address register.
    pub fn bar_address(&self, index: usize) -> u64 {
        let at = reg::BAR0 + 4 * index as u8;
        match self.bars[index] {
            Some(Bar::Io { .. }) => u64::from(self.u32(at) & !3),
            Some(Bar::Memory32 { .. }) => u64::from(self.u32(at) & !15),
            Some(Bar::Memory64 { .. }) => u64::from(self.u32(at) & !15) | u64::from(self.u32(at + 4)) << 32,
            None => 0,
        }
    }

    /// Programs a base address register, as firmware would.
    pub fn set_bar_address(&mut self, index: usize, address: u64) {
        let at = reg::BAR0 + 4 * index as u8;
        self.write(at, &(address as u32).to_le_bytes());
        if let Some(Bar::Memory64 { .. }) = self.bars[index] {
            self.write(at + 4, &((address >> 32) as u32).to_le_bytes());
        }
    }

    /// What base address register `index` decodes now, if anything: first address and size.
    pub fn decoded(&self, index: usize) -> Option<(u64, u64)> {
        let bar = self.bar(index)?;
        let enable = if bar.is_io() { command::IO } else { command::MEMORY };
        let base = self.bar_address(index);
        // A register never programmed decodes nothing; nor does one that sizing has left at the top of its space.
        let limit = if bar.is_io() { 0x1_0000 } else { u64::MAX };
        let fits = base != 0 && base.checked_add(bar.size()).is_some_and(|end| end <= limit);
        (self.command() & enable != 0 && fits).then_some((base, bar.size()))
    }

    /// Adds a capability whose bytes after the ID and the next pointer are `body`; gives its offset.
    ///
    /// # Panics
    /// When the 192 bytes for capabilities are used up: the device is built wrong.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> u8 {
        let at = self.next_capability;
        let end = usize::from(at) + 2 + body.len();
        assert!(end <= 256, "capabilities don't fit in configuration space");
        self.bytes[usize::from(at)] = id;
        self.bytes[usize::from(at) + 2..end].copy_from_slice(body);
        self.bytes[usize::from(self.last_pointer)] = at;
        self.set_u16(reg::STATUS, self.u16(reg::STATUS) | status::CAPABILITIES);
        self.last_pointer = at + 1;
        self.next_capability = end.next_multiple_of(4).min(255) as u8;
        at
    }

    pub fn command(&self) -> u16 {
        self.u16(reg::COMMAND)
    }

    /// The interrupt status bit: the pin is (or would be) asserted.
    pub fn set_interrupt_status(&mut self, on: bool) {
        let s = self.u16(reg::STATUS) & !status::INTERRUPT;
        self.set_u16(reg::STATUS, s | if on { status::INTERRUPT } else { 0 });
    }

    /// Software's read; bytes past the end read as ones.
    pub fn read(&self, offset: u8, out: &mut [u8]) {
        for (i, b) in out.iter_mut().enumerate() {
            *b = self.bytes.get(usize::from(offset) + i).copied().unwrap_or(0xff);
        }
    }

    /// Software's write: changes the writable bits only.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        for (i, b) in data.iter().enumerate() {
            let at = usize::from(offset) + i;
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | b & mask;
            }
        }
    }

    pub fn u8(&self, offset: u8) -> u8 {
        self.bytes[usize::from(offset)]
    }
    pub fn u16(&self, offset: u8) -> u16 {
        let mut b = [0; 2];
        self.read(offset, &mut b);
        u16::from_le_bytes(b)
    }
    pub fn u32(&self, offset: u8) -> u32 {
        let mut b = [0; 4];
        self.read(offset, &mut b);
        u32::from_le_bytes(b)
    }
    /// Sets a byte, writable or not.
    pub fn set_u8(&mut self, offset: u8, value: u8) {
        self.bytes[usize::from(offset)] = value;
    }
    pub fn set_u16(&mut self, offset: u8, value: u16) {
        self.set(offset, &value.to_le_bytes());
    }
    pub fn set_u32(&mut self, offset: u8, value: u32) {
        self.set(offset, &value.to_le_bytes());
    }
    fn set(&mut self, offset: u8, data: &[u8]) {
        for (i, b) in data.iter().enumerate() {
            if let Some(byte) = self.bytes.get_mut(usize::from(offset) + i) {
                *byte = *b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut c = ConfigSpace::new(Identity {
            vendor: 0x1234,
            device: 0x5678,
            class: 0x01_02_03,
            ..Identity::default()
        });
        c.set_bar(0, Bar::Io { size: 64 });
        c.set_bar(1, Bar::Memory32 { size: 0x1000 });
        c.set_bar(2, Bar::Memory64 { size: 1 << 33 });
        c
    }

    #[test]
    fn sizing_each_kind_of_bar_gives_its_size_and_flags() {
        let mut c = space();
        for at in [0x10, 0x14, 0x18, 0x1c, 0x20] {
            c.write(at, &[0xff; 4]);
        }
        assert_eq!(c.u32(0x10), 0xffff_ffc1);
        assert_eq!(c.u32(0x14), 0xffff_f000);
        assert_eq!((c.u32(0x18), c.u32(0x1c)), (0xc, 0xffff_fffe));
        assert_eq!(c.u32(0x20), 0, "no register there");
    }

    #[test]
    fn decoded_follows_command_and_address() {
        let mut c = space();
        c.set_bar_address(0, 0xc040);
        c.set_bar_address(2, 6 << 32);
        assert_eq!(c.decoded(0), None, "decoding is off");
        c.write(reg::COMMAND, &3u16.to_le_bytes());
        assert_eq!(c.decoded(0), Some((0xc040, 64)));
        assert_eq!(c.decoded(1), None, "never programmed");
        assert_eq!(c.decoded(2), Some((6 << 32, 1 << 33)));
        c.write(0x10, &0xffff_ffffu32.to_le_bytes());
        assert_eq!(c.decoded(0), None, "beyond the 64 Ki ports");
        c.write(0x18, &[0xff; 8]);
        assert_eq!(c.decoded(2), None, "its end wraps");
    }

    #[test]
    fn write_changes_only_what_is_writable() {
        let mut c = space();
        (0..=255).for_each(|at| c.write(at, &[0xff]));
        assert_eq!(c.u32(0), 0x5678_1234);
        assert_eq!(c.u32(8), 0x01_02_03_00);
        assert_eq!(c.command(), 0x407);
        assert_eq!(c.u16(reg::STATUS), 0);
        c.write(254, &[1, 2, 3, 4]);
        let mut out = [0; 4];
        c.read(254, &mut out);
        assert_eq!(out, [0, 0, 0xff, 0xff]);
    }

    #[test]
    fn capabilities_are_chained_and_aligned() {
        let mut c = space();
        let a = c.add_capability(9, &[1, 2, 3]);
        let b = c.add_capability(0x11, &[4; 10]);
        assert_eq!((a, b), (0x40, 0x48));
        assert_eq!((c.u8(reg::CAPABILITIES), c.u8(a + 1), c.u8(b + 1)), (a, b, 0));
        assert_eq!((c.u8(a), c.u8(b), c.u8(a + 4)), (9, 0x11, 3));
        assert_ne!(c.u16(reg::STATUS) & status::CAPABILITIES, 0);
    }
}
