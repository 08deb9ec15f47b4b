//! virtio-blk with a hostile driver: any request, in any rings.
#![no_main]

use std::io;
use std::sync::{Arc, Mutex};

use devices::virtio::{Block, Device as _, Progress};
use disk::Image;
use fuzz::Driver;
use libfuzzer_sys::fuzz_target;
use memory::virtqueue::Queue;

/// Requests at most: a driver that keeps making them is no fault of the device's.
const REQUESTS: usize = 256;

/// A disk in memory that checks what a device asks of it.
struct Disk(Mutex<Vec<u8>>);

impl Disk {
    fn with<T>(&self, offset: u64, len: u64, act: impl FnOnce(&mut [u8]) -> T) -> io::Result<T> {
        let mut bytes = self.0.lock().map_err(|_| io::Error::other("poisoned"))?;
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let range = bytes.get_mut(offset as usize..end as usize);
        Ok(act(range.ok_or(io::ErrorKind::UnexpectedEof)?))
    }
}

impl Image for Disk {
    fn len(&self) -> u64 {
        self.0.lock().map_or(0, |bytes| bytes.len() as u64)
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(offset, out.len() as u64, |bytes| out.copy_from_slice(bytes))
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(offset, data.len() as u64, |bytes| bytes.copy_from_slice(data))
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64, _discard: bool) -> io::Result<()> {
        self.with(offset, len, |bytes| bytes.fill(0))
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&features, data)) = data.split_first() else { return };
    let Some(mut driver) = Driver::new(data) else { return };
    let disk = Arc::new(Disk(Mutex::new(vec![0; 33 * 512])));
    let mut block = Block::new(disk.clone(), "fuzz");
    let negotiated = block.features() & u64::from_ne_bytes([features; 8]);
    block.start(negotiated);
    driver.options.max_bytes = block.max_chain_bytes();
    let Ok(mut queue) = Queue::new(driver.memory.clone(), driver.layout, driver.options) else { return };
    for _ in 0..REQUESTS {
        driver.meddle();
        if !matches!(block.process(0, &mut queue), Ok(Progress::Done)) {
            break;
        }
    }
    block.reset();
    assert_eq!(disk.len(), 33 * 512, "no request changes the disk's size");
});
