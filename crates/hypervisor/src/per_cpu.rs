//! What each processor has of its own.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Processors that the hypervisor is built for.
pub const MAX_CPUS: usize = 16;

/// One processor's data; the register TPIDR_EL2 leads to it. [`BootRecord`] comes first: the entry code reads it.
#[repr(C, align(128))]
pub struct PerCpu {
    pub boot: BootRecord,
    /// Its place in [`CPUS`]; 0 is the one that booted.
    pub index: AtomicU32,
    /// Its MPIDR affinity fields, by which PSCI names it.
    pub affinity: AtomicU64,
    pub start: Start,
    /// Its banked registers of the GIC, and its bit in GICv2's targets; 0 where guests can't be run.
    pub private_interrupts: AtomicU64,
    pub target: AtomicU32,
}

/// What a processor needs before it can use its caches.
#[repr(C, align(128))]
pub struct BootRecord {
    /// TTBR0_EL2.
    pub table: AtomicU64,
    /// TCR_EL2.
    pub translation: AtomicU64,
    /// The end of its stack.
    pub stack: AtomicU64,
}

/// Where the control domain wants this processor to start or go on (CPU_ON, CPU_SUSPEND).
pub struct Start {
    claimed: AtomicU32,
    entry: AtomicU64,
    context: AtomicU64,
}

impl Start {
    /// Puts a place down, unless one is waiting to be taken.
    pub fn claim(&self, entry: u64, context: u64) -> bool {
        let claimed = self.claimed.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if claimed {
            self.entry.store(entry, Ordering::Relaxed);
            self.context.store(context, Ordering::Release);
        }
        claimed
    }
    /// Takes the entry address and the value for X0.
    pub fn take(&self) -> (u64, u64) {
        let place = (self.entry.load(Ordering::Acquire), self.context.load(Ordering::Acquire));
        self.claimed.store(0, Ordering::Release);
        place
    }
}

impl PerCpu {
    /// Of one that the board doesn't have.
    pub const fn absent() -> Self {
        Self {
            boot: BootRecord {
                table: AtomicU64::new(0),
                translation: AtomicU64::new(0),
                stack: AtomicU64::new(0),
            },
            index: AtomicU32::new(0),
            affinity: AtomicU64::new(u64::MAX),
            private_interrupts: AtomicU64::new(0),
            target: AtomicU32::new(0),
            start: Start { claimed: AtomicU32::new(0), entry: AtomicU64::new(0), context: AtomicU64::new(0) },
        }
    }
}

/// This processor's place in [`CPUS`].
pub fn cpu_number() -> usize {
    crate::arch::this_cpu().map_or(0, |cpu| cpu.index.load(Ordering::Relaxed) as usize)
}

/// All of them. Those that the board doesn't have keep an affinity of all ones.
pub static CPUS: [PerCpu; MAX_CPUS] = [const { PerCpu::absent() }; MAX_CPUS];
