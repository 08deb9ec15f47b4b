//! A memfd mapped into this process.

use crate::{Error, Result};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// Bytes of a huge page.
const HUGE_PAGE: u64 = 2 << 20;

/// `len` bytes of zeroed shared memory behind a memfd, mapped readable and writable for as long as this lives.
#[derive(Debug)]
pub struct Mapping {
    host: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
}

// SAFETY: the mapping is shared memory that any thread may access; all access goes through raw pointers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes (a multiple of the page size) of fresh memory. Pages are taken from the host as they are touched.
    pub fn new(name: &str, len: u64) -> Result<Self> {
        Self::with(name, len, MemfdFlags::empty(), MapFlags::NORESERVE)
    }

    /// The same in pages of 2 MiB, all set aside at once; in ordinary ones where the host has not enough of those, or `len` is no
    /// multiple of them.
    pub fn with_huge_pages(name: &str, len: u64) -> Result<Self> {
        if len.is_multiple_of(HUGE_PAGE) {
            // Not NORESERVE: a page that then isn't there would be the death of whoever touches it.
            let huge = Self::with(name, len, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, MapFlags::empty());
            if huge.is_ok() {
                return huge;
            }
        }
        Self::new(name, len)
    }

    fn with(name: &str, len: u64, kind: MemfdFlags, map: MapFlags) -> Result<Self> {
        let host_error = |source: rustix::io::Errno| Error::Host { bytes: len, source: source.into() };
        let size = usize::try_from(len).ok().filter(|&s| s > 0 && s <= isize::MAX as usize);
        let size = size.ok_or_else(|| host_error(rustix::io::Errno::NOMEM))?;
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | kind).map_err(host_error)?;
        ftruncate(&fd, len).map_err(host_error)?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choosing touches nothing that exists.
        let p = unsafe {
            mmap(
                std::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | map,
                &fd,
                0,
            )
        }
        .map_err(host_error)?;
        let host = NonNull::new(p.cast()).ok_or_else(|| host_error(rustix::io::Errno::NOMEM))?;
        Ok(Self { host, len: size, fd })
    }

    /// First byte. Valid for [`Self::len`] bytes while `self` lives.
    pub fn host(&self) -> NonNull<u8> {
        self.host
    }
    /// Length in bytes.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }
    /// The memfd behind the mapping, for engines that share it with another process or the hypervisor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `host` and `len` are what mmap gave, and nothing outlives `self` by this type's contract.
        let _ = unsafe { munmap(self.host.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_huge_pages_host_without_them_gives_ordinary_ones() {
        for len in [HUGE_PAGE, 3 * 4096] {
            let mapping = Mapping::with_huge_pages("test", len).unwrap();
            assert_eq!(mapping.len() as u64, len);
            // SAFETY: the byte lies in the mapping, which nobody else knows of.
            unsafe { mapping.host().add(len as usize - 1).write_volatile(1) };
        }
    }
}
