//! The local APIC's timer (SDM 3A 10.5.4): a down-counter, or a deadline on the time-stamp counter.
//!
//! All times are TSC ticks. The counter's input runs at [`TIMER_KHZ`], whatever the TSC's frequency; expiries are
//! computed from the moment counting started, never accumulated, so that a periodic timer doesn't drift.

/// The counter's input before the divider: 1 GHz.
pub const TIMER_KHZ: u64 = 1_000_000;

/// LVT timer register bits 18:17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl Mode {
    /// Of the timer's LVT entry. 11 is reserved; silicon takes it for the deadline.
    pub(super) const fn of_lvt(entry: u32) -> Self {
        match entry >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            _ => Self::TscDeadline,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Timer {
    /// Frequency of the time-stamp counter.
    tsc_khz: u64,
    mode: Mode,
    initial_count: u32,
    /// Divide configuration register, bits 3, 1, 0.
    divide: u32,
    /// When the count was last loaded, and with what; a count of 0 is stopped.
    origin: u64,
    origin_count: u32,
    /// Expiries since `origin`; more than one only when periodic.
    expiries: u64,
    /// TSC-deadline mode: 0 is disarmed.
    deadline: u64,
}

impl Timer {
    pub(super) fn new(tsc_khz: u64) -> Self {
        Self {
            tsc_khz: tsc_khz.max(1),
            mode: Mode::OneShot,
            initial_count: 0,
            divide: 0,
            origin: 0,
            origin_count: 0,
            expiries: 0,
            deadline: 0,
        }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.tsc_khz);
    }

    pub(super) fn initial_count(&self) -> u32 {
        self.initial_count
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// The binary logarithm of the divisor: 000 is 2, 110 is 128, 111 is 1.
    fn divide_shift(&self) -> u32 {
        let field = self.divide & 3 | self.divide >> 1 & 4;
        (field + 1) & 7
    }

    /// Whole counts in `ticks` of the TSC.
    fn counts_in(&self, ticks: u64) -> u128 {
        (u128::from(ticks) * u128::from(TIMER_KHZ) / u128::from(self.tsc_khz)) >> self.divide_shift()
    }

    /// TSC ticks until `counts` have been counted, rounded up.
    fn ticks_for(&self, counts: u128) -> u64 {
        let ticks = (counts << self.divide_shift())
            .saturating_mul(u128::from(self.tsc_khz))
            .div_ceil(u128::from(TIMER_KHZ));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// When the counter next reaches 0.
    fn count_expiry(&self) -> Option<u64> {
        if self.origin_count == 0 || (self.mode != Mode::Periodic && self.expiries > 0) {
            return None;
        }
        let counts =
            u128::from(self.origin_count) + u128::from(self.initial_count) * u128::from(self.expiries);
        Some(self.origin.saturating_add(self.ticks_for(counts)))
    }

    /// When the timer next fires; `None` when stopped.
    pub(super) fn next(&self) -> Option<u64> {
        match self.mode {
            Mode::TscDeadline => (self.deadline != 0).then_some(self.deadline),
            Mode::OneShot | Mode::Periodic => self.count_expiry(),
        }
    }

    /// Takes note of what has passed by `now`; whether the timer fired. Several missed periods count as one firing.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        if self.next().is_none_or(|at| at > now) {
            return false;
        }
        match self.mode {
            Mode::TscDeadline => self.deadline = 0,
            Mode::OneShot => self.expiries = 1,
            Mode::Periodic => {
                let counted = self.counts_in(now.saturating_sub(self.origin));
                let past_first = counted.saturating_sub(u128::from(self.origin_count));
                let periods = past_first / u128::from(self.initial_count.max(1)) + 1;
                self.expiries = u64::try_from(periods).unwrap_or(u64::MAX).max(self.expiries + 1);
            }
        }
        true
    }

    /// The current-count register.
    pub(super) fn current_count(&self, now: u64) -> u32 {
        if self.mode == Mode::TscDeadline || self.origin_count == 0 {
            return 0;
        }
        let counted = self.counts_in(now.saturating_sub(self.origin));
        let origin_count = u128::from(self.origin_count);
        let left = if counted < origin_count {
            origin_count - counted
        } else if self.mode == Mode::Periodic && self.initial_count != 0 {
            let initial = u128::from(self.initial_count);
            initial - (counted - origin_count) % initial
        } else {
            0
        };
        left as u32
    }

    fn load(&mut self, count: u32, now: u64) {
        self.origin = now;
        self.origin_count = count;
        self.expiries = 0;
    }

    /// Writes the initial-count register: starts counting, or with 0 stops. Ignored in TSC-deadline mode.
    pub(super) fn set_initial_count(&mut self, count: u32, now: u64) {
        if self.mode != Mode::TscDeadline {
            self.initial_count = count;
            self.load(count, now);
        }
    }

    /// Writes the divide configuration register; a count under way goes on from where it is.
    pub(super) fn set_divide(&mut self, divide: u32, now: u64) {
        let current = self.current_count(now);
        self.divide = divide & 0b1011;
        self.load(current, now);
    }

    /// Changes the mode. Into or out of TSC-deadline mode the timer is disarmed (SDM 3A 10.5.4.1).
    pub(super) fn set_mode(&mut self, mode: Mode, now: u64) {
        if mode == self.mode {
            return;
        }
        if mode == Mode::TscDeadline || self.mode == Mode::TscDeadline {
            self.initial_count = 0;
            self.deadline = 0;
            self.load(0, now);
        } else {
            let current = self.current_count(now);
            self.load(current, now);
        }
        self.mode = mode;
    }

    /// IA32_TSC_DEADLINE: 0 when disarmed, fired, or not in TSC-deadline mode.
    pub(super) fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Writes IA32_TSC_DEADLINE; ignored outside TSC-deadline mode.
    pub(super) fn set_deadline(&mut self, deadline: u64) {
        if self.mode == Mode::TscDeadline {
            self.deadline = deadline;
        }
    }

    /// Puts a saved count back.
    pub(super) fn restore(&mut self, initial_count: u32, current_count: u32, divide: u32, now: u64) {
        self.initial_count = initial_count;
        self.divide = divide & 0b1011;
        self.load(current_count.min(initial_count), now);
    }

    /// The guest wrote its TSC, which moved by `delta`: the counter counts time, and must not notice.
    pub(super) fn tsc_moved(&mut self, delta: i64) {
        self.origin = self.origin.wrapping_add_signed(delta);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// At 2 GHz two TSC ticks make one count with divisor 1.
    fn timer(mode: Mode) -> Timer {
        let mut timer = Timer::new(2_000_000);
        timer.set_divide(0b1011, 0);
        timer.set_mode(mode, 0);
        timer
    }

    #[test]
    fn divide_shift_of_each_encoding_is_the_manuals() {
        let table = [
            (0b0000, 1),
            (0b0001, 2),
            (0b0010, 3),
            (0b0011, 4),
            (0b1000, 5),
            (0b1001, 6),
            (0b1010, 7),
            (0b1011, 0),
        ];
        let mut timer = timer(Mode::OneShot);
        for (divide, shift) in table {
            timer.set_divide(divide, 0);
            assert_eq!(timer.divide_shift(), shift, "{divide:#b}");
        }
    }

    #[test]
    fn one_shot_counts_down_fires_once_and_stays_at_zero() {
        let mut timer = timer(Mode::OneShot);
        timer.set_initial_count(100, 1000);
        assert_eq!(
            (timer.next(), timer.current_count(1001), timer.current_count(1002)),
            (Some(1200), 100, 99)
        );
        assert!(!timer.expire(1199));
        assert!(timer.expire(1200));
        assert_eq!((timer.next(), timer.current_count(5000), timer.initial_count()), (None, 0, 100));
        assert!(!timer.expire(9999));
    }

    #[test]
    fn periodic_after_missed_periods_fires_once_and_keeps_phase() {
        let mut timer = timer(Mode::Periodic);
        timer.set_initial_count(100, 0);
        assert!(timer.expire(1_000_050));
        assert!(!timer.expire(1_000_051));
        assert_eq!(timer.next(), Some(1_000_200));
        assert_eq!(timer.current_count(1_000_050), 75);
    }

    #[test]
    fn periodic_with_shortest_period_over_a_year_expires_in_one_step() {
        let mut timer = timer(Mode::Periodic);
        timer.set_initial_count(1, 0);
        let year = 2_000_000_000u64 * 86_400 * 365;
        assert!(timer.expire(year));
        assert_eq!(timer.next(), Some(year + 2));
    }

    #[test]
    fn divide_written_while_counting_continues_from_the_current_count() {
        let mut timer = timer(Mode::OneShot);
        timer.set_initial_count(100, 0);
        timer.set_divide(0b0000, 100);
        assert_eq!((timer.current_count(100), timer.next()), (50, Some(300)));
    }

    #[test]
    fn initial_count_of_zero_stops_the_timer() {
        let mut timer = timer(Mode::Periodic);
        timer.set_initial_count(100, 0);
        timer.set_initial_count(0, 10);
        assert_eq!((timer.next(), timer.current_count(20)), (None, 0));
    }

    #[test]
    fn deadline_fires_once_and_then_reads_zero() {
        let mut timer = timer(Mode::TscDeadline);
        timer.set_deadline(500);
        assert!(!timer.expire(499));
        assert_eq!(timer.deadline(), 500);
        assert!(timer.expire(500));
        assert_eq!((timer.deadline(), timer.next()), (0, None));
    }

    #[test]
    fn mode_switch_to_and_from_deadline_disarms() {
        let mut timer = timer(Mode::OneShot);
        timer.set_initial_count(100, 0);
        timer.set_mode(Mode::TscDeadline, 10);
        assert_eq!(timer.next(), None);
        timer.set_initial_count(100, 0);
        assert_eq!(timer.next(), None);
        timer.set_deadline(50);
        timer.set_mode(Mode::OneShot, 10);
        assert_eq!((timer.next(), timer.deadline()), (None, 0));
        timer.set_deadline(50);
        assert_eq!(timer.deadline(), 0);
    }

    #[test]
    fn tsc_moved_leaves_the_count_alone() {
        let mut timer = timer(Mode::OneShot);
        timer.set_initial_count(100, 1000);
        timer.tsc_moved(-900);
        assert_eq!((timer.current_count(200), timer.next()), (50, Some(300)));
    }

    proptest! {
        #[test]
        fn the_count_is_zero_or_reloaded_exactly_from_the_expiry_on(
            khz in 1u64..10_000_000, count in 1u32.., divide in 0u32..16, start in 0u64..1 << 60, periodic: bool, later in 0u64..1 << 50,
        ) {
            let mut timer = Timer::new(khz);
            timer.set_mode(if periodic { Mode::Periodic } else { Mode::OneShot }, 0);
            timer.set_divide(divide, 0);
            timer.set_initial_count(count, start);
            let at = timer.next().unwrap();
            if count > 1 {
                prop_assert!(timer.current_count(at - 1) >= 1);
            }
            if !periodic {
                prop_assert_eq!(timer.current_count(at), 0);
            }
            prop_assert!(!timer.expire(at - 1));
            let now = at.saturating_add(later);
            prop_assert!(timer.expire(now));
            prop_assert!(!timer.expire(now));
            match timer.next() {
                Some(next) => {
                    prop_assert!(periodic && next > now);
                    prop_assert!(timer.current_count(now) >= 1);
                }
                None => prop_assert!(!periodic && timer.current_count(now) == 0),
            }
        }
    }
}
