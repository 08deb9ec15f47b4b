//! Why a kernel can't be booted, in sentences.

/// A loader's error. The caller says which file it is about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "it is no kernel that Auberge can boot: it has neither a Multiboot header in its first 8 KiB, nor the \
         \"HdrS\" signature of a Linux bzImage at offset 0x202, nor is it an ELF file with the PVH entry note"
    )]
    NotAKernel,
}
