//! A second archive behind the guest's own: Linux unpacks one after the other. The format is cpio's "new ASCII"
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

const HEADER: usize = 110;

#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// An executable file in the root.
    pub fn file(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, 0o100_755, contents);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        let (size, name_size) = (contents.len(), name.len() + 1);
        // inode, mode, uid, gid, links, time, size, four device numbers, the name's size, checksum
        let fields = [0, mode, 0, 0, 1, 0, size as u32, 0, 0, 0, 0, name_size as u32, 0];
        let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        self.bytes.extend(format!("070701{fields}{name}\0").bytes());
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A file's contents out of an archive.
pub fn find<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut at = 0;
    loop {
        let header = archive.get(at..at + HEADER)?;
        let field = |index: usize| {
            let text = std::str::from_utf8(&header[6 + 8 * index..14 + 8 * index]).ok()?;
            usize::from_str_radix(text, 16).ok()
        };
        let (size, name_size) = (field(6)?, field(11)?);
        let found = archive.get(at + HEADER..at + HEADER + name_size - 1)?;
        let data = (at + HEADER + name_size).next_multiple_of(4);
        if found == name.as_bytes() {
            return archive.get(data..data + size);
        }
        at = (data + size).next_multiple_of(4);
    }
}
