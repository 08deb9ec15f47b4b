//! The bus as software sees it: through ports, and by address.

use super::*;
use crate::testing::{FakeBoard, FakeLine};
use crate::wiring::{BoardEvent, PortDevice};
use ::address::GuestPhys;
use std::sync::Arc;

/// Reads give the register's index and the offset; writes are remembered.
struct Echo {
    config: ConfigSpace,
    written: Vec<(usize, u64, Vec<u8>)>,
}

impl PciFunction for Echo {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn bar_read(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill((bar as u8) << 4 | offset as u8 & 15);
    }
    fn bar_write(&mut self, bar: usize, offset: u64, data: &[u8]) {
        self.written.push((bar, offset, data.to_vec()));
    }
}

fn echo() -> Arc<Mutex<Echo>> {
    let mut config = ConfigSpace::new(Identity { vendor: 0xabcd, device: 1, ..Identity::default() });
    config.set_bar(0, Bar::Io { size: 32 });
    config.set_bar(1, Bar::Memory32 { size: 0x1000 });
    config.set_bar(2, Bar::Memory64 { size: 0x4000 });
    Arc::new(Mutex::new(Echo { config, written: Vec::new() }))
}

struct Rig {
    bus: Arc<PciBus>,
    ports: ConfigPorts,
    board: Arc<FakeBoard>,
    functions: Vec<Arc<Mutex<Echo>>>,
}

fn rig(n: u8) -> Rig {
    let isa = (0..16).map(|_| FakeLine::new() as Arc<dyn crate::wiring::IrqLine>).collect();
    let windows = Windows { io: 0xc000..0x1_0000, memory: 0xe000_0000..0xf000_0000 };
    let mut bus = PciBus::new(windows, IntxRouter::new(isa, Vec::new()));
    chipset::add_chipset(&mut bus, 0x600).unwrap();
    let functions: Vec<_> = (0..n).map(|_| echo()).collect();
    for f in &functions {
        let slot = bus.free_device().unwrap();
        bus.add(Address::new(slot, 0), Some(Pin::A), f.clone()).unwrap();
    }
    let (bus, board) = (Arc::new(bus), FakeBoard::new());
    Rig { ports: ConfigPorts::new(bus.clone(), board.clone()), bus, board, functions }
}

impl Rig {
    fn select(&mut self, address: u32) {
        self.ports.write(0, &(0x8000_0000 | address).to_le_bytes());
    }
    fn read(&mut self, device: u32, function: u32, at: u32) -> u32 {
        self.select(device << 11 | function << 8 | at);
        let mut b = [0; 4];
        self.ports.read(4, &mut b);
        u32::from_le_bytes(b)
    }
    fn write(&mut self, device: u32, at: u32, value: u32) {
        self.select(device << 11 | at);
        self.ports.write(4, &value.to_le_bytes());
    }
    fn mmio(&self, at: u64) -> Option<u8> {
        let mut b = [0];
        self.bus.mmio_read(GuestPhys(at), &mut b).then_some(b[0])
    }
    fn io(&self, at: u16) -> Option<u8> {
        let mut b = [0];
        self.bus.io_read(at, &mut b).then_some(b[0])
    }
}

#[test]
fn enumeration_finds_the_chipset_and_the_devices_and_nothing_else() {
    let mut r = rig(2);
    let mut found = Vec::new();
    for device in 0..32 {
        for function in 0..8 {
            let id = r.read(device, function, 0);
            if id != u32::MAX {
                found.push((device, function, id));
            }
        }
    }
    let expected = [
        (0, 0, 0x1237_8086),
        (1, 0, 0x7000_8086),
        (1, 3, 0x7113_8086),
        (2, 0, 0x0001_abcd),
        (3, 0, 0x0001_abcd),
    ];
    assert_eq!(found, expected);
    r.select(1 << 16);
    let mut b = [0; 4];
    r.ports.read(4, &mut b);
    assert_eq!(b, [0xff; 4], "there is no bus 1");
    assert_eq!(r.read(1, 0, 0x0c) >> 16 & 0xff, 0x80, "the ISA bridge has more functions");
    assert_eq!(r.read(0, 0, 0x08) >> 16, 0x0600);
    assert_eq!(r.read(1, 0, 0x60), 0x0b0b_0a0a);
    assert_eq!(r.read(1, 3, 0x40), 0x601);
}

#[test]
fn devices_come_up_assigned_decoding_and_with_an_interrupt_line() {
    let mut r = rig(2);
    for device in [2, 3] {
        let (io, m, w) = (r.read(device, 0, 0x10), r.read(device, 0, 0x14), r.read(device, 0, 0x18));
        assert_eq!((io & 3, m & 15, w & 15), (1, 0, 0xc));
        assert_eq!(r.read(device, 0, 4) as u16, 7);
        assert_eq!(r.io((io & !3) as u16 + 5), Some(5));
        assert_eq!(r.mmio(u64::from(m) + 0xfff), Some(0x1f));
        assert_eq!(r.mmio(u64::from(w & !15) + 3), Some(0x23));
        let interrupt = r.read(device, 0, 0x3c) as u16;
        assert_eq!(interrupt, 0x100 | u16::from(r.bus.router().line(device as u8, Pin::A)));
    }
    assert_eq!((r.io(0xbfff), r.mmio(0xefff_ffff)), (None, None));
}

