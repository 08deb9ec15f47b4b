//! Boot protocols: a kernel's bytes and guest memory in, the first processor's register file out.
//!
//! One file per protocol; [`load`] chooses for a pc, [`arm::load`] for a virt board. A loader trusts nothing in the image: every offset and size in it is checked against the
//! file, every address against RAM and against what else has been placed.

pub mod arm;
pub mod arm64_image;
pub mod bzimage;
pub mod compressed;
pub mod elf_image;
pub mod entry;
pub mod error;
pub mod fields;
pub mod layout;
pub mod multiboot;
pub mod pvh;
#[cfg(test)]
pub(crate) mod testing;
pub mod zimage;

pub use error::Error;

use crate::pc::memory_map::{CONVENTIONAL_END, MemoryMap};
use elf_image::ElfImage;
use memory::GuestMemory;
use std::borrow::Cow;

/// What is booted, read whole.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// As the user calls it: the first word of a Multiboot kernel's command line.
    pub kernel_name: &'a str,
    pub kernel: &'a [u8],
    pub modules: &'a [ModuleBytes<'a>],
    pub command_line: &'a str,
}

impl<'a> Files<'a> {
    /// The modules laid end to end, each at a 4-byte boundary: Linux takes one initrd.
    pub fn initrd(&self) -> Cow<'a, [u8]> {
        if let [one] = self.modules {
            return Cow::Borrowed(one.bytes);
        }
        let mut all = Vec::new();
        for m in self.modules {
            all.resize(all.len().next_multiple_of(4), 0);
            all.extend_from_slice(m.bytes);
        }
        Cow::Owned(all)
    }
}

/// A module's bytes and its own string.
#[derive(Clone, Copy, Debug)]
pub struct ModuleBytes<'a> {
    pub bytes: &'a [u8],
    pub command_line: &'a str,
}

/// What the pc's loaders know of their board.
#[derive(Clone, Copy, Debug)]
pub struct Platform<'a> {
    pub memory: &'a GuestMemory,
    pub map: &'a MemoryMap,
    /// Guest-physical address of the ACPI root pointer, for protocols that carry it.
    pub rsdp: u64,
}

/// Loads a pc's kernel of any protocol; gives the boot processor's registers at its entry. The order is QEMU's, so that
/// what people boot there boots the same way here.
pub fn load(platform: Platform<'_>, files: Files<'_>) -> Result<x86::State, Error> {
    let kernel = files.kernel;
    if let Some(header) = multiboot::find(kernel) {
        return multiboot::load(platform, files, header);
    }
    for m in files.modules {
        warn_of_odd_initrd(m.bytes);
    }
    if bzimage::is(kernel) {
        return bzimage::load(platform, files);
    }
    if elf_image::is(kernel) {
        let image = ElfImage::parse(kernel)?;
        let entry = pvh::entry_point(&image).ok_or(Error::NotAKernel)?;
        return pvh::load(platform, files, &image, entry);
    }
    Err(Error::NotAKernel)
}

/// The command line, refused when longer than `most` bytes or with a NUL in it.
fn checked_command_line(line: &str, most: usize) -> Result<&str, Error> {
    match line.len() {
        _ if line.contains('\0') => Err(Error::CommandLineNul),
        len if len > most => Err(Error::CommandLineTooLong { len, most }),
        _ => Ok(line),
    }
}

/// What Linux takes as an initial RAM disk begins with one of these: cpio, gzip, bzip2, xz, lzma, lzo, lz4, zstd.
const INITRD_MAGICS: [&[u8]; 9] = [
    b"0707",
    b"\x1f\x8b",
    b"\x1f\x9e",
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x5d\0\0",
    b"\x89LZO",
    b"\x02\x21\x4c\x18",
    b"\x28\xb5\x2f\xfd",
];

/// Whether a Linux kernel would know `bytes` as an initial RAM disk by their beginning.
pub fn looks_like_initrd(bytes: &[u8]) -> bool {
    INITRD_MAGICS.iter().any(|m| bytes.starts_with(m))
}

fn warn_of_odd_initrd(bytes: &[u8]) {
    // A plain filesystem image is possible too, so this is no error.
    if !looks_like_initrd(bytes) {
        log::warn!(
            "the initrd ({} bytes) begins like no cpio archive and no compressed one: is it the right file, and whole?",
            bytes.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::{Board, files};

    #[test]
    fn file_that_is_no_kernel_is_told_what_was_looked_for() {
        let b = Board::new(4 << 20);
        for kernel in [&b""[..], b"#!/bin/sh\n", &[0; 9000]] {
            let e = load(b.platform(), files(kernel)).unwrap_err().to_string();
            assert!(e.contains("Multiboot") && e.contains("HdrS") && e.contains("PVH"), "{e}");
        }
    }

    #[test]
    fn initrd_magics_are_known() {
        assert!(looks_like_initrd(b"070701") && looks_like_initrd(b"\x1f\x8b\x08"));
        assert!(!looks_like_initrd(b"") && !looks_like_initrd(b"<html>"));
    }
}
