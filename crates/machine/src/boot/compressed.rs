//! Kernels that their loader has to unpack: gzip as `make Image.gz` packs it, alone or in an EFI zboot program (Linux,
//! drivers/firmware/efi/libstub/zboot-header.S).

use super::Error;
use super::fields::u32_at;
use flate2::read::GzDecoder;
use std::borrow::Cow;
use std::io::Read;

/// RFC 1952: identification and the one compression method.
const GZIP: &[u8] = b"\x1f\x8b\x08";

/// Offsets in a zboot program's header.
mod zboot {
    pub const MAGIC: usize = 4;
    pub const PAYLOAD_OFFSET: usize = 8;
    pub const PAYLOAD_SIZE: usize = 12;
    pub const COMPRESSION: usize = 24;
    pub const COMPRESSION_LEN: usize = 32;
}

/// The kernel itself: unpacked to at most `limit` bytes, or as it is.
pub fn unpack(kernel: &[u8], limit: u64) -> Result<Cow<'_, [u8]>, Error> {
    if kernel.starts_with(b"MZ") && kernel.get(zboot::MAGIC..).is_some_and(|k| k.starts_with(b"zimg")) {
        return gunzip(zboot_payload(kernel)?, limit).map(Cow::Owned);
    }
    if kernel.starts_with(GZIP) {
        return gunzip(kernel, limit).map(Cow::Owned);
    }
    Ok(Cow::Borrowed(kernel))
}

fn zboot_payload(kernel: &[u8]) -> Result<&[u8], Error> {
    let have = kernel.len() as u64;
    let need = (zboot::COMPRESSION + zboot::COMPRESSION_LEN) as u64;
    let short = || Error::Truncated { what: "the zboot header", need, have };
    let name = kernel.get(zboot::COMPRESSION..need as usize).ok_or_else(short)?;
    let name = name.split(|&b| b == 0).next().unwrap_or_default();
    if name != b"gzip" {
        return Err(Error::Unsupported(format!(
            "a way to unpack \"{}\", by which this kernel is compressed; only gzip is known",
            name.escape_ascii()
        )));
    }
    let at = u32_at(kernel, zboot::PAYLOAD_OFFSET).ok_or_else(short)?;
    let len = u32_at(kernel, zboot::PAYLOAD_SIZE).ok_or_else(short)?;
    let need = u64::from(at) + u64::from(len);
    let range = at as usize..usize::try_from(need).unwrap_or(usize::MAX);
    kernel.get(range).ok_or(Error::Truncated { what: "the zboot payload", need, have })
}

fn gunzip(packed: &[u8], limit: u64) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    let mut unpacked = GzDecoder::new(packed).take(limit.saturating_add(1));
    unpacked
        .read_to_end(&mut all)
        .map_err(|e| Error::Malformed { format: "gzip", why: format!("it can't be unpacked: {e}") })?;
    if all.len() as u64 > limit {
        return Err(Error::NoRoom {
            what: "the unpacked kernel".to_string(),
            len: all.len() as u64,
            ceiling: limit,
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    fn zboot(payload: &[u8], compression: &[u8]) -> Vec<u8> {
        let mut k = vec![0; 64];
        k[..8].copy_from_slice(b"MZ\0\0zimg");
        k[8..12].copy_from_slice(&64u32.to_le_bytes());
        k[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        k[24..24 + compression.len()].copy_from_slice(compression);
        k.extend(payload);
        k.extend(b"signature");
        k
    }

    #[test]
    fn gzip_alone_or_in_zboot_is_unpacked_and_all_else_left_as_it_is() {
        let kernel = vec![7; 100_000];
        assert_eq!(*unpack(&gzip(&kernel), 100_000).unwrap(), kernel);
        assert_eq!(*unpack(&zboot(&gzip(&kernel), b"gzip"), 100_000).unwrap(), kernel);
        for plain in [&b""[..], b"MZ", b"MZ\0\0zim", b"\x1f\x8b", &kernel] {
            assert!(matches!(unpack(plain, 1 << 20), Ok(Cow::Borrowed(k)) if k == plain));
        }
    }

    #[test]
    fn bomb_stops_at_the_limit() {
        let e = unpack(&gzip(&vec![0; 10 << 20]), 1 << 20).unwrap_err().to_string();
        assert!(e.contains("more memory"), "{e}");
    }

    #[test]
    fn damaged_or_unknown_packing_is_a_sentence() {
        let packed = gzip(&[7; 1000]);
        for len in 3..packed.len() {
            assert!(matches!(unpack(&packed[..len], 1 << 20), Err(Error::Malformed { .. })), "{len}");
        }
        let kernel = zboot(&packed, b"zstd22");
        assert!(unpack(&kernel, 1 << 20).unwrap_err().to_string().contains("zstd22"));
        let kernel = zboot(&packed, b"gzip");
        for len in 8..64 + packed.len() {
            assert!(
                matches!(
                    unpack(&kernel[..len], 1 << 20),
                    Err(Error::Truncated { .. } | Error::Unsupported(_))
                ),
                "{len}"
            );
        }
        let mut kernel = kernel;
        kernel[8..16].fill(0xff);
        assert!(matches!(unpack(&kernel, 1 << 20), Err(Error::Truncated { what: "the zboot payload", .. })));
    }
}
