//! Which frames this process's pages lie in: /proc/self/pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

/// Pages as the map counts them, and this crate's frames.
const PAGE: usize = 4096;
const PRESENT: u64 = 1 << 63;
/// Bits 54 to 0: the frame's number; 0 for readers without CAP_SYS_ADMIN.
const FRAME: u64 = (1 << 55) - 1;

/// The map, opened with the right to see frames' numbers.
#[derive(Debug)]
pub struct Pagemap(File);

impl Pagemap {
    pub fn open() -> io::Result<Pagemap> {
        if rustix::param::page_size() != PAGE {
            return Err(io::Error::other("this Linux has other pages than of 4 KiB"));
        }
        Ok(Pagemap(File::open("/proc/self/pagemap")?))
    }

    /// Physical addresses of the frames behind `len` bytes at `start`.
    ///
    /// Errors: a page that is not in memory; no right to see frames.
    pub fn frames(&self, start: NonNull<u8>, len: usize) -> io::Result<Vec<u64>> {
        let first = start.as_ptr() as usize / PAGE;
        let mut entries = vec![0; len.div_ceil(PAGE) * 8];
        self.0.read_exact_at(&mut entries, first as u64 * 8)?;
        entries
            .chunks_exact(8)
            .map(|entry| frame(u64::from_ne_bytes(entry.try_into().unwrap_or_default())))
            .collect()
    }
}

/// The physical address in an entry.
fn frame(entry: u64) -> io::Result<u64> {
    match entry & FRAME {
        _ if entry & PRESENT == 0 => Err(io::Error::other("a page is not in memory")),
        0 => Err(io::Error::other("the pages' places in memory are for root's eyes only")),
        number => Ok(number * PAGE as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_entries_are_told_apart() {
        assert_eq!(frame(PRESENT | 1 << 55 | 0x40000).unwrap(), 0x4000_0000);
        assert!(frame(PRESENT).unwrap_err().to_string().contains("root"));
        assert!(frame(5).unwrap_err().to_string().contains("not in memory"));
    }

    #[test]
    fn frames_of_a_touched_page_are_read_where_one_may() {
        let page = memory::mapping::Mapping::new("test", 2 * PAGE as u64).unwrap();
        let Ok(map) = Pagemap::open() else { return };
        assert!(map.frames(page.host(), 2 * PAGE).is_err(), "not touched yet");
    }
}