#[test]
fn decoding_follows_a_register_that_is_moved_or_switched_off() {
    let mut r = rig(1);
    let old = u64::from(r.read(2, 0, 0x14));
    r.write(2, 0x14, 0xe800_0000);
    assert_eq!((r.mmio(old), r.mmio(0xe800_0001)), (None, Some(0x11)));
    r.write(2, 0x18, 0);
    r.write(2, 0x1c, 0x10);
    assert_eq!(r.mmio(0x10_0000_0002), Some(0x22));
    r.write(2, 4, 1);
    assert_eq!((r.mmio(0xe800_0000), r.mmio(0x10_0000_0002)), (None, None));
    r.write(2, 4, 2);
    let io = (r.read(2, 0, 0x10) & !3) as u16;
    assert_eq!((r.mmio(0xe800_0000), r.io(io)), (Some(0x10), None));
    r.bus.reset();
    assert_eq!((r.mmio(0xe800_0000), r.mmio(old), r.io(io)), (None, Some(0x10), Some(0)));
}

#[test]
fn overlapping_registers_are_answered_by_the_first_and_accesses_across_the_end_by_none() {
    let mut r = rig(2);
    r.write(2, 0x14, 0xe800_0000);
    r.write(3, 0x14, 0xe800_0000);
    assert!(r.bus.mmio_write(GuestPhys(0xe800_0008), &[1, 2]));
    assert_eq!(lock(&r.functions[0]).written, [(1, 8, vec![1, 2])]);
    assert!(lock(&r.functions[1]).written.is_empty());
    assert!(!r.bus.mmio_write(GuestPhys(0xe800_0ffd), &[0; 8]));
    assert!(!r.bus.mmio_read(GuestPhys(u64::MAX), &mut [0; 8]));
}

#[test]
fn configuration_ports_take_bytes_and_words_and_ignore_what_is_malformed() {
    let mut r = rig(1);
    r.select(2 << 11);
    let mut b = [0; 2];
    r.ports.read(6, &mut b);
    assert_eq!(b, [1, 0]);
    r.ports.read(7, &mut b);
    assert_eq!(b, [0xff; 2], "across the double word");
    r.ports.write(0, &[0x3c, 0x10]);
    let mut a = [0; 4];
    r.ports.read(0, &mut a);
    assert_eq!(u32::from_le_bytes(a), 0x8000_1000, "only a double word reaches CONFIG_ADDRESS");
    r.ports.write(0, &0x1000u32.to_le_bytes());
    r.ports.read(4, &mut a);
    assert_eq!(a, [0xff; 4], "not enabled");
}

#[test]
fn byte_to_reset_control_resets_and_a_double_word_does_not() {
    let mut r = rig(0);
    r.ports.write(0, &0x8000_0600u32.to_le_bytes());
    assert!(r.board.take().is_empty());
    r.ports.write(1, &[2]);
    r.ports.write(1, &[6]);
    assert_eq!(r.board.take(), [BoardEvent::Reset]);
    let mut a = [0; 4];
    r.ports.read(0, &mut a);
    assert_eq!(u32::from_le_bytes(a), 0x8000_0600, "CONFIG_ADDRESS is another register");
}

#[test]
fn windows_that_are_full_say_so() {
    let isa = Vec::new();
    let windows = Windows { io: 0xc000..0xc040, memory: 0xe000_0000..0xe100_0000 };
    let mut bus = PciBus::new(windows, IntxRouter::new(isa, Vec::new()));
    for slot in 2..4 {
        bus.add(Address::new(slot, 0), None, echo()).unwrap();
    }
    assert!(matches!(bus.add(Address::new(3, 0), None, echo()), Err(Error::Slot { device: 3, .. })));
    let error = bus.add(Address::new(4, 0), None, echo()).unwrap_err().to_string();
    assert!(error.contains("I/O window"), "{error}");
}

#[test]
fn random_configuration_writes_never_break_the_bus() {
    let mut r = rig(3);
    let mut seed = 1u64;
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (device, at) = ((seed >> 33) as u32 % 5, (seed >> 40) as u32 & 0xff);
        r.select(device << 11 | at);
        let value = ((seed >> 7) as u32).to_le_bytes();
        let len = [1, 2, 4][(seed >> 60) as usize % 3];
        r.ports.write(4 + (at & 3) as u16 % (5 - len as u16), &value[..len]);
        r.mmio(seed >> 32);
        r.io(seed as u16);
    }
    r.bus.reset();
    assert_eq!(r.read(2, 0, 4) as u16, 7);
}
