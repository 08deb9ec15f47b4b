//! The transport: initialization, what a driver does wrong, capabilities, and random accesses.

use super::device::{Device, DeviceId, Progress};
use super::device_config::DeviceConfig;
use super::registers::{feature, status};
use super::test_driver::{ACKNOWLEDGE, DRIVER, Mode, Rig, TestDriver, WRITE};
use super::{Block, Entropy, VirtioPci};
use crate::pci::PciFunction;
use crate::testing::{FakeLine, FakeMsi};
use address::GuestPhys;
use disk::Image;
use memory::virtqueue::{self, Queue};
use memory::{GuestMemory, Kind, RegionConfig};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst, fence};

const DATA: u64 = 0x30_0000;

fn driver(mode: Mode) -> TestDriver {
    TestDriver::new(Rig::new(Entropy::new()), mode, 0, false)
}

/// Begins initialization anew, up to the choice of features.
fn begin(d: &mut TestDriver) {
    d.set_status(0);
    d.set_status(ACKNOWLEDGE);
    d.set_status(ACKNOWLEDGE | DRIVER);
}

#[test]
fn identity_is_a_transitional_device() {
    let mut rig = Rig::new(Entropy::new());
    assert_eq!(rig.config_u32(0), 0x1005_1af4);
    assert_eq!(rig.config_u32(8) & 0xff, 0, "revision");
    assert_eq!(rig.config_u32(0x2c), 0x0004_1af4);
}

#[test]
fn entropy_fills_what_is_asked_up_to_its_bound() {
    for mode in [Mode::Modern, Mode::Legacy] {
        let mut d = driver(mode);
        assert_eq!(d.request(0, &[(DATA, 64, WRITE), (DATA + 64, 64, WRITE)]), 128);
        let mut bytes = [0; 128];
        d.rig.memory.read(GuestPhys(DATA), &mut bytes).unwrap();
        assert!(bytes.iter().filter(|&&b| b == 0).count() < 16, "{bytes:?}");
        assert_eq!(d.request(0, &[(DATA, 1 << 20, WRITE)]), 4096);
        assert_eq!(d.request(0, &[(DATA, 16, 0)]), 0, "nothing to write to");
    }
}

#[test]
fn features_not_offered_or_without_version_1_are_refused_by_modern() {
    let mut d = driver(Mode::Modern);
    for features in [0, feature::EVENT_IDX, feature::VERSION_1 | 1, feature::VERSION_1 | 1 << 63] {
        begin(&mut d);
        d.accept(features);
        d.set_status(status::FEATURES_OK | 3);
        assert_eq!(d.status() & status::FEATURES_OK, 0, "{features:#x}");
        d.set_status(status::DRIVER_OK | status::FEATURES_OK | 3);
        assert_eq!(d.status() & status::DRIVER_OK, 0);
    }
    begin(&mut d);
    d.accept(feature::VERSION_1);
    d.set_status(status::FEATURES_OK | 3);
    d.accept(!0);
    assert_eq!(d.status(), 0xb);
    d.common_write(8, &0u32.to_le_bytes());
    assert_eq!(d.common_read(12), [0; 4], "too late to choose others");
}

#[test]
fn features_not_offered_are_dropped_by_legacy() {
    let mut d = driver(Mode::Legacy);
    begin(&mut d);
    d.accept(!0);
    assert_eq!(u64::from(u32::from_le_bytes(d.port_read(4))), d.offered());
    assert_eq!(d.offered() & feature::ANY_LAYOUT, feature::ANY_LAYOUT);
}

#[test]
fn queue_registers_are_frozen_once_enabled_and_enabling_again_does_nothing() {
    let mut d = driver(Mode::Modern);
    d.request(0, &[(DATA, 16, WRITE)]);
    d.select_queue(0);
    let before: [u8; 32] = d.common_read(24);
    for (at, value) in [(24, 8u16), (28, 1), (28, 0)] {
        d.common_write(at, &value.to_le_bytes());
    }
    (32..56).step_by(4).for_each(|at| d.common_write(at, &[0xee; 4]));
    d.common_write(48, &[0xee; 8]);
    assert_eq!(d.common_read::<32>(24), before);
    assert_eq!(d.request(0, &[(DATA, 16, WRITE)]), 16, "the queue goes on where it was");
}

