//! Memory for native stubs: one memfd, mapped once to write and once to execute, so that no page is ever both.

use iced_x86::Instruction;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::collections::HashMap;
use std::ffi::c_void;
use std::io;
use std::ptr::{NonNull, null_mut};

/// Bytes of stubs a vCPU may have.
const SIZE: usize = 4 << 20;
/// Kept free for one more block once the arena counts as full: 64 instructions of at most [`MAX_STUB`] bytes.
const RESERVE: usize = 64 * MAX_STUB;
/// No stub is longer.
pub(super) const MAX_STUB: usize = 1024;

/// The two mappings, `size` bytes each.
pub(crate) struct Arena {
    pub write: NonNull<u8>,
    pub execute: NonNull<u8>,
    pub used: usize,
    size: usize,
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
            Ok(execute) => Ok(Self { write, execute, used: 0, size }),
            Err(e) => {
                // SAFETY: mapped just above, not yet in use.
                let _ = unsafe { munmap(write.as_ptr().cast::<c_void>(), size) };
                Err(e)
            }
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: both were mapped by `new`; pointers into them are only used through the `Cpu` that owns this.
        unsafe {
            let _ = munmap(self.write.as_ptr().cast::<c_void>(), self.size);
            let _ = munmap(self.execute.as_ptr().cast::<c_void>(), self.size);
        }
    }
}

/// A stub: where it is, and what the caller has to know.
#[derive(Clone, Copy)]
pub(super) struct Stub {
    pub entry: *const u8,
    /// Where the guest's instruction lies in it: what the processor leaves in FIP.
    pub instruction: u64,
    /// The instruction's x87 opcode as the stub encodes it: what the processor may leave in FOP.
    pub opcode: u16,
}

/// A vCPU's stubs.
pub(super) struct Stubs {
    arena: Arena,
    known: HashMap<Instruction, Stub>,
}

// SAFETY: the stubs point into the arena that travels with them.
unsafe impl Send for Stubs {}

impl Stubs {
    pub fn new() -> io::Result<Self> {
        Ok(Self { arena: Arena::new("auberge-stubs", SIZE)?, known: HashMap::new() })
    }
    pub fn find(&self, key: &Instruction) -> Option<Stub> {
        self.known.get(key).copied()
    }
    /// Copies a stub's code into the arena. `None` when there is no room at all.
    pub fn add(&mut self, key: Instruction, code: &[u8], instruction: usize, opcode: u16) -> Option<Stub> {
        let at = self.arena.used;
        let end = at.checked_add(code.len())?;
        if code.len() > MAX_STUB || end > SIZE {
            return None;
        }
        // SAFETY: `at..end` lies in both mappings, and no stub handed out uses these bytes.
        let entry = unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.arena.write.as_ptr().add(at), code.len());
            self.arena.execute.as_ptr().add(at)
        };
        self.arena.used = end.next_multiple_of(16);
        let stub = Stub { entry, instruction: entry as u64 + instruction as u64, opcode };
        self.known.insert(key, stub);
        Some(stub)
    }
    /// Whether all stubs should go before another block is decoded.
    pub fn full(&self) -> bool {
        self.arena.used > SIZE - RESERVE
    }
    pub fn clear(&mut self) {
        self.known.clear();
        self.arena.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_until_full_stops_at_the_end() {
        let mut stubs = Stubs::new().unwrap();
        let code = [0xc3; MAX_STUB];
        let mut n = 0u64;
        let mut was_full_at = None;
        loop {
            let mut key = Instruction::default();
            key.set_immediate64(n);
            if stubs.add(key, &code, 0, 0).is_none() {
                break;
            }
            n += 1;
            if stubs.full() && was_full_at.is_none() {
                was_full_at = Some(n);
            }
        }
        assert_eq!(n as usize, SIZE / MAX_STUB);
        assert!(n - was_full_at.unwrap() >= 63, "{n} {was_full_at:?}");
        stubs.clear();
        assert!(!stubs.full());
        assert!(stubs.add(Instruction::default(), &code, 0, 0).is_some());
        assert!(stubs.add(Instruction::default(), &[0; MAX_STUB + 1], 0, 0).is_none());
    }
}
