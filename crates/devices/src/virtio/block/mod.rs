//! virtio-blk: a disk (VIRTIO 1.2, 5.2).

mod layout;
mod request;

#[cfg(test)]
mod tests;

use super::device::{Device, DeviceId, Progress};
use super::device_config::DeviceConfig;
use super::log_limit::LogLimit;
use disk::Image;
use layout::{MAX_SEGMENTS, SIZE_MAX, WRITEBACK, feature};
use memory::virtqueue::{self, Queue};
use std::io;
use std::sync::Arc;

/// Descriptors in the queue.
const QUEUE_SIZE: u16 = 256;

/// A disk as a virtio device.
pub struct Block {
    image: Arc<dyn Image>,
    config: Arc<DeviceConfig>,
    /// What VIRTIO_BLK_T_GET_ID gives: up to 20 bytes, padded with zeroes.
    serial: [u8; 20],
    /// What was negotiated.
    features: u64,
    /// Where data pass through between the image and guest memory, a piece at a time.
    bounce: Box<[u8]>,
    log: LogLimit,
}

impl Block {
    /// `serial` is what the guest sees as the disk's serial number; its first 20 bytes count. An image's last bytes
    /// that do not fill a sector of 512 are out of the guest's reach.
    pub fn new(image: Arc<dyn Image>, serial: &str) -> Self {
        let mut id = [0; 20];
        id.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
        let config = Arc::new(DeviceConfig::new(layout::config(image.len()), WRITEBACK..WRITEBACK + 1));
        let bounce = vec![0; request::PIECE].into_boxed_slice();
        Self { image, config, serial: id, features: 0, bounce, log: LogLimit::default() }
    }

    fn sectors(&self) -> u64 {
        self.image.len() / layout::SECTOR
    }

    /// Whether a write has to be on stable storage before the guest is told it is done: the driver can't flush, or
    /// chose write-through (VIRTIO 1.2, 5.2.6.2).
    fn write_through(&self) -> bool {
        let chose = self.features & feature::CONFIG_WCE != 0 && self.config.byte(WRITEBACK) == 0;
        self.features & feature::FLUSH == 0 || chose
    }
}

impl Device for Block {
    fn id(&self) -> DeviceId {
        DeviceId::Block
    }

    fn features(&self) -> u64 {
        let common =
            feature::SIZE_MAX | feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | feature::TOPOLOGY;
        let writes = feature::CONFIG_WCE | feature::DISCARD | feature::WRITE_ZEROES;
        common | if self.image.read_only() { feature::RO } else { writes }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn max_chain_bytes(&self) -> u64 {
        // Some slack beyond what the driver was told, so that a larger request fails by itself, not the whole device.
        4 * u64::from(SIZE_MAX) * u64::from(MAX_SEGMENTS)
    }

    fn config(&self) -> Arc<DeviceConfig> {
        self.config.clone()
    }

    fn start(&mut self, features: u64) {
        self.features = features;
    }

    fn process(&mut self, _index: usize, queue: &mut Queue) -> virtqueue::Result<Progress> {
        let Some(chain) = queue.pop()? else { return Ok(Progress::Idle) };
        let written = self.request(&chain)?;
        queue.push_used(chain.head(), written)?;
        Ok(Progress::Done)
    }

    fn reset(&mut self) {
        self.features = 0;
        self.config.update(|c| c[WRITEBACK] = 1);
    }

    fn stop(&mut self) -> io::Result<()> {
        if self.image.read_only() { Ok(()) } else { self.image.flush() }
    }
}
