//! The thread that reminds running vCPUs of their timers: translated code does not look at the time.

use crate::remote::{Remote, pending};
use crate::system::time::host_tsc;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// The vCPUs of a VM, by number.
pub type Remotes = Arc<[OnceLock<Arc<Remote>>]>;

/// Posts [`pending::CLOCK`] to each vCPU whose [`Remote::deadline`] has come. Its thread ends with it.
pub struct Clock {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

struct Inner {
    remotes: Remotes,
    tsc_khz: u64,
    /// Whether the thread is to end.
    stop: Mutex<bool>,
    changed: Condvar,
    /// The host's TSC at which the thread looks again; `u64::MAX` too while it is looking.
    target: AtomicU64,
}

impl Clock {
    /// Starts the thread. Errors: the host gives none.
    pub fn start(remotes: Remotes, tsc_khz: u64) -> io::Result<Self> {
        let inner = Arc::new(Inner {
            remotes,
            tsc_khz,
            stop: Mutex::new(false),
            changed: Condvar::new(),
            target: AtomicU64::new(u64::MAX),
        });
        let thread = std::thread::Builder::new().name("guest-clock".into()).spawn({
            let inner = inner.clone();
            move || inner.run()
        })?;
        Ok(Self { inner, thread: Some(thread) })
    }

    /// A vCPU's deadline has been set to this, in the host's TSC; `u64::MAX` for none.
    pub fn moved(&self, deadline: u64) {
        // One that is later than what the thread waits for is seen then.
        if deadline < self.inner.target.load(SeqCst) {
            // Taking the lock orders this after a look that missed the deadline.
            drop(self.inner.stop.lock().unwrap_or_else(|e| e.into_inner()));
            self.inner.changed.notify_one();
        }
    }
}

impl Inner {
    fn run(&self) {
        let mut stop = self.stop.lock().unwrap_or_else(|e| e.into_inner());
        while !*stop {
            self.target.store(u64::MAX, SeqCst);
            let now = host_tsc();
            let next = self.remind(now);
            self.target.store(next, SeqCst);
            stop = if next == u64::MAX {
                self.changed.wait(stop).unwrap_or_else(|e| e.into_inner())
            } else {
                let ns = (next - now) as u128 * 1_000_000 / self.tsc_khz.max(1) as u128;
                // A day is as good as for ever, and safe to add to any clock.
                let limit = Duration::from_nanos(ns.min(86_400_000_000_000) as u64);
                self.changed.wait_timeout(stop, limit).unwrap_or_else(|e| e.into_inner()).0
            };
        }
    }

    /// Posts to those whose time has come; when the next one's comes.
    fn remind(&self, now: u64) -> u64 {
        let mut next = u64::MAX;
        for r in self.remotes.iter().filter_map(OnceLock::get) {
            let deadline = r.deadline.load(SeqCst);
            if deadline > now {
                next = next.min(deadline);
            } else if r.deadline.compare_exchange(deadline, u64::MAX, SeqCst, SeqCst).is_ok() {
                r.post(pending::CLOCK);
            } else {
                // It was moved just now, to wherever.
                next = next.min(now + 1);
            }
        }
        next
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        *self.inner.stop.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.inner.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Instant;

    fn clock(n: usize) -> (Clock, Vec<Arc<Remote>>) {
        let remotes: Vec<_> = (0..n).map(|_| Arc::new(Remote::new(Default::default()))).collect();
        let slots: Remotes = remotes.iter().map(|r| OnceLock::from(r.clone())).collect();
        (Clock::start(slots, crate::system::time::host_tsc_khz()).unwrap(), remotes)
    }

    fn set(clock: &Clock, remote: &Remote, microseconds: u64) -> Instant {
        let ticks = crate::system::time::host_tsc_khz() * microseconds / 1000;
        remote.deadline.store(host_tsc() + ticks, SeqCst);
        clock.moved(remote.deadline.load(SeqCst));
        Instant::now()
    }

    fn wait(remote: &Remote) {
        let start = Instant::now();
        while remote.pending.load(Relaxed) & pending::CLOCK == 0 {
            assert!(start.elapsed() < Duration::from_secs(20), "never reminded");
            std::thread::sleep(Duration::from_micros(20));
        }
        remote.pending.store(0, SeqCst);
    }

    #[test]
    fn deadlines_are_reminded_of_once_each_and_not_before() {
        let (clock, remotes) = clock(2);
        let late = set(&clock, &remotes[1], 30_000);
        for us in [0, 100, 2000] {
            let start = set(&clock, &remotes[0], us);
            wait(&remotes[0]);
            assert!(start.elapsed() >= Duration::from_micros(us * 9 / 10));
        }
        wait(&remotes[1]);
        assert!(late.elapsed() >= Duration::from_millis(29));
        std::thread::sleep(Duration::from_millis(5));
        assert!(remotes.iter().all(|r| r.pending.load(SeqCst) == 0));
    }

    #[test]
    fn deadline_taken_back_is_not_reminded_of_and_the_thread_ends() {
        let (clock, remotes) = clock(1);
        set(&clock, &remotes[0], 10_000);
        remotes[0].deadline.store(u64::MAX, SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(remotes[0].pending.load(SeqCst), 0);
        set(&clock, &remotes[0], 3_600_000_000);
        drop(clock);
    }
}
