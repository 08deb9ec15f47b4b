//! Where vCPUs lie in this process's memory.
//!
//! Code with a [window](crate::tlb::windows) finds what to add to an address in an array of [`Units`], with the register that points into
//! the vCPU as its base, of which it takes the low 32 bits. So the array is below 4 GiB, at the low half of the vCPU's own address: both
//! have a *place*. Nothing but these arrays is below 4 GiB: an index made of any address reaches an element, zeroes, or nothing.
//!
//! Of another vCPU's array an index reaches elements too. Places are 16 MiB apart, so that the address differs in bits 60 to 53 from
//! any that the element is for, and in the same way the sum from every canonical address.

use crate::cpu::{Cpu, RSI};
use crate::tlb::windows::{USER_UNITS, Units};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard};

/// Addresses that nothing else may have: all that 32 bits reach, but for those that Linux gives to nobody.
const LOW: std::ops::Range<usize> = 0x1_0000..1 << 32;
/// Bytes from place to place, and from 0 to the first.
const STRIDE: usize = 1 << 24;
const PLACES: usize = (LOW.end / STRIDE) - 2;
/// Where vCPUs are, by the upper half of their addresses: between programs' low addresses and the windows' slots.
const HIGH: usize = 0x80 << 32;
/// Where the array starts in its place: where the vCPU has a field that translated code doesn't store to, having the register itself.
/// Processors take stores and loads for dependent whose addresses' low bits are the same, and low addresses are those used most.
pub const UNITS: usize = offset_of!(Cpu, regs) + RSI * 8;
/// Bytes of an array, zeroes around it included.
const ARRAY: usize = (USER_UNITS as usize * 8).next_multiple_of(4096) + 4096;
const CPU: usize = size_of::<Cpu>().next_multiple_of(4096);
const _: () = assert!(ARRAY < STRIDE && CPU < STRIDE && UNITS.is_multiple_of(8));

/// The places in use, once [`LOW`] is this process's; an error's number if it can't be.
static USED: Mutex<Option<Result<[bool; PLACES], i32>>> = Mutex::new(None);

fn used() -> MutexGuard<'static, Option<Result<[bool; PLACES], i32>>> {
    USED.lock().unwrap_or_else(|e| e.into_inner())
}

