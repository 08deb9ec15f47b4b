//! virtio-console with one port (VIRTIO 1.2, 5.3).

use super::device::{Device, DeviceId, Doorbell, Progress};
use super::device_config::DeviceConfig;
use crate::pci::lock;
use memory::virtqueue::{self, Chain, Queue};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Queues of port 0.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Input that waits for the guest, in bytes.
const MAX_INPUT: usize = 64 << 10;
/// Output handed on at a time, in bytes.
const PIECE: usize = 4096;

/// Where a console's output goes: takes as many of the bytes as it has room for, at once, and gives the number. Where
/// that is not all, [`ConsoleHandle::output_ready`] says when there is room again; meanwhile the guest waits.
pub type Output = Box<dyn FnMut(&[u8]) -> usize + Send>;

#[derive(Default)]
struct Shared {
    input: Mutex<VecDeque<u8>>,
    doorbell: Mutex<Option<Doorbell>>,
}

/// The host's side of a console.
#[derive(Clone)]
pub struct ConsoleHandle(Arc<Shared>);

impl ConsoleHandle {
    /// Types `data`; gives how many bytes there was room for. The rest is to be offered again later: see
    /// [`Self::input_room`].
    pub fn input(&self, data: &[u8]) -> usize {
        let mut input = lock(&self.0.input);
        let n = data.len().min(MAX_INPUT - input.len().min(MAX_INPUT));
        input.extend(&data[..n]);
        drop(input);
        self.ring(RECEIVE);
        n
    }
    /// Bytes that [`Self::input`] would take now.
    pub fn input_room(&self) -> usize {
        MAX_INPUT - lock(&self.0.input).len().min(MAX_INPUT)
    }
    /// The output has room again.
    pub fn output_ready(&self) {
        self.ring(TRANSMIT);
    }
    fn ring(&self, queue: usize) {
        if let Some(doorbell) = &*lock(&self.0.doorbell) {
            doorbell.ring(queue);
        }
    }
}

/// A console as a virtio device.
pub struct Console {
    shared: Arc<Shared>,
    config: Arc<DeviceConfig>,
    output: Output,
    /// A request of which the first bytes have gone out.
    transmitting: Option<(Chain, u64)>,
}

impl Console {
    pub fn new(output: Output) -> (Self, ConsoleHandle) {
        let shared = Arc::new(Shared::default());
        let handle = ConsoleHandle(shared.clone());
        // cols, rows, max_nr_ports, emerg_wr: none of them offered.
        let config = Arc::new(DeviceConfig::new(vec![0; 12], 0..0));
        (Self { shared, config, output, transmitting: None }, handle)
    }

    fn receive(&mut self, queue: &mut Queue) -> virtqueue::Result<Progress> {
        let mut input = lock(&self.shared.input);
        if input.is_empty() {
            return Ok(Progress::Blocked);
        }
        let Some(chain) = queue.pop()? else { return Ok(Progress::Idle) };
        let mut writer = chain.writer();
        let n = writer.remaining().min(input.len() as u64) as usize;
        let (front, back) = input.as_slices();
        let front = &front[..n.min(front.len())];
        writer.write(front)?;
        writer.write(&back[..n - front.len()])?;
        input.drain(..n);
        queue.push_used(chain.head(), writer.written())?;
        Ok(Progress::Done)
    }

    fn transmit(&mut self, queue: &mut Queue) -> virtqueue::Result<Progress> {
        let (chain, sent) = match self.transmitting.take() {
            Some(t) => t,
            None => match queue.pop()? {
                Some(chain) => (chain, 0),
                None => return Ok(Progress::Idle),
            },
        };
        let mut reader = chain.reader();
        reader.skip(sent)?;
        let mut piece = [0; PIECE];
        let n = reader.read(&mut piece)?;
        let taken = (self.output)(&piece[..n]).min(n);
        if taken < n || reader.remaining() > 0 {
            self.transmitting = Some((chain, sent + taken as u64));
            return Ok(if taken < n { Progress::Blocked } else { Progress::Done });
        }
        queue.push_used(chain.head(), 0)?;
        Ok(Progress::Done)
    }
}

impl Device for Console {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[128, 128]
    }
    fn max_chain_bytes(&self) -> u64 {
        1 << 20
    }
    fn config(&self) -> Arc<DeviceConfig> {
        self.config.clone()
    }
    fn attach(&mut self, doorbell: Doorbell) {
        *lock(&self.shared.doorbell) = Some(doorbell);
    }

    fn process(&mut self, index: usize, queue: &mut Queue) -> virtqueue::Result<Progress> {
        match index {
            RECEIVE => self.receive(queue),
            TRANSMIT => self.transmit(queue),
            _ => Ok(Progress::Idle),
        }
    }

    fn reset(&mut self) {
        self.transmitting = None;
    }
}
