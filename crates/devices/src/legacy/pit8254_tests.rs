//! The timer as kernels calibrate with it and are interrupted by it.

use super::*;
use crate::legacy::Speaker;
use crate::testing::{FakeAlarm, FakeClock, FakeLine, run_until};
use proptest::prelude::*;
use std::sync::Mutex;

struct Bench {
    pit: Pit8254,
    clock: Arc<FakeClock>,
    alarm: Arc<FakeAlarm>,
    irq: Arc<FakeLine>,
}

impl Bench {
    fn new() -> Self {
        let (clock, alarm, irq) = (FakeClock::new(), FakeAlarm::new(), FakeLine::new());
        Self { pit: Pit8254::new(clock.clone(), alarm.clone(), irq.clone()), clock, alarm, irq }
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.pit.write(offset, &[value]);
    }

    fn read(&mut self, offset: u16) -> u8 {
        let mut data = [0];
        self.pit.read(offset, &mut data);
        data[0]
    }

    fn read_word(&mut self, offset: u16) -> u16 {
        u16::from_le_bytes([self.read(offset), self.read(offset)])
    }

    /// Programs a counter with a two-byte count; counting begins at the next clock.
    fn program(&mut self, channel: u8, mode: u8, count: u16) {
        self.write(3, channel << 6 | 0x30 | mode << 1);
        self.write(u16::from(channel), count as u8);
        self.write(u16::from(channel), (count >> 8) as u8);
    }

    /// Moves to this many input clocks after power-on, with alarms going off on the way.
    fn run_to(&mut self, clocks: u64) {
        let until = Pit8254::nanos(clocks);
        run_until(&self.clock, &self.alarm, &mut self.pit, until);
        assert_eq!(self.pit.now(), clocks);
    }

    fn count(&mut self, channel: u8) -> u16 {
        self.write(3, channel << 6);
        self.read_word(u16::from(channel))
    }

    fn status(&mut self, channel: u8) -> u8 {
        self.write(3, 0xe0 | 2 << channel);
        self.read(u16::from(channel))
    }

    /// Levels of a counter's output at the clocks given.
    fn outputs(&mut self, channel: usize, clocks: &[u64]) -> Vec<bool> {
        clocks
            .iter()
            .map(|&at| {
                self.run_to(at);
                self.pit.output(channel)
            })
            .collect()
    }
}

// The count written at clock 0 is loaded at clock 1.

#[test]
fn mode_0_rises_once_a_clock_after_the_count() {
    let mut bench = Bench::new();
    bench.program(0, 0, 100);
    assert_eq!(bench.outputs(0, &[0, 1, 100, 101, 70_000]), [false, false, false, true, true]);
    assert_eq!(bench.irq.take_rises(), 1);
    assert_eq!(bench.alarm.at(), None);
}

#[test]
fn mode_0_counts_on_below_zero_and_starts_over_with_a_new_count() {
    let mut bench = Bench::new();
    bench.program(0, 0, 100);
    bench.run_to(51);
    assert_eq!(bench.count(0), 50);
    bench.run_to(102);
    assert_eq!(bench.count(0), 0xffff);
    bench.write(0, 10);
    assert!(!bench.pit.output(0), "the first byte lowers it");
    bench.write(0, 0);
    bench.irq.take_rises();
    bench.run_to(113);
    assert_eq!((bench.pit.output(0), bench.irq.take_rises()), (true, 1));
}

#[test]
fn mode_2_is_low_for_the_last_clock_and_interrupts_each_period() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    assert_eq!(
        bench.outputs(0, &[0, 1, 999, 1000, 1001, 2000, 2001]),
        [true, true, true, false, true, false, true]
    );
    bench.irq.take_rises();
    bench.run_to(12_001);
    assert_eq!(bench.irq.take_rises(), 10);
}

#[test]
fn mode_2_counts_down_and_reloads() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    for (at, expected) in [(1, 1000), (2, 999), (1000, 1), (1001, 1000)] {
        bench.run_to(at);
        assert_eq!(bench.count(0), expected, "{at}");
    }
}

#[test]
fn mode_2_count_written_under_way_takes_over_at_the_next_period() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.run_to(500);
    bench.write(0, 0xd0);
    bench.write(0, 0x07);
    assert_ne!(bench.status(0) & 1 << 6, 0, "null count");
    assert_eq!(bench.outputs(0, &[1000, 1001, 2000, 3000, 3001]), [false, true, true, false, true]);
    assert_eq!(bench.status(0) & 1 << 6, 0);
}

#[test]
fn mode_3_is_high_for_the_longer_half() {
    let mut bench = Bench::new();
    bench.program(0, 3, 5);
    let clocks: Vec<u64> = (1..=11).collect();
    let expected = [1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1].map(|level| level == 1);
    assert_eq!(bench.outputs(0, &clocks), expected);
}

