//! One request: header, data, status.

use super::Block;
use super::layout::{MAX_REQUEST, MAX_ZERO_RANGES, MAX_ZERO_SECTORS, SECTOR, kind};
use memory::virtqueue::{self, Chain, Reader, Writer};
use std::io;

/// Bytes that pass through the device's buffer at a time.
pub const PIECE: usize = 256 << 10;

/// Bytes in the header: type, reserved, sector.
const HEADER: usize = 16;
/// Bytes in a range to discard or zero: sector, number of sectors, flags.
const RANGE: usize = 16;
/// The range's only flag: the space may be given back.
const UNMAP: u32 = 1;

// Status (VIRTIO 1.2, 5.2.6).
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Why a request fails.
enum Failure {
    /// The guest asked for what can't be.
    Request,
    Unsupported,
    Host(io::Error),
    /// The guest broke the queue's rules.
    Queue(virtqueue::Error),
}

impl From<virtqueue::Error> for Failure {
    fn from(e: virtqueue::Error) -> Self {
        Failure::Queue(e)
    }
}
impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::Host(e)
    }
}

impl Block {
    /// Does a request and writes its status; gives the bytes of its writable part that are now used. An error is a
    /// request with no header or no room for the status.
    pub(super) fn request(&mut self, chain: &Chain) -> virtqueue::Result<u32> {
        let mut reader = chain.reader();
        let mut header = [0; HEADER];
        reader.read_exact(&mut header)?;
        let header = u128::from_le_bytes(header);
        let (kind, sector) = (header as u32, (header >> 64) as u64);
        let mut status = chain.writer();
        let data_in =
            status.remaining().checked_sub(1).ok_or(virtqueue::Error::Short { wanted: 1, left: 0 })?;
        status.skip(data_in)?;

        let done = match kind {
            kind::IN => self.read(sector, chain.writer(), data_in),
            kind::OUT => self.write(sector, reader),
            kind::FLUSH => self.image.flush().map_err(Failure::Host),
            kind::GET_ID => self.get_id(chain.writer(), data_in),
            kind::DISCARD => self.zero(reader, true),
            kind::WRITE_ZEROES => self.zero(reader, false),
            _ => Err(Failure::Unsupported),
        };
        let code = match done {
            Ok(()) => OK,
            Err(Failure::Unsupported) => UNSUPPORTED,
            Err(Failure::Request) => IOERR,
            Err(Failure::Host(error)) => {
                if let Some(more) = self.log.allow() {
                    log::warn!(
                        "the host failed a disk request of type {kind} at sector {sector}: {error}; \
                         the guest sees an I/O error ({more} such messages left out)"
                    );
                }
                IOERR
            }
            Err(Failure::Queue(error)) => return Err(error),
        };
        status.write(&[code])?;
        Ok(status.written())
    }

    /// Where a request's data begin, in bytes, if all of it lies on the disk.
    fn place(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        let sectors = len / SECTOR;
        let inside = sector.checked_add(sectors).is_some_and(|end| end <= self.sectors());
        if len.is_multiple_of(SECTOR) && inside { Ok(sector * SECTOR) } else { Err(Failure::Request) }
    }

    fn read(&mut self, sector: u64, mut to: Writer<'_>, len: u64) -> Result<(), Failure> {
        let mut at = self.place(sector, len)?;
        let mut left = if len <= MAX_REQUEST { len } else { return Err(Failure::Request) };
        while left > 0 {
            let piece = &mut self.bounce[..left.min(PIECE as u64) as usize];
            self.image.read_at(at, piece)?;
            to.write(piece)?;
            at += piece.len() as u64;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, mut from: Reader<'_>) -> Result<(), Failure> {
        let len = from.remaining();
        let mut at = self.place(sector, len)?;
        if self.image.read_only() || len > MAX_REQUEST {
            return Err(Failure::Request);
        }
        while from.remaining() > 0 {
            let piece = &mut self.bounce[..from.remaining().min(PIECE as u64) as usize];
            from.read_exact(piece)?;
            self.image.write_at(at, piece)?;
            at += piece.len() as u64;
        }
        self.settle()
    }

    /// After a change: on to stable storage, where the driver relies on it.
    fn settle(&self) -> Result<(), Failure> {
        if self.write_through() { Ok(self.image.flush()?) } else { Ok(()) }
    }

    fn get_id(&self, mut to: Writer<'_>, room: u64) -> Result<(), Failure> {
        let len = room.min(self.serial.len() as u64) as usize;
        to.write(&self.serial[..len])?;
        Ok(())
    }

    /// Discards or zeroes ranges (VIRTIO 1.2, 5.2.6.2). What is discarded reads as zeroes here, too.
    fn zero(&mut self, mut from: Reader<'_>, discard: bool) -> Result<(), Failure> {
        let len = from.remaining();
        if self.image.read_only()
            || !len.is_multiple_of(RANGE as u64)
            || len / RANGE as u64 > MAX_ZERO_RANGES.into()
        {
            return Err(Failure::Request);
        }
        while from.remaining() > 0 {
            let mut range = [0; RANGE];
            from.read_exact(&mut range)?;
            let range = u128::from_le_bytes(range);
            let (sector, sectors, flags) = (range as u64, (range >> 64) as u32, (range >> 96) as u32);
            if flags & !UNMAP != 0 || (discard && flags != 0) {
                return Err(Failure::Unsupported);
            }
            if sectors > MAX_ZERO_SECTORS {
                return Err(Failure::Request);
            }
            let len = u64::from(sectors) * SECTOR;
            let at = self.place(sector, len)?;
            self.image.write_zeroes(at, len, discard || flags & UNMAP != 0)?;
        }
        self.settle()
    }
}
