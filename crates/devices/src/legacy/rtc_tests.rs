//! The clock as kernels read, set and are woken by it.

use super::*;
use crate::testing::{FakeAlarm, FakeClock, FakeLine, run_until};
use proptest::prelude::*;
use std::time::Duration;

/// 21 November 2026, 20:00:00 UTC, a Saturday.
const START: u64 = 1_795_291_200;
const SECOND: u64 = 1_000_000_000;

struct Bench {
    rtc: Rtc,
    clock: Arc<FakeClock>,
    alarm: Arc<FakeAlarm>,
    irq: Arc<FakeLine>,
}

impl Bench {
    fn new() -> Self {
        let (clock, alarm, irq) = (FakeClock::new(), FakeAlarm::new(), FakeLine::new());
        clock.set_wall(Duration::from_secs(START));
        Self { rtc: Rtc::new(clock.clone(), alarm.clone(), irq.clone()), clock, alarm, irq }
    }

    fn read(&mut self, address: u8) -> u8 {
        let mut data = [0];
        self.rtc.write(0, &[address]);
        self.rtc.read(1, &mut data);
        data[0]
    }

    fn write(&mut self, address: u8, value: u8) {
        self.rtc.write(0, &[address]);
        self.rtc.write(1, &[value]);
    }

    /// Century, year, month, day, hours, minutes, seconds.
    fn time(&mut self) -> [u8; 7] {
        [0x32, 9, 8, 7, 4, 2, 0].map(|address| self.read(address))
    }

    fn run_to(&mut self, nanos: u64) -> u64 {
        run_until(&self.clock, &self.alarm, &mut self.rtc, nanos)
    }
}

#[test]
fn time_is_the_wall_clocks_and_moves_along() {
    let mut bench = Bench::new();
    assert_eq!(bench.time(), [0x20, 0x26, 0x11, 0x21, 0x20, 0x00, 0x00]);
    assert_eq!(bench.read(6), 7);
    bench.clock.advance(3661 * SECOND + SECOND / 2);
    assert_eq!(bench.time(), [0x20, 0x26, 0x11, 0x21, 0x21, 0x01, 0x01]);
}

#[test]
fn format_bits_change_how_the_same_time_reads() {
    let mut bench = Bench::new();
    for (b, expected) in [
        (0x02, [0x20, 0x26, 0x11, 0x21, 0x20, 0x00, 0x00]),
        (0x06, [20, 26, 11, 21, 20, 0, 0]),
        (0x04, [20, 26, 11, 21, 0x88, 0, 0]),
        (0x00, [0x20, 0x26, 0x11, 0x21, 0x88, 0x00, 0x00]),
    ] {
        bench.write(0x0b, b);
        assert_eq!(bench.time(), expected, "{b:#x}");
    }
}

#[test]
fn time_set_as_linux_does_starts_half_a_second_before_the_next() {
    let mut bench = Bench::new();
    bench.clock.advance(SECOND * 7 / 10);
    bench.write(0x0b, 0x82);
    bench.write(0x0a, 0x70);
    for (address, value) in [(0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x59)] {
        bench.write(address, value);
    }
    bench.clock.advance(5 * SECOND);
    assert_eq!(bench.time(), [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59], "held");
    bench.write(0x0b, 0x02);
    bench.write(0x0a, 0x26);
    bench.clock.advance(SECOND / 2 - 1);
    assert_eq!(bench.time(), [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59]);
    bench.clock.advance(1);
    assert_eq!(bench.time(), [0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00]);
}

#[test]
fn time_written_without_set_takes_effect_at_once() {
    let mut bench = Bench::new();
    bench.clock.advance(SECOND / 4);
    bench.write(4, 0x07);
    assert_eq!(bench.time(), [0x20, 0x26, 0x11, 0x21, 0x07, 0x00, 0x00]);
    bench.clock.advance(SECOND * 3 / 4);
    assert_eq!(bench.time()[6], 0x01, "the fraction stays");
}