#[test]
fn mode_3_counts_by_twos_twice_a_period() {
    let mut bench = Bench::new();
    bench.program(0, 3, 8);
    let counts: Vec<u16> = (1..=8)
        .map(|at| {
            bench.run_to(at);
            bench.count(0)
        })
        .collect();
    assert_eq!(counts, [8, 6, 4, 2, 8, 6, 4, 2]);
    let mut bench = Bench::new();
    bench.program(0, 3, 7);
    let counts: Vec<u16> = (1..=7)
        .map(|at| {
            bench.run_to(at);
            bench.count(0)
        })
        .collect();
    assert_eq!(counts, [7, 6, 4, 2, 7, 4, 2]);
}

#[test]
fn mode_4_strobes_once() {
    let mut bench = Bench::new();
    bench.program(0, 4, 100);
    bench.irq.take_rises();
    assert_eq!(bench.outputs(0, &[1, 100, 101, 102, 1000]), [true, true, false, true, true]);
    assert_eq!(bench.irq.take_rises(), 1);
}

#[test]
fn modes_1_and_5_wait_for_the_gate_of_channel_2() {
    for (mode, at_start, expected) in
        [(1, true, [false, false, true, true]), (5, true, [true, true, false, true])]
    {
        let mut bench = Bench::new();
        bench.program(2, mode, 100);
        assert_eq!(bench.outputs(2, &[10, 500]), [at_start; 2]);
        bench.pit.set_gate2(true);
        assert_eq!(bench.outputs(2, &[501, 600, 601, 602]), expected, "mode {mode}");
        bench.pit.set_gate2(false);
        bench.pit.set_gate2(true);
        assert_eq!(bench.outputs(2, &[603, 702, 703, 704]), expected, "mode {mode} triggered again");
    }
}

#[test]
fn mode_0_with_the_gate_low_stands_still() {
    let mut bench = Bench::new();
    bench.program(2, 0, 100);
    assert_eq!(bench.outputs(2, &[1000]), [false]);
    bench.pit.set_gate2(true);
    bench.run_to(1060);
    bench.pit.set_gate2(false);
    let held = bench.count(2);
    bench.run_to(5000);
    assert_eq!((held, bench.count(2)), (40, 40));
    bench.pit.set_gate2(true);
    assert_eq!(bench.outputs(2, &[5039, 5040]), [false, true]);
}

#[test]
fn mode_3_with_the_gate_low_is_high_and_starts_over() {
    let mut bench = Bench::new();
    bench.pit.set_gate2(true);
    bench.program(2, 3, 100);
    assert_eq!(bench.outputs(2, &[60]), [false]);
    bench.pit.set_gate2(false);
    assert_eq!(bench.outputs(2, &[61, 500]), [true, true]);
    bench.pit.set_gate2(true);
    assert_eq!(bench.outputs(2, &[501, 550, 551]), [true, true, false]);
}

#[test]
fn channel_0_in_a_triggered_mode_never_interrupts() {
    for mode in [1, 5] {
        let mut bench = Bench::new();
        bench.program(0, mode, 100);
        bench.irq.take_rises();
        bench.run_to(10_000);
        assert_eq!((bench.irq.take_rises(), bench.alarm.at()), (0, None));
    }
}

#[test]
fn count_of_zero_is_the_longest() {
    let mut bench = Bench::new();
    bench.program(0, 2, 0);
    assert_eq!(bench.outputs(0, &[0x1_0000, 0x1_0001]), [false, true]);
    let mut bench = Bench::new();
    bench.write(3, 0x35);
    bench.write(0, 0);
    bench.write(0, 0);
    assert_eq!(bench.outputs(0, &[10_000, 10_001]), [false, true]);
}

#[test]
fn bcd_counts_in_decimal() {
    let mut bench = Bench::new();
    bench.write(3, 0x35);
    bench.write(0, 0x34);
    bench.write(0, 0x12);
    bench.run_to(1 + 235);
    assert_eq!(bench.count(0), 0x0999);
}

#[test]
fn latched_count_stays_until_read_and_is_read_in_two_bytes() {
    let mut bench = Bench::new();
    bench.program(0, 2, 0x1234);
    bench.run_to(1);
    bench.write(3, 0x00);
    bench.run_to(50);
    bench.write(3, 0x00);
    assert_eq!(bench.read(0), 0x34);
    bench.run_to(70);
    assert_eq!(bench.read(0), 0x12);
    assert_eq!(bench.read_word(0), 0x1234 - 69);
}

#[test]
fn single_byte_access_moves_one_half() {
    let mut bench = Bench::new();
    bench.write(3, 0x14);
    bench.write(0, 0x80);
    assert_eq!(bench.outputs(0, &[128, 129]), [false, true]);
    assert_eq!(bench.read(0), 0x80);
    let mut bench = Bench::new();
    bench.write(3, 0x24);
    bench.write(0, 0x01);
    assert_eq!(bench.outputs(0, &[256, 257]), [false, true]);
    assert_eq!(bench.read(0), 0x01);
}

