//! What is added to the linear addresses of each *unit* to get to its slot: an array that translated code indexes
//! (`t1/through.rs`), at a place that goes with the vCPU's ([`crate::placed`]).

use super::slot::nowhere;
use std::ptr::NonNull;

/// Units that user programs can have: their addresses have 47 bits.
pub const USER_UNITS: u32 = 1 << 15;

/// The array of one vCPU, [`USER_UNITS`] elements.
#[derive(Clone, Copy, Debug)]
pub struct Units(NonNull<u8>);

impl Units {
    /// # Safety
    ///
    /// At `at` are the elements, of nobody else's, as long as this is used.
    pub unsafe fn new(at: NonNull<u8>) -> Self {
        Self(at)
    }
    /// Every unit leads nowhere.
    pub fn clear(self) {
        (0..USER_UNITS).for_each(|unit| self.put(unit, nowhere(unit)));
    }
    fn element(self, unit: u32) -> *mut u64 {
        assert!(unit < USER_UNITS);
        // SAFETY: within the array.
        unsafe { self.0.as_ptr().cast::<u64>().byte_add(unit as usize * 8) }
    }
    pub fn put(self, unit: u32, addend: u64) {
        // SAFETY: an element, of a vCPU that belongs to this thread.
        unsafe { self.element(unit).write(addend) }
    }
    #[cfg(test)]
    pub fn get(self, unit: u32) -> u64 {
        // SAFETY: as above.
        unsafe { self.element(unit).read() }
    }
    #[cfg(test)]
    pub fn address(self) -> u64 {
        self.0.as_ptr() as u64
    }
}

// SAFETY: it goes where its vCPU goes.
unsafe impl Send for Units {}