#[test]
fn queue_that_does_not_exist_reads_as_none_and_takes_nothing() {
    for mode in [Mode::Modern, Mode::Legacy] {
        let mut d = driver(mode);
        for index in [1, 63, 64, 0xffff] {
            d.select_queue(index);
            assert_eq!(d.queue_size(), 0);
            d.common_write(28, &1u16.to_le_bytes());
            d.common_write(32, &[1; 8]);
            d.port_write(8, &1u32.to_le_bytes());
            d.port_write(16, &index.to_le_bytes());
        }
        assert_eq!(d.request(0, &[(DATA, 16, WRITE)]), 16);
    }
}

#[test]
fn queue_of_bad_size_is_refused_and_outside_memory_needs_a_reset() {
    let mut d = driver(Mode::Modern);
    begin(&mut d);
    d.accept(feature::VERSION_1);
    d.set_status(status::FEATURES_OK | 3);
    d.select_queue(0);
    for size in [0u16, 3, 128, 0xffff] {
        d.common_write(24, &size.to_le_bytes());
        assert_eq!(d.queue_size(), 64);
    }
    d.common_write(24, &16u16.to_le_bytes());
    assert_eq!(d.queue_size(), 16);
    d.common_write(48, &(u64::MAX - 3).to_le_bytes());
    d.common_write(28, &1u16.to_le_bytes());
    d.set_status(status::DRIVER_OK | status::FEATURES_OK | 3);
    assert_eq!(d.status(), 0x4f);
    d.start(0, false);
    assert_eq!(d.request(0, &[(DATA, 16, WRITE)]), 16);
}

#[test]
fn index_jump_needs_a_reset_which_clears_everything() {
    for mode in [Mode::Modern, Mode::Legacy] {
        let mut d = driver(mode);
        let available = d.queues[0].layout.available.wrapping_add(2);
        d.rig.memory.write_u16(available, 1000).unwrap();
        d.notify(0);
        while d.status() & status::NEEDS_RESET == 0 {
            std::thread::yield_now();
        }
        d.set_status(0);
        assert_eq!((d.status(), d.isr()), (0, 0));
        assert!(!d.rig.line.is_high());
        d.start(0, false);
        assert_eq!(d.request(0, &[(DATA, 16, WRITE)]), 16);
    }
}

#[test]
fn legacy_driver_may_use_a_queue_before_driver_ok_and_take_it_away() {
    let mut d = driver(Mode::Legacy);
    let pfn = (d.queues[0].layout.descriptors.0 >> 12) as u32;
    begin(&mut d);
    d.select_queue(0);
    d.rig.memory.fill(GuestPhys(u64::from(pfn) << 12), 0x1_0000, 0).unwrap();
    d.port_write(8, &pfn.to_le_bytes());
    assert_eq!(u32::from_le_bytes(d.port_read(8)), pfn);
    let head = d.offer(0, &[(DATA, 16, WRITE)]);
    d.notify(0);
    let used = GuestPhys(d.queues[0].layout.used.0 + 2);
    let memory = d.rig.memory.clone();
    d.rig.wait("the request", || memory.read_u16(used).unwrap() == 1);
    assert_eq!(memory.read_u32(GuestPhys(used.0 + 2)).unwrap(), head.into());
    d.port_write(8, &0u32.to_le_bytes());
    d.offer(0, &[(DATA, 16, WRITE)]);
    d.notify(0);
    d.rig.runner.quiesce();
    assert!(!d.rig.runner.step());
    assert_eq!(memory.read_u16(used).unwrap(), 1);
    d.rig.runner.resume();
}

#[test]
fn pin_is_held_back_while_the_command_register_disables_it() {
    let mut d = driver(Mode::Modern);
    d.rig.config_write(4, &0x407u16.to_le_bytes());
    d.request(0, &[(DATA, 16, WRITE)]);
    d.rig.runner.quiesce();
    assert!(!d.rig.line.is_high());
    assert_ne!(d.rig.config_u32(4) >> 16 & 8, 0, "interrupt status shows it all the same");
    d.rig.config_write(4, &7u16.to_le_bytes());
    assert!(d.rig.line.is_high());
    assert_eq!(d.isr(), 1);
    assert!(!d.rig.line.is_high());
}

#[test]
fn vector_that_is_not_in_the_table_reads_back_as_none() {
    let mut d = driver(Mode::Modern);
    d.common_write(16, &1u16.to_le_bytes());
    assert_eq!(d.common_read(16), [1, 0]);
    d.common_write(16, &2u16.to_le_bytes());
    assert_eq!(d.common_read(16), [0xff; 2]);
    d.select_queue(0);
    d.common_write(26, &0x8000u16.to_le_bytes());
    assert_eq!(d.common_read(26), [0xff; 2]);
}

