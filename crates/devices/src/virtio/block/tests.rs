//! The block device, over both interfaces, with a disk that can fail.

use super::super::registers::{feature as ring, status as device_status};
use super::super::test_driver::{Mode, Rig, TestDriver, WRITE};
use super::Block;
use super::layout::feature;
use crate::pci::lock;
use address::GuestPhys;
use disk::Image;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};

/// A disk in memory.
#[derive(Default)]
struct FakeDisk {
    bytes: Mutex<Vec<u8>>,
    flushes: AtomicU64,
    read_only: bool,
    /// Gives this errno for everything.
    errno: Mutex<Option<i32>>,
    /// While set, reads wait.
    stuck: Mutex<bool>,
    freed: Condvar,
    reading: AtomicBool,
}

impl FakeDisk {
    fn new(len: usize) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(vec![0; len]), ..Self::default() })
    }
    fn access(&self, offset: u64, len: usize) -> io::Result<std::ops::Range<usize>> {
        match *lock(&self.errno) {
            Some(e) => Err(io::Error::from_raw_os_error(e)),
            None => {
                assert!(offset + len as u64 <= self.len(), "the device asked for what is not on the disk");
                Ok(offset as usize..offset as usize + len)
            }
        }
    }
    fn free(&self) {
        *lock(&self.stuck) = false;
        self.freed.notify_all();
    }
}

impl Image for FakeDisk {
    fn len(&self) -> u64 {
        lock(&self.bytes).len() as u64
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.reading.store(true, SeqCst);
        let mut stuck = lock(&self.stuck);
        while *stuck {
            stuck = self.freed.wait(stuck).unwrap();
        }
        let range = self.access(offset, out.len())?;
        out.copy_from_slice(&lock(&self.bytes)[range]);
        Ok(())
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let range = self.access(offset, data.len())?;
        lock(&self.bytes)[range].copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        self.access(0, 0)?;
        self.flushes.fetch_add(1, SeqCst);
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64, _discard: bool) -> io::Result<()> {
        let range = self.access(offset, len as usize)?;
        lock(&self.bytes)[range].fill(0);
        Ok(())
    }
}

const HEADER: u64 = 0x20_0000;
const STATUS: u64 = 0x20_0100;
const DATA: u64 = 0x30_0000;
const LEN: usize = 1 << 20;

/// All that the device offers but CONFIG_WCE.
const FEATURES: u64 = !(feature::CONFIG_WCE | ring::EVENT_IDX | ring::INDIRECT_DESC);

fn driver(disk: &Arc<FakeDisk>, mode: Mode, msix: bool) -> TestDriver {
    TestDriver::new(Rig::new(Block::new(disk.clone(), "serial-0")), mode, FEATURES, msix)
}

