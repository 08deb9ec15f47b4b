//! 64-bit ARM Linux: the Image (Linux, Documentation/arch/arm64/booting.rst).

use super::Error;
use super::fields::{u32_at, u64_at};
use super::layout::Layout;

/// Offsets in the header.
mod field {
    pub const TEXT_OFFSET: usize = 8;
    pub const IMAGE_SIZE: usize = 16;
    pub const FLAGS: usize = 24;
    pub const MAGIC: usize = 56;
    pub const LEN: usize = 64;
}

/// "ARM\x64".
const MAGIC: u32 = 0x644d_5241;
const BIG_ENDIAN: u64 = 1 << 0;
/// Where an Image without a size lies, from a 2 MiB boundary.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;

/// Whether the image has the magic.
pub fn is(kernel: &[u8]) -> bool {
    u32_at(kernel, field::MAGIC) == Some(MAGIC)
}

/// Places the kernel in the RAM that begins at `ram`, a multiple of 2 MiB; gives its entry, which is its first byte.
pub fn place(layout: &mut Layout<'_>, kernel: &[u8], ram: u64) -> Result<u64, Error> {
    let short = || Error::Truncated {
        what: "the Image's header",
        need: field::LEN as u64,
        have: kernel.len() as u64,
    };
    if kernel.len() < field::LEN {
        return Err(short());
    }
    let word = |at| u64_at(kernel, at).ok_or_else(short);
    if word(field::FLAGS)? & BIG_ENDIAN != 0 {
        return Err(Error::Unsupported("big-endian processors".to_string()));
    }
    // With its BSS. An Image from before Linux 3.17 doesn't say.
    let (text_offset, len) = match word(field::IMAGE_SIZE)? {
        0 => (OLD_TEXT_OFFSET, kernel.len() as u64),
        size => (word(field::TEXT_OFFSET)?, size.max(kernel.len() as u64)),
    };
    let what = "the kernel";
    let base = ram.checked_add(text_offset).ok_or_else(|| Error::Malformed {
        format: "Image",
        why: format!("it wants to lie {text_offset:#x} bytes into RAM"),
    })?;
    layout.place(what, base, kernel, len)?;
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ArmBoard, image64};
    use super::*;

    fn set(kernel: &mut [u8], at: usize, value: u64) {
        kernel[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn image_lies_at_its_offset_with_its_bss_zeroed() {
        let b = ArmBoard::new(16 << 20);
        b.memory.fill(address::GuestPhys(b.ram), 4 << 20, 0xee).unwrap();
        let mut kernel = image64(b"KERNEL");
        assert!(is(&kernel));
        set(&mut kernel, field::TEXT_OFFSET, 0x8_0000);
        set(&mut kernel, field::IMAGE_SIZE, 0x10_0000);
        let entry = place(&mut b.layout(), &kernel, b.ram).unwrap();
        assert_eq!(entry, b.ram + 0x8_0000);
        assert_eq!(b.read(entry + 64, 8), b"KERNEL\0\0");
        assert_eq!((b.read(entry + 0xf_ffff, 1), b.read(entry + 0x10_0000, 1)), (vec![0], vec![0xee]));
        set(&mut kernel, field::IMAGE_SIZE, 0);
        set(&mut kernel, field::TEXT_OFFSET, 7);
        assert_eq!(place(&mut b.layout(), &kernel, b.ram), Ok(b.ram + OLD_TEXT_OFFSET));
    }

    #[test]
    fn hostile_header_fields_are_sentences() {
        let b = ArmBoard::new(16 << 20);
        let kernel = image64(&[0x5a; 100]);
        let with = |at: usize, value: u64| {
            let mut k = kernel.clone();
            set(&mut k, at, value);
            place(&mut b.layout(), &k, b.ram).unwrap_err()
        };
        for value in [u64::MAX, 1 << 63, 1 << 40, (16 << 20) + 1] {
            assert!(matches!(with(field::IMAGE_SIZE, value), Error::NotRam { .. }), "{value:#x}");
            let e = with(field::TEXT_OFFSET, value);
            assert!(matches!(e, Error::NotRam { .. } | Error::Malformed { .. }), "{value:#x} {e}");
        }
        assert!(with(field::FLAGS, 0xb).to_string().contains("big-endian"));
        for len in 0..64 {
            assert!(matches!(place(&mut b.layout(), &kernel[..len], b.ram), Err(Error::Truncated { .. })));
        }
    }
}
