//! PrimeCell real-time clock PL031 (Arm DDI 0224C): seconds of the Unix epoch, with a match interrupt.
//!
//! It shows the board's wall clock plus an offset, which the guest changes by writing RTCLR.

use super::{identification, read_word, written_word};
use crate::wiring::{Alarm, Clock, IrqLine, MmioDevice, Nanos, Timed};
use std::sync::Arc;
use std::time::Duration;

// Offsets of the registers (table 3-1).
const DR: u64 = 0x00;
const MR: u64 = 0x04;
const LR: u64 = 0x08;
const CR: u64 = 0x0c;
const IMSC: u64 = 0x10;
const RIS: u64 = 0x14;
const MIS: u64 = 0x18;
const ICR: u64 = 0x1c;
const LAST: u64 = 0xffc;

const PART: u16 = 0x031;

/// The chip.
pub struct Pl031 {
    clock: Arc<dyn Clock>,
    alarm: Arc<dyn Alarm>,
    irq: Arc<dyn IrqLine>,
    /// The count is the wall clock's seconds plus this, modulo 2^32.
    offset: u32,
    load: u32,
    matching: u32,
    masked_in: bool,
    raw: bool,
    /// Wall-clock time at which the count comes to the match register's value.
    due: Option<Duration>,
}

impl Pl031 {
    /// A clock that shows the board's wall clock. `alarm` calls [`Timed::expire`].
    pub fn new(clock: Arc<dyn Clock>, alarm: Arc<dyn Alarm>, irq: Arc<dyn IrqLine>) -> Self {
        Self { clock, alarm, irq, offset: 0, load: 0, matching: 0, masked_in: false, raw: false, due: None }
    }

    /// The board's reset: time goes on, interrupts go.
    pub fn reset(&mut self) {
        self.load = 0;
        self.matching = 0;
        self.masked_in = false;
        self.raw = false;
        self.due = None;
        self.alarm.set(None);
        self.update_irq();
    }

    fn count(&self) -> u32 {
        (self.clock.wall().as_secs() as u32).wrapping_add(self.offset)
    }

    fn update_irq(&self) {
        self.irq.set(self.raw && self.masked_in);
    }

    /// Finds out when the count comes to the match register's value; at once where it is there.
    fn look_for_match(&mut self) {
        let left = self.matching.wrapping_sub(self.count());
        let wall = self.clock.wall();
        self.due = Some(Duration::from_secs(wall.as_secs().saturating_add(left.into())));
        self.expire(self.clock.now());
    }

    fn register(&self, offset: u64) -> u32 {
        match offset {
            DR => self.count(),
            MR => self.matching,
            LR => self.load,
            // Started, and there is no stopping it.
            CR => 1,
            IMSC => self.masked_in.into(),
            RIS => self.raw.into(),
            MIS => (self.raw && self.masked_in).into(),
            super::ID..=LAST => identification(offset, PART, 0),
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            MR => {
                self.matching = value;
                self.look_for_match();
            }
            LR => {
                self.load = value;
                self.offset = value.wrapping_sub(self.clock.wall().as_secs() as u32);
                self.look_for_match();
            }
            IMSC => self.masked_in = value & 1 != 0,
            ICR if value & 1 != 0 => self.raw = false,
            _ => {}
        }
    }
}

impl Timed for Pl031 {
    fn expire(&mut self, now: Nanos) {
        let Some(due) = self.due else { return };
        match due.checked_sub(self.clock.wall()).filter(|left| !left.is_zero()) {
            // The host's clock was set back, or this one stood still meanwhile.
            Some(left) => {
                let left = Nanos::try_from(left.as_nanos()).unwrap_or(Nanos::MAX);
                self.alarm.set(Some(now.saturating_add(left)));
            }
            None => {
                self.due = None;
                self.alarm.set(None);
                self.raw = true;
                self.update_irq();
            }
        }
    }
}

