//! Stand-ins for a board's wires, so that every device is tested with no board and no engine.

use crate::wiring::{Alarm, BoardControl, BoardEvent, Clock, IrqLine, MsiSink, Nanos, Timed};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A clock that moves when told. Wall time moves along with it.
#[derive(Default)]
pub struct FakeClock {
    now: AtomicU64,
    /// Wall-clock time at board time 0.
    wall_at_zero: Mutex<Duration>,
}

impl FakeClock {
    /// At time 0, on 1 January 1970.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Nanos) {
        self.now.fetch_add(by, Ordering::Relaxed);
    }

    /// Sets the clock.
    pub fn set(&self, now: Nanos) {
        self.now.store(now, Ordering::Relaxed);
    }

    /// Makes it this wall-clock time (since the Unix epoch) now.
    pub fn set_wall(&self, wall: Duration) {
        *lock(&self.wall_at_zero) = wall.saturating_sub(Duration::from_nanos(self.now()));
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Nanos {
        self.now.load(Ordering::Relaxed)
    }

    fn wall(&self) -> Duration {
        *lock(&self.wall_at_zero) + Duration::from_nanos(self.now())
    }
}

/// An interrupt pin that remembers its level and counts its rising edges.
#[derive(Default)]
pub struct FakeLine {
    high: AtomicBool,
    rises: AtomicU64,
}

impl FakeLine {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The level now.
    pub fn is_high(&self) -> bool {
        self.high.load(Ordering::Relaxed)
    }

    /// Low-to-high transitions since the last call.
    pub fn take_rises(&self) -> u64 {
        self.rises.swap(0, Ordering::Relaxed)
    }
}

impl IrqLine for FakeLine {
    fn set(&self, high: bool) {
        if !self.high.swap(high, Ordering::Relaxed) && high {
            self.rises.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An alarm that remembers what it was set to.
#[derive(Default)]
pub struct FakeAlarm {
    at: Mutex<Option<Nanos>>,
    sets: AtomicU64,
}

impl FakeAlarm {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The time set, `None` when disarmed.
    pub fn at(&self) -> Option<Nanos> {
        *lock(&self.at)
    }

    /// Calls of [`Alarm::set`] since the last call of this.
    pub fn take_sets(&self) -> u64 {
        self.sets.swap(0, Ordering::Relaxed)
    }
}

impl Alarm for FakeAlarm {
    fn set(&self, at: Option<Nanos>) {
        self.sets.fetch_add(1, Ordering::Relaxed);
        *lock(&self.at) = at;
    }
}

/// Where MSIs are remembered.
#[derive(Default)]
pub struct FakeMsi {
    messages: Mutex<Vec<(u64, u32)>>,
}

impl FakeMsi {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The messages (address, data) since the last call, oldest first.
    pub fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut lock(&self.messages))
    }
}

impl MsiSink for FakeMsi {
    fn signal(&self, address: u64, data: u32) {
        lock(&self.messages).push((address, data));
    }
}

/// A board that remembers what it was asked.
#[derive(Default)]
pub struct FakeBoard {
    events: Mutex<Vec<BoardEvent>>,
}

impl FakeBoard {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The requests since the last call, oldest first.
    pub fn take(&self) -> Vec<BoardEvent> {
        std::mem::take(&mut lock(&self.events))
    }
}

impl BoardControl for FakeBoard {
    fn request(&self, event: BoardEvent) {
        lock(&self.events).push(event);
    }
}

/// Runs the clock up to `until` as a board with a perfect timer would: at each alarm the device's `expire` is called at
/// exactly the time set. Returns how often it was called.
///
/// # Panics
/// After a million alarms: the device keeps asking for times that have passed.
pub fn run_until(clock: &FakeClock, alarm: &FakeAlarm, device: &mut dyn Timed, until: Nanos) -> u64 {
    let mut calls = 0;
    while let Some(at) = alarm.at().filter(|&at| at <= until) {
        clock.set(at.max(clock.now()));
        alarm.set(None);
        device.expire(clock.now());
        calls += 1;
        assert!(calls < 1_000_000, "the device's alarm never stops");
    }
    clock.set(until);
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    struct EveryTen(Arc<FakeAlarm>);

    impl Timed for EveryTen {
        fn expire(&mut self, now: Nanos) {
            self.0.set(Some(now + 10));
        }
    }

    #[test]
    fn run_until_with_periodic_device_calls_it_at_each_alarm() {
        let (clock, alarm) = (FakeClock::new(), FakeAlarm::new());
        alarm.set(Some(5));
        assert_eq!(run_until(&clock, &alarm, &mut EveryTen(alarm.clone()), 30), 3);
        assert_eq!((clock.now(), alarm.at()), (30, Some(35)));
    }

    #[test]
    fn line_set_high_twice_counts_one_rise() {
        let line = FakeLine::new();
        for level in [true, true, false, true] {
            line.set(level);
        }
        assert_eq!((line.take_rises(), line.is_high()), (2, true));
    }

    #[test]
    fn wall_after_advance_moves_along() {
        let clock = FakeClock::new();
        clock.advance(1_000);
        clock.set_wall(Duration::from_secs(100));
        clock.advance(500);
        assert_eq!(clock.wall(), Duration::from_nanos(100_000_000_500));
    }
}
