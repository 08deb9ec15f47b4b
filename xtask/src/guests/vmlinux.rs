//! Linux's own ELF image, `vmlinux`, out of a bzImage: what boots by PVH. The setup header says where it lies
//! (Linux, Documentation/arch/x86/boot.rst, protocol 2.08: `payload_offset`, `payload_length`); which compressor made it
//! is told by its first bytes. The kernel's build appends the uncompressed length, four bytes, little-endian.

use std::io::Read as _;

use anyhow::{Context, Result, bail};

/// `HdrS`, the setup header's magic.
const HEADER_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
const SETUP_SECTS: usize = 0x1f1;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
/// LZ4's legacy frames (LZ4 frame format, "Legacy frame"), which the kernel's build makes.
const LZ4_LEGACY_MAGIC: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// What a legacy frame's block holds at most.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// What the compressors that Linux knows and this doesn't begin with.
const OTHERS: &[(&[u8], &str)] = &[
    (&[0x1f, 0x8b], "gzip"),
    (b"BZh", "bzip2"),
    (&[0x5d, 0, 0], "lzma"),
    (&[0x89, b'L', b'Z', b'O'], "lzo"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
];

/// The ELF image in `bzimage`.
///
/// Errors: no bzImage, one older than protocol 2.08, a compressor other than LZ4 and XZ, a broken payload.
pub fn extract(bzimage: &[u8]) -> Result<Vec<u8>> {
    let (payload, length) = payload(bzimage)?;
    let image = if payload.starts_with(XZ_MAGIC) {
        xz(payload, length)?
    } else if let Some(blocks) = payload.strip_prefix(LZ4_LEGACY_MAGIC) {
        lz4_legacy(blocks)?
    } else {
        let other = OTHERS.iter().find(|(magic, _)| payload.starts_with(magic));
        let other = other.map_or("an unknown compressor", |(_, name)| name);
        bail!("the kernel's image is compressed by {other}; vmlinux can be made of LZ4 and XZ only");
    };
    if image.len() != length {
        bail!("the kernel's image unpacks to {} bytes, and should to {length}", image.len());
    }
    if !image.starts_with(b"\x7fELF") {
        bail!("the kernel's image is no ELF file");
    }
    Ok(image)
}

/// The compressed image, and how long it is uncompressed.
fn payload(bzimage: &[u8]) -> Result<(&[u8], usize)> {
    let read = || {
        if bytes(bzimage, HEADER_MAGIC.0, 4)? != HEADER_MAGIC.1 {
            bail!("it has no setup header");
        }
        let version = u16::from_le_bytes(bytes(bzimage, VERSION, 2)?.try_into()?);
        if version < 0x208 {
            bail!("its boot protocol {}.{:02} is older than 2.08", version >> 8, version & 0xff);
        }
        // 0 stands for 4.
        let sectors = match bytes(bzimage, SETUP_SECTS, 1)?[0] {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let at = u32_at(bzimage, PAYLOAD_OFFSET)?.saturating_add((sectors + 1) * 512);
        let payload = bytes(bzimage, at, u32_at(bzimage, PAYLOAD_LENGTH)?)?;
        let (compressed, length) = payload.split_last_chunk::<4>().context("its payload is too short")?;
        Ok((compressed, u32::from_le_bytes(*length) as usize))
    };
    read().context("the kernel is no bzImage with a payload")
}

fn xz(payload: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut image = Vec::new();
    // One byte more than it should be, to tell that it is longer.
    let mut reader = lzma_rust2::XzReader::new(payload, false).take(length as u64 + 1);
    reader.read_to_end(&mut image).context("the kernel's XZ payload is broken")?;
    Ok(image)
}

/// A legacy frame behind its magic: blocks, each behind its compressed length, to the end.
fn lz4_legacy(mut blocks: &[u8]) -> Result<Vec<u8>> {
    const BROKEN: &str = "the kernel's LZ4 payload is broken";
    let mut image = Vec::new();
    while !blocks.is_empty() {
        let block = bytes(blocks, 4, u32_at(blocks, 0).context(BROKEN)?).context(BROKEN)?;
        image.extend(lz4_flex::block::decompress(block, LZ4_LEGACY_BLOCK).context(BROKEN)?);
        blocks = &blocks[4 + block.len()..];
    }
    Ok(image)
}

fn bytes(from: &[u8], at: usize, len: usize) -> Result<&[u8]> {
    at.checked_add(len).and_then(|end| from.get(at..end)).context("it ends early")
}

fn u32_at(from: &[u8], at: usize) -> Result<usize> {
    Ok(u32::from_le_bytes(bytes(from, at, 4)?.try_into()?) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &[u8] = b"\x7fELF, a call: \xe8\x10\x00\x00\x00, and after";
    /// `IMAGE`, whose call the x86 filter changes, by `xz --x86 --lzma2 --check=crc32`.
    const IMAGE_XZ: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x01, 0x04, 0x00, 0x21,
        0x01, 0x16, 0x00, 0x0d, 0x86, 0x35, 0x1f, 0x01, 0x00, 0x1d, 0x7f, 0x45, 0x4c, 0x46, 0x2c, 0x20, 0x61,
        0x20, 0x63, 0x61, 0x6c, 0x6c, 0x3a, 0x20, 0xe8, 0x23, 0x00, 0x00, 0x00, 0x2c, 0x20, 0x61, 0x6e, 0x64,
        0x20, 0x61, 0x66, 0x74, 0x65, 0x72, 0x00, 0x00, 0x00, 0xd2, 0x15, 0xbe, 0xb2, 0x00, 0x01, 0x32, 0x1e,
        0x39, 0xdc, 0xf9, 0x37, 0x90, 0x42, 0x99, 0x0d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a,
    ];

    /// A bzImage with `payload` behind one sector of setup.
    fn bzimage(payload: &[u8], length: usize) -> Vec<u8> {
        let mut file = vec![0; 2 * 512];
        file[SETUP_SECTS] = 1;
        file[HEADER_MAGIC.0..][..4].copy_from_slice(HEADER_MAGIC.1);
        file[VERSION..][..2].copy_from_slice(&[0x0f, 2]);
        file[PAYLOAD_OFFSET..][..4].copy_from_slice(&3u32.to_le_bytes());
        file[PAYLOAD_LENGTH..][..4].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
        file.extend([0xee; 3]);
        file.extend(payload);
        file.extend((length as u32).to_le_bytes());
        file.extend([0xee; 3]);
        file
    }

    /// A legacy frame: a block of literals for each of `parts`, shorter than 15 bytes (LZ4 block format).
    fn lz4(parts: &[&[u8]]) -> Vec<u8> {
        let mut frame = LZ4_LEGACY_MAGIC.to_vec();
        for part in parts {
            frame.extend((part.len() as u32 + 1).to_le_bytes());
            frame.push((part.len() as u8) << 4);
            frame.extend(*part);
        }
        frame
    }

    fn error(bzimage: &[u8]) -> String {
        format!("{:#}", extract(bzimage).unwrap_err())
    }

    #[test]
    fn extract_xz_with_x86_filter_and_lz4_blocks_give_the_image() {
        assert_eq!(extract(&bzimage(IMAGE_XZ, IMAGE.len())).unwrap(), IMAGE);
        let (first, second) = IMAGE.split_at(14);
        assert_eq!(
            extract(&bzimage(&lz4(&[first, &second[..4], &second[4..]]), IMAGE.len())).unwrap(),
            IMAGE
        );
    }

    #[test]
    fn extract_other_compressors_and_contents_are_named() {
        assert!(error(&bzimage(b"\x28\xb5\x2f\xfd", 4)).contains("zstd"));
        assert!(error(&bzimage(b"????????", 4)).contains("unknown"));
        assert!(error(&bzimage(&lz4(&[b"no ELF"]), 6)).contains("no ELF"));
        assert!(error(&bzimage(&lz4(&[b"\x7fELF"]), 5)).contains("unpacks to 4"));
        assert!(error(&bzimage(IMAGE_XZ, IMAGE.len() - 5)).contains("should to"));
        assert!(error(b"\x7fELF").contains("no bzImage"));
    }

    #[test]
    fn extract_old_protocol_is_refused() {
        let mut file = bzimage(IMAGE_XZ, IMAGE.len());
        file[VERSION] = 7;
        assert!(error(&file).contains("2.07"));
    }

    #[test]
    fn extract_cut_or_bent_anywhere_is_no_panic() {
        for payload in [IMAGE_XZ.to_vec(), lz4(&[b"\x7fELF"])] {
            let file = bzimage(&payload, IMAGE.len());
            for len in 0..file.len() - 3 {
                assert!(extract(&file[..len]).is_err(), "{len}");
            }
            for at in 0..file.len() {
                for value in [0, 1, 0x80, 0xff] {
                    let mut bent = file.clone();
                    bent[at] = value;
                    let _ = extract(&bent);
                }
            }
        }
    }
}
