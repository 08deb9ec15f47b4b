//! A vCPU's side of the code cache.

use crate::cpu::Cpu;
use crate::remote::pending;

/// What a vCPU that holds nothing knows: no epoch.
pub(crate) const NOTHING_HELD: u64 = 0;

impl Cpu {
    /// Shows that this vCPU holds no block and no code, but what its caches guard. Only where that is so: between two chains.
    #[cold]
    #[inline(never)]
    pub(crate) fn pass(&mut self) {
        let epoch = self.reader.pass(&self.shared.code.epochs);
        self.code_epoch = epoch;
        if self.caches_epoch != epoch {
            self.caches_epoch = epoch;
            // What this vCPU's caches lead to may be evicted: whatever is guarded is dropped.
            self.tlb.forget_jumps();
            self.t1.forget();
            self.shared.code.tidy();
        }
    }

    /// Holds nothing until the next block is looked for: before the thread sleeps or leaves `run`.
    pub(crate) fn park(&mut self) {
        self.reader.park();
        self.code_epoch = NOTHING_HELD;
    }

    /// Makes room in the code cache, waiting for other vCPUs to pass if need be. Between two chains only.
    #[cold]
    #[inline(never)]
    pub(crate) fn make_room(&mut self) {
        while !self.make_room_now() {
            self.pass();
            self.service_flush();
            std::thread::yield_now();
        }
    }

    /// The same without waiting; false if there is none yet. What was found before stays good until this vCPU passes.
    pub(crate) fn make_room_now(&mut self) -> bool {
        let shared = self.shared.clone();
        let before = shared.code.epochs.now();
        let done = shared.code.advance();
        if !done || shared.code.epochs.now() != before {
            // They are to pass soon.
            for (_, remote) in shared.all().filter(|(id, _)| *id != self.id) {
                remote.post(pending::RECHECK);
            }
        }
        done
    }
}
