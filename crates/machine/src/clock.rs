//! The board's clock: host time less the time spent paused.

use devices::wiring::{Clock, Nanos};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic nanoseconds that stand still while the machine is paused. Made paused, at zero.
#[derive(Debug)]
pub struct BoardClock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Time counted before `running_since`.
    counted: Duration,
    /// `None` while paused.
    running_since: Option<Instant>,
}

impl Default for BoardClock {
    fn default() -> Self {
        Self { state: Mutex::new(State { counted: Duration::ZERO, running_since: None }) }
    }
}

impl BoardClock {
    /// Stands still from now on.
    pub fn pause(&self) {
        let mut s = self.lock();
        if let Some(since) = s.running_since.take() {
            s.counted += since.elapsed();
        }
    }
    /// Goes on from where it stood.
    pub fn unpause(&self) {
        self.lock().running_since.get_or_insert_with(Instant::now);
    }
    /// How long, in host time, until the clock shows `at`; `None` while paused.
    pub fn until(&self, at: Nanos) -> Option<Duration> {
        let s = self.lock();
        let now = s.counted + s.running_since?.elapsed();
        Some(Duration::from_nanos(at).saturating_sub(now))
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Clock for BoardClock {
    fn now(&self) -> Nanos {
        let s = self.lock();
        let d = s.counted + s.running_since.map_or(Duration::ZERO, |t| t.elapsed());
        d.as_nanos() as u64
    }
    fn wall(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    #[test]
    fn now_paused_stands_still() {
        let c = BoardClock::default();
        assert_eq!(c.now(), 0);
        assert_eq!(c.until(5), None);
        c.unpause();
        sleep(Duration::from_millis(2));
        c.pause();
        let t = c.now();
        assert!(t >= 2_000_000);
        sleep(Duration::from_millis(2));
        assert_eq!(c.now(), t);
        c.unpause();
        assert!(c.now() - t < 1_000_000_000);
        assert!(c.until(t + 60_000_000_000).unwrap() <= Duration::from_secs(60));
    }
}
