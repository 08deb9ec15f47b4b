//! virtio-console with one port (VIRTIO 1.2, 5.3).
//!
//! Flow control as the UART's: where the [`SerialOutput`] takes less than it is given, the guest waits until
//! [`ConsoleHandle::output_ready`]; where [`ConsoleHandle::input`] does, it is offered the rest again after
//! [`SerialOutput::input_room`]. Here both calls come on the device's own thread.

use super::device::{Device, DeviceId, Doorbell, Progress};
use super::device_config::DeviceConfig;
use crate::pci::lock;
use crate::wiring::SerialOutput;
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

#[derive(Default)]
struct Input {
    bytes: VecDeque<u8>,
    /// Some were refused: there is somebody to tell of room.
    refused: bool,
}

#[derive(Default)]
struct Shared {
    input: Mutex<Input>,
    doorbell: Mutex<Option<Doorbell>>,
}

/// The host's side of a console.
#[derive(Clone)]
pub struct ConsoleHandle(Arc<Shared>);

impl ConsoleHandle {
    /// Types `data`; gives how many bytes there was room for.
    pub fn input(&self, data: &[u8]) -> usize {
        let mut input = lock(&self.0.input);
        let n = data.len().min(MAX_INPUT.saturating_sub(input.bytes.len()));
        input.bytes.extend(&data[..n]);
        input.refused |= n < data.len();
        drop(input);
        self.ring(RECEIVE);
        n
    }
    /// Forgets what the guest has not taken yet: the machine was reset.
    pub fn clear_input(&self) {
        *lock(&self.0.input) = Input::default();
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
    output: Box<dyn SerialOutput>,
    /// A request of which the first bytes have gone out.
    transmitting: Option<(Chain, u64)>,
}

impl Console {
    pub fn new(output: Box<dyn SerialOutput>) -> (Self, ConsoleHandle) {
        let shared = Arc::new(Shared::default());
        let handle = ConsoleHandle(shared.clone());
        // cols, rows, max_nr_ports, emerg_wr: none of them offered.
        let config = Arc::new(DeviceConfig::new(vec![0; 12], 0..0));
        (Self { shared, config, output, transmitting: None }, handle)
    }