#[test]
fn pci_cfg_capability_reaches_the_registers_and_only_them() {
    let mut d = driver(Mode::Modern);
    let cap = d.rig.capability(9, |r, at| r.config_u32(at) >> 24 == 5);
    let mut access = |bar: u8, offset: u32, len: u32| {
        d.rig.config_write(cap + 4, &[bar]);
        d.rig.config_write(cap + 8, &offset.to_le_bytes());
        d.rig.config_write(cap + 12, &len.to_le_bytes());
        d.rig.config_write(cap + 16, &0u32.to_le_bytes());
        d.rig.config_u32(cap + 16)
    };
    assert_eq!(access(4, 18, 2), 1, "num_queues");
    for (bar, offset, len) in
        [(4, 0x4000, 4), (4, u32::MAX, 4), (3, 0, 4), (0xff, 0, 4), (4, 18, 3), (4, 17, 2), (4, 0, 0)]
    {
        assert_eq!(access(bar, offset, len), 0, "{bar} {offset:#x} {len}");
    }
    assert_eq!(access(4, 20, 1), 0, "writing 0 to device status reset the device");
    assert_eq!(d.status(), 0);
}

#[test]
fn bus_reset_brings_the_device_back_to_its_beginning() {
    let mut d = TestDriver::new(Rig::new(Entropy::new()), Mode::Modern, 0, true);
    let bar = d.rig.bar(4);
    d.rig.config_write(0x20, &0xe00f_0000u32.to_le_bytes());
    d.rig.bus.reset();
    assert_eq!((d.rig.bar(4), d.status()), (bar, 0));
    let msix = d.rig.capability(0x11, |_, _| true);
    assert_eq!(d.rig.config_u32(msix) >> 31, 0);
    d.start(0, false);
    assert_eq!(d.request(0, &[(DATA, 16, WRITE)]), 16);
}

/// A driver that notifies only where the device asks for it, and looks only after an interrupt: were one lost, on either
/// side, it would wait for ever.
#[test]
fn event_index_under_load_loses_no_notification_and_no_interrupt() {
    let mut d = TestDriver::new(Rig::new(Entropy::new()), Mode::Modern, feature::EVENT_IDX, true);
    let (memory, msi, layout) = (d.rig.memory.clone(), d.rig.msi.clone(), d.queues[0].layout);
    let word = |at: GuestPhys, offset: u64| memory.read_u16(at.wrapping_add(offset)).unwrap();
    let (mut offered, mut done, mut notified, mut interrupts) = (0u16, 0u16, 0, 0);
    for round in 0..20_000u16 {
        let old = offered;
        for _ in 0..=round % 7 {
            d.offer(0, &[(DATA, 8, WRITE)]);
            offered = offered.wrapping_add(1);
        }
        fence(SeqCst);
        let event = word(layout.used, 4 + 8 * u64::from(layout.size));
        if offered.wrapping_sub(event).wrapping_sub(1) < offered.wrapping_sub(old) {
            d.notify(0);
            notified += 1;
        }
        // Leave some in flight, so that both sides run at once.
        while offered.wrapping_sub(done) > 32 || (round + 1 == 20_000 && done != offered) {
            let used_event = layout.available.wrapping_add(4 + 2 * u64::from(layout.size));
            memory.write_u16(used_event, done).unwrap();
            fence(SeqCst);
            if word(layout.used, 2) == done {
                d.rig.wait("an interrupt", || {
                    let n = msi.take().len();
                    interrupts += n;
                    n > 0
                });
            }
            done = word(layout.used, 2);
        }
    }
    assert!(notified > 0 && interrupts > 0);
}

/// A device with a counter in its configuration structure, that panics on demand.
struct Odd(Arc<DeviceConfig>);

impl Device for Odd {
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
    fn process(&mut self, _: usize, queue: &mut Queue) -> virtqueue::Result<Progress> {
        if queue.pop()?.is_some() {
            panic!("a bug in a device");
        }
        Ok(Progress::Idle)
    }
    fn reset(&mut self) {}
}

#[test]
fn device_that_fails_does_not_take_its_thread_along() {
    let mut d =
        TestDriver::new(Rig::new(Odd(Arc::new(DeviceConfig::new(vec![0; 8], 0..0)))), Mode::Modern, 0, false);
    d.offer(0, &[(DATA, 16, WRITE)]);
    d.notify(0);
    d.start(0, false);
    d.offer(0, &[(DATA, 16, WRITE)]);
    d.notify(0);
    d.rig.runner.stop().unwrap();
}

