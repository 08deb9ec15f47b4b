//! virtio-rng: random bytes from the host (VIRTIO 1.2, 5.4).

use super::device::{Device, DeviceId, Progress};
use super::device_config::DeviceConfig;
use super::log_limit::LogLimit;
use memory::virtqueue::{self, Queue};
use std::sync::Arc;

/// The most bytes one request gets; the driver asks again for more.
const MAX_BYTES: usize = 4096;

/// An entropy source.
pub struct Entropy {
    config: Arc<DeviceConfig>,
    log: LogLimit,
}

impl Entropy {
    pub fn new() -> Self {
        Self { config: Arc::new(DeviceConfig::new(Vec::new(), 0..0)), log: LogLimit::default() }
    }
}

impl Default for Entropy {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for Entropy {
    fn id(&self) -> DeviceId {
        DeviceId::Entropy
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }
    fn config(&self) -> Arc<DeviceConfig> {
        self.config.clone()
    }

    fn process(&mut self, _index: usize, queue: &mut Queue) -> virtqueue::Result<Progress> {
        let Some(chain) = queue.pop()? else { return Ok(Progress::Idle) };
        let mut writer = chain.writer();
        let mut bytes = [0; MAX_BYTES];
        let bytes = &mut bytes[..writer.remaining().min(MAX_BYTES as u64) as usize];
        match getrandom::fill(bytes) {
            Ok(()) => {
                writer.write(bytes)?;
            }
            Err(error) => {
                if let Some(more) = self.log.allow() {
                    log::warn!("the host gave no random bytes: {error} ({more} such messages left out)");
                }
            }
        }
        queue.push_used(chain.head(), writer.written())?;
        Ok(Progress::Done)
    }

    fn reset(&mut self) {}
}
