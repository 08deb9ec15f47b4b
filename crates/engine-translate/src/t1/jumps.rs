//! Jump caches: what a vCPU's translated code finds blocks by that it has no direct jump to.
//!
//! Each is for one value of [`Cpu::jump_guard`]: one for code below CPL 3, the others for the address spaces of
//! programs, which lie at the same addresses. [`T1::jumps`] points at the one for the guard that holds, so that an entry
//! is an address and its code and nothing else.

#[cfg(doc)]
use super::T1;
#[cfg(doc)]
use crate::cpu::Cpu;
use std::alloc::Layout;
use std::mem::offset_of;

/// Entries of a jump cache, a power of two.
const JUMPS: usize = 1 << 15;
/// Spreads addresses over a jump cache: functions begin at multiples of 16.
pub const SPREAD: u32 = 0x9e37_79b1;
/// What is left of 32 bits is the index.
pub const JUMPS_SHIFT: u32 = 32 - JUMPS.ilog2();
/// Jump caches: the first for code below CPL 3.
const JUMP_CACHES: usize = 9;

/// An entry: the code at a linear address.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Jump {
    pub rip: u64,
    pub code: u64,
}
const _: () = assert!(size_of::<Jump>() == 16);

/// Offset in a [`Jump`].
pub const JUMP_CODE: i32 = offset_of!(Jump, code) as i32;

fn index(rip: u64) -> usize {
    ((rip as u32).wrapping_mul(SPREAD) >> JUMPS_SHIFT) as usize
}

/// An address that is never looked for at this index. What memory is at first, but for the place of address 0.
const fn invalid(index: usize) -> u64 {
    (index == 0) as u64
}

#[derive(Default)]
struct Cache {
    /// What its entries are good for; there are none at first.
    guard: u64,
    /// Which entries are in use.
    used: Vec<u32>,
}

/// A vCPU's jump caches; none at first.
#[derive(Default)]
pub struct JumpCaches {
    entries: Box<[Jump]>,
    caches: [Cache; JUMP_CACHES],
    /// The one in use.
    current: usize,
    /// The program's that is given to another guard next.
    next: usize,
}

impl JumpCaches {
    /// Empty ones, whose pages cost no memory before they are used.
    pub fn new() -> Self {
        let n = JUMPS * JUMP_CACHES;
        let Ok(layout) = Layout::array::<Jump>(n) else { return Self::default() };
        // SAFETY: the layout isn't empty; it is that of the slice, whose elements are integers that may be 0.
        let mut entries = unsafe {
            let p = std::alloc::alloc_zeroed(layout).cast::<Jump>();
            if p.is_null() {
                std::alloc::handle_alloc_error(layout);
            }
            Box::from_raw(std::ptr::slice_from_raw_parts_mut(p, n))
        };
        entries.iter_mut().step_by(JUMPS).for_each(|first| first.rip = invalid(0));
        Self { entries, ..Self::default() }
    }

    /// The jump cache for code at CPL 3 (`user`) or below while a guard holds: what is known of it, or an empty one.
    #[inline]
    pub fn choose(&mut self, user: bool, guard: u64) -> *const Jump {
        let range = if user { 1..JUMP_CACHES } else { 0..1 };
        let known = range.clone().find(|n| self.caches[*n].guard == guard);
        self.current = known.unwrap_or_else(|| self.take(range.start, guard));
        self.entries.get(self.current * JUMPS..).map_or(std::ptr::null(), |s| s.as_ptr())
    }

    /// Gives a cache to another guard.
    #[cold]
    fn take(&mut self, first: usize, guard: u64) -> usize {
        let n = if first == 0 { 0 } else { first + self.next };
        self.next = (self.next + (first != 0) as usize) % (JUMP_CACHES - 1);
        let Self { entries, caches, .. } = self;
        for i in caches[n].used.drain(..).map(|i| i as usize) {
            if let Some(entry) = entries.get_mut(n * JUMPS + i) {
                entry.rip = invalid(i);
            }
        }
        caches[n].guard = guard;
        n
    }

    /// Enters the code at a linear address into the one chosen last.
    pub fn note(&mut self, jump: Jump) {
        let i = index(jump.rip);
        if let Some(entry) = self.entries.get_mut(self.current * JUMPS + i) {
            if entry.rip == invalid(i) {
                self.caches[self.current].used.push(i as u32);
            }
            *entry = jump;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(cache: *const Jump, rip: u64) -> Option<u64> {
        // SAFETY: `choose` gave an array of JUMPS.
        let entry = unsafe { *cache.add(index(rip)) };
        (entry.rip == rip).then_some(entry.code)
    }

    #[test]
    fn addresses_are_found_under_their_own_guard_only() {
        let mut jumps = JumpCaches::new();
        let kernel = jumps.choose(false, 7);
        jumps.note(Jump { rip: 0x1000, code: 1 });
        let user = jumps.choose(true, 8);
        jumps.note(Jump { rip: 0x1000, code: 2 });
        assert_eq!((find(kernel, 0x1000), find(user, 0x1000), find(user, 0)), (Some(1), Some(2), None));
        // As many others as there is room for leave it alone, one more doesn't.
        let last = 8 + JUMP_CACHES as u64 - 1;
        (9..last).for_each(|guard| _ = jumps.choose(true, guard));
        assert_eq!((jumps.choose(true, 8), find(user, 0x1000)), (user, Some(2)));
        assert_eq!((jumps.choose(true, last), find(user, 0x1000)), (user, None));
        assert_eq!((jumps.choose(false, 7), find(kernel, 0x1000)), (kernel, Some(1)));
        assert_eq!((jumps.choose(false, 9), find(kernel, 0x1000)), (kernel, None));
    }

    #[test]
    fn nothing_is_found_that_was_not_entered() {
        let mut jumps = JumpCaches::new();
        for guard in 1..30 {
            let cache = jumps.choose(true, guard);
            for rip in [0, 1, u64::MAX, 1 << 32, 0x8000_0000_0000_0000] {
                assert_eq!(find(cache, rip), None);
                jumps.note(Jump { rip, code: 5 });
                assert_eq!(find(cache, rip), Some(5));
            }
            let used = jumps.caches[jumps.current].used.len();
            jumps.note(Jump { rip: 0, code: 6 });
            assert_eq!(jumps.caches[jumps.current].used.len(), used, "it grows no longer");
        }
    }
}