#[test]
fn runner_without_owners_ends_its_thread_and_frees_the_device() {
    let config = Arc::new(DeviceConfig::new(vec![0; 8], 0..0));
    let rig = Rig::new(Odd(config.clone()));
    drop(rig);
    let start = std::time::Instant::now();
    while Arc::strong_count(&config) > 1 {
        assert!(start.elapsed().as_secs() < 20, "the device still lives");
        std::thread::yield_now();
    }
}

#[test]
fn generation_moves_when_the_device_changes_its_configuration() {
    let config = Arc::new(DeviceConfig::new(vec![0; 8], 4..5));
    let mut d = TestDriver::new(Rig::new(Odd(config.clone())), Mode::Modern, 0, false);
    let before: [u8; 1] = d.common_read(21);
    config.update(|c| c[0] = 7);
    assert_ne!(d.common_read(21), before);
    assert_eq!(d.device_config(0), [7]);
    config.write(3, &[1, 2, 3]);
    assert_eq!(d.device_config(3), [0, 2, 0, 0, 0, 0, 0], "only what is writable, zeroes past the end");
}

/// A small disk of which only the length is real.
struct Nothing(AtomicU64);

impl Image for Nothing {
    fn len(&self) -> u64 {
        1 << 20
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        assert!(offset + out.len() as u64 <= self.len());
        self.0.fetch_add(1, SeqCst);
        Ok(())
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        assert!(offset + data.len() as u64 <= self.len());
        self.0.fetch_add(1, SeqCst);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        assert!(offset + len <= self.len());
        Ok(())
    }
}

/// Random register accesses over random memory, with no thread: the device may break, but never panics or hangs.
#[test]
fn random_accesses_and_memory_never_panic_or_hang() {
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let ram = RegionConfig { base: GuestPhys(0), len: 0x1_0000, kind: Kind::Ram };
    let disk = Arc::new(Nothing(AtomicU64::new(0)));
    for _ in 0..300 {
        let memory = Arc::new(GuestMemory::new(&[ram]).unwrap());
        let block = Box::new(Block::new(disk.clone(), ""));
        let mut f = VirtioPci::new(block, memory.clone(), FakeLine::new(), FakeMsi::new());
        // Half of the rounds begin with a device in order, so that requests are reached.
        if random() % 2 == 0 {
            f.bar_write(0, 4, &(random() as u32).to_le_bytes());
            f.bar_write(0, 8, &1u32.to_le_bytes());
            f.bar_write(0, 18, &[7]);
            for (i, segment) in
                [0x1_0010_0000_8000u64, 0x3_0200_0000_9000, 0x2_0001_0000_a000].iter().enumerate()
            {
                let (address, len, flags) = (segment & 0xffff, segment >> 32 & 0xffff, segment >> 48);
                let word = [address, len | flags << 32 | (i as u64 + 1) << 48];
                memory.write_u64(GuestPhys(0x1000 + 16 * i as u64), word[0]).unwrap();
                memory.write_u64(GuestPhys(0x1008 + 16 * i as u64), word[1]).unwrap();
            }
        }
        for _ in 0..400 {
            let words: [u64; 3] = [random(), random(), random()];
            let small = GuestPhys(words[0] % 0xfff0);
            let len = [1, 2, 4, 8][words[1] as usize % 4];
            let value = &words[2].to_le_bytes()[..len];
            match words[1] >> 8 & 7 {
                0 => f.bar_write(0, words[0] % (128 - len as u64), value),
                1 => f.bar_write(4, words[0] % 0x38, value),
                2 => f.bar_write(4, words[0] % (0x4000 - len as u64), value),
                3 => f.config_write(words[0] as u8 & !3, &value[..len.min(4)]),
                4 => {
                    let descriptor =
                        u128::from(words[2] & 0xffff) | u128::from(words[0] & 0x7_0007_0000_0611) << 64;
                    memory.write(GuestPhys(0x1000 + words[1] % 8 * 16), &descriptor.to_le_bytes()).unwrap();
                }
                5 => memory.write_u16(GuestPhys(0x2002), words[0] as u16 & 15).unwrap(),
                6 => memory.write_u8(small, words[2] as u8 & 15).unwrap(),
                _ => {
                    let mut out = [0; 8];
                    f.bar_read([0, 1, 4][words[0] as usize % 3], words[2] % 0x70, &mut out[..len]);
                    f.config_read(words[2] as u8 & !3, &mut out[..len.min(4)]);
                    f.bar_write(0, 16, &[0, 0]);
                }
            }
            for _ in 0..32 {
                if !f.runner().step() {
                    break;
                }
            }
        }
    }
    assert!(disk.0.load(SeqCst) > 0, "some requests were reached");
}
