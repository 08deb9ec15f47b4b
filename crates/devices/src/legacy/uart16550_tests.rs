//! The UART as drivers probe and use it, and with an other end that is slow.

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
    uart: Uart16550,
    irq: Arc<FakeLine>,
    end: Arc<Mutex<End>>,
}

impl Bench {
    /// With an other end that takes so many bytes.
    fn with_room(room: usize) -> Self {
        let (irq, end) = (FakeLine::new(), Arc::new(Mutex::new(End { room, ..End::default() })));
        Self { uart: Uart16550::new(irq.clone(), Box::new(Sink(end.clone()))), irq, end }
    }

    fn new() -> Self {
        Self::with_room(usize::MAX)
    }

    /// FIFOs on (trigger level 1), interrupts through to the bus.
    fn with_fifos(room: usize) -> Self {
        let mut bench = Self::with_room(room);
        bench.write(2, 0x07);
        bench.write(4, 0x0b);
        bench
    }

    fn read(&mut self, offset: u16) -> u8 {
        let mut data = [0];
        self.uart.read(offset, &mut data);
        data[0]
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.uart.write(offset, &[value]);
    }

    fn sent(&self) -> Vec<u8> {
        self.end.lock().unwrap().bytes.clone()
    }
}

#[test]
fn registers_after_reset_are_the_datasheets() {
    let mut bench = Bench::new();
    let registers: Vec<u8> = (0..8).map(|offset| bench.read(offset)).collect();
    assert_eq!(registers, [0, 0, 0x01, 0, 0, 0x60, 0xb0, 0]);
}

#[test]
fn linux_autoconfiguration_finds_a_16550a() {
    let mut bench = Bench::new();
    // IER holds four bits and clears; loopback shows MCR's outputs as inputs.
    bench.write(1, 0);
    assert_eq!(bench.read(1) & 0x0f, 0);
    bench.write(1, 0x0f);
    assert_eq!(bench.read(1) & 0x0f, 0x0f);
    bench.write(1, 0);
    bench.write(4, 0x1a);
    assert_eq!(bench.read(6) & 0xf0, 0x90);
    bench.write(4, 0x08);
    // No EFR (LCR BFh), a FIFO that says so in IIR, no second bank of it, no sleep bit in IER.
    bench.write(3, 0xbf);
    bench.write(2, 0x01);
    assert_eq!(bench.read(2) >> 6, 3);
    bench.write(3, 0);
    bench.write(2, 0x01 | 0x20);
    bench.write(3, 0x80);
    bench.write(2, 0x01 | 0x20);
    assert_eq!(bench.read(2) >> 5, 6, "no 64-byte FIFO");
    bench.write(3, 0);
    bench.write(1, 0x40);
    assert_eq!(bench.read(1), 0, "no UUE");
    bench.write(2, 0);
    assert_eq!(bench.read(2) >> 6, 0);
    bench.write(7, 0xa5);
    assert_eq!(bench.read(7), 0xa5);
}

#[test]
fn divisor_latch_covers_the_first_two_registers() {
    let mut bench = Bench::new();
    bench.write(3, 0x83);
    bench.write(0, 0x34);
    bench.write(1, 0x12);
    assert_eq!((bench.read(0), bench.read(1)), (0x34, 0x12));
    bench.write(3, 0x03);
    assert_eq!((bench.read(0), bench.read(1)), (0, 0));
    assert_eq!(bench.sent(), []);
}

#[test]
fn bytes_sent_come_out_in_order() {
    let mut bench = Bench::with_fifos(usize::MAX);
    for byte in b"login: " {
        assert_eq!(bench.read(5) & 0x60, 0x60);
        bench.write(0, *byte);
    }
    assert_eq!(bench.sent(), b"login: ");
}

#[test]
fn transmit_interrupt_comes_when_enabled_and_after_each_byte() {
    let mut bench = Bench::with_fifos(usize::MAX);
    bench.write(1, 0x02);
    assert!(bench.irq.is_high());
    assert_eq!(bench.read(2), 0xc2);
    assert!(!bench.irq.is_high(), "reading IIR takes it back");
    assert_eq!(bench.read(2), 0xc1);
    bench.write(0, b'x');
    assert!(bench.irq.is_high());
    // Linux's test for a THRE bug: off and on again must interrupt anew.
    bench.read(2);
    bench.write(1, 0x00);
    bench.write(1, 0x02);
    assert_eq!(bench.read(2), 0xc2);
}

#[test]
fn transmit_with_a_full_other_end_withholds_thre_and_loses_nothing() {
    let mut bench = Bench::with_fifos(3);
    bench.write(1, 0x02);
    bench.read(2);
    for byte in b"abcdefgh" {
        bench.write(0, *byte);
    }
    assert_eq!((bench.sent(), bench.read(5) & 0x60), (b"abc".to_vec(), 0));
    assert!(!bench.irq.is_high());
    bench.end.lock().unwrap().room = 100;
    bench.uart.output_ready();
    assert_eq!((bench.sent(), bench.irq.is_high()), (b"abcdefgh".to_vec(), true));
    assert_eq!(bench.read(5) & 0x60, 0x60);
}

