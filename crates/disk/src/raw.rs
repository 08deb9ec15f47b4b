//! Raw images: a file, or a block device, whose bytes are the disk's.

use crate::Image;
use rustix::fs::{FallocateFlags, FileType, FlockOperation, fallocate, flock, fstat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes in a sector; a disk is a whole number of them.
pub const SECTOR: u64 = 512;

/// Zeroes written at a time where the host has no better way.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Why an image can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} is in use by another virtual machine, or by another program that locked it")]
    Locked { path: String },
    #[error("{path} can't be locked: {source}")]
    Lock { path: String, source: io::Error },
    #[error("{path} is neither a file nor a block device")]
    Kind { path: String },
    #[error("{path} holds {bytes} bytes, less than one sector of 512")]
    TooSmall { path: String, bytes: u64 },
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
}

/// Locks an image's open file, so that no other VM uses it: shared for a read-only one. The lock belongs to the open
/// file and goes with it to whatever process it is passed to; it ends when the last copy is closed.
pub fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), Error> {
    let operation = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    let path = || path.display().to_string();
    match flock(file, operation) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(Error::Locked { path: path() }),
        Err(error) => Err(Error::Lock { path: path(), source: error.into() }),
    }
}

/// A raw image.
#[derive(Debug)]
pub struct Raw {
    file: File,
    len: u64,
    read_only: bool,
}

impl Raw {
    /// Uses an open file or block device; `path` is for messages. Its length is taken once: a disk doesn't grow under a
    /// guest. Bytes beyond the last whole sector are out of reach.
    pub fn new(file: File, path: &Path, read_only: bool) -> Result<Self, Error> {
        let path = || path.display().to_string();
        let io = |source| Error::Io { path: path(), source };
        let stat = fstat(&file).map_err(|e| io(e.into()))?;
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::BlockDevice) {
            return Err(Error::Kind { path: path() });
        }
        // A block device's length is in no stat field, but at its end.
        let bytes = (&file).seek(SeekFrom::End(0)).map_err(io)?;
        let len = bytes - bytes % SECTOR;
        if len == 0 {
            return Err(Error::TooSmall { path: path(), bytes });
        }
        if len != bytes {
            log::warn!(
                "{} is not a whole number of sectors: the guest does not see its last {} bytes",
                path(),
                bytes - len
            );
        }
        Ok(Self { file, len, read_only })
    }

    /// `offset` to `offset + len` has to lie in the disk.
    fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        if offset.checked_add(len).is_some_and(|end| end <= self.len) {
            Ok(())
        } else {
            Err(io::Error::new(
                ErrorKind::InvalidInput,
                format!("{len} bytes at {offset} are not all on the disk"),
            ))
        }
    }

    fn check_write(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.read_only {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "the disk is read-only"));
        }
        self.check(offset, len)
    }

    /// Lets the host make a range zeroes; false where it has no such way.
    fn zero_by_host(&self, offset: u64, len: u64, discard: bool) -> io::Result<bool> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        for mode in if discard { [punch, zero] } else { [zero, punch] } {
            match fallocate(&self.file, mode, offset, len) {
                Ok(()) => return Ok(true),
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }
}

