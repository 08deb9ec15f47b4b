//! The UART as drivers use it, with an other end that is slow, and abused.

use super::*;
use crate::testing::FakeLine;
use proptest::prelude::*;
use std::sync::Mutex;

/// The other end: what came, and how much more it takes.
#[derive(Default)]
struct End {
    bytes: Vec<u8>,
    room: usize,
    told_of_room: usize,
}

struct Sink(Arc<Mutex<End>>);

impl SerialOutput for Sink {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut end = self.0.lock().unwrap();
        let taken = bytes.len().min(end.room);
        end.room -= taken;
        end.bytes.extend_from_slice(&bytes[..taken]);
        taken
    }
    fn input_room(&mut self) {
        self.0.lock().unwrap().told_of_room += 1;
    }
}

struct Bench {
    uart: Pl011,
    line: Arc<FakeLine>,
    end: Arc<Mutex<End>>,
}

impl Bench {
    fn new(room: usize) -> Self {
        let (line, end) = (FakeLine::new(), Arc::new(Mutex::new(End { room, ..End::default() })));
        Self { uart: Pl011::new(line.clone(), Box::new(Sink(end.clone()))), line, end }
    }
    /// As a driver sets it up: on, FIFOs on, both levels at half.
    fn started(room: usize) -> Self {
        let mut b = Self::new(room);
        b.set(IBRD, 13);
        b.set(FBRD, 1);
        b.set(LCR_H, 0x70);
        b.set(IFLS, 0x12);
        b.set(CR, cr::ENABLE | cr::TRANSMIT | cr::RECEIVE);
        b
    }
    fn get(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.uart.read(offset, &mut data);
        u32::from_le_bytes(data)
    }
    fn set(&mut self, offset: u64, value: u32) {
        self.uart.write(offset, &value.to_le_bytes());
    }
    fn sent(&self) -> Vec<u8> {
        self.end.lock().unwrap().bytes.clone()
    }
}

