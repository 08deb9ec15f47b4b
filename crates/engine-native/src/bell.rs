//! How other threads reach a vCPU's: one that waits is woken, one that runs the guest is interrupted.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::*};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A vCPU's bell. Rings are counted, so that one between the look at what there is to do and the wait isn't lost.
#[derive(Debug, Default)]
pub struct Bell {
    rings: AtomicU32,
    waiting: Mutex<()>,
    rung: Condvar,
    /// The thread inside a run; 0 when there is none.
    thread: AtomicI32,
}

/// As long as this lives, the current thread is the one that rings interrupt.
pub struct Inside<'a>(&'a Bell);

impl Bell {
    /// To be asked before looking at what there is to do.
    pub fn rings(&self) -> u32 {
        self.rings.load(SeqCst)
    }

    /// Wakes the vCPU's thread, or makes a run that is under way end with an interrupt.
    pub fn ring(&self) {
        self.rings.fetch_add(1, SeqCst);
        // With the lock, the ring is either before a waiter's look or after its sleep began.
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.rung.notify_all();
        self.interrupt();
    }

    /// Makes a run that is under way in another thread end with an interrupt.
    pub fn interrupt(&self) {
        let thread = self.thread.load(SeqCst);
        if thread != 0 && thread != crate::host::signal::this_thread() {
            crate::host::signal::interrupt(thread);
        }
    }

    /// Waits until there was a ring after `seen`, or until `deadline`.
    pub fn wait(&self, seen: u32, deadline: Option<Instant>) {
        let mut guard = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while self.rings() == seen {
            match deadline {
                None => guard = self.rung.wait(guard).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left == Duration::ZERO {
                        return;
                    }
                    let waited = self.rung.wait_timeout(guard, left);
                    guard = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// This thread runs the guest from now on.
    pub fn enter(&self) -> Inside<'_> {
        self.thread.store(crate::host::signal::this_thread(), SeqCst);
        Inside(self)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.thread.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ring_before_or_during_it_ends_it() {
        let bell = Bell::default();
        let seen = bell.rings();
        bell.ring();
        bell.wait(seen, None);
        let seen = bell.rings();
        std::thread::scope(|scope| {
            scope.spawn(|| bell.wait(seen, None));
            bell.ring();
        });
    }

    #[test]
    fn wait_without_a_ring_ends_at_its_deadline() {
        let bell = Bell::default();
        let begun = Instant::now();
        bell.wait(bell.rings(), Some(begun + Duration::from_millis(20)));
        assert!(begun.elapsed() >= Duration::from_millis(20));
        bell.wait(bell.rings(), Some(begun));
    }

    #[test]
    fn ring_interrupts_the_thread_that_runs() {
        let bell = Bell::default();
        let _inside = bell.enter();
        // The signal's handler does nothing: that this thread still lives is the proof.
        std::thread::scope(|scope| drop(scope.spawn(|| bell.ring())));
        bell.ring();
    }
}
