//! The archive that Linux unpacks as its first root file system: cpio's "new ASCII" format, magic 070701
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive under construction. Everything in it belongs to root and dates from 1970, so that equal contents give
/// equal bytes. Folders must be added before what they hold.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A folder at `path` (no leading slash) with permission bits `mode`.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.entry(path, DIRECTORY | mode, (0, 0), &[]);
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, FILE | mode, (0, 0), contents);
    }

    /// A symbolic link at `path` to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// A character device with its major and minor numbers.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE | mode, (major, minor), &[]);
    }

    /// The archive's bytes, with its trailer.
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.header("TRAILER!!!", 0, (0, 0), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        self.header(path, mode, device, contents.len());
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn header(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), size: usize) {
        let inode = self.entries;
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        let name_size = path.len() + 1;
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, uid, gid, links, mtime
        for field in [inode, mode, 0, 0, links, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(format!("{size:08x}").as_bytes());
        // device the file lies on (major, minor), device it is
        for field in [0, 0, major, minor] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        // name's size with its NUL, checksum (of other formats)
        self.bytes.extend_from_slice(format!("{name_size:08x}{:08x}", 0).as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_one_file_has_the_format_s_bytes() {
        let mut archive = Archive::default();
        archive.file("abc", 0o755, b"hello");
        let bytes = archive.finish();
        let expected: String = [
            "070701",   // magic
            "00000001", // inode
            "000081ed", // mode: regular file, 0755
            "00000000",
            "00000000", // uid, gid
            "00000001", // links
            "00000000", // mtime
            "00000005", // size
            "00000000",
            "00000000",
            "00000000",
            "00000000",  // devices
            "00000004",  // name size with NUL
            "00000000",  // checksum
            "abc\0\0\0", // padded to 4 bytes from the header's start (110 + 4 + 2 = 116)
            "hello\0\0\0",
        ]
        .concat();
        assert_eq!(&bytes[..expected.len()], expected.as_bytes());
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[expected.len() + 110..expected.len() + 120], b"TRAILER!!!");
    }

    #[test]
    fn archive_every_kind_unpacks_with_cpio_s_modes() {
        let mut archive = Archive::default();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.symlink("init", "bin/busybox");
        let text = String::from_utf8(archive.finish()).expect("ASCII");
        let headers: Vec<&str> = text.split("070701").skip(1).collect();
        let field = |entry: usize, index: usize| &headers[entry][index * 8..index * 8 + 8];
        assert_eq!((field(0, 1), field(0, 4)), ("000041ed", "00000002"));
        assert_eq!((field(1, 1), field(1, 9), field(1, 10)), ("00002180", "00000005", "00000001"));
        assert_eq!((field(2, 1), field(2, 6)), ("0000a1ff", "0000000b"));
        assert!(headers[2].contains("bin/busybox"));
        assert!(headers[3].contains("TRAILER!!!"));
    }
}
