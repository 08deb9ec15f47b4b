//! Where translated code may fault in the host, and where it goes then. A signal handler reads it, while the cache's writer may
//! be adding to it.

use super::SEGMENTS;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

/// A stretch of code, and the address it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub start: u64,
    pub end: u64,
    pub tail: u64,
}

/// The same from the code's start on.
type Entry = [AtomicU32; 3];

/// The faults of a segment's code, by rising addresses.
#[derive(Default)]
struct List {
    entries: AtomicPtr<Entry>,
    len: AtomicUsize,
    /// From here on code is the segment's, up to its end.
    code: AtomicU64,
    end: AtomicU64,
}

/// Those of all segments.
pub struct Faults {
    origin: AtomicU64,
    lists: [List; SEGMENTS],
    /// Entries that a list may have.
    capacity: usize,
}

impl Faults {
    /// For segments of `budget` bytes.
    pub fn new(budget: usize) -> Self {
        // No access through a window is shorter.
        Self { origin: AtomicU64::new(0), lists: Default::default(), capacity: budget / 16 }
    }
    fn bytes(&self) -> usize {
        self.capacity * size_of::<Entry>()
    }
    /// The code's memory is at `origin`, that of segment `n` at `range`.
    pub fn place(&self, n: usize, origin: u64, range: std::ops::Range<u64>) {
        self.origin.store(origin, Release);
        self.lists[n].code.store(range.start, Release);
        self.lists[n].end.store(range.end, Release);
    }
    /// Adds those of new code of segment `n`, behind all that it has. Under the writer's lock, before anybody may execute the code.
    pub fn add(&self, n: usize, faults: &[Fault]) -> io::Result<()> {
        if faults.is_empty() {
            return Ok(());
        }
        let list = &self.lists[n];
        let len = list.len.load(Acquire);
        if len + faults.len() > self.capacity {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut entries = list.entries.load(Acquire);
        if entries.is_null() {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let kind = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
            entries = unsafe { mmap_anonymous(null_mut(), self.bytes(), prot, kind) }?.cast::<Entry>();
            list.entries.store(entries, Release);
        }
        let origin = self.origin.load(Acquire);
        for (k, f) in faults.iter().enumerate() {
            // SAFETY: below the capacity; zeroes are atomics.
            let entry = unsafe { &*entries.add(len + k) };
            for (to, address) in entry.iter().zip([f.start, f.end, f.tail]) {
                to.store(address.wrapping_sub(origin) as u32, Relaxed);
            }
        }
        list.len.store(len + faults.len(), Release);
        Ok(())
    }
    /// Bytes that segment `n`'s take.
    pub fn size(&self, n: usize) -> usize {
        self.lists[n].len.load(Relaxed) * size_of::<Entry>()
    }
    /// Drops those of segment `n`, which nobody executes.
    pub fn clear(&self, n: usize) {
        let list = &self.lists[n];
        list.len.store(0, Release);
        let entries = list.entries.load(Acquire);
        if !entries.is_null() {
            // SAFETY: the whole of this list's mapping, which reads as zeroes afterwards.
            let _ = unsafe { madvise(entries.cast::<c_void>(), self.bytes(), Advice::LinuxDontNeed) };
        }
    }
    /// Where code that faulted at `pc` goes on.
    pub fn find(&self, pc: u64) -> Option<u64> {
        let within = |l: &&List| (l.code.load(Acquire)..l.end.load(Acquire)).contains(&pc);
        let list = self.lists.iter().find(within)?;
        let (entries, origin) = (list.entries.load(Acquire), self.origin.load(Acquire));
        let at = u32::try_from(pc.wrapping_sub(origin)).ok()?;
        let (mut low, mut high) = (0, list.len.load(Acquire));
        // SAFETY: below the length, which is not 0 before there are entries.
        let entry = |n: usize, field: usize| unsafe { &*entries.add(n) }[field].load(Relaxed);
        while low < high {
            let middle = low + (high - low) / 2;
            if entry(middle, 0) <= at {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let last = low.checked_sub(1)?;
        (at < entry(last, 1)).then(|| origin + entry(last, 2) as u64)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        for list in &self.lists {
            let entries = list.entries.load(Acquire);
            if !entries.is_null() {
                // SAFETY: mapped by `add`; who looks at it executes the code of the cache that this belongs to.
                let _ = unsafe { munmap(entries.cast::<c_void>(), self.bytes()) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn find_gives_the_tail_of_the_stretch_alone() {
        let f = Faults::new(1 << 16);
        f.place(0, 0x10_0000, 0x10_1000..0x11_0000);
        f.place(1, 0x10_0000, 0x11_0000..0x12_0000);
        assert_eq!(f.find(0x10_2000), None);
        let fault = |start| Fault { start, end: start + 8, tail: start + 0x800 };
        f.add(0, &[fault(0x10_2000), fault(0x10_2010)]).unwrap();
        f.add(0, &[fault(0x10_3000)]).unwrap();
        f.add(1, &[fault(0x11_2000)]).unwrap();
        for start in [0x10_2000, 0x10_2010, 0x10_3000, 0x11_2000] {
            assert_eq!(f.find(start - 1), None);
            assert_eq!([f.find(start), f.find(start + 7)], [Some(start + 0x800); 2]);
            assert_eq!(f.find(start + 8), None);
        }
        f.clear(0);
        assert_eq!(f.find(0x10_2000), None);
        assert_eq!(f.find(0x11_2000), Some(0x11_2800));
        assert_eq!(f.find(0), None);
        let many = vec![fault(0x11_3000); (1 << 16) / 16];
        assert!(f.add(1, &many).is_err(), "one is there already");
    }
}