#[test]
fn reset_values_are_the_manuals() {
    let mut b = Bench::new(0);
    for (offset, value) in [(CR, 0x300), (IFLS, 0x12), (IMSC, 0), (RIS, 0), (LCR_H, 0), (FR, 0x97), (DR, 0)] {
        assert_eq!(b.get(offset), value, "{offset:#x}");
    }
    let id: Vec<u32> = (0..8).map(|i| b.get(0xfe0 + 4 * i)).collect();
    assert_eq!(id, [0x11, 0x10, 0x34, 0, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn byte_written_is_sent_whole_and_interrupts_when_it_has_gone() {
    let mut b = Bench::new(100);
    b.uart.write(DR, b"a");
    b.uart.write(DR, b"bc");
    assert_eq!(b.sent(), b"ab", "a register, of which 8 bits count");
    assert_eq!(b.get(FR) & (fr::BUSY | fr::TRANSMIT_EMPTY | fr::TRANSMIT_FULL), fr::TRANSMIT_EMPTY);
    assert!(!b.line.is_high());
    b.set(IMSC, int::TRANSMIT);
    assert!(b.line.is_high());
    assert_eq!(b.get(MIS), int::TRANSMIT);
    b.set(ICR, int::TRANSMIT);
    assert!(!b.line.is_high());
    b.set(DR, u32::from(b'd'));
    assert!(b.line.is_high());
}

#[test]
fn output_that_is_full_fills_the_fifo_and_interrupts_when_it_has_fallen_to_its_level() {
    let mut b = Bench::started(0);
    b.set(IMSC, int::TRANSMIT);
    for i in 0..FIFO as u32 + 3 {
        b.set(DR, u32::from(b'a') + i);
    }
    assert_eq!(b.get(FR) & (fr::BUSY | fr::TRANSMIT_FULL), fr::BUSY | fr::TRANSMIT_FULL);
    assert!(!b.line.is_high());
    b.end.lock().unwrap().room = 15;
    b.uart.output_ready();
    assert!(!b.line.is_high(), "17 left");
    assert_eq!(b.get(FR) & fr::TRANSMIT_FULL, 0);
    b.end.lock().unwrap().room = 1;
    b.uart.output_ready();
    assert!(b.line.is_high(), "16 left");
    b.end.lock().unwrap().room = 100;
    assert_eq!(b.get(FR) & fr::BUSY, 0, "a look at the flags sends too");
    assert_eq!(
        b.sent(),
        (0..FIFO as u8).map(|i| b'a' + i).collect::<Vec<_>>(),
        "what the FIFO had no room for is lost"
    );
}

#[test]
fn input_below_the_level_times_out_and_above_it_interrupts() {
    let mut b = Bench::started(0);
    b.set(IMSC, int::RECEIVE | int::RECEIVE_TIMEOUT);
    assert_eq!(b.uart.input(b"hi"), 2);
    assert_eq!(b.get(MIS), int::RECEIVE_TIMEOUT);
    assert_eq!((b.get(DR), b.line.is_high()), (b'h'.into(), true));
    assert_eq!((b.get(DR), b.line.is_high(), b.get(RIS)), (b'i'.into(), false, 0));
    assert_eq!(b.uart.input(&[b'x'; 16]), 16);
    assert_eq!(b.get(RIS), int::RECEIVE | int::RECEIVE_TIMEOUT);
    b.set(ICR, int::ALL);
    assert!(!b.line.is_high());
    b.get(DR);
    assert_eq!(b.get(RIS), int::RECEIVE_TIMEOUT, "what is left is told again");
    (0..15).for_each(|_| assert_eq!(b.get(DR), b'x'.into()));
    assert_eq!((b.get(DR), b.get(FR) & fr::RECEIVE_EMPTY), (0, fr::RECEIVE_EMPTY));
}

#[test]
fn input_beyond_the_fifo_waits_and_is_asked_for() {
    let mut b = Bench::new(0);
    assert_eq!(b.uart.input(b"abc"), 0, "not switched on");
    b.set(CR, cr::ENABLE | cr::RECEIVE);
    assert_eq!(b.end.lock().unwrap().told_of_room, 1);
    assert_eq!(b.uart.input(b"abc"), 1, "without FIFOs, one");
    assert_eq!((b.get(FR) & fr::RECEIVE_FULL, b.get(RIS)), (fr::RECEIVE_FULL, int::RECEIVE));
    assert_eq!(b.get(DR), b'a'.into());
    assert_eq!(b.end.lock().unwrap().told_of_room, 2);
    let mut b = Bench::started(0);
    assert_eq!(b.uart.input(&[1; 1000]), FIFO);
    assert_eq!(b.uart.input(&[1; 1000]), 0);
    b.get(DR);
    b.get(DR);
    assert_eq!(b.end.lock().unwrap().told_of_room, 1, "told once");
    b.set(LCR_H, 0);
    assert_eq!((b.get(FR) & fr::RECEIVE_EMPTY, b.get(RIS)), (fr::RECEIVE_EMPTY, 0), "FIFOs off empties them");
}

#[test]
fn loopback_returns_bytes_and_modem_lines_and_overruns() {
    let mut b = Bench::started(100);
    let on = cr::ENABLE | cr::TRANSMIT | cr::RECEIVE | cr::LOOPBACK;
    b.set(CR, on);
    assert_eq!(b.get(FR) & fr::MODEM, 0);
    assert_eq!(b.get(RIS), int::CTS | int::DSR | int::DCD);
    b.set(CR, on | cr::RTS | cr::OUT2);
    assert_eq!(b.get(FR) & fr::MODEM, fr::CTS | fr::RI);
    assert_eq!(b.uart.input(b"x"), 0, "the line is disconnected");
    for i in 0..=FIFO as u32 {
        b.set(DR, i);
    }
    assert_eq!((b.get(RSR), b.get(RIS) & int::OVERRUN), (RSR_OVERRUN, int::OVERRUN));
    assert_eq!((b.get(DR), b.get(DR)), (DR_OVERRUN, 1));
    b.set(RSR, 0);
    assert_eq!(b.get(RSR), 0);
    assert!(b.sent().is_empty());
}

#[test]
fn reset_forgets_everything_but_who_waits() {
    let mut b = Bench::started(0);
    b.set(IMSC, int::ALL);
    b.uart.input(&[7; 100]);
    b.set(DR, 1);
    assert!(b.line.is_high());
    b.uart.reset();
    assert_eq!((b.line.is_high(), b.get(RIS), b.get(CR), b.get(FR)), (false, 0, 0x300, 0x97));
    assert_eq!(b.end.lock().unwrap().told_of_room, 0, "switched off, it has no room");
    b.set(CR, cr::ENABLE | cr::RECEIVE);
    assert_eq!(b.end.lock().unwrap().told_of_room, 1);
}

proptest! {
    /// Whatever a guest does, the FIFOs stay bounded, the line is what the registers say, and no input is lost or made up.
    #[test]
    fn any_accesses_are_harmless(accesses in prop::collection::vec((0u64..0x1010, 0usize..9, any::<u64>(), 0u8..6), 1..200)) {
        let mut b = Bench::new(10);
        for (offset, len, value, kind) in accesses {
            let mut data = value.to_le_bytes();
            // Half of the accesses go to the registers at the beginning.
            let offset = if value & 1 == 0 { offset & 0x4c } else { offset };
            match kind {
                0 => b.uart.read(offset, &mut data[..len]),
                1 => prop_assert!(b.uart.input(&[0; 64][..len * 8]) <= FIFO),
                2 => {
                    b.end.lock().unwrap().room = len;
                    b.uart.output_ready();
                }
                _ => b.uart.write(offset, &data[..len]),
            }
            prop_assert!(b.uart.receive.len() <= FIFO && b.uart.transmit.len() <= FIFO);
            prop_assert_eq!(b.line.is_high(), b.get(MIS) != 0);
        }
    }
}
