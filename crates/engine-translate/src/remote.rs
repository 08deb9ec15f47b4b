//! What other threads may touch of a vCPU, and what all vCPUs of a VM share.

use crate::cache::{self, CodeCache};
use crate::clock::{Clock, Remotes};
use crate::tlb::windows::Parked;
use memory::GuestMemory;
use std::io;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// Bits of [`Remote::pending`]: reasons for a vCPU to look up between two blocks.
pub mod pending {
    /// `run` returns [`engine::Exit::Kicked`].
    pub const KICK: u32 = 1 << 0;
    /// The local APIC or the external interrupt line may have something to deliver.
    pub const INTERRUPT: u32 = 1 << 1;
    pub const NMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const SIPI: u32 = 1 << 4;
    /// Drop TLB entries, then acknowledge ([`crate::cpu::Cpu::service_flush`]).
    pub const FLUSH: u32 = 1 << 5;
    /// Something changed on the vCPU's own thread that the event check has to see (IF set, TPR lowered, TF set...).
    pub const RECHECK: u32 = 1 << 6;
    /// The local APIC's timer may be due.
    pub const CLOCK: u32 = 1 << 7;
    /// Code that was decoded has been overwritten by another processor.
    pub const CODE: u32 = 1 << 8;
}

/// The part of a vCPU that other threads touch.
pub struct Remote {
    pub pending: AtomicU32,
    /// Vector of the last start-up IPI.
    pub sipi_vector: AtomicU32,
    /// The host's TSC when the local APIC's timer is due, for [`Clock`]; `u64::MAX` for never, or where the vCPU looks itself.
    pub deadline: AtomicU64,
    pub apic: Mutex<crate::system::Apic>,
    /// The thread is between `enter` and `leave`: it may hold host pointers taken from its TLB.
    in_guest: AtomicBool,
    flush_requested: AtomicU64,
    flush_done: AtomicU64,
    /// What is to be dropped.
    flush: Mutex<Flush>,
    /// The thread sleeps, or is about to.
    sleeping: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
    /// How long the thread spins before it sleeps, in nanoseconds.
    spin: AtomicU32,
}

/// What a vCPU is asked to drop from its TLB.
#[derive(Default)]
struct Flush {
    everything: bool,
    /// Pages to which stores are to take the slow path, by an address in them in this process.
    forbidden: Vec<u64>,
}

/// Pages that are asked for one by one; with more, everything is dropped.
const MAX_FORBIDDEN: usize = 8;

/// A thread that was woken this soon, in nanoseconds, would have done better to spin.
const SHORT_SLEEP: u32 = 50_000;
/// The longest that a thread spins.
const MAX_SPIN: u32 = 20_000;
const FIRST_SPIN: u32 = 5_000;