/// Does a request; gives its status and the used length.
fn request(d: &mut TestDriver, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
    let memory = d.rig.memory.clone();
    memory.write_u32(GuestPhys(HEADER), kind).unwrap();
    memory.write_u64(GuestPhys(HEADER + 8), sector).unwrap();
    memory.write_u8(GuestPhys(STATUS), 0xaa).unwrap();
    let chain = [&[(HEADER, 16, 0)], data, &[(STATUS, 1, WRITE)]].concat();
    let len = d.request(0, &chain);
    (memory.read_u8(GuestPhys(STATUS)).unwrap(), len)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn write_read_flush_over_each_interface_and_interrupt_reaches_the_disk() {
    for mode in [Mode::Modern, Mode::Legacy] {
        for msix in [false, true] {
            let disk = FakeDisk::new(LEN);
            let mut d = driver(&disk, mode, msix);
            assert_eq!(u64::from_le_bytes(d.device_config(0)), LEN as u64 / 512, "{mode:?} {msix}");
            let data = pattern(300 << 10);
            d.rig.memory.write(GuestPhys(DATA), &data).unwrap();
            let half = 150 << 10;
            let cut = [(DATA, half, 0), (DATA + u64::from(half), half, 0)];
            assert_eq!(request(&mut d, 1, 3, &cut), (0, 1));
            assert_eq!(&lock(&disk.bytes)[1536..1536 + data.len()], data);
            assert_eq!(disk.flushes.load(SeqCst), 0, "a write is not yet a flush");
            assert_eq!(request(&mut d, 4, 0, &[]), (0, 1));
            assert_eq!(disk.flushes.load(SeqCst), 1);
            d.rig.memory.fill(GuestPhys(DATA), 1 << 20, 0).unwrap();
            assert_eq!(request(&mut d, 0, 3, &[(DATA, 300 << 10, WRITE)]), (0, (300 << 10) + 1));
            let mut back = vec![0; data.len()];
            d.rig.memory.read(GuestPhys(DATA), &mut back).unwrap();
            assert!(back == data);
            check_interrupts(&mut d, msix);
        }
    }
}

/// Three requests were done: the interrupts came, and in the right way.
fn check_interrupts(d: &mut TestDriver, msix: bool) {
    if msix {
        let (msi, mut got) = (d.rig.msi.clone(), Vec::new());
        d.rig.wait("three messages", || {
            got.extend(msi.take());
            got.len() == 3
        });
        assert!(got.iter().all(|&m| m == (super::super::test_driver::MSI + 16, 0x41)), "{got:?}");
        assert_eq!((d.rig.line.take_rises(), d.isr()), (0, 0));
    } else {
        let line = d.rig.line.clone();
        d.rig.wait("the pin", || line.is_high());
        d.rig.runner.quiesce();
        assert_eq!(d.isr(), 1);
        assert!(!line.is_high(), "reading ISR status releases the pin");
        assert_eq!(d.isr(), 0);
        assert!(d.rig.msi.take().is_empty());
        d.rig.runner.resume();
    }
}

#[test]
fn requests_past_the_end_or_not_whole_sectors_are_errors_of_their_own() {
    let disk = FakeDisk::new(LEN);
    let mut d = driver(&disk, Mode::Modern, false);
    let last = LEN as u64 / 512;
    for (kind, flags) in [(0, WRITE), (1, 0)] {
        for (sector, len) in [
            (last, 512),
            (last - 1, 1024),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (1 << 55, 512),
            (0, 511),
            (0, 513),
        ] {
            assert_eq!(request(&mut d, kind, sector, &[(DATA, len, flags)]).0, 1, "{kind} {sector} {len}");
        }
    }
    assert_eq!(request(&mut d, 0, last - 1, &[(DATA, 512, WRITE)]).0, 0, "the device goes on");
    assert_eq!(request(&mut d, 0x77, 0, &[]).0, 2);
}

#[test]
fn request_larger_than_allowed_is_an_error_and_the_device_goes_on() {
    let disk = FakeDisk::new(64 << 20);
    let mut d = driver(&disk, Mode::Modern, false);
    let chain: Vec<_> = (0..5).map(|_| (0x40_0000, 4 << 20, 0)).collect();
    assert_eq!(request(&mut d, 1, 0, &chain).0, 1);
    assert_eq!(request(&mut d, 1, 0, &chain[..3]).0, 0);
}

#[test]
fn host_that_fails_is_an_io_error_to_the_guest_until_it_recovers() {
    let disk = FakeDisk::new(LEN);
    let mut d = driver(&disk, Mode::Modern, false);
    for errno in [rustix::io::Errno::IO, rustix::io::Errno::NOSPC] {
        *lock(&disk.errno) = Some(errno.raw_os_error());
        for (kind, data) in [(0, &[(DATA, 512, WRITE)][..]), (1, &[(DATA, 512, 0)]), (4, &[])] {
            assert_eq!(request(&mut d, kind, 0, data).0, 1, "{errno} {kind}");
        }
    }
    *lock(&disk.errno) = None;
    assert_eq!(request(&mut d, 1, 0, &[(DATA, 512, 0)]).0, 0);
}

#[test]
fn write_to_read_only_disk_is_refused() {
    let disk =
        Arc::new(FakeDisk { bytes: Mutex::new(vec![1; 4096]), read_only: true, ..FakeDisk::default() });
    let mut d = driver(&disk, Mode::Modern, false);
    assert_ne!(d.features & feature::RO, 0);
    assert_eq!(d.offered() & (feature::DISCARD | feature::WRITE_ZEROES), 0);
    assert_eq!(request(&mut d, 1, 0, &[(DATA, 512, 0)]).0, 1);
    d.rig.memory.write_u32(GuestPhys(DATA + 8), 1).unwrap();
    assert_eq!(request(&mut d, 13, 0, &[(DATA, 16, 0)]).0, 1);
    assert!(lock(&disk.bytes).iter().all(|&b| b == 1));
}

#[test]
fn write_is_flushed_at_once_where_the_driver_can_not_flush_or_chose_so() {
    let disk = FakeDisk::new(LEN);
    let rig = Rig::new(Block::new(disk.clone(), ""));
    let mut d = TestDriver::new(rig, Mode::Legacy, 0, false);
    assert_eq!(request(&mut d, 1, 0, &[(DATA, 512, 0)]).0, 0);
    assert_eq!(disk.flushes.load(SeqCst), 1, "FLUSH was not negotiated");
    d.start(!0, false);
    assert_eq!(request(&mut d, 1, 0, &[(DATA, 512, 0)]).0, 0);
    assert_eq!(disk.flushes.load(SeqCst), 1, "write-back is the default");
    d.port_write(20 + super::WRITEBACK as u16, &[0]);
    assert_eq!(request(&mut d, 1, 0, &[(DATA, 512, 0)]).0, 0);
    assert_eq!(disk.flushes.load(SeqCst), 2, "writeback is 0");
    d.start(!0, false);
    assert_eq!(d.device_config(super::WRITEBACK as u64), [1], "reset brings write-back again");
}

#[test]
fn discard_and_write_zeroes_zero_their_ranges_and_bad_ones_are_refused() {
    let disk = FakeDisk::new(LEN);
    let mut d = driver(&disk, Mode::Modern, false);
    let range = |d: &mut TestDriver, kind, sector: u64, sectors: u32, flags: u32| {
        lock(&disk.bytes).fill(9);
        d.rig.memory.write_u64(GuestPhys(DATA), sector).unwrap();
        d.rig.memory.write_u32(GuestPhys(DATA + 8), sectors).unwrap();
        d.rig.memory.write_u32(GuestPhys(DATA + 12), flags).unwrap();
        let status = request(d, kind, 0, &[(DATA, 16, 0)]).0;
        (status, lock(&disk.bytes).iter().filter(|&&b| b == 0).count())
    };
    assert_eq!(range(&mut d, 13, 8, 4, 0), (0, 2048));
    assert_eq!(range(&mut d, 13, 8, 4, 1), (0, 2048));
    assert_eq!(range(&mut d, 11, 8, 4, 0), (0, 2048));
    assert_eq!(range(&mut d, 11, 8, 4, 1), (2, 0), "discard has no flags");
    assert_eq!(range(&mut d, 13, 8, 4, 2), (2, 0));
    assert_eq!(range(&mut d, 13, 0, u32::MAX, 0), (1, 0));
    assert_eq!(range(&mut d, 13, u64::MAX, 1, 0), (1, 0));
    assert_eq!(range(&mut d, 11, 2040, 9, 0), (1, 0));
    assert_eq!(request(&mut d, 13, 0, &[(DATA, 15, 0)]).0, 1);
    assert_eq!(request(&mut d, 13, 0, &[(DATA, 17 * 16, 0)]).0, 1, "more ranges than allowed");
}

#[test]
fn get_id_gives_the_serial_even_into_little_room() {
    let disk = FakeDisk::new(LEN);
    let mut d = driver(&disk, Mode::Modern, false);
    assert_eq!(request(&mut d, 8, 0, &[(DATA, 20, WRITE)]), (0, 21));
    let mut id = [0xff; 20];
    d.rig.memory.read(GuestPhys(DATA), &mut id).unwrap();
    assert_eq!(&id, b"serial-0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(request(&mut d, 8, 0, &[(DATA + 0x100, 3, WRITE)]).0, 0);
    assert_eq!(d.rig.memory.read_u32(GuestPhys(DATA + 0x100)).unwrap(), u32::from_le_bytes(*b"ser\0"));
}

#[test]
fn request_without_header_or_status_needs_a_reset_which_helps() {
    let disk = FakeDisk::new(LEN);
    for chain in [&[(HEADER, 15, 0), (STATUS, 1, WRITE)][..], &[(HEADER, 16, 0)], &[(STATUS, 1, WRITE)]] {
        let mut d = driver(&disk, Mode::Modern, true);
        d.common_write(16, &0u16.to_le_bytes()); // config_msix_vector
        d.offer(0, chain);
        d.notify(0);
        let msi = d.rig.msi.clone();
        d.rig.wait("the configuration interrupt", || {
            msi.take().contains(&(super::super::test_driver::MSI, 0x40))
        });
        assert_ne!(d.status() & device_status::NEEDS_RESET, 0);
        d.start(FEATURES, true);
        assert_eq!(request(&mut d, 4, 0, &[]).0, 0);
    }
}

#[test]
fn reset_during_a_request_waits_for_it_and_forgets_the_rest() {
    let disk = FakeDisk::new(LEN);
    let mut d = driver(&disk, Mode::Modern, false);
    *lock(&disk.stuck) = true;
    d.rig.memory.write_u32(GuestPhys(HEADER), 0).unwrap();
    for _ in 0..3 {
        d.offer(0, &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
    }
    d.notify(0);
    d.rig.wait("the first read", || disk.reading.load(SeqCst));
    let freer = std::thread::spawn({
        let disk = disk.clone();
        move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            disk.free();
        }
    });
    d.set_status(0);
    assert!(!*lock(&disk.stuck), "the reset came back only after the request");
    freer.join().unwrap();
    let used = d.queues[0].layout.used.wrapping_add(2);
    assert!(d.rig.memory.read_u16(used).unwrap() <= 1);
    d.notify(0);
    d.start(FEATURES, false);
    assert_eq!(request(&mut d, 4, 0, &[]).0, 0);
}

#[test]
fn quiesce_stops_requests_until_resume_and_stop_flushes() {
    let disk = FakeDisk::new(LEN);
    let mut d = driver(&disk, Mode::Modern, false);
    d.rig.runner.quiesce();
    d.rig.memory.write_u32(GuestPhys(HEADER), 4).unwrap();
    d.offer(0, &[(HEADER, 16, 0), (STATUS, 1, WRITE)]);
    d.notify(0);
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!((d.take_used(0), disk.flushes.load(SeqCst)), (None, 0));
    d.rig.runner.resume();
    d.wait_used(0);
    assert_eq!(disk.flushes.load(SeqCst), 1);
    d.rig.runner.stop().unwrap();
    assert_eq!(disk.flushes.load(SeqCst), 2);
    *lock(&disk.errno) = Some(5);
    assert!(d.rig.runner.stop().is_err(), "what could not be flushed is told");
}

#[test]
fn many_requests_with_event_index_and_indirect_all_come_back() {
    let disk = FakeDisk::new(LEN);
    let rig = Rig::new(Block::new(disk.clone(), ""));
    let mut d = TestDriver::new(rig, Mode::Modern, !0, true);
    assert_ne!(d.features & ring::EVENT_IDX, 0);
    let table = 0x50_0000;
    let memory = d.rig.memory.clone();
    memory.write_u32(GuestPhys(HEADER), 0).unwrap();
    for (i, (address, len, flags)) in
        [(HEADER, 16u32, 1u16), (DATA, 4096, 3), (STATUS, 1, 2)].iter().enumerate()
    {
        let at = GuestPhys(table + 16 * i as u64);
        let word =
            u128::from(*address) | u128::from(*len) << 64 | u128::from(*flags) << 96 | (i as u128 + 1) << 112;
        memory.write(at, &word.to_le_bytes()).unwrap();
    }
    for _ in 0..40 {
        (0..100).for_each(|_| {
            d.offer(0, &[(table, 48, 4)]);
        });
        d.notify(0);
        (0..100).for_each(|_| assert_eq!(d.wait_used(0).1, 4097));
    }
    assert_eq!(memory.read_u8(GuestPhys(STATUS)).unwrap(), 0);
}
