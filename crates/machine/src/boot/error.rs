//! Why a kernel can't be booted, in sentences.

/// A loader's error. The caller says which file it is about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "it is no kernel that Auberge can boot: it has neither a Multiboot header in its first 8 KiB, nor the \
         \"HdrS\" signature of a Linux bzImage at offset 0x202, nor is it an ELF file with the PVH entry note"
    )]
    NotAKernel,
    #[error(
        "it is no kernel that Auberge can boot on ARM: it has neither the magic \"ARM\\x64\" of a 64-bit Image at offset 0x38 (nor has \
         what is in it, if it is compressed), nor the magic 0x016f2818 of a 32-bit zImage at offset 0x24"
    )]
    NotAnArmKernel,
    #[error("it is a {is} kernel, and this VM was made for a {wanted} one")]
    WrongArch { is: &'static str, wanted: &'static str },
    #[error("it is cut short: {what} needs {need} bytes and the file has {have}")]
    Truncated { what: &'static str, need: u64, have: u64 },
    #[error("its {format} header makes no sense: {why}")]
    Malformed { format: &'static str, why: String },
    #[error("it needs something Auberge's machine has not: {0}")]
    Unsupported(String),
    #[error(
        "{what} wants {len} bytes at guest-physical {base:#x}, which is not all RAM; give the VM more memory"
    )]
    NotRam { what: String, base: u64, len: u64 },
    #[error("{what} and {other} would both lie at guest-physical {base:#x}")]
    Overlap { what: String, other: String, base: u64 },
    #[error(
        "there is no room for {what} ({len} bytes) below guest-physical {ceiling:#x}; give the VM more memory"
    )]
    NoRoom { what: String, len: u64, ceiling: u64 },
    #[error("the kernel command line is {len} bytes long and this kernel takes at most {most}")]
    CommandLineTooLong { len: usize, most: usize },
    #[error("the kernel command line has a NUL byte in it")]
    CommandLineNul,
    #[error("guest memory could not be written: {0}")]
    Memory(String),
}

impl From<memory::Error> for Error {
    fn from(e: memory::Error) -> Self {
        Error::Memory(e.to_string())
    }
}
