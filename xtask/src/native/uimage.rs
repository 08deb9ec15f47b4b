//! U-Boot's legacy image format, as far as scripts need it (U-Boot, doc/usage/source_file_format and include/image.h: a header of 64
//! bytes, numbers big-endian, then the data).

const MAGIC: u32 = 0x2705_1956;
/// Linux, any processor that reads it (ARM), a script, not compressed.
const KIND: [u8; 4] = [5, 2, 6, 0];

/// A script as a file that U-Boot's `source` runs.
pub fn script(name: &str, text: &[u8]) -> Vec<u8> {
    // A list of the parts' sizes, ended by 0: one part.
    let data = [&(text.len() as u32).to_be_bytes(), &[0; 4], text].concat();
    let mut header = Vec::new();
    let mut word = |value: u32| header.extend(value.to_be_bytes());
    // Magic number, the header's checksum, no time, the data's size, no place and no entry, the data's checksum.
    for value in [MAGIC, 0, 0, data.len() as u32, 0, 0, crc32(&data)] {
        word(value);
    }
    header.extend(KIND);
    header.extend(name.bytes().chain(std::iter::repeat(0)).take(32));
    let checksum = crc32(&header);
    header[4..8].copy_from_slice(&checksum.to_be_bytes());
    [header, data].concat()
}

/// CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn script_is_behind_header_and_sizes() {
        let image = script("n", b"echo");
        assert_eq!(image.len(), 64 + 8 + 4);
        assert_eq!(
            (&image[12..16], &image[28..34], &image[64..]),
            (&12u32.to_be_bytes()[..], &[5, 2, 6, 0, b'n', 0][..], &b"\0\0\0\x04\0\0\0\0echo"[..])
        );
        let mut header = image[..64].to_vec();
        header[4..8].fill(0);
        assert_eq!(image[4..8], crc32(&header).to_be_bytes());
    }
}
