//! One request: the pieces of memory a driver made available together.

use super::{Error, Result};
use crate::{GuestMemory, Kind};
use address::GuestPhys;
use std::sync::Arc;

/// A piece of guest memory, checked to be memory when the chain was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub address: GuestPhys,
    /// Bytes, never 0.
    pub len: u32,
}

/// A descriptor chain taken off a queue, in the device's own copy: the driver can't change it any more (it can change
/// the bytes it points at). To be given back with [`super::Queue::push_used`].
#[derive(Debug)]
pub struct Chain {
    memory: Arc<GuestMemory>,
    head: u16,
    segments: Vec<Segment>,
    /// How many of the segments, the first ones, are for the device to read.
    readable: usize,
    /// Bytes of all segments.
    total: u64,
}

impl Chain {
    pub(super) fn new(memory: Arc<GuestMemory>, head: u16) -> Self {
        Self { memory, head, segments: Vec::new(), readable: 0, total: 0 }
    }

    /// Adds a segment, where the chain then holds at most `max` bytes.
    pub(super) fn add(&mut self, segment: Segment, writable: bool, max: u64) -> Result<()> {
        if segment.len == 0 {
            return Err(Error::EmptyDescriptor);
        }
        if !writable && self.readable < self.segments.len() {
            return Err(Error::Order);
        }
        if !usable(&self.memory, segment, writable) {
            return Err(Error::OutsideMemory { address: segment.address, len: segment.len });
        }
        self.total += u64::from(segment.len);
        if self.total > max {
            return Err(Error::TooLong(max));
        }
        self.segments.push(segment);
        self.readable += usize::from(!writable);
        Ok(())
    }

    /// The first descriptor's index, by which the driver knows the chain.
    pub fn head(&self) -> u16 {
        self.head
    }
    /// What the device may read, in order.
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.readable]
    }
    /// What the device may write, in order.
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.readable..]
    }
    /// A cursor over the readable bytes.
    pub fn reader(&self) -> Reader<'_> {
        Reader(Cursor::new(&self.memory, self.readable()))
    }
    /// A cursor over the writable bytes.
    pub fn writer(&self) -> Writer<'_> {
        Writer { cursor: Cursor::new(&self.memory, self.writable()), written: 0 }
    }
}

/// Whether the device may read, or write, all of a segment.
fn usable(memory: &GuestMemory, segment: Segment, writable: bool) -> bool {
    let Segment { address: GuestPhys(mut at), len } = segment;
    let Some(end) = at.checked_add(u64::from(len)) else { return false };
    while at < end {
        match memory.region_at(GuestPhys(at)) {
            Some(r) if !writable || r.kind() == Kind::Ram => at = r.base().0 + r.len(),
            _ => return false,
        }
    }
    true
}

/// A place in a list of segments.
#[derive(Clone, Debug)]
struct Cursor<'a> {
    memory: &'a GuestMemory,
    segments: &'a [Segment],
    /// Bytes of the first segment that are behind the cursor; less than its length.
    offset: u32,
    left: u64,
}

impl<'a> Cursor<'a> {
    fn new(memory: &'a GuestMemory, segments: &'a [Segment]) -> Self {
        Self { memory, segments, offset: 0, left: segments.iter().map(|s| u64::from(s.len)).sum() }
    }

    /// Passes over up to `len` bytes, calling `f` with each piece's address and its place in the caller's buffer.
    fn advance(
        &mut self,
        len: usize,
        mut f: impl FnMut(GuestPhys, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<usize> {
        let mut done = 0;
        while done < len {
            let Some((first, rest)) = self.segments.split_first() else { break };
            let n = (len - done).min((first.len - self.offset) as usize);
            f(first.address.wrapping_add(u64::from(self.offset)), done..done + n)?;
            done += n;
            self.offset += n as u32;
            self.left -= n as u64;
            if self.offset == first.len {
                self.segments = rest;
                self.offset = 0;
            }
        }
        Ok(done)
    }
}

impl Cursor<'_> {
    fn skip(&mut self, len: u64) -> Result<u64> {
        let len = usize::try_from(len.min(self.left)).unwrap_or(usize::MAX);
        Ok(self.advance(len, |_, _| Ok(()))? as u64)
    }
}

/// Reads a chain's readable bytes in order.
#[derive(Clone, Debug)]
pub struct Reader<'a>(Cursor<'a>);

impl Reader<'_> {
    /// Bytes not yet read.
    pub fn remaining(&self) -> u64 {
        self.0.left
    }
    /// Fills as much of `out` as there is left; gives the number of bytes.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let memory = self.0.memory;
        self.0.advance(out.len(), |at, range| Ok(memory.read(at, &mut out[range])?))
    }
    /// Passes over up to `len` bytes; gives the number of bytes.
    pub fn skip(&mut self, len: u64) -> Result<u64> {
        self.0.skip(len)
    }
    /// Fills all of `out`, or reads nothing and is [`Error::Short`].
    pub fn read_exact(&mut self, out: &mut [u8]) -> Result<()> {
        if self.0.left < out.len() as u64 {
            return Err(Error::Short { wanted: out.len(), left: self.0.left });
        }
        self.read(out).map(|_| ())
    }
}

/// Writes a chain's writable bytes in order.
#[derive(Clone, Debug)]
pub struct Writer<'a> {
    cursor: Cursor<'a>,
    written: u32,
}

impl Writer<'_> {
    /// Bytes not yet written or skipped.
    pub fn remaining(&self) -> u64 {
        self.cursor.left
    }
    /// Bytes written or skipped, for [`super::Queue::push_used`].
    pub fn written(&self) -> u32 {
        self.written
    }
    /// Writes as much of `data` as there is room for; gives the number of bytes.
    pub fn write(&mut self, data: &[u8]) -> Result<usize> {
        let memory = self.cursor.memory;
        let n = self.cursor.advance(data.len(), |at, range| Ok(memory.write(at, &data[range])?))?;
        self.written = self.written.saturating_add(n as u32);
        Ok(n)
    }
    /// Leaves up to `len` bytes as they are; gives the number of bytes.
    pub fn skip(&mut self, len: u64) -> Result<u64> {
        let n = self.cursor.skip(len)?;
        self.written = self.written.saturating_add(n as u32);
        Ok(n)
    }
}
