//! Memory for native code: one memfd, mapped once to write and once to execute, so that no page is ever both.

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, Ordering::Release};

/// The two mappings, `size` bytes each.
pub struct Arena {
    write: NonNull<u8>,
    execute: NonNull<u8>,
    size: usize,
    fd: OwnedFd,
}

// SAFETY: the mappings belong to this value alone.
unsafe impl Send for Arena {}

impl Arena {
    /// `name` is what the memory is called in `/proc/<pid>/maps`.
    pub fn new(name: &str, size: usize) -> io::Result<Self> {
        // Kernels before 6.3 don't know the flag, later ones may want it (sysctl vm.memfd_noexec).
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::EXEC)
            .or_else(|_| memfd_create(name, MemfdFlags::CLOEXEC))?;
        ftruncate(&fd, size as u64)?;
        let map = |prot| {
            // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
            let p = unsafe { mmap(null_mut(), size, prot, MapFlags::SHARED, &fd, 0) }?;
            NonNull::new(p.cast::<u8>()).ok_or(io::Error::from(io::ErrorKind::OutOfMemory))
        };
        let write = map(ProtFlags::READ | ProtFlags::WRITE)?;
        match map(ProtFlags::READ | ProtFlags::EXEC) {
            Ok(execute) => Ok(Self { write, execute, size, fd }),
            Err(e) => {
                // SAFETY: mapped just above, not yet in use.
                let _ = unsafe { munmap(write.as_ptr().cast::<c_void>(), size) };
                Err(e)
            }
        }
    }

    /// Where the byte at `offset` is executed.
    pub fn address(&self, offset: usize) -> u64 {
        self.execute.as_ptr() as u64 + offset as u64
    }
    /// Which byte is executed at `address`.
    pub fn offset(&self, address: u64) -> Option<usize> {
        let at = usize::try_from(address.checked_sub(self.execute.as_ptr() as u64)?).ok()?;
        (at < self.size).then_some(at)
    }

    /// Copies code in. Nobody may be executing what was there.
    pub fn put(&mut self, at: usize, code: &[u8]) {
        assert!(at.checked_add(code.len()).is_some_and(|end| end <= self.size));
        // SAFETY: in the mapping, as was just checked.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.write.as_ptr().add(at), code.len());
        }
    }
    /// Changes four bytes of code. Where they are at a multiple of four from the start, other threads may be executing them.
    pub fn change(&self, at: usize, value: u32) {
        if at.is_multiple_of(4) {
            return self.word(at).store(value, Release);
        }
        assert!(at.checked_add(4).is_some_and(|end| end <= self.size));
        // SAFETY: in the mapping, as was just checked. Code with such places is of one thread, which isn't executing it now
        // (`Asm::alone`).
        unsafe { self.write.as_ptr().add(at).cast::<u32>().write_unaligned(value) }
    }
    /// Four bytes, a multiple of four from the start, which other threads may be executing: what they see is the old or
    /// the new value (SDM 3A 9.1.1; displacements of jumps, which nothing else depends on).
    pub fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at < self.size);
        // SAFETY: in the mapping and aligned, as was just checked; other threads only execute it.
        unsafe { &*self.write.as_ptr().add(at).cast::<AtomicU32>() }
    }
    /// Reads a word that is not aligned.
    pub fn read_i32(&self, at: usize) -> Option<i32> {
        if at.checked_add(4)? > self.size {
            return None;
        }
        // SAFETY: in the mapping, as was just checked.
        Some(unsafe { self.write.as_ptr().add(at).cast::<i32>().read_unaligned() })
    }
    /// Gives memory back to the host; it reads as zeros.
    pub fn release(&mut self, range: Range<usize>) {
        let len = range.len() as u64;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if len > 0 && fallocate(&self.fd, punch, range.start as u64, len).is_err() {
            // It stays in use, within the bound all the same.
            log::debug!("the host does not take back {len} bytes of translated code's memory");
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: both were mapped by `new`; pointers into them are only used through the cache that owns this.
        unsafe {
            let _ = munmap(self.write.as_ptr().cast::<c_void>(), self.size);
            let _ = munmap(self.execute.as_ptr().cast::<c_void>(), self.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn code_is_executed_patched_and_released() {
        let mut a = Arena::new("test", 1 << 16).unwrap();
        // nop; nop; nop; mov eax, 7; ret
        a.put(0x100, &[0x90, 0x90, 0x90, 0xb8, 7, 0, 0, 0, 0xc3]);
        // SAFETY: just put there; it touches EAX only.
        let run = || unsafe {
            let f: extern "sysv64" fn() -> u32 = std::mem::transmute(a.address(0x100) as *const u8);
            f()
        };
        assert_eq!(run(), 7);
        a.word(0x104).store(9, SeqCst);
        assert_eq!(run(), 9);
        assert_eq!(a.read_i32(0x103), Some(0x9b8u32 as i32));
        assert_eq!(a.offset(a.address(0x100)), Some(0x100));
        assert_eq!(a.offset(a.address(1 << 16)), None);
        a.release(0..0x1000);
        assert_eq!(a.read_i32(0x104), Some(0));
        assert_eq!(a.read_i32((1 << 16) - 3), None);
    }
}
