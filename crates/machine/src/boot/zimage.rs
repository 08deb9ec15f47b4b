//! 32-bit ARM Linux: the zImage, which unpacks itself (Linux, Documentation/arch/arm/booting.rst).

use super::Error;
use super::fields::u32_at;
use super::layout::Layout;

/// Offsets in the header.
mod field {
    pub const MAGIC: usize = 0x24;
    pub const START: usize = 0x28;
    pub const END: usize = 0x2c;
    pub const LEN: usize = 0x30;
}

const MAGIC: u32 = 0x016f_2818;

/// Where the kernel best lies, from the beginning of RAM: out of the way of what it unpacks.
const PREFERRED: u64 = 32 << 20;
/// Where it lies when memory is small: it then moves itself.
const SMALL: u64 = 64 << 10;
/// What the kernel may use from the beginning of RAM on while it unpacks itself, at most.
const UNPACKS_IN: u64 = 128 << 20;

/// Whether the image has the magic, of whichever endianness.
pub fn is(kernel: &[u8]) -> bool {
    u32_at(kernel, field::MAGIC).is_some_and(|m| m == MAGIC || m == MAGIC.swap_bytes())
}

/// The offset into RAM of `ram_len` bytes above which the initrd and the device tree are safe from the kernel's unpacking.
pub fn unpacked_end(ram_len: u64) -> u64 {
    UNPACKS_IN.min(ram_len / 2) & !0xfff
}

/// Places the kernel in the `ram_len` bytes of RAM that begin at `ram`; gives its entry, which is its first byte.
pub fn place(layout: &mut Layout<'_>, kernel: &[u8], ram: u64, ram_len: u64) -> Result<u64, Error> {
    let have = kernel.len() as u64;
    let cut = |what, need: u64| Error::Truncated { what, need, have };
    let word = |at| u32_at(kernel, at).ok_or_else(|| cut("the zImage's header", field::LEN as u64));
    if word(field::MAGIC)? != MAGIC {
        return Err(Error::Unsupported("big-endian processors".to_string()));
    }
    let (start, end) = (word(field::START)?, word(field::END)?);
    if start != 0 {
        return Err(Error::Unsupported(format!("memory at {start:#x}, where this zImage was linked to run")));
    }
    if (end as usize) < field::LEN {
        return Err(Error::Malformed { format: "zImage", why: format!("it says it ends at {end:#x}") });
    }
    // What follows it in the file, a device tree by custom, is for machines without one.
    let image = kernel.get(..end as usize).ok_or_else(|| cut("the zImage", end.into()))?;
    let offset = match PREFERRED + u64::from(end) <= unpacked_end(ram_len) {
        true => PREFERRED,
        false => SMALL,
    };
    let base = ram + offset;
    layout.place("the kernel", base, image, image.len() as u64)?;
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ArmBoard, zimage};
    use super::*;

    fn set(kernel: &mut [u8], at: usize, value: u32) {
        kernel[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn zimage_lies_above_what_it_unpacks_where_memory_allows() {
        let mut kernel = zimage(b"KERNEL");
        kernel.extend(b"\xd0\x0d\xfe\xed an appended device tree");
        assert!(is(&kernel));
        for (len, offset) in [(256 << 20, PREFERRED), (128 << 20, PREFERRED), (16 << 20, SMALL)] {
            let b = ArmBoard::new(len);
            let entry = place(&mut b.layout(), &kernel, b.ram, len).unwrap();
            assert_eq!(entry, b.ram + offset);
            assert_eq!(b.read(entry + 0x30, 10), b"KERNEL\0\0\0\0", "without what was appended");
        }
    }

    #[test]
    fn hostile_header_fields_are_sentences() {
        let b = ArmBoard::new(16 << 20);
        let kernel = zimage(&[0x5a; 100]);
        let with = |at: usize, value: u32| {
            let mut k = kernel.clone();
            set(&mut k, at, value);
            place(&mut b.layout(), &k, b.ram, 16 << 20).unwrap_err()
        };
        for end in [kernel.len() as u32 + 1, 0x8000_0000, u32::MAX] {
            assert!(matches!(with(field::END, end), Error::Truncated { what: "the zImage", .. }));
        }
        for end in [0, 1, 0x2f] {
            assert!(matches!(with(field::END, end), Error::Malformed { .. }));
        }
        assert!(with(field::START, 0x8000).to_string().contains("0x8000"));
        let e = with(field::MAGIC, MAGIC.swap_bytes());
        assert!(e.to_string().contains("big-endian"), "{e}");
        for len in 0..kernel.len() {
            assert!(matches!(
                place(&mut b.layout(), &kernel[..len], b.ram, 16 << 20),
                Err(Error::Truncated { .. })
            ));
        }
    }
}
