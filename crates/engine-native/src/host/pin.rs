//! Memory that stays in its frames for as long as a descriptor is open: io_uring(7) pins what is registered as its fixed buffers
//! for long, also out of the way of migration and compaction, which mlock(2) doesn't.

use engine::{Error, Result};
use rustix::fd::OwnedFd;
use rustix::io_uring::{
    IoringRegisterOp, IoringSetupFlags, io_uring_params, io_uring_register, io_uring_setup,
};
use std::ffi::c_void;
use std::ptr::NonNull;

/// A buffer's longest length, in bytes: SZ_1G in Linux's io_uring/rsrc.c.
const LONGEST: usize = 1 << 30;
/// Buffers at most: IORING_MAX_REG_BUFFERS there.
const MOST: usize = 1 << 14;

/// A ring that never carries a request. What it pins is unpinned when it is dropped.
#[derive(Debug)]
pub struct Pins(OwnedFd);

impl Pins {
    /// Makes the ring; done before the process gives up the right to.
    pub fn new() -> Result<Pins> {
        let mut params = io_uring_params::default();
        // Not enabled: no request can be put in.
        params.flags = IoringSetupFlags::R_DISABLED;
        // SAFETY: the structure is valid for the call, and says that there is no memory of ours in the ring.
        let ring = unsafe { io_uring_setup(1, &mut params) };
        Ok(Pins(ring.map_err(|e| error("io_uring, by which a guest's memory is kept in its place", e))?))
    }

    /// Pins ranges of this process's memory, and puts all their pages there. Once.
    ///
    /// # Safety
    /// The ranges must be shared memory of this process that nothing else may be mapped over while the ring lives.
    pub unsafe fn pin(&self, ranges: &[(NonNull<u8>, usize)]) -> Result<()> {
        let buffers: Vec<libc::iovec> = ranges.iter().flat_map(|&(start, len)| split(start, len)).collect();
        if buffers.len() > MOST {
            return Err(error("to keep that much memory in its place", rustix::io::Errno::NOMEM));
        }
        let list: *const c_void = buffers.as_ptr().cast();
        // SAFETY: the list is valid for the call; what it names is memory, by this function's contract. No request
        // ever reads or writes through the buffers.
        unsafe { io_uring_register(&self.0, IoringRegisterOp::RegisterBuffers, list, buffers.len() as u32) }
            .map_err(|e| error("to keep a guest's memory in its place", e))?;
        Ok(())
    }
}

fn error(what: &str, source: rustix::io::Errno) -> Error {
    Error::Host { what: what.to_owned(), source: source.into() }
}

/// A range in pieces that a buffer may be long.
fn split(start: NonNull<u8>, len: usize) -> impl Iterator<Item = libc::iovec> {
    (0..len).step_by(LONGEST).map(move |at| libc::iovec {
        iov_base: start.as_ptr().wrapping_add(at).cast(),
        iov_len: (len - at).min(LONGEST),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pagemap::Pagemap;
    use memory::mapping::Mapping;

    #[test]
    fn split_long_range_covers_it_all() {
        let start = NonNull::<u8>::dangling();
        let pieces: Vec<_> = split(start, 2 * LONGEST + 5).map(|piece| piece.iov_len).collect();
        assert_eq!(pieces, [LONGEST, LONGEST, 5]);
        assert_eq!(split(start, 0).count(), 0);
    }

    #[test]
    fn pin_puts_pages_into_frames_where_the_host_has_io_uring() {
        let Ok(pins) = Pins::new() else { return };
        let memory = Mapping::new("test", 1 << 20).unwrap();
        // SAFETY: the mapping lives longer than the ring.
        if let Err(e) = unsafe { pins.pin(&[(memory.host(), memory.len())]) } {
            assert!(e.to_string().contains("in its place"), "{e}");
            return;
        }
        match Pagemap::open().and_then(|map| map.frames(memory.host(), memory.len())) {
            Ok(frames) => assert_eq!(frames.len(), 256),
            // Pinned, but not shown to this user.
            Err(e) => assert!(e.to_string().contains("root"), "{e}"),
        }
    }
}