impl Remote {
    pub fn new(apic: crate::system::Apic) -> Self {
        Self {
            pending: AtomicU32::new(0),
            sipi_vector: AtomicU32::new(0),
            deadline: AtomicU64::new(u64::MAX),
            apic: Mutex::new(apic),
            in_guest: AtomicBool::new(false),
            flush_requested: AtomicU64::new(0),
            flush_done: AtomicU64::new(0),
            flush: Mutex::default(),
            sleeping: AtomicBool::new(false),
            spin: AtomicU32::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Sets pending bits and wakes the vCPU if it is halted.
    pub fn post(&self, bits: u32) {
        self.pending.fetch_or(bits, SeqCst);
        // Who is about to sleep says so before it looks at `pending`.
        if self.sleeping.load(SeqCst) {
            // Taking the lock orders this after that look, so that no wake-up is lost.
            drop(self.sleep.lock().unwrap_or_else(|e| e.into_inner()));
            self.wake.notify_all();
        }
    }

    /// Sleeps until a pending bit is set or the time is over. Call outside the guest. With `spin`, spins first if the last
    /// sleeps would have been over soon: waking a thread costs both sides some microseconds.
    pub fn sleep(&self, limit: Option<Duration>, spin: bool) {
        let start = Instant::now();
        let for_spin =
            if spin { Duration::from_nanos(self.spin.load(Relaxed) as u64) } else { Duration::ZERO };
        let for_spin = limit.map_or(for_spin, |l| l.min(for_spin));
        while !for_spin.is_zero() && start.elapsed() < for_spin {
            for _ in 0..16 {
                if self.pending.load(SeqCst) != 0 {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let limit = limit.map(|l| l.saturating_sub(start.elapsed()));
        self.sleeping.store(true, SeqCst);
        let guard = self.sleep.lock().unwrap_or_else(|e| e.into_inner());
        if self.pending.load(SeqCst) == 0 {
            match limit {
                Some(d) => drop(self.wake.wait_timeout(guard, d)),
                None => drop(self.wake.wait(guard)),
            }
        }
        self.sleeping.store(false, SeqCst);
        let slept = start.elapsed().as_nanos();
        let before = self.spin.load(Relaxed);
        let woken = self.pending.load(SeqCst) != 0;
        let next = match woken && slept < SHORT_SLEEP as u128 {
            true => (before * 2).clamp(FIRST_SPIN, MAX_SPIN),
            false => before / 2,
        };
        self.spin.store(next, Relaxed);
    }

    /// The thread is about to use its TLB. Follow with [`Self::flush_wanted`].
    pub fn enter(&self) {
        self.in_guest.store(true, SeqCst);
    }
    /// The thread holds no host pointer any more.
    pub fn leave(&self) {
        self.in_guest.store(false, SeqCst);
    }
    /// If another thread wants this vCPU's TLB dropped: the number to acknowledge with after dropping it.
    #[inline]
    pub fn flush_wanted(&self) -> Option<u64> {
        let wanted = self.flush_requested.load(SeqCst);
        (wanted != self.flush_done.load(SeqCst)).then_some(wanted)
    }
    /// The TLB has been dropped since `flush_wanted` gave `number`.
    pub fn flush_finished(&self, number: u64) {
        self.flush_done.fetch_max(number, SeqCst);
    }
    /// The pages to which stores are to take the slow path from now on; `None` if everything is to be dropped. After
    /// [`Self::flush_wanted`].
    pub fn take_forbidden(&self) -> Option<Vec<u64>> {
        let flush = std::mem::take(&mut *self.lock_flush());
        (!flush.everything).then_some(flush.forbidden)
    }
    fn lock_flush(&self) -> MutexGuard<'_, Flush> {
        self.flush.lock().unwrap_or_else(|e| e.into_inner())
    }
    /// Asks for everything to be dropped, or for stores to one page to take the slow path.
    fn request_flush(&self, page: Option<u64>) -> u64 {
        let mut flush = self.lock_flush();
        match page {
            Some(page) if flush.forbidden.len() < MAX_FORBIDDEN => flush.forbidden.push(page),
            _ => flush.everything = true,
        }
        drop(flush);
        let number = self.flush_requested.fetch_add(1, SeqCst) + 1;
        self.post(pending::FLUSH);
        number
    }
    /// Whether the thread can no longer use a TLB entry from before request `number`.
    fn flushed(&self, number: u64) -> bool {
        // A thread outside looks at `flush_wanted` when it enters, before it uses its TLB.
        self.flush_done.load(SeqCst) >= number || !self.in_guest.load(SeqCst)
    }
}

/// What all vCPUs of a VM share.
pub struct Shared {
    pub memory: Arc<GuestMemory>,
    /// Decoded and translated code.
    pub code: CodeCache,
    /// Windows that no vCPU is using.
    pub(crate) windows: Arc<Parked>,
    /// Number of vCPUs the VM was made for.
    pub vcpus: u32,
    remotes: Remotes,
    clock: OnceLock<Clock>,
    /// TSC frequency in kHz, measured or told by the host.
    pub tsc_khz: u64,
    /// The host's TSC when the VM was made: the guest's 0.
    pub tsc_origin: u64,
    /// The last number that stands for a page's code.
    code_tokens: AtomicU32,
    /// Announcements of code whose shootdown is under way.
    pub(crate) announcing: AtomicU32,
    /// Serialises the rare atomic accesses that no host instruction can make (locked, across pages).
    pub split_lock: Mutex<()>,
}

impl Shared {
    pub fn new(memory: Arc<GuestMemory>, vcpus: u32, tsc_khz: u64) -> Self {
        Self::with_cache(memory, vcpus, tsc_khz, cache::DEFAULT_SIZE)
    }
    /// The same with a code cache of at most `cache` bytes.
    pub fn with_cache(memory: Arc<GuestMemory>, vcpus: u32, tsc_khz: u64, cache: usize) -> Self {
        let code = CodeCache::new(cache);
        let remotes: Remotes = (0..vcpus).map(|_| OnceLock::new()).collect();
        // Blocks of a page go on to each other without a look at its generation; a device's write ends that.
        memory.watch_code(Box::new({
            let remotes = remotes.clone();
            move || remotes.iter().filter_map(OnceLock::get).for_each(|r| r.post(pending::CODE))
        }));
        let tsc_origin = crate::system::time::host_tsc();
        let clock = OnceLock::new();
        Self {
            memory,
            code,
            windows: Arc::default(),
            vcpus,
            remotes,
            clock,
            tsc_khz,
            tsc_origin,
            split_lock: Mutex::new(()),
            announcing: AtomicU32::new(0),
            code_tokens: AtomicU32::new(0),
        }
    }
    /// A number that stands for a page's code; 0 when there are no more: then direct jumps between pages are no longer made.
    pub(crate) fn new_code_token(&self) -> u32 {
        const LAST: u32 = i32::MAX as u32 - 4096;
        let next = |last: u32| (last < LAST).then(|| last + 1 + (last & 0xfff == 0xfff) as u32);
        self.code_tokens.fetch_update(SeqCst, SeqCst, next).map_or(0, |last| next(last).unwrap_or(0))
    }
    /// Has running vCPUs reminded of their timers. Errors: the host gives no thread.
    pub fn start_clock(&self) -> io::Result<()> {
        let _ = self.clock.set(Clock::start(self.remotes.clone(), self.tsc_khz)?);
        Ok(())
    }
    /// A vCPU's timer is due at `deadline`, in the host's TSC; `u64::MAX` for never.
    pub fn set_deadline(&self, remote: &Remote, deadline: u64) {
        // Only its own thread and the clock set it, and the clock only after the deadline.
        if remote.deadline.load(Relaxed) == deadline {
            return;
        }
        remote.deadline.store(deadline, SeqCst);
        if let Some(clock) = self.clock.get() {
            clock.moved(deadline);
        }
    }
    /// Registers vCPU `id`; false if there is one or `id` is out of range.
    pub fn register(&self, id: u32, remote: Arc<Remote>) -> bool {
        self.remotes.get(id as usize).is_some_and(|slot| slot.set(remote).is_ok())
    }
    /// vCPU `id`'s remote part, once it exists.
    pub fn remote(&self, id: u32) -> Option<&Arc<Remote>> {
        self.remotes.get(id as usize)?.get()
    }
    /// All vCPUs that exist, with their numbers.
    pub fn all(&self) -> impl Iterator<Item = (u32, &Arc<Remote>)> {
        self.remotes.iter().enumerate().filter_map(|(i, r)| Some((i as u32, r.get()?)))
    }

    /// Makes every vCPU but `except` drop its TLB, and waits until each has or is outside the guest. `meanwhile` is called
    /// while waiting, so that a vCPU that waits here can serve the same request from another.
    pub fn flush_others(&self, except: Option<u32>, meanwhile: impl FnMut()) {
        self.shoot_down(None, |id| Some(id) != except, meanwhile);
    }

    /// Makes the vCPUs that `whom` picks take the slow path for stores to the page of RAM at a host address, and waits as
    /// [`Self::flush_others`] does.
    pub fn forbid_writes(&self, page: u64, whom: impl Fn(u32) -> bool, meanwhile: impl FnMut()) {
        self.shoot_down(Some(page), whom, meanwhile);
    }

    fn shoot_down(&self, page: Option<u64>, whom: impl Fn(u32) -> bool, mut meanwhile: impl FnMut()) {
        let others = || self.all().filter(|(id, _)| whom(*id));
        let numbers: Vec<_> = others().map(|(_, r)| r.request_flush(page)).collect();
        for ((_, r), number) in others().zip(numbers) {
            let mut spins = 0u32;
            while !r.flushed(number) {
                meanwhile();
                spins += 1;
                if spins > 200 {
                    std::thread::yield_now();
                } else {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_one_by_one_until_they_are_many() {
        let r = Remote::new(Default::default());
        let number = r.request_flush(Some(7));
        assert_eq!(r.flush_wanted(), Some(number));
        assert_eq!(r.take_forbidden(), Some(vec![7]));
        r.flush_finished(number);
        assert_eq!(r.flush_wanted(), None);
        (0..20).for_each(|n| _ = r.request_flush(Some(n)));
        assert_eq!(r.take_forbidden(), None);
        r.request_flush(Some(1));
        r.request_flush(None);
        assert_eq!(r.take_forbidden(), None);
        assert_eq!(r.take_forbidden(), Some(vec![]));
    }

    #[test]
    fn post_wakes_who_sleeps_or_is_about_to() {
        let r = Arc::new(Remote::new(Default::default()));
        let sleeper = r.clone();
        const ROUNDS: u32 = 20_000;
        let thread = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                while sleeper.pending.load(SeqCst) == 0 {
                    sleeper.sleep(None, true);
                }
                sleeper.pending.store(0, SeqCst);
            }
        });
        for _ in 0..ROUNDS {
            r.post(pending::INTERRUPT);
            while r.pending.load(SeqCst) != 0 {
                std::thread::yield_now();
            }
        }
        thread.join().unwrap();
    }

    #[test]
    fn sleep_is_over_in_time_spinning_or_not() {
        let r = Remote::new(Default::default());
        for spin in [false, true] {
            r.spin.store(MAX_SPIN, Relaxed);
            let start = Instant::now();
            r.sleep(Some(Duration::from_millis(2)), spin);
            assert!(start.elapsed() >= Duration::from_millis(2));
        }
        assert!(r.spin.load(Relaxed) < MAX_SPIN, "long sleeps are not worth spinning for");
    }
}
