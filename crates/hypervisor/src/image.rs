//! The arm64 Linux Image: its header (Linux's Documentation/arm64/booting.rst), and the PE header inside that tells how long its file is.

use crate::problem::Problem;

/// What a kernel's header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it wants to be, from a multiple of [`ALIGN`].
    pub text_offset: u64,
    /// Bytes that it uses from its start, more than its file has.
    pub size: u64,
}

pub const ALIGN: u64 = 2 << 20;
const MAGIC: &[u8] = b"ARM\x64";

fn number(bytes: &[u8], offset: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |n, b| n << 8 | *b as u64))
}

impl Image {
    /// Reads the header of `file`, and sees that nothing is missing at its end.
    pub fn new(file: &[u8]) -> Result<Self, Problem> {
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
        Ok(Self { text_offset: offset, size: size.max(present) })
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
        assert_eq!(Image::new(&file), Err(Problem::NotAnImage));
        assert_eq!(Image::new(&file[..63]), Err(Problem::Truncated { wanted: 64, present: 63 }));
        file[56..60].copy_from_slice(MAGIC);
        assert_eq!(Image::new(&file), Err(Problem::NotAnImage));
        file[18] = 0x10;
        assert_eq!(Image::new(&file), Ok(Image { text_offset: 0, size: 0x10_0000 }));
        file[60] = 64;
        file[64..68].copy_from_slice(b"PE\0\0");
        file[64 + 6] = 1;
        let section = 64 + 24;
        file[section + 16..section + 20].copy_from_slice(&0x2000u32.to_le_bytes());
        assert_eq!(Image::new(&file), Err(Problem::Truncated { wanted: 0x2000, present: 4096 }));
        file[60..64].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Image::new(&file).is_ok());
        file[23] = 0xff;
        assert_eq!(Image::new(&file), Err(Problem::NotAnImage));
    }
}
