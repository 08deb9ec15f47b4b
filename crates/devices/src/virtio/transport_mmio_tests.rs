//! The transport over MMIO: initialization, what a driver does wrong, and random accesses.

use super::*;
use crate::testing::FakeLine;
use crate::virtio::device::{DeviceId, Progress};
use crate::virtio::device_config::DeviceConfig;
use crate::virtio::registers::{feature, status};
use crate::virtio::{Block, Entropy};
use address::GuestPhys;
use memory::virtqueue::{self, Queue};
use memory::{Kind, RegionConfig};

const DATA: u64 = 0x8000;
const RING: u64 = 0x1000;
const READY: u32 = (status::DRIVER_OK | status::FEATURES_OK | 3) as u32;

struct Bench {
    memory: Arc<GuestMemory>,
    line: Arc<FakeLine>,
    device: VirtioMmio,
}

impl Bench {
    fn new(device: impl Device + 'static) -> Self {
        let ram = RegionConfig { base: GuestPhys(0), len: 0x1_0000, kind: Kind::Ram };
        let memory = Arc::new(GuestMemory::new(&[ram]).unwrap());
        let line = FakeLine::new();
        let device = VirtioMmio::new(Box::new(device), memory.clone(), line.clone());
        Self { memory, line, device }
    }
    fn get(&mut self, offset: u64) -> u32 {
        let mut data = [0xee; 4];
        self.device.read(offset, &mut data);
        u32::from_le_bytes(data)
    }
    fn set(&mut self, offset: u64, value: u32) {
        self.device.write(offset, &value.to_le_bytes());
    }
    fn offered(&mut self) -> u64 {
        (0..2).fold(0, |f, half| {
            self.set(DEVICE_FEATURES_SEL, half);
            f | u64::from(self.get(DEVICE_FEATURES)) << (32 * half)
        })
    }
    /// Up to FEATURES_OK; gives the status then.
    fn negotiate(&mut self, features: u64) -> u32 {
        self.set(STATUS, 0);
        self.set(STATUS, 1);
        self.set(STATUS, 3);
        for half in 0..2 {
            self.set(DRIVER_FEATURES_SEL, half);
            self.set(DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.set(STATUS, u32::from(status::FEATURES_OK | 3));
        self.get(STATUS)
    }
    /// Queue 0 of eight descriptors, at [`RING`].
    fn set_up_queue(&mut self) {
        self.set(QUEUE_SEL, 0);
        self.set(QUEUE_NUM, 8);
        for (low, address) in
            [(QUEUE_DESC_LOW, RING), (QUEUE_DRIVER_LOW, RING + 0x100), (QUEUE_DEVICE_LOW, RING + 0x200)]
        {
            self.set(low, address as u32);
            self.set(low + 4, 0);
        }
        self.memory.fill(GuestPhys(RING), 0x1000, 0).unwrap();
        self.set(QUEUE_READY, 1);
    }
    fn start(&mut self) {
        assert_eq!(self.negotiate(feature::VERSION_1), 0xb);
        self.set_up_queue();
        self.set(STATUS, READY);
    }
    /// Has the device fill 16 bytes; whether it did.
    fn request(&mut self) -> bool {
        let before = self.memory.read_u16(GuestPhys(RING + 0x202)).unwrap();
        self.memory.write_u64(GuestPhys(RING), DATA).unwrap();
        self.memory.write_u64(GuestPhys(RING + 8), 16 | 2 << 32).unwrap();
        let next = self.memory.read_u16(GuestPhys(RING + 0x102)).unwrap();
        self.memory.write_u16(GuestPhys(RING + 0x104 + 2 * u64::from(next % 8)), 0).unwrap();
        self.memory.write_u16(GuestPhys(RING + 0x102), next.wrapping_add(1)).unwrap();
        self.set(QUEUE_NOTIFY, 0);
        while self.device.runner().step() {}
        self.memory.read_u16(GuestPhys(RING + 0x202)).unwrap() == before.wrapping_add(1)
    }
}

#[test]
fn identity_is_of_version_2() {
    let mut b = Bench::new(Entropy::new());
    assert_eq!([MAGIC_VALUE, VERSION, DEVICE_ID, VENDOR_ID].map(|r| b.get(r)), [0x7472_6976, 2, 4, 0x1af4]);
    assert_eq!(b.offered(), feature::VERSION_1 | feature::INDIRECT_DESC | feature::EVENT_IDX);
    b.set(DEVICE_FEATURES_SEL, 2);
    assert_eq!(b.get(DEVICE_FEATURES), 0);
    assert_eq!([SHM_LEN_LOW, SHM_BASE_HIGH].map(|r| b.get(r)), [u32::MAX; 2], "no shared memory");
}

#[test]
fn request_is_done_and_interrupts_until_acknowledged() {
    let mut b = Bench::new(Entropy::new());
    b.start();
    assert_eq!((b.get(QUEUE_NUM_MAX), b.get(QUEUE_READY)), (64, 1));
    assert!(b.request());
    assert!(b.line.is_high());
    assert_eq!((b.get(INTERRUPT_STATUS), b.get(INTERRUPT_STATUS)), (1, 1), "a look clears nothing");
    b.set(INTERRUPT_ACK, 2);
    assert!(b.line.is_high());
    b.set(INTERRUPT_ACK, 1);
    assert_eq!((b.line.is_high(), b.get(INTERRUPT_STATUS)), (false, 0));
}

#[test]
fn features_not_offered_or_without_version_1_are_refused() {
    let mut b = Bench::new(Entropy::new());
    for features in [0, feature::EVENT_IDX, feature::VERSION_1 | 1, feature::VERSION_1 | 1 << 63] {
        assert_eq!(b.negotiate(features), 3, "{features:#x}");
        b.set(STATUS, READY);
        assert_eq!(b.get(STATUS) & u32::from(status::DRIVER_OK), 0);
    }
    b.set(DRIVER_FEATURES_SEL, 2);
    b.set(DRIVER_FEATURES, !0);
    assert_eq!(b.negotiate(feature::VERSION_1), 0xb);
}

#[test]
fn queue_taken_away_is_left_alone_and_may_be_given_back() {
    let mut b = Bench::new(Entropy::new());
    b.start();
    b.set(QUEUE_NUM, 64);
    b.set(QUEUE_DESC_LOW, 0xffff_0000);
    assert!(b.request(), "registers of a queue in use are frozen");
    b.set(QUEUE_READY, 0);
    assert_eq!(b.get(QUEUE_READY), 0);
    assert!(!b.request());
    b.set_up_queue();
    assert_eq!(b.get(QUEUE_READY), 1);
    assert!(b.request());
    b.set(QUEUE_READY, 7);
    assert_eq!(b.get(QUEUE_READY), 1, "neither 0 nor 1");
}

#[test]
fn queue_that_does_not_exist_reads_as_none_and_takes_nothing() {
    let mut b = Bench::new(Entropy::new());
    b.start();
    for index in [1, 63, 0xffff, 0x1_0000, u32::MAX] {
        b.set(QUEUE_SEL, index);
        assert_eq!((b.get(QUEUE_NUM_MAX), b.get(QUEUE_READY)), (0, 0));
        for register in [QUEUE_NUM, QUEUE_DESC_LOW, QUEUE_DEVICE_HIGH, QUEUE_READY, QUEUE_NOTIFY] {
            b.set(register, 1);
        }
        b.set(QUEUE_READY, 0);
        b.set(QUEUE_NOTIFY, index);
    }
    assert!(b.request());
}

#[test]
fn queue_outside_memory_or_of_a_bad_size_needs_a_reset() {
    let mut b = Bench::new(Entropy::new());
    assert_eq!(b.negotiate(feature::VERSION_1), 0xb);
    for size in [0, 3, 128, 0x1_0040, u32::MAX] {
        b.set(QUEUE_NUM, size);
    }
    b.set(QUEUE_DEVICE_LOW, u32::MAX - 3);
    b.set(QUEUE_DEVICE_HIGH, u32::MAX);
    b.set(QUEUE_READY, 1);
    b.set(STATUS, READY);
    assert_eq!(b.get(STATUS), READY | u32::from(status::NEEDS_RESET));
    assert_eq!((b.get(INTERRUPT_STATUS), b.line.is_high()), (2, true), "a change of the configuration");
    b.set(STATUS, 0);
    assert_eq!((b.get(STATUS), b.get(INTERRUPT_STATUS), b.line.is_high()), (0, 0, false));
    b.start();
    assert!(b.request());
}

#[test]
fn index_jump_needs_a_reset() {
    let mut b = Bench::new(Entropy::new());
    b.start();
    b.memory.write_u16(GuestPhys(RING + 0x102), 1000).unwrap();
    assert!(!b.request());
    assert_ne!(b.get(STATUS) & u32::from(status::NEEDS_RESET), 0);
    b.device.reset();
    b.start();
    assert!(b.request());
}

#[test]
fn access_of_another_size_or_across_registers_does_nothing() {
    let mut b = Bench::new(Entropy::new());
    b.start();
    for offset in [STATUS, STATUS + 1, QUEUE_READY, QUEUE_READY + 2, 0xff, 0xfd] {
        b.device.write(offset, &[0]);
        b.device.write(offset, &[0; 2]);
        b.device.write(offset, &[0; 8]);
        b.device.write(offset | 1, &[0; 4]);
        let mut data = [0xee; 8];
        b.device.read(offset, &mut data);
        b.device.read(offset, &mut []);
        assert_eq!(data, [0; 8]);
    }
    assert_eq!(b.get(STATUS), READY);
    assert!(b.request());
}

/// A device with a configuration structure and no work.
struct Configured(Arc<DeviceConfig>);

impl Device for Configured {
    fn id(&self) -> DeviceId {
        DeviceId::Entropy
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[4]
    }
    fn config(&self) -> Arc<DeviceConfig> {
        self.0.clone()
    }
    fn process(&mut self, _: usize, _: &mut Queue) -> virtqueue::Result<Progress> {
        Ok(Progress::Idle)
    }
    fn reset(&mut self) {}
}

#[test]
fn configuration_is_read_by_its_fields_sizes_and_its_generation_moves() {
    let config = Arc::new(DeviceConfig::new((1..=16).collect(), 4..5));
    let mut b = Bench::new(Configured(config.clone()));
    let (mut one, mut two, mut eight) = ([0; 1], [0; 2], [0; 8]);
    b.device.read(CONFIG + 1, &mut one);
    b.device.read(CONFIG + 2, &mut two);
    b.device.read(CONFIG + 8, &mut eight);
    assert_eq!((one, two, eight), ([2], [3, 4], [9, 10, 11, 12, 13, 14, 15, 16]));
    let before = b.get(CONFIG_GENERATION);
    config.update(|c| c[0] = 7);
    assert_ne!(b.get(CONFIG_GENERATION), before);
    b.set(CONFIG + 4, 0x0909_0909);
    assert_eq!(b.get(CONFIG + 4), 0x0807_0609, "only what is writable");
    assert_eq!(b.get(LEN - 4), 0);
    b.device.write(u64::MAX, &[1; 8]);
    b.device.read(u64::MAX, &mut [0; 8]);
}

/// A small disk of which only the length is real.
struct Nothing;

impl disk::Image for Nothing {
    fn len(&self) -> u64 {
        1 << 20
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        assert!(offset + out.len() as u64 <= self.len());
        Ok(())
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        assert!(offset + data.len() as u64 <= self.len());
        Ok(())
    }
    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64, _: bool) -> std::io::Result<()> {
        assert!(offset + len <= self.len());
        Ok(())
    }
}

/// Random register accesses over random memory, with no thread: the device may break, but never panics or hangs.
#[test]
fn random_accesses_and_memory_never_panic_or_hang() {
    let mut seed = 0x9abc_def1_1234_5678u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut served = 0;
    for _ in 0..200 {
        let mut b = Bench::new(Block::new(Arc::new(Nothing), ""));
        // Half of the rounds begin with a device in order, so that requests are reached.
        if random() % 2 == 0 {
            b.start();
        }
        for _ in 0..400 {
            let words: [u64; 3] = [random(), random(), random()];
            let value = &words[2].to_le_bytes()[..[1, 2, 4, 8][words[1] as usize % 4]];
            match words[1] >> 8 & 7 {
                0 => b.set((words[0] % LEN) & !3, words[2] as u32 & 0xff),
                1 => b.set((words[0] % 0x100) & !3, words[2] as u32),
                2 => b.device.write(words[0] % LEN, value),
                3 => b.device.read(words[0] % LEN, &mut [0; 8][..value.len()]),
                4 => {
                    let descriptor =
                        u128::from(words[2] & 0xffff) | u128::from(words[0] & 0x7_0007_0000_0611) << 64;
                    b.memory.write(GuestPhys(RING + words[1] % 8 * 16), &descriptor.to_le_bytes()).unwrap();
                }
                5 => b.memory.write_u16(GuestPhys(RING + 0x102), words[0] as u16 & 15).unwrap(),
                _ => b.set(QUEUE_NOTIFY, words[0] as u32 & 1),
            }
            for _ in 0..32 {
                if !b.device.runner().step() {
                    break;
                }
                served += 1;
            }
        }
    }
    assert!(served > 0);
}