#[test]
fn time_survives_a_reset() {
    let mut bench = Bench::new();
    bench.write(4, 0x07);
    bench.write(0x0b, 0x72);
    bench.rtc.reset();
    assert_eq!((bench.read(4), bench.read(0x0b)), (0x07, 0x02));
}

#[test]
fn update_in_progress_shows_only_before_the_second_ends() {
    let mut bench = Bench::new();
    for (at, expected) in [
        (0, false),
        (SECOND - 2_228_001, false),
        (SECOND - 2_228_000, true),
        (SECOND - 1, true),
        (SECOND, false),
    ] {
        bench.clock.set(at);
        assert_eq!(bench.read(0x0a) & 0x80 != 0, expected, "{at}");
    }
    bench.write(0x0b, 0x82);
    bench.clock.set(2 * SECOND - 1);
    assert_eq!(bench.read(0x0a) & 0x80, 0, "held");
}

#[test]
fn update_ended_interrupts_each_second_when_acknowledged() {
    let mut bench = Bench::new();
    bench.write(0x0b, 0x12);
    for second in 1..=3 {
        bench.run_to(second * SECOND - 1);
        assert!(!bench.irq.is_high());
        bench.run_to(second * SECOND);
        assert!(bench.irq.is_high());
        assert_eq!(bench.read(0x0c) & 0xb0, 0x90);
        assert!(!bench.irq.is_high());
        assert_eq!(bench.read(0x0c), 0x00);
    }
}

#[test]
fn interrupt_nobody_acknowledges_comes_once() {
    let mut bench = Bench::new();
    bench.write(0x0b, 0x72);
    bench.write(0x0a, 0x21);
    let calls = bench.run_to(100 * SECOND);
    assert_eq!((bench.irq.take_rises(), calls, bench.alarm.at()), (1, 1, None));
}

#[test]
fn flags_are_set_without_enables_and_without_alarms() {
    let mut bench = Bench::new();
    assert_eq!(bench.run_to(2 * SECOND), 0);
    assert_eq!(bench.read(0x0c), 0x50, "periodic and update-ended, no interrupt");
    assert_eq!(bench.read(0x0c), 0x00);
}

#[test]
fn alarm_interrupts_at_its_time_of_day() {
    let mut bench = Bench::new();
    for (address, value) in [(5, 0x20), (3, 0x01), (1, 0x30)] {
        bench.write(address, value);
    }
    bench.write(0x0b, 0x22);
    assert_eq!(bench.run_to(90 * SECOND - 1), 0);
    assert_eq!(bench.run_to(90 * SECOND), 1);
    assert!(bench.irq.is_high());
    assert_eq!(bench.read(0x0c) & 0xb0, 0xb0);
    assert_eq!(bench.alarm.at(), Some((86_400 + 90) * SECOND), "again tomorrow");
}

#[test]
fn alarm_with_wildcards_matches_any() {
    let mut bench = Bench::new();
    for (address, value) in [(5, 0xff), (3, 0xc0), (1, 0x30)] {
        bench.write(address, value);
    }
    bench.write(0x0b, 0x22);
    for minute in 0..3 {
        bench.run_to((minute * 60 + 30) * SECOND);
        assert!(bench.irq.is_high());
        bench.read(0x0c);
    }
}

#[test]
fn alarm_that_no_time_matches_sets_no_alarm() {
    let mut bench = Bench::new();
    for (address, value) in [(5, 0x25), (3, 0x00), (1, 0x00)] {
        bench.write(address, value);
    }
    bench.write(0x0b, 0x22);
    assert_eq!(bench.alarm.at(), None);
}

#[test]
fn periodic_interrupts_at_each_rate() {
    for (rate, per_second) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (13, 8), (15, 2)] {
        let mut bench = Bench::new();
        bench.write(0x0a, 0x20 | rate);
        bench.write(0x0b, 0x42);
        bench.irq.take_rises();
        let mut seen = 0;
        while let Some(at) = bench.alarm.at().filter(|&at| at <= SECOND) {
            bench.run_to(at);
            assert_eq!(bench.read(0x0c) & 0xc0, 0xc0);
            seen += 1;
        }
        assert_eq!(seen, per_second, "rate {rate}");
    }
}

