//! Linux kernels: the arm64 Image, by its header (Linux's Documentation/arm64/booting.rst) and the PE header inside that tells how long its
//! file is; and ARM's zImage (Documentation/arm/booting.rst), which unpacks itself.

use crate::problem::Problem;

/// What a kernel's header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// What it uses begins `text_offset` beyond a multiple of `align`,
    pub align: u64,
    pub text_offset: u64,
    /// and has so many bytes, more than its file,
    pub size: u64,
    /// which is best put so far from its beginning.
    pub file_offset: u64,
}

pub const ALIGN: u64 = 2 << 20;
const MAGIC: &[u8] = b"ARM\x64";
/// A zImage unpacks itself to the beginning of the 128 MiB that it lies in.
pub const ZIMAGE_ALIGN: u64 = 128 << 20;
const ZIMAGE_MAGIC: u64 = 0x016f_2818;
/// Bytes of a zImage, at most.
const ZIMAGE_MAX: u64 = 64 << 20;

fn number(bytes: &[u8], offset: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |n, b| n << 8 | *b as u64))
}

impl Image {
    /// Reads an arm64 Image's header, and sees that nothing is missing at its end.
    pub fn arm64(file: &[u8]) -> Result<Self, Problem> {
        if file.len() < 64 {
            return Err(Problem::Truncated { wanted: 64, present: file.len() as u64 });
        }
        if file.get(56..60) != Some(MAGIC) {
            return Err(Problem::NotAnImage);
        }
        let (offset, size) = (number(file, 8, 8).unwrap_or(0), number(file, 16, 8).unwrap_or(0));
        // Kernels before 3.17 say nothing of their size; none of them knows EFI either.
        if offset >= ALIGN || offset & 0xfff != 0 || size == 0 || size > 1 << 30 {
            return Err(Problem::NotAnImage);
        }
        let (wanted, present) = (Self::file_size(file).unwrap_or(0), file.len() as u64);
        if wanted > present {
            return Err(Problem::Truncated { wanted, present });
        }
        Ok(Self { align: ALIGN, text_offset: offset, size: size.max(present), file_offset: 0 })
    }

    /// Reads a zImage's header, and sees that nothing is missing at its end.
    pub fn zimage(file: &[u8]) -> Result<Self, Problem> {
        let present = file.len() as u64;
        if present < 64 {
            return Err(Problem::Truncated { wanted: 64, present });
        }
        let word = |offset| number(file, offset, 4).unwrap_or(0);
        let (start, end) = (word(0x28), word(0x2c));
        let length = end.wrapping_sub(start);
        if word(0x24) != ZIMAGE_MAGIC || !(64..=ZIMAGE_MAX).contains(&length) {
            return Err(Problem::NotAnImage);
        }
        if length > present {
            return Err(Problem::Truncated { wanted: length, present });
        }
        // Without a table that says it, a kernel is unpacked to four times its size at most.
        let (text_offset, unpacked) = Self::zimage_table(file).unwrap_or((0x8000, present * 4));
        // Its translation tables are within 32 KiB below it. Behind the kernel is room for the file, its heap and its stack.
        let file_offset = (unpacked + (1 << 20)).next_multiple_of(4096);
        let size = file_offset + present + (1 << 20);
        Ok(Self { align: ZIMAGE_ALIGN, text_offset: (text_offset & !0xfff) - 0x8000, size, file_offset })
    }

    /// TEXT_OFFSET and the unpacked kernel's bytes, bss included, from the tags that kernels since 4.15 have (0x34: a magic number,
    /// 0x38: where; tag KLSZ: where the size is, bytes of bss, TEXT_OFFSET).
    fn zimage_table(file: &[u8]) -> Option<(u64, u64)> {
        let word = |offset: u64| number(file, usize::try_from(offset).ok()?, 4);
        if word(0x34)? != 0x4545_4545 {
            return None;
        }
        let mut at = word(0x38)?;
        for _ in 0..16 {
            let words = word(at)?;
            if word(at + 4)? == 0x5a53_4c4b && words >= 5 {
                let (size, bss, text_offset) = (word(word(at + 8)?)?, word(at + 12)?, word(at + 16)?);
                let sane = (0x8000..ZIMAGE_ALIGN / 2).contains(&text_offset);
                return Some((text_offset, size + bss)).filter(|(_, n)| sane && *n <= ZIMAGE_MAX);
            }
            at += words.max(1) * 4;
        }
        None
    }

