//! A small virtio driver: it finds the device on the bus and talks to it as an operating system would, over the modern
//! or the legacy interface.

use super::device::Device;
use super::registers::{feature, status};
use super::{Runner, plug};
use crate::pci::{ConfigPorts, IntxRouter, PciBus, Windows};
use crate::testing::{FakeBoard, FakeLine, FakeMsi};
use crate::wiring::{IrqLine, PortDevice};
use address::GuestPhys;
use memory::virtqueue::Layout;
use memory::{GuestMemory, Kind, RegionConfig};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
// Device status bits that mean nothing to the device.
pub const ACKNOWLEDGE: u8 = 1;
pub const DRIVER: u8 = 2;
/// Message address of vector 0; the others follow.
pub const MSI: u64 = 0xfee0_0000;

/// Which interface the driver uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Modern,
    Legacy,
}

/// A bus with one virtio device at 00:02.0, whose interrupt pin leads to `line`.
pub struct Rig {
    pub memory: Arc<GuestMemory>,
    pub bus: Arc<PciBus>,
    pub ports: ConfigPorts,
    pub runner: Arc<Runner>,
    pub line: Arc<FakeLine>,
    pub msi: Arc<FakeMsi>,
}

impl Rig {
    pub fn new(device: impl Device + 'static) -> Self {
        let ram = RegionConfig { base: GuestPhys(0), len: 0x80_0000, kind: Kind::Ram };
        let memory = Arc::new(GuestMemory::new(&[ram]).unwrap());
        let (line, msi) = (FakeLine::new(), FakeMsi::new());
        let isa: Vec<Arc<dyn IrqLine>> = (0..16).map(|_| line.clone() as Arc<dyn IrqLine>).collect();
        let windows = Windows { io: 0xc000..0xd000, memory: 0xe000_0000..0xe010_0000 };
        let mut bus = PciBus::new(windows, IntxRouter::new(isa, Vec::new()));
        crate::pci::chipset::add_chipset(&mut bus, 0x600).unwrap();
        let runner = plug(&mut bus, Box::new(device), memory.clone(), msi.clone(), "test").unwrap();
        let bus = Arc::new(bus);
        Self { ports: ConfigPorts::new(bus.clone(), FakeBoard::new()), memory, bus, runner, line, msi }
    }