impl MmioDevice for Pl031 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_word(offset, data, |register| self.register(register));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(value) = written_word(offset, data) {
            self.set_register(offset, value);
            self.update_irq();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeAlarm, FakeClock, FakeLine, run_until};
    use proptest::prelude::*;

    struct Bench {
        clock: Arc<FakeClock>,
        alarm: Arc<FakeAlarm>,
        line: Arc<FakeLine>,
        rtc: Pl031,
    }

    impl Bench {
        fn new() -> Self {
            let (clock, alarm, line) = (FakeClock::new(), FakeAlarm::new(), FakeLine::new());
            clock.set_wall(Duration::from_millis(1_700_000_000_250));
            let rtc = Pl031::new(clock.clone(), alarm.clone(), line.clone());
            Self { clock, alarm, line, rtc }
        }
        fn get(&mut self, offset: u64) -> u32 {
            let mut data = [0; 4];
            self.rtc.read(offset, &mut data);
            u32::from_le_bytes(data)
        }
        fn set(&mut self, offset: u64, value: u32) {
            self.rtc.write(offset, &value.to_le_bytes());
        }
        fn run_for(&mut self, millis: u64) {
            let until = self.clock.now() + millis * 1_000_000;
            run_until(&self.clock, &self.alarm, &mut self.rtc, until);
        }
    }

    #[test]
    fn count_is_wall_time_and_follows_what_is_loaded() {
        let mut b = Bench::new();
        assert_eq!((b.get(DR), b.get(CR)), (1_700_000_000, 1));
        b.set(LR, 100);
        b.run_for(2_750);
        assert_eq!((b.get(DR), b.get(LR)), (103, 100));
        b.rtc.reset();
        assert_eq!(b.get(DR), 103, "time goes on");
        assert_eq!((b.get(0xfe0), b.get(0xfe4), b.get(0xffc)), (0x31, 0x10, 0xb1));
    }

    #[test]
    fn match_interrupts_at_its_second_once_and_until_cleared() {
        let mut b = Bench::new();
        b.set(IMSC, 1);
        b.set(MR, 1_700_000_002);
        b.run_for(1_749);
        assert!(!b.line.is_high());
        b.run_for(1);
        assert!(b.line.is_high());
        assert_eq!((b.get(DR), b.get(RIS), b.get(MIS)), (1_700_000_002, 1, 1));
        b.set(ICR, 1);
        b.run_for(5_000);
        assert_eq!((b.line.is_high(), b.line.take_rises(), b.alarm.at()), (false, 1, None));
    }

    #[test]
    fn match_that_is_masked_or_now_shows_in_the_raw_status() {
        let mut b = Bench::new();
        let now = b.get(DR);
        b.set(MR, now);
        assert_eq!((b.get(RIS), b.get(MIS), b.line.is_high()), (1, 0, false));
        b.set(IMSC, 1);
        assert!(b.line.is_high());
        b.rtc.reset();
        assert!(!b.line.is_high());
        b.set(MR, now.wrapping_sub(1));
        assert_eq!(b.get(RIS), 0, "136 years to go");
    }

    #[test]
    fn alarm_that_comes_early_is_set_again() {
        let mut b = Bench::new();
        b.set(MR, 1_700_000_010);
        b.rtc.expire(0);
        assert_eq!((b.get(RIS), b.alarm.at().is_some()), (0, true));
    }

    proptest! {
        #[test]
        fn any_accesses_are_harmless(accesses in prop::collection::vec((0u64..0x1010, 0usize..9, any::<u64>(), any::<bool>(), 0u64..5_000), 1..60)) {
            let mut b = Bench::new();
            for (offset, len, value, write, millis) in accesses {
                let mut data = value.to_le_bytes();
                match write {
                    true => b.rtc.write(offset, &data[..len]),
                    false => b.rtc.read(offset, &mut data[..len]),
                }
                b.run_for(millis);
                prop_assert_eq!(b.line.is_high(), b.get(MIS) != 0);
            }
        }
    }
}
