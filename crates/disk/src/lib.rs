//! Disk images behind one trait.
#![forbid(unsafe_code)]

pub mod raw;

pub use raw::Raw;

use std::io;

/// A disk as a device sees it: an array of bytes that outlives the VM. Called from several threads at once.
pub trait Image: Send + Sync {
    /// Size in bytes.
    fn len(&self) -> u64;
    /// True for a disk of no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn read_only(&self) -> bool;
    /// Fills `out` from `offset`. Past the end is an error.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Everything written before is on stable storage when this returns.
    fn flush(&self) -> io::Result<()>;
    /// Makes a range read as zeroes, giving its space back where `discard` says it may.
    fn write_zeroes(&self, offset: u64, len: u64, discard: bool) -> io::Result<()>;
}
