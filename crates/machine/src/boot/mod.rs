//! Boot protocols: a kernel's bytes and guest memory in, the first processor's register file out.
//!
//! One file per protocol. A loader trusts nothing in the image: every offset and size in it is checked against the
//! file, every address against RAM and against what else has been placed.

pub mod error;

pub use error::Error;

use crate::pc::memory_map::MemoryMap;
use memory::GuestMemory;

/// What is booted, read whole.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    pub kernel: &'a [u8],
    pub modules: &'a [ModuleBytes<'a>],
    pub command_line: &'a str,
}

/// A module's bytes and its own string.
#[derive(Clone, Copy, Debug)]
pub struct ModuleBytes<'a> {
    pub bytes: &'a [u8],
    pub command_line: &'a str,
}

/// What the loaders know of the board.
#[derive(Clone, Copy, Debug)]
pub struct Platform<'a> {
    pub memory: &'a GuestMemory,
    pub map: &'a MemoryMap,
    /// Guest-physical address of the ACPI root pointer, for protocols that carry it.
    pub rsdp: u64,
}

/// Loads a kernel of any protocol; gives the boot processor's registers at its entry.
pub fn load(_platform: Platform<'_>, _files: Files<'_>) -> Result<x86::State, Error> {
    Err(Error::NotAKernel)
}