#[test]
fn read_back_latches_status_before_count() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.run_to(2);
    bench.write(3, 0xc2);
    assert_eq!(bench.read(0), 0xb4, "out, counting, two bytes, mode 2");
    assert_eq!(bench.read_word(0), 999);
    bench.write(3, 0x30);
    assert_eq!(bench.status(0), 0x70, "no count yet");
}

#[test]
fn shortest_periods_do_not_burn_the_host() {
    for (mode, count) in [(2, 1), (2, 2), (3, 1), (3, 2), (2, 10)] {
        let mut bench = Bench::new();
        bench.program(0, mode, count);
        let second = 1_000_000_000;
        let calls = run_until(&bench.clock, &bench.alarm, &mut bench.pit, second);
        assert!((1_000..=20_500).contains(&calls), "{calls} alarms a second in mode {mode} with {count}");
    }
}

#[test]
fn late_alarm_makes_one_interrupt_and_keeps_the_phase() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.irq.take_rises();
    bench.clock.set(Pit8254::nanos(50_500));
    bench.pit.expire(bench.clock.now());
    assert_eq!(bench.irq.take_rises(), 1);
    assert_eq!(bench.alarm.at(), Some(Pit8254::nanos(51_001)));
}

#[test]
fn early_alarm_is_set_again() {
    let mut bench = Bench::new();
    bench.program(0, 0, 1000);
    let at = bench.alarm.at();
    bench.alarm.set(None);
    bench.pit.expire(5);
    assert_eq!((bench.alarm.at(), bench.irq.take_rises()), (at, 0));
}

#[test]
fn reading_the_count_sets_no_alarm() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.alarm.take_sets();
    bench.count(0);
    bench.status(0);
    assert_eq!(bench.alarm.take_sets(), 0);
}

#[test]
fn speaker_port_gates_and_shows_channel_2_as_tsc_calibration_uses_it() {
    let (clock, alarm) = (FakeClock::new(), FakeAlarm::new());
    let pit = Arc::new(Mutex::new(Pit8254::new(clock.clone(), alarm, FakeLine::new())));
    let mut speaker = Speaker::new(pit.clone(), clock.clone());
    let mut read = || {
        let mut data = [0];
        speaker.read(0, &mut data);
        data[0]
    };
    assert_eq!(read() & 0x0f, 0);
    let mut speaker = Speaker::new(pit.clone(), clock.clone());
    speaker.write(0, &[0x01]);
    for (offset, value) in [(3, 0xb0), (2, 0x9c), (2, 0x2e)] {
        pit.lock().unwrap().write(offset, &[value]);
    }
    let mut data = [0];
    let mut polls = 0;
    loop {
        speaker.read(0, &mut data);
        if data[0] & 0x20 != 0 {
            break;
        }
        clock.advance(1_000);
        polls += 1;
        assert!(polls < 20_000, "OUT2 never rose");
    }
    // 0x2e9c clocks are 10 ms.
    assert!((9_999..=10_002).contains(&polls), "{polls}");
    assert_eq!(data[0] & 0x0f, 0x01);
}

#[test]
fn refresh_bit_toggles_every_fifteen_microseconds() {
    let clock = FakeClock::new();
    let pit = Pit8254::new(clock.clone(), FakeAlarm::new(), FakeLine::new());
    let mut speaker = Speaker::new(Arc::new(Mutex::new(pit)), clock.clone());
    let mut toggles = 0;
    let mut last = 0;
    for _ in 0..10_000 {
        let mut data = [0];
        speaker.read(0, &mut data);
        toggles += u32::from(data[0] & 0x10 != last);
        last = data[0] & 0x10;
        clock.advance(100);
    }
    assert!((65..=67).contains(&toggles), "{toggles} in a millisecond");
}

proptest! {
    #[test]
    fn any_accesses_at_any_time_leave_an_alarm_in_the_future(
        steps in prop::collection::vec((0u16..5, any::<u8>(), 0u64..100_000_000), 0..100),
    ) {
        let mut bench = Bench::new();
        for (offset, value, later) in steps {
            if offset == 4 {
                bench.pit.set_gate2(value & 1 != 0);
            } else {
                bench.write(offset, value);
                bench.read(offset % 3);
                bench.pit.output(usize::from(offset));
            }
            // 50 µs at least between two alarms.
            let until = bench.clock.now() + later;
            let calls = run_until(&bench.clock, &bench.alarm, &mut bench.pit, until);
            prop_assert!(calls <= later / 49_000 + 2, "{} alarms in {} ns", calls, later);
            if let Some(at) = bench.alarm.at() {
                prop_assert!(at > bench.clock.now());
            }
        }
    }

    #[test]
    fn interrupts_over_a_second_are_as_many_as_the_frequency_says(count in 100u16..) {
        let mut bench = Bench::new();
        bench.program(0, 2, count);
        bench.irq.take_rises();
        bench.run_to(HZ);
        prop_assert_eq!(bench.irq.take_rises(), (HZ - 1) / u64::from(count));
    }
}
