//! The page that a store to is a call, mapped through /dev/mem.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

const SIZE: usize = 4096;

#[derive(Debug)]
pub struct Doorbell(NonNull<u32>);

// SAFETY: the only access is a store of one word, which any thread may make at any time.
unsafe impl Send for Doorbell {}
// SAFETY: as above.
unsafe impl Sync for Doorbell {}

impl Doorbell {
    /// Maps the page at a physical address. It takes the right to.
    pub fn map(physical: u64) -> io::Result<Doorbell> {
        // O_SYNC: the page is a device's, not memory.
        let sync = rustix::fs::OFlags::SYNC.bits() as i32;
        let file = File::options().read(true).write(true).custom_flags(sync).open("/dev/mem")?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choosing touches nothing that exists.
        let page =
            unsafe { mmap(std::ptr::null_mut(), SIZE, protection, MapFlags::SHARED, &file, physical)? };
        NonNull::new(page.cast()).map(Doorbell).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Makes the call in the page with this frame number. When this returns it is answered.
    pub fn ring(&self, frame: u32) {
        fence(Ordering::SeqCst);
        // A plain store of one register: the hypervisor learns its size and value from the syndrome, which others don't have
        // (Arm ARM DDI 0487, ESR_ELx.ISV), and which the compiler is free to choose otherwise.
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the word is mapped while `self` lives. The hypervisor writes to call pages only, which are accessed
        // atomically, and the missing `nomem` says that it does.
        unsafe {
            std::arch::asm!("str {value:w}, [{to}]", value = in(reg) frame, to = in(reg) self.0.as_ptr(), options(nostack, preserves_flags));
        }
        #[cfg(target_arch = "arm")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("str {value}, [{to}]", value = in(reg) frame, to = in(reg) self.0.as_ptr(), options(nostack, preserves_flags));
        }
        fence(Ordering::SeqCst);
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        // SAFETY: the page is what mmap gave, and nothing else refers to it.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), SIZE) };
    }
}