    /// The end of the last section in the file, of an Image that is an EFI program too (PE/COFF specification 3 and 4).
    fn file_size(file: &[u8]) -> Option<u64> {
        let pe = number(file, 60, 4)? as usize;
        if file.get(pe..pe.checked_add(4)?) != Some(b"PE\0\0") {
            return None;
        }
        let sections = number(file, pe + 6, 2)?.min(96) as usize;
        let first = pe + 24 + number(file, pe + 20, 2)? as usize;
        (0..sections)
            .filter_map(|n| {
                Some(number(file, first + n * 40 + 16, 4)? + number(file, first + n * 40 + 20, 4)?)
            })
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_believed_only_when_sane() {
        let mut file = std::vec![0u8; 4096];
        assert_eq!(Image::arm64(&file), Err(Problem::NotAnImage));
        assert_eq!(Image::arm64(&file[..63]), Err(Problem::Truncated { wanted: 64, present: 63 }));
        file[56..60].copy_from_slice(MAGIC);
        assert_eq!(Image::arm64(&file), Err(Problem::NotAnImage));
        file[18] = 0x10;
        assert_eq!(
            Image::arm64(&file),
            Ok(Image { align: ALIGN, text_offset: 0, size: 0x10_0000, file_offset: 0 })
        );
        file[60] = 64;
        file[64..68].copy_from_slice(b"PE\0\0");
        file[64 + 6] = 1;
        let section = 64 + 24;
        file[section + 16..section + 20].copy_from_slice(&0x2000u32.to_le_bytes());
        assert_eq!(Image::arm64(&file), Err(Problem::Truncated { wanted: 0x2000, present: 4096 }));
        file[60..64].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Image::arm64(&file).is_ok());
        file[23] = 0xff;
        assert_eq!(Image::arm64(&file), Err(Problem::NotAnImage));
    }

    #[test]
    fn a_zimage_says_where_it_unpacks_to() {
        let mut file = std::vec![0u8; 0x1000];
        let put =
            |file: &mut [u8], at: usize, word: u32| file[at..at + 4].copy_from_slice(&word.to_le_bytes());
        assert_eq!(Image::zimage(&file), Err(Problem::NotAnImage));
        put(&mut file, 0x24, ZIMAGE_MAGIC as u32);
        assert_eq!(Image::zimage(&file), Err(Problem::NotAnImage));
        put(&mut file, 0x2c, 0x1001);
        assert_eq!(Image::zimage(&file), Err(Problem::Truncated { wanted: 0x1001, present: 0x1000 }));
        put(&mut file, 0x2c, 0x1000);
        let plain = Image::zimage(&file).unwrap();
        assert_eq!((plain.align, plain.text_offset), (ZIMAGE_ALIGN, 0));
        put(&mut file, 0x34, 0x4545_4545);
        put(&mut file, 0x38, 0x100);
        for (n, word) in [6, 0x5a53_4c4b, 0x200, 0x1000, 0x20_8000, 0x1_0000].into_iter().enumerate() {
            put(&mut file, 0x100 + n * 4, word);
        }
        put(&mut file, 0x200, 0xe0_0000);
        let known = Image::zimage(&file).unwrap();
        assert_eq!((known.text_offset, known.file_offset), (0x20_0000, 0xf0_1000));
        assert_eq!(known.size, 0xf0_1000 + 0x1000 + 0x10_0000);
        // Sizes, places and tags that can't be.
        for at in [0x38, 0x108, 0x110, 0x200] {
            let mut broken = file.clone();
            put(&mut broken, at, u32::MAX);
            assert_eq!(Image::zimage(&broken), Ok(plain), "{at:#x}");
        }
    }
}
