//! What other threads may touch of a vCPU, and what all vCPUs of a VM share.

use crate::clock::{Clock, Remotes};
use memory::GuestMemory;
use std::io;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

/// Bits of [`Remote::pending`]: reasons for a vCPU to look up between two blocks.
pub mod pending {
    /// `run` returns [`engine::Exit::Kicked`].
    pub const KICK: u32 = 1 << 0;
    /// The local APIC or the external interrupt line may have something to deliver.
    pub const INTERRUPT: u32 = 1 << 1;
    pub const NMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const SIPI: u32 = 1 << 4;
    /// Drop all TLB entries, then acknowledge ([`super::Remote::service_flush`]).
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
    sleep: Mutex<()>,
    wake: Condvar,
}

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
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Sets pending bits and wakes the vCPU if it is halted.
    pub fn post(&self, bits: u32) {
        self.pending.fetch_or(bits, SeqCst);
        // Taking the lock orders this after a sleeper's look at `pending`, so that no wake-up is lost.
        drop(self.sleep.lock().unwrap_or_else(|e| e.into_inner()));
        self.wake.notify_all();
    }

    /// Sleeps until a pending bit is set or the time is over. Call outside the guest.
    pub fn sleep(&self, limit: Option<std::time::Duration>) {
        let guard = self.sleep.lock().unwrap_or_else(|e| e.into_inner());
        if self.pending.load(SeqCst) != 0 {
            return;
        }
        match limit {
            Some(d) => drop(self.wake.wait_timeout(guard, d)),
            None => drop(self.wake.wait(guard)),
        }
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
    fn request_flush(&self) -> u64 {
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
    /// Number of vCPUs the VM was made for.
    pub vcpus: u32,
    remotes: Remotes,
    clock: OnceLock<Clock>,
    /// TSC frequency in kHz, measured or told by the host.
    pub tsc_khz: u64,
    /// The host's TSC when the VM was made: the guest's 0.
    pub tsc_origin: u64,
    /// Serialises the rare atomic accesses that no host instruction can make (locked, across pages).
    pub split_lock: Mutex<()>,
}

impl Shared {
    pub fn new(memory: Arc<GuestMemory>, vcpus: u32, tsc_khz: u64) -> Self {
        let remotes = (0..vcpus).map(|_| OnceLock::new()).collect();
        let tsc_origin = crate::system::time::host_tsc();
        let clock = OnceLock::new();
        Self { memory, vcpus, remotes, clock, tsc_khz, tsc_origin, split_lock: Mutex::new(()) }
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
    pub fn flush_others(&self, except: Option<u32>, mut meanwhile: impl FnMut()) {
        let others = || self.all().filter(|(id, _)| Some(*id) != except);
        let numbers: Vec<_> = others().map(|(_, r)| r.request_flush()).collect();
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
