//! All of a board's alarms, on one thread.
//!
//! Locks: [`Alarms::state`] is taken with a device locked (by [`Alarm::set`]), so the thread lets go of it before it
//! locks a device to call [`Timed::expire`]. The clock's own lock comes after both.

use crate::Error;
use crate::clock::BoardClock;
use devices::wiring::{Alarm, Clock, Nanos, Timed};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

/// The alarms and their thread.
pub struct Alarms {
    clock: Arc<BoardClock>,
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    /// What is due when, earliest first.
    due: BTreeSet<(Nanos, usize)>,
    alarms: Vec<Entry>,
    /// A device is being called.
    busy: bool,
    stopping: bool,
}

#[derive(Default)]
struct Entry {
    at: Option<Nanos>,
    device: Option<Weak<Mutex<dyn Timed>>>,
}

/// A new alarm, not connected to its device yet: the device needs the alarm to be made.
pub struct NewAlarm {
    index: usize,
    alarm: Arc<OneAlarm>,
}

impl NewAlarm {
    /// For the device's constructor.
    pub fn alarm(&self) -> Arc<dyn Alarm> {
        self.alarm.clone()
    }
    /// Makes it call `device`.
    pub fn connect<D: Timed + 'static>(self, device: &Arc<Mutex<D>>) {
        let device: Weak<Mutex<D>> = Arc::downgrade(device);
        self.alarm.alarms.lock().alarms[self.index].device = Some(device);
    }
}

struct OneAlarm {
    index: usize,
    alarms: Arc<Alarms>,
}

impl Alarm for OneAlarm {
    fn set(&self, at: Option<Nanos>) {
        let mut s = self.alarms.lock();
        let old = std::mem::replace(&mut s.alarms[self.index].at, at);
        if old == at {
            return;
        }
        if let Some(old) = old {
            s.due.remove(&(old, self.index));
        }
        if let Some(at) = at {
            s.due.insert((at, self.index));
            // The thread sleeps until the earliest.
            if s.due.first() == Some(&(at, self.index)) {
                self.alarms.changed.notify_all();
            }
        }
    }
}

impl Alarms {
    /// No alarms yet, and no thread.
    pub fn new(clock: Arc<BoardClock>) -> Arc<Self> {
        Arc::new(Self { clock, state: Mutex::default(), changed: Condvar::new(), thread: Mutex::new(None) })
    }

    /// Another alarm.
    pub fn create(self: &Arc<Self>) -> NewAlarm {
        let mut s = self.lock();
        let index = s.alarms.len();
        s.alarms.push(Entry::default());
        NewAlarm { index, alarm: Arc::new(OneAlarm { index, alarms: self.clone() }) }
    }