    fn select(&mut self, offset: u8) {
        let address = 0x8000_0000 | 2 << 11 | u32::from(offset & !3);
        self.ports.write(0, &address.to_le_bytes());
    }
    pub fn config_u32(&mut self, offset: u8) -> u32 {
        let mut b = [0; 4];
        self.select(offset);
        self.ports.read(4, &mut b);
        u32::from_le_bytes(b)
    }
    pub fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.select(offset);
        self.ports.write(4 + u16::from(offset & 3), data);
    }
    /// Where register `index` was put.
    pub fn bar(&mut self, index: u8) -> u64 {
        let v = self.config_u32(0x10 + 4 * index);
        u64::from(v & if v & 1 != 0 { !3 } else { !15 })
    }
    /// The first capability of an ID for which `f` holds.
    pub fn capability(&mut self, id: u8, f: impl Fn(&mut Self, u8) -> bool) -> u8 {
        let mut at = self.config_u32(0x34) as u8;
        while at != 0 {
            let word = self.config_u32(at);
            if word as u8 == id && f(self, at) {
                return at;
            }
            at = (word >> 8) as u8;
        }
        panic!("no capability {id:#x}");
    }
    /// Guest-physical address of a part of the modern interface.
    pub fn part(&mut self, kind: u8) -> u64 {
        let at = self.capability(9, |r, at| (r.config_u32(at) >> 24) as u8 == kind);
        let bar = self.config_u32(at + 4) as u8;
        self.bar(bar) + u64::from(self.config_u32(at + 8))
    }
    /// Switches MSI-X on, with a message for each vector.
    pub fn enable_msix(&mut self) {
        let at = self.capability(0x11, |_, _| true);
        let table = self.bar(1);
        for i in 0..u64::from((self.config_u32(at) >> 16) as u16 & 0x7ff) + 1 {
            for (word, value) in [(0, (MSI + 16 * i) as u32), (4, 0), (8, i as u32 + 0x40), (12, 0)] {
                assert!(self.bus.mmio_write(GuestPhys(table + 16 * i + word), &value.to_le_bytes()));
            }
        }
        self.config_write(at + 2, &0x8000u16.to_le_bytes());
    }
    /// Waits for something that the device's thread does.
    pub fn wait(&self, what: &str, mut f: impl FnMut() -> bool) {
        let start = Instant::now();
        while !f() {
            assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// The driver's side of one queue.
pub struct TestQueue {
    pub index: u16,
    pub layout: Layout,
    next_descriptor: u16,
    used: u16,
}

/// A driver bound to the rig's device.
pub struct TestDriver {
    pub rig: Rig,
    pub mode: Mode,
    pub queues: Vec<TestQueue>,
    pub features: u64,
}

impl TestDriver {
    /// Initializes the device as VIRTIO 1.2, 3.1 says, with those of `wanted` features that it offers.
    pub fn new(rig: Rig, mode: Mode, wanted: u64, msix: bool) -> Self {
        let mut d = Self { rig, mode, queues: Vec::new(), features: 0 };
        if msix {
            d.rig.enable_msix();
        }
        d.start(wanted, msix);
        d
    }

    /// Resets and initializes.
    pub fn start(&mut self, wanted: u64, msix: bool) {
        self.set_status(0);
        assert_eq!(self.status(), 0);
        self.queues.clear();
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        let must = if self.mode == Mode::Modern { feature::VERSION_1 } else { 0 };
        self.features = self.offered() & (wanted | must);
        self.accept(self.features);
        if self.mode == Mode::Modern {
            self.set_status(status::FEATURES_OK | 3);
            assert_ne!(self.status() & status::FEATURES_OK, 0);
        }
        let mut base = 0x10_0000;
        for index in 0.. {
            self.select_queue(index);
            let size = self.queue_size();
            if size == 0 {
                break;
            }
            self.add_queue(index, size, base, msix);
            base += 0x1_0000;
        }
        self.set_status(status::DRIVER_OK | status::FEATURES_OK | 3);
    }

    fn add_queue(&mut self, index: u16, size: u16, base: u64, msix: bool) {
        let layout = Layout::legacy((base >> 12) as u32, size);
        self.rig.memory.fill(GuestPhys(base), 0x1_0000, 0).unwrap();
        match self.mode {
            Mode::Modern => {
                for (at, address) in [(32, layout.descriptors), (40, layout.available), (48, layout.used)] {
                    self.common_write(at, &(address.0 as u32).to_le_bytes());
                    self.common_write(at + 4, &((address.0 >> 32) as u32).to_le_bytes());
                }
                if msix {
                    self.common_write(26, &(index + 1).to_le_bytes());
                }
                self.common_write(28, &1u16.to_le_bytes());
            }
            Mode::Legacy => {
                self.port_write(8, &((base >> 12) as u32).to_le_bytes());
                if msix {
                    self.port_write(22, &(index + 1).to_le_bytes());
                }
            }
        }
        self.queues.push(TestQueue { index, layout, next_descriptor: 0, used: 0 });
    }

    pub fn common_write(&mut self, at: u64, data: &[u8]) {
        let base = self.rig.part(1);
        assert!(self.rig.bus.mmio_write(GuestPhys(base + at), data));
    }
    pub fn common_read<const N: usize>(&mut self, at: u64) -> [u8; N] {
        let (base, mut b) = (self.rig.part(1), [0; N]);
        assert!(self.rig.bus.mmio_read(GuestPhys(base + at), &mut b));
        b
    }
    pub fn port_write(&mut self, at: u16, data: &[u8]) {
        let base = self.rig.bar(0) as u16;
        assert!(self.rig.bus.io_write(base + at, data));
    }
    pub fn port_read<const N: usize>(&mut self, at: u16) -> [u8; N] {
        let (base, mut b) = (self.rig.bar(0) as u16, [0; N]);
        assert!(self.rig.bus.io_read(base + at, &mut b));
        b
    }

    pub fn status(&mut self) -> u8 {
        match self.mode {
            Mode::Modern => self.common_read::<1>(20)[0],
            Mode::Legacy => self.port_read::<1>(18)[0],
        }
    }
    pub fn set_status(&mut self, value: u8) {
        match self.mode {
            Mode::Modern => self.common_write(20, &[value]),
            Mode::Legacy => self.port_write(18, &[value & !status::FEATURES_OK]),
        }
    }
    pub fn offered(&mut self) -> u64 {
        match self.mode {
            Mode::Modern => (0..2u32).fold(0, |f, i| {
                self.common_write(0, &i.to_le_bytes());
                f | u64::from(u32::from_le_bytes(self.common_read(4))) << (32 * i)
            }),
            Mode::Legacy => u32::from_le_bytes(self.port_read(0)).into(),
        }
    }
    pub fn accept(&mut self, features: u64) {
        match self.mode {
            Mode::Modern => {
                for i in 0..2u32 {
                    self.common_write(8, &i.to_le_bytes());
                    self.common_write(12, &((features >> (32 * i)) as u32).to_le_bytes());
                }
            }
            Mode::Legacy => self.port_write(4, &(features as u32).to_le_bytes()),
        }
    }
    pub fn select_queue(&mut self, index: u16) {
        match self.mode {
            Mode::Modern => self.common_write(22, &index.to_le_bytes()),
            Mode::Legacy => self.port_write(14, &index.to_le_bytes()),
        }
    }
    pub fn queue_size(&mut self) -> u16 {
        match self.mode {
            Mode::Modern => u16::from_le_bytes(self.common_read(24)),
            Mode::Legacy => u16::from_le_bytes(self.port_read(12)),
        }
    }
    pub fn device_config<const N: usize>(&mut self, at: u64) -> [u8; N] {
        match self.mode {
            Mode::Modern => {
                let (base, mut b) = (self.rig.part(4), [0; N]);
                assert!(self.rig.bus.mmio_read(GuestPhys(base + at), &mut b));
                b
            }
            Mode::Legacy => {
                let msix = self.rig.capability(0x11, |_, _| true);
                let header = if self.rig.config_u32(msix) >> 31 != 0 { 24 } else { 20 };
                self.port_read(header + at as u16)
            }
        }
    }
    pub fn isr(&mut self) -> u8 {
        match self.mode {
            Mode::Modern => {
                let (base, mut b) = (self.rig.part(3), [0]);
                assert!(self.rig.bus.mmio_read(GuestPhys(base), &mut b));
                b[0]
            }
            Mode::Legacy => self.port_read::<1>(19)[0],
        }
    }

    /// Puts a chain of (address, length, flags) into the available ring, without a word to the device.
    pub fn offer(&mut self, queue: usize, segments: &[(u64, u32, u16)]) -> u16 {
        let (q, memory) = (&mut self.queues[queue], &self.rig.memory);
        let head = q.next_descriptor;
        for (i, &(address, len, flags)) in segments.iter().enumerate() {
            let at = q.layout.descriptors.wrapping_add(16 * u64::from(q.next_descriptor));
            q.next_descriptor = (q.next_descriptor + 1) % q.layout.size;
            let next = if i + 1 < segments.len() { NEXT } else { 0 };
            let word = u128::from(address)
                | u128::from(len) << 64
                | u128::from(flags | next) << 96
                | u128::from(q.next_descriptor) << 112;
            memory.write(at, &word.to_le_bytes()).unwrap();
        }
        let index = memory.read_u16(q.layout.available.wrapping_add(2)).unwrap();
        let slot = 4 + 2 * u64::from(index % q.layout.size);
        memory.write_u16(q.layout.available.wrapping_add(slot), head).unwrap();
        memory.write_u16(q.layout.available.wrapping_add(2), index.wrapping_add(1)).unwrap();
        head
    }
    pub fn notify(&mut self, queue: usize) {
        let index = self.queues[queue].index;
        match self.mode {
            Mode::Modern => {
                let base = self.rig.part(2);
                assert!(
                    self.rig.bus.mmio_write(GuestPhys(base + 4 * u64::from(index)), &index.to_le_bytes())
                );
            }
            Mode::Legacy => self.port_write(16, &index.to_le_bytes()),
        }
    }
    /// The next chain given back, if any: its head and the bytes written.
    pub fn take_used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let (q, memory) = (&mut self.queues[queue], &self.rig.memory);
        if memory.read_u16(q.layout.used.wrapping_add(2)).unwrap() == q.used {
            return None;
        }
        let at = q.layout.used.wrapping_add(4 + 8 * u64::from(q.used % q.layout.size));
        q.used = q.used.wrapping_add(1);
        Some((memory.read_u32(at).unwrap(), memory.read_u32(at.wrapping_add(4)).unwrap()))
    }
    pub fn wait_used(&mut self, queue: usize) -> (u32, u32) {
        let start = Instant::now();
        loop {
            if let Some(used) = self.take_used(queue) {
                return used;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "the request was not done");
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    /// Offers a chain, notifies, waits; gives the bytes written.
    pub fn request(&mut self, queue: usize, segments: &[(u64, u32, u16)]) -> u32 {
        let head = self.offer(queue, segments);
        self.notify(queue);
        let (used, len) = self.wait_used(queue);
        assert_eq!(used, head.into());
        len
    }
}
