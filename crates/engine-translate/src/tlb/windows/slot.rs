//! Slots: stretches of this process's addresses that [windows](super) have their pages in.

use super::units::USER_UNITS;
use crate::placed::reserve;
use rustix::mm::munmap;
use std::ffi::c_void;
use std::sync::Mutex;

/// Bits of an address within its unit.
pub const UNIT_BITS: u32 = 32;
/// Host addresses of a slot: its unit's, and as many around them where nothing is.
const SLOT: u64 = 2 << UNIT_BITS;
const GUARD: u64 = 1 << (UNIT_BITS - 1);
/// Where slots are. Linux puts nothing there by itself: it looks for room from the stack downwards, or, where a process wants
/// that, from 2A'AAAA'A000h upwards; and programs lie at 5555'5555'5000h and above, or below the first of these.
const SLOTS: std::ops::Range<u64> = 0x0100_0000_0000..0x2a00_0000_0000;

/// A host address where nothing ever is, nor near it.
pub const NOWHERE: u64 = Slot::origin(0);

/// Slots of this process in use.
static USED: Mutex<Vec<bool>> = Mutex::new(Vec::new());

/// A slot of host addresses, by its number.
pub struct Slot(pub usize);

impl Slot {
    /// `None` where all are in use, or something lies there.
    pub fn take() -> Option<Self> {
        let mut used = USED.lock().unwrap_or_else(|e| e.into_inner());
        // The first one stays empty.
        if used.is_empty() {
            used.push(true);
        }
        let n = match used.iter().position(|u| !u) {
            Some(n) => n,
            None => {
                let n = used.len();
                (Self::start(n) + SLOT <= SLOTS.end).then(|| used.push(true))?;
                n
            }
        };
        used[n] = true;
        // Where something is, it stays in use: by somebody else.
        reserve(Self::start(n) as usize, SLOT as usize).ok()?;
        // SAFETY: what was just mapped.
        let _ = unsafe { munmap(Self::start(n) as *mut c_void, SLOT as usize) };
        Some(Self(n))
    }
    const fn start(n: usize) -> u64 {
        SLOTS.start + n as u64 * SLOT
    }
    /// The number of the one, perhaps of nobody's, that a host address is in.
    pub fn number(host: u64) -> Option<usize> {
        usize::try_from(host.checked_sub(SLOTS.start)? / SLOT).ok()
    }
    /// Where the first byte of its unit is.
    pub const fn origin(n: usize) -> u64 {
        Self::start(n) + GUARD
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: what is there was mapped by the window whose slot this was.
        let _ = unsafe { munmap(Self::start(self.0) as *mut c_void, SLOT as usize) };
        if let Some(used) = USED.lock().unwrap_or_else(|e| e.into_inner()).get_mut(self.0) {
            *used = false;
        }
    }
}

/// What is added to addresses of a unit to get to the slot that they lead to.
pub fn addend(unit: u32, slot: usize) -> u64 {
    Slot::origin(slot).wrapping_sub((unit as u64) << UNIT_BITS)
}
/// The same for a unit that has no slot.
pub fn nowhere(unit: u32) -> u64 {
    addend(unit, 0)
}

pub fn unit_of(linear: u64) -> Option<u32> {
    u32::try_from(linear >> UNIT_BITS).ok().filter(|u| *u < USER_UNITS)
}