    /// Starts the thread.
    pub fn start(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let me = self.clone();
        let thread = std::thread::Builder::new().name(format!("{name} timer")).spawn(move || me.run());
        let thread = thread.map_err(|source| Error::Thread { what: "the timers", source })?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// To be called when the clock goes on.
    pub fn clock_unpaused(&self) {
        let _s = self.lock();
        self.changed.notify_all();
    }

    /// To be called when the clock was stopped: returns once no device is being called.
    pub fn wait_until_idle(&self) {
        let mut s = self.lock();
        while s.busy {
            s = self.wait(s);
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            log::error!("the timer thread failed before it was stopped");
        }
    }

    fn run(&self) {
        let mut s = self.lock();
        while !s.stopping {
            let Some(&(at, index)) = s.due.first() else {
                s = self.wait(s);
                continue;
            };
            match self.clock.until(at) {
                None => s = self.wait(s),
                Some(left) if !left.is_zero() => {
                    s = self.changed.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(_) => {
                    s.due.pop_first();
                    s.alarms[index].at = None;
                    let device = s.alarms[index].device.as_ref().and_then(Weak::upgrade);
                    s.busy = true;
                    drop(s);
                    if let Some(device) = device {
                        // A bug in a device costs that device, not everyone who waits for this thread.
                        let expired = catch_unwind(AssertUnwindSafe(|| {
                            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
                            device.expire(self.clock.now());
                        }));
                        if expired.is_err() {
                            log::error!("a device failed at its alarm {index}, which is left unset");
                        }
                    }
                    s = self.lock();
                    s.busy = false;
                    self.changed.notify_all();
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn wait<'a>(&self, s: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(s).unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const MS: Nanos = 1_000_000;

    struct Device {
        alarm: Arc<dyn Alarm>,
        period: Option<Nanos>,
        calls: Sender<Nanos>,
    }
    impl Timed for Device {
        fn expire(&mut self, now: Nanos) {
            self.alarm.set(self.period.map(|p| now + p));
            let _ = self.calls.send(now);
        }
    }

    fn device(alarms: &Arc<Alarms>, period: Option<Nanos>) -> (Arc<Mutex<Device>>, Receiver<Nanos>) {
        let (calls, received) = channel();
        let new = alarms.create();
        let d = Arc::new(Mutex::new(Device { alarm: new.alarm(), period, calls }));
        new.connect(&d);
        (d, received)
    }

    #[test]
    fn alarms_come_in_order_and_not_before_their_time() {
        let clock = Arc::new(BoardClock::default());
        let alarms = Alarms::new(clock.clone());
        let (a, calls_a) = device(&alarms, None);
        let (b, calls_b) = device(&alarms, Some(5 * MS));
        a.lock().unwrap().alarm.set(Some(20 * MS));
        b.lock().unwrap().alarm.set(Some(60_000 * MS));
        alarms.start("test").unwrap();
        clock.unpause();
        alarms.clock_unpaused();
        // An earlier time replaces the later one while the thread sleeps.
        b.lock().unwrap().alarm.set(Some(10 * MS));
        let first = calls_b.recv_timeout(Duration::from_secs(5)).unwrap();
        let second = calls_b.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(first >= 10 * MS && second >= first + 5 * MS);
        assert!(calls_a.recv_timeout(Duration::from_secs(5)).unwrap() >= 20 * MS);
        assert!(calls_a.try_recv().is_err(), "it was not set again");
        alarms.stop();
    }

    struct Broken;
    impl Timed for Broken {
        fn expire(&mut self, _now: Nanos) {
            panic!("a bug");
        }
    }

    #[test]
    fn device_that_fails_keeps_nobody_else_from_its_alarm() {
        let clock = Arc::new(BoardClock::default());
        let alarms = Alarms::new(clock.clone());
        let new = alarms.create();
        let broken = new.alarm();
        let device_of_it = Arc::new(Mutex::new(Broken));
        new.connect(&device_of_it);
        let (a, calls) = device(&alarms, None);
        broken.set(Some(0));
        a.lock().unwrap().alarm.set(Some(1));
        alarms.start("test").unwrap();
        clock.unpause();
        alarms.clock_unpaused();
        calls.recv_timeout(Duration::from_secs(5)).unwrap();
        alarms.wait_until_idle();
        alarms.stop();
    }

    #[test]
    fn paused_clock_or_disarmed_alarm_calls_nobody() {
        let clock = Arc::new(BoardClock::default());
        let alarms = Alarms::new(clock.clone());
        let (a, calls) = device(&alarms, None);
        alarms.start("test").unwrap();
        a.lock().unwrap().alarm.set(Some(0));
        assert!(calls.recv_timeout(Duration::from_millis(20)).is_err(), "the clock stands still");
        clock.unpause();
        alarms.clock_unpaused();
        calls.recv_timeout(Duration::from_secs(5)).unwrap();
        let soon = clock.now() + 20 * MS;
        a.lock().unwrap().alarm.set(Some(soon));
        a.lock().unwrap().alarm.set(None);
        assert!(calls.recv_timeout(Duration::from_millis(40)).is_err());
        alarms.wait_until_idle();
        alarms.stop();
    }
}