impl Image for Raw {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(offset, out.len() as u64)?;
        self.file.read_exact_at(out, offset).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => {
                io::Error::new(ErrorKind::UnexpectedEof, "the image became shorter while it was in use")
            }
            _ => e,
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_write(offset, data.len() as u64)?;
        self.file.write_all_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        // fdatasync: the data, and of the metadata what is needed to find them.
        self.file.sync_data()
    }

    fn write_zeroes(&self, offset: u64, len: u64, discard: bool) -> io::Result<()> {
        self.check_write(offset, len)?;
        if len == 0 || self.zero_by_host(offset, len, discard)? {
            return Ok(());
        }
        let mut done = 0;
        while done < len {
            let n = (len - done).min(ZEROES.len() as u64) as usize;
            self.file.write_all_at(&ZEROES[..n], offset + done)?;
            done += n as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    fn image(bytes: u64) -> (tempfile::TempDir, std::path::PathBuf, File) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(bytes).unwrap();
        (dir, path, file)
    }

    #[test]
    fn write_then_read_gives_the_same_bytes_and_they_are_in_the_file() {
        let (_dir, path, file) = image(8192);
        let raw = Raw::new(file, &path, false).unwrap();
        raw.write_at(4095, b"across").unwrap();
        raw.flush().unwrap();
        let mut out = [0; 6];
        raw.read_at(4095, &mut out).unwrap();
        assert_eq!(&out, b"across");
        assert_eq!(&std::fs::read(&path).unwrap()[4095..4101], b"across");
    }

    #[test]
    fn access_past_the_end_is_refused_and_the_file_does_not_grow() {
        let (_dir, path, file) = image(1024);
        let raw = Raw::new(file, &path, false).unwrap();
        assert!(raw.write_at(1023, &[1, 2]).is_err());
        assert!(raw.read_at(u64::MAX, &mut [0; 2]).is_err());
        assert!(raw.write_zeroes(512, 1024, true).is_err());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1024);
    }

    #[test]
    fn new_with_odd_length_rounds_down_and_with_less_than_a_sector_says_so() {
        let (_dir, path, file) = image(1000);
        assert_eq!(Raw::new(file, &path, false).unwrap().len(), 512);
        let (_dir, path, file) = image(511);
        assert!(Raw::new(file, &path, false).unwrap_err().to_string().contains("511 bytes"));
    }

    #[test]
    fn new_with_a_directory_says_what_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let error = Raw::new(File::open(dir.path()).unwrap(), dir.path(), true).unwrap_err();
        assert!(matches!(error, Error::Kind { .. }), "{error}");
    }

    #[test]
    fn read_after_the_file_was_truncated_is_an_error_that_says_so() {
        let (_dir, path, file) = image(8192);
        let raw = Raw::new(file, &path, true).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(512).unwrap();
        assert!(raw.read_at(4096, &mut [0; 512]).unwrap_err().to_string().contains("became shorter"));
        raw.read_at(0, &mut [0; 512]).unwrap();
    }

    #[test]
    fn write_to_read_only_image_is_refused() {
        let (_dir, path, file) = image(512);
        let raw = Raw::new(file, &path, true).unwrap();
        assert!(raw.write_at(0, &[1]).is_err());
        assert!(raw.write_zeroes(0, 512, false).is_err());
    }

    #[test]
    fn write_zeroes_zeroes_the_range_only() {
        for discard in [false, true] {
            let (_dir, path, file) = image(64 << 10);
            let raw = Raw::new(file, &path, false).unwrap();
            raw.write_at(0, &[7; 64 << 10]).unwrap();
            raw.write_zeroes(1024, 20 << 10, discard).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert!(bytes[..1024].iter().chain(&bytes[21 << 10..]).all(|&b| b == 7));
            assert!(bytes[1024..21 << 10].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn lock_of_an_image_in_use_names_it_and_readers_share() {
        let (_dir, path, first) = image(512);
        let again = || File::open(&path).unwrap();
        lock(&first, &path, false).unwrap();
        let error = lock(&again(), &path, true).unwrap_err().to_string();
        assert!(error.contains("disk.img is in use by another virtual machine"), "{error}");
        drop(first);
        let (a, b) = (again(), again());
        lock(&a, &path, true).unwrap();
        lock(&b, &path, true).unwrap();
        assert!(lock(&again(), &path, false).is_err());
        // A copy passed on keeps the lock.
        let kept = a.try_clone().unwrap();
        drop((a, b));
        assert!(lock(&again(), &path, false).is_err());
        drop(kept);
        lock(&again(), &path, false).unwrap();
    }
}