#[test]
fn periodic_rate_zero_or_a_held_divider_never_interrupts() {
    for a in [0x20, 0x76, 0x06] {
        let mut bench = Bench::new();
        bench.write(0x0a, a);
        bench.write(0x0b, 0x42);
        assert_eq!(bench.alarm.at(), None, "{a:#x}");
    }
}

#[test]
fn set_clears_the_update_ended_enable() {
    let mut bench = Bench::new();
    bench.write(0x0b, 0x92);
    assert_eq!(bench.read(0x0b), 0x82);
    assert_eq!(bench.alarm.at(), None);
}

#[test]
fn wall_clock_set_back_does_not_storm() {
    let mut bench = Bench::new();
    bench.write(0x0b, 0x12);
    bench.run_to(10 * SECOND);
    bench.read(0x0c);
    bench.clock.set_wall(Duration::from_secs(START - 3600));
    bench.irq.take_rises();
    // The alarm set before goes off, finds no new second, and is set for the next.
    assert!(bench.run_to(12 * SECOND) <= 3);
    assert_eq!(bench.irq.take_rises(), 1);
}

#[test]
fn read_only_registers_ignore_writes() {
    let mut bench = Bench::new();
    for address in [0x0c, 0x0d] {
        bench.write(address, 0xff);
    }
    assert_eq!((bench.read(0x0c), bench.read(0x0d)), (0x00, 0x80));
    bench.write(0x0a, 0xff);
    assert_eq!(bench.read(0x0a), 0x7f);
}

#[test]
fn memory_sizes_read_as_firmware_tells_them() {
    let mut bench = Bench::new();
    bench.rtc.set_memory_size(512 << 20, 0);
    let word = |bench: &mut Bench, at| u16::from_le_bytes([bench.read(at), bench.read(at + 1)]);
    assert_eq!(word(&mut bench, 0x15), 640);
    assert_eq!(word(&mut bench, 0x17), 0xffff);
    assert_eq!(word(&mut bench, 0x30), 0xffff);
    assert_eq!(word(&mut bench, 0x34), (496 << 20 >> 16) as u16);
    bench.rtc.set_memory_size(8 << 20, 5 << 30);
    assert_eq!(word(&mut bench, 0x17), 7 * 1024);
    assert_eq!(word(&mut bench, 0x34), 0);
    assert_eq!([0x5b, 0x5c, 0x5d].map(|at| bench.read(at)), [0x00, 0x40, 0x01]);
    bench.rtc.set_memory_size(0, u64::MAX);
    assert_eq!(word(&mut bench, 0x17), 0);
}

#[test]
fn memory_keeps_what_is_written_and_the_index_wraps_at_the_nmi_bit() {
    let mut bench = Bench::new();
    bench.write(0x0f, 0x0a);
    bench.write(0xff, 0x5a);
    assert!(bench.rtc.nmi_masked());
    assert_eq!((bench.read(0x0f), bench.read(0x7f)), (0x0a, 0x5a));
    assert!(!bench.rtc.nmi_masked());
    bench.rtc.set_cmos(0xff, 1);
    bench.rtc.set_cmos(0x0b, 1);
    assert_eq!(bench.read(0x0b), 0x02);
}

proptest! {
    #[test]
    fn any_accesses_at_any_time_leave_few_alarms_and_a_clock_that_answers(
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), 0u64..3 * SECOND), 0..60),
    ) {
        let mut bench = Bench::new();
        for (address, value, later) in steps {
            // Registers are hit more often than memory.
            let address = if address & 0x40 == 0 { address & 0x0f } else { address };
            bench.write(address, value);
            bench.read(address);
            let until = bench.clock.now() + later;
            let calls = bench.run_to(until);
            prop_assert!(calls <= 1, "no interrupt without an acknowledge of the last: {}", calls);
            prop_assert!(bench.alarm.at().is_none_or(|at| at > bench.clock.now()));
            bench.time();
            bench.read(0x0c);
        }
    }
}