#[test]
fn transmit_polled_with_a_slow_other_end_loses_nothing() {
    let mut bench = Bench::with_fifos(0);
    let text: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let (mut at, mut polls) = (0, 0);
    while at < text.len() {
        bench.end.lock().unwrap().room = polls % 3;
        polls += 1;
        assert!(polls < 1_000_000, "stuck");
        if bench.read(5) & 0x20 != 0 {
            // As Linux does: a FIFO's worth at a time.
            for &byte in text[at..].iter().take(FIFO) {
                bench.write(0, byte);
            }
            at = (at + FIFO).min(text.len());
        }
    }
    bench.end.lock().unwrap().room = 100;
    bench.uart.output_ready();
    assert_eq!(bench.sent(), text);
}

#[test]
fn flood_with_nobody_reading_stays_within_the_fifo() {
    for fifos in [false, true] {
        let mut bench = if fifos { Bench::with_fifos(0) } else { Bench::with_room(0) };
        for _ in 0..100_000 {
            bench.write(0, b'x');
        }
        assert!(bench.uart.transmit.len() <= FIFO && bench.uart.transmit.capacity() <= 2 * FIFO);
    }
}

#[test]
fn input_interrupts_and_reads_in_order() {
    let mut bench = Bench::with_fifos(0);
    bench.write(1, 0x01);
    assert_eq!(bench.uart.input(b"ls\r"), 3);
    assert!(bench.irq.is_high());
    assert_eq!(bench.read(2), 0xc4);
    for byte in b"ls\r" {
        assert_eq!(bench.read(5) & 1, 1);
        assert_eq!(bench.read(0), *byte);
    }
    assert_eq!((bench.read(5) & 1, bench.irq.is_high()), (0, false));
}

#[test]
fn input_below_the_trigger_level_is_a_timeout() {
    let mut bench = Bench::with_fifos(0);
    bench.write(2, 0x81);
    bench.write(1, 0x01);
    bench.uart.input(&[1; 7]);
    assert_eq!(bench.read(2), 0xcc);
    bench.uart.input(&[1]);
    assert_eq!(bench.read(2), 0xc4);
}

#[test]
fn input_beyond_the_fifo_waits_and_is_asked_for() {
    let mut bench = Bench::with_fifos(0);
    let bytes: Vec<u8> = (0..20).collect();
    assert_eq!(bench.uart.input(&bytes), 16);
    assert_eq!(bench.uart.input(&bytes[16..]), 0);
    assert_eq!(bench.end.lock().unwrap().told_of_room, 0);
    bench.read(0);
    bench.read(0);
    assert_eq!(bench.end.lock().unwrap().told_of_room, 1, "once until the next refusal");
    assert_eq!(bench.uart.input(&bytes[16..]), 2);
    let rest: Vec<u8> = (0..16).map(|_| bench.read(0)).collect();
    assert_eq!(rest, bytes[2..18]);
}

#[test]
fn input_without_fifos_takes_one_byte() {
    let mut bench = Bench::new();
    assert_eq!(bench.uart.input(b"ab"), 1);
    assert_eq!(bench.read(0), b'a');
    assert_eq!(bench.end.lock().unwrap().told_of_room, 1);
}

#[test]
fn loopback_returns_bytes_and_keeps_the_line_out() {
    let mut bench = Bench::with_fifos(usize::MAX);
    bench.write(4, 0x1b);
    bench.write(0, 0xae);
    assert_eq!((bench.read(5) & 1, bench.read(0), bench.sent()), (1, 0xae, Vec::new()));
    assert_eq!(bench.uart.input(b"x"), 0, "the line waits");
    for _ in 0..20 {
        bench.write(0, 1);
    }
    assert_eq!(bench.read(5) & 3, 3, "overrun");
    assert_eq!(bench.read(5) & 3, 1, "told once");
    bench.write(4, 0x0b);
    assert_eq!(bench.end.lock().unwrap().told_of_room, 0, "the FIFO is still full of its own");
    bench.read(0);
    assert_eq!(bench.end.lock().unwrap().told_of_room, 1);
}

#[test]
fn modem_status_interrupts_on_change_until_read() {
    let mut bench = Bench::with_fifos(0);
    bench.write(1, 0x08);
    bench.write(4, 0x18);
    bench.write(4, 0x08);
    assert_eq!((bench.read(2), bench.irq.is_high()), (0xc0, true));
    assert_eq!(bench.read(6), 0xbb & !0x08, "CTS and DSR went away and came back, DCD stayed");
    assert_eq!((bench.read(2), bench.irq.is_high()), (0xc1, false));
}

#[test]
fn interrupts_need_out2() {
    let mut bench = Bench::new();
    bench.write(1, 0x02);
    assert!(!bench.irq.is_high());
    bench.write(4, 0x08);
    assert!(bench.irq.is_high());
}

proptest! {
    #[test]
    fn any_accesses_stay_within_the_fifos(
        room in 0usize..40, steps in prop::collection::vec((0u8..4, 0u16..8, any::<u8>()), 0..300),
    ) {
        let mut bench = Bench::with_room(room);
        for (step, offset, value) in steps {
            match step {
                0 => {
                    bench.read(offset);
                }
                1 => {
                    bench.uart.input(&vec![value; usize::from(value)]);
                }
                2 => bench.uart.output_ready(),
                _ => bench.write(offset, value),
            }
            prop_assert!(bench.uart.receive.len() <= FIFO && bench.uart.transmit.len() <= FIFO);
        }
    }
}