    fn receive(&mut self, queue: &mut Queue) -> virtqueue::Result<Progress> {
        let mut input = lock(&self.shared.input);
        if input.bytes.is_empty() {
            return Ok(Progress::Blocked);
        }
        let Some(chain) = queue.pop()? else { return Ok(Progress::Idle) };
        let mut writer = chain.writer();
        let n = writer.remaining().min(input.bytes.len() as u64) as usize;
        let (front, back) = input.bytes.as_slices();
        let front = &front[..n.min(front.len())];
        writer.write(front)?;
        writer.write(&back[..n - front.len()])?;
        input.bytes.drain(..n);
        let room = n > 0 && std::mem::take(&mut input.refused);
        drop(input);
        queue.push_used(chain.head(), writer.written())?;
        if room {
            self.output.input_room();
        }
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
        let taken = self.output.write(&piece[..n]).min(n);
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

#[cfg(test)]
mod tests {
    use super::super::test_driver::{Mode, Rig, TestDriver, WRITE};
    use super::*;
    use address::GuestPhys;

    const DATA: u64 = 0x30_0000;

    /// An output with so much room.
    #[derive(Default)]
    struct Sink {
        room: usize,
        bytes: Vec<u8>,
        told_of_room: usize,
    }

    struct SharedSink(Arc<Mutex<Sink>>);

    impl SerialOutput for SharedSink {
        fn write(&mut self, bytes: &[u8]) -> usize {
            let mut s = lock(&self.0);
            let n = bytes.len().min(s.room);
            s.room -= n;
            s.bytes.extend(&bytes[..n]);
            n
        }
        fn input_room(&mut self) {
            lock(&self.0).told_of_room += 1;
        }
    }

    fn console(room: usize, mode: Mode) -> (TestDriver, ConsoleHandle, Arc<Mutex<Sink>>) {
        let sink = Arc::new(Mutex::new(Sink { room, ..Sink::default() }));
        let (console, handle) = Console::new(Box::new(SharedSink(sink.clone())));
        (TestDriver::new(Rig::new(console), mode, 0, false), handle, sink)
    }

    #[test]
    fn output_larger_than_a_piece_arrives_whole_and_in_order() {
        for mode in [Mode::Modern, Mode::Legacy] {
            let (mut d, _, sink) = console(usize::MAX, mode);
            let text: Vec<u8> = (0..10_000u32).map(|i| (i / 3) as u8).collect();
            d.rig.memory.write(GuestPhys(DATA), &text).unwrap();
            assert_eq!(d.request(TRANSMIT, &[(DATA, 5000, 0), (DATA + 5000, 5000, 0)]), 0);
            assert!(lock(&sink).bytes == text);
        }
    }

    #[test]
    fn output_that_floods_waits_for_room_and_loses_nothing() {
        let (mut d, handle, sink) = console(100, Mode::Modern);
        d.rig.memory.fill(GuestPhys(DATA), 250, b'x').unwrap();
        for _ in 0..20 {
            d.offer(TRANSMIT, &[(DATA, 250, 0)]);
        }
        d.notify(TRANSMIT);
        d.rig.wait("the first bytes", || lock(&sink).bytes.len() == 100);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!((lock(&sink).bytes.len(), d.take_used(TRANSMIT)), (100, None));
        d.rig.wait("the rest", || {
            lock(&sink).room = 300;
            handle.output_ready();
            lock(&sink).bytes.len() == 5000
        });
        (0..20).for_each(|_| assert_eq!(d.wait_used(TRANSMIT).1, 0));
    }

    #[test]
    fn input_waits_for_buffers_and_is_refused_beyond_its_bound() {
        let (mut d, handle, sink) = console(0, Mode::Modern);
        assert_eq!(handle.input(b"hello"), 5);
        assert_eq!(handle.input(&vec![b'y'; 100_000]), MAX_INPUT - 5);
        assert_eq!(handle.input(b"z"), 0);
        assert_eq!(d.request(RECEIVE, &[(DATA, 3, WRITE)]), 3);
        d.rig.wait("word of room", || lock(&sink).told_of_room == 1);
        assert_eq!(handle.input(b"12345"), 3);
        assert_eq!(d.request(RECEIVE, &[(DATA + 3, 100, WRITE)]), 100);
        let mut text = [0; 6];
        d.rig.memory.read(GuestPhys(DATA), &mut text).unwrap();
        assert_eq!(&text, b"helloy");
    }

    #[test]
    fn input_after_buffers_were_offered_reaches_them() {
        let (mut d, handle, _) = console(0, Mode::Legacy);
        d.offer(RECEIVE, &[(DATA, 100, WRITE)]);
        d.notify(RECEIVE);
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert_eq!(d.take_used(RECEIVE), None);
        handle.input(b"ok");
        assert_eq!(d.wait_used(RECEIVE).1, 2);
        assert_eq!(d.rig.memory.read_u16(GuestPhys(DATA)).unwrap(), u16::from_le_bytes(*b"ok"));
    }

    #[test]
    fn reset_forgets_a_half_sent_request() {
        let (mut d, handle, sink) = console(3, Mode::Modern);
        d.rig.memory.write(GuestPhys(DATA), b"abcdef").unwrap();
        d.offer(TRANSMIT, &[(DATA, 6, 0)]);
        d.notify(TRANSMIT);
        d.rig.wait("the first bytes", || lock(&sink).bytes.len() == 3);
        d.start(0, false);
        lock(&sink).room = 100;
        handle.output_ready();
        d.rig.memory.write(GuestPhys(DATA), b"123456").unwrap();
        d.request(TRANSMIT, &[(DATA, 6, 0)]);
        assert_eq!(lock(&sink).bytes, b"abc123456");
    }
}