/// Maps nothing, where nothing is.
pub fn reserve(at: usize, len: usize) -> io::Result<()> {
    let kind = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: nothing that is there is replaced; older kernels may give another place, which is new.
    let p = unsafe { mmap_anonymous(at as *mut c_void, len, ProtFlags::empty(), kind) }?;
    if p as usize != at {
        // SAFETY: what was just mapped.
        let _ = unsafe { munmap(p, len) };
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Ok(())
}

/// A place, which is free again afterwards.
struct Place(usize);

impl Place {
    fn take() -> io::Result<Self> {
        let place = loop {
            let place = Self::next()?;
            match reserve(HIGH + place.low(), CPU) {
                Ok(()) => break place,
                // It stays in use: by somebody else.
                Err(_) => std::mem::forget(place),
            }
        };
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: parts of this place's own mappings that nothing uses yet.
        unsafe {
            mprotect(place.low() as *mut c_void, ARRAY, access)?;
            mprotect((HIGH + place.low()) as *mut c_void, CPU, access)?;
        }
        Ok(place)
    }
    /// One that was free, of which only the part below 4 GiB is this process's yet.
    fn next() -> io::Result<Self> {
        let mut used = used();
        let used = used.get_or_insert_with(|| match reserve(LOW.start, LOW.len()) {
            Ok(()) => Ok([false; PLACES]),
            Err(e) => Err(e.raw_os_error().unwrap_or(libc::EEXIST)),
        });
        let used = used.as_mut().map_err(|e| io::Error::from_raw_os_error(*e))?;
        let n = used.iter().position(|u| !u).ok_or(io::ErrorKind::QuotaExceeded)?;
        used[n] = true;
        Ok(Self(n))
    }
    fn low(&self) -> usize {
        STRIDE * (self.0 + 1)
    }
    fn cpu(&self) -> *mut Cpu {
        (HIGH + self.low()) as *mut Cpu
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let kind = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        let mut used = used();
        // SAFETY: this place's own mappings, which nothing uses any more.
        let done = unsafe {
            let _ = munmap((HIGH + self.low()) as *mut c_void, CPU);
            mmap_anonymous(self.low() as *mut c_void, ARRAY, ProtFlags::empty(), kind)
        };
        // Otherwise its array would have another's elements.
        if let (Ok(_), Some(Ok(used))) = (done, &mut *used) {
            used[self.0] = false;
        }
    }
}

/// A vCPU that stays where it is.
pub struct Placed {
    cpu: NonNull<Cpu>,
    /// `None` where there was none: it is on the heap, and has no windows.
    place: Option<Place>,
}

impl Placed {
    /// Moves a vCPU to its place. It must not be exchanged with another's.
    pub fn new(mut cpu: Cpu) -> Self {
        match Place::take() {
            Ok(place) => {
                let at = place.cpu();
                let array = (place.low() + UNITS) as *mut u8;
                // SAFETY: the array's bytes are this place's, as long as the vCPU is there.
                cpu.windows.units = NonNull::new(array).map(|at| unsafe { Units::new(at) });
                // SAFETY: memory for it, a page's multiple, that nothing uses yet.
                unsafe { at.write(cpu) };
                // SAFETY: no place is at 0.
                Self { cpu: unsafe { NonNull::new_unchecked(at) }, place: Some(place) }
            }
            Err(e) => {
                log::warn!("vCPU {} has no place below 4 GiB ({e}); memory accesses are slower", cpu.id);
                Self { cpu: NonNull::from(Box::leak(Box::new(cpu))), place: None }
            }
        }
    }
}

impl Deref for Placed {
    type Target = Cpu;
    fn deref(&self) -> &Cpu {
        // SAFETY: the vCPU that this is.
        unsafe { self.cpu.as_ref() }
    }
}
impl DerefMut for Placed {
    fn deref_mut(&mut self) -> &mut Cpu {
        // SAFETY: as above.
        unsafe { self.cpu.as_mut() }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        match self.place {
            // SAFETY: written by `new`; the place goes afterwards.
            Some(_) => unsafe { self.cpu.drop_in_place() },
            // SAFETY: leaked by `new`.
            None => drop(unsafe { Box::from_raw(self.cpu.as_ptr()) }),
        }
    }
}

fn may_move<T: Send>() {}
const _: fn() = may_move::<Cpu>;
// SAFETY: it owns the vCPU, which may move between threads.
unsafe impl Send for Placed {}

#[cfg(test)]
mod tests {
    use crate::testing::{cpu64, cpus64};

    #[test]
    fn places_are_apart_and_used_again() {
        let cpus = cpus64(3, &[0xf4]);
        let mut at: Vec<u64> = cpus.iter().map(|c| &raw const **c as u64).collect();
        let arrays: Vec<u64> = cpus.iter().filter_map(|c| c.windows.units).map(|u| u.address()).collect();
        for (cpu, array) in at.iter().zip(&arrays) {
            assert_eq!((cpu + super::UNITS as u64) as u32 as u64, *array);
        }
        at.sort_unstable();
        assert!(at.windows(2).all(|w| w[1] - w[0] >= super::STRIDE as u64), "{at:x?}");
        drop(cpus);
        // More than there are places for at a time.
        for _ in 0..2 * super::PLACES {
            assert!(cpu64(&[0xf4]).windows.units.is_some());
        }
    }

    #[test]
    fn arrays_start_empty() {
        for _ in 0..super::PLACES {
            let cpu = cpu64(&[0xf4]);
            let units = cpu.windows.units.unwrap();
            assert_eq!((units.get(0), units.get(7), units.get(0x7fff)), (0, 0, 0));
            units.put(7, 77);
            assert_eq!(units.get(7), 77);
        }
    }

    #[test]
    fn a_vcpu_beyond_the_last_place_goes_without() {
        let mut cpus: Vec<_> = (0..super::PLACES).map(|_| cpu64(&[0xf4])).collect();
        let mut last = cpu64(&[0xf4]);
        assert!(last.windows.units.is_none());
        last.allow_windows();
        assert!(!last.windows.on);
        drop(cpus.pop());
        assert!(cpu64(&[0xf4]).windows.units.is_some());
    }

    #[test]
    fn what_others_have_at_a_place_is_theirs() {
        let at = super::HIGH + super::STRIDE * 2;
        super::reserve(at, 4096).unwrap();
        // SAFETY: a page that was just mapped.
        unsafe {
            super::mprotect(at as *mut _, 4096, super::MprotectFlags::READ | super::MprotectFlags::WRITE)
        }
        .unwrap();
        let theirs = at as *mut u64;
        // SAFETY: as above.
        unsafe { theirs.write(7) };
        let cpus: Vec<_> = (0..super::PLACES).map(|_| cpu64(&[0xf4])).collect();
        assert!(cpus.iter().all(|c| &raw const **c as usize != at));
        assert_eq!(cpus.iter().filter(|c| c.windows.units.is_none()).count(), 1);
        drop(cpus);
        // SAFETY: as above.
        assert_eq!(unsafe { theirs.read() }, 7);
    }
}
