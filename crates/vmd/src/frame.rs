//! Frames on the control socket: a length of 4 bytes, little-endian, and that many bytes of JSON.

use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest request that the daemon reads, in bytes.
pub const MAX_REQUEST: usize = 1 << 18;
/// Longest reply that a client reads, in bytes.
pub const MAX_REPLY: usize = 1 << 22;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the other side closed the connection")]
    Closed,
    #[error("the other side closed the connection in the middle of a message")]
    Truncated,
    #[error("the other side took too long")]
    TimedOut,
    #[error("a message of {len} bytes is too long: {limit} is the limit")]
    TooLong { len: usize, limit: usize },
    #[error("the message can't be understood: {0}")]
    Malformed(String),
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// Whether the stream still stands at the beginning of a frame, so that the conversation can go on.
    pub fn is_recoverable(&self) -> bool {
        matches!(self, Error::Malformed(_))
    }
}

/// How long to wait for a frame.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For its first byte; `None` for ever.
    pub first: Option<Duration>,
    /// For all the rest of it.
    pub rest: Duration,
}

/// Reads one frame of at most `limit` bytes. Memory grows with what has arrived, not with what the length promises.
pub fn read<T: DeserializeOwned>(stream: &UnixStream, limit: usize, patience: Patience) -> Result<T, Error> {
    let mut header = [0; 4];
    stream.set_read_timeout(patience.first)?;
    match read_some(stream, &mut header)? {
        0 => Err(Error::Closed),
        mut have => {
            let deadline = Instant::now() + patience.rest;
            while have < header.len() {
                have += read_before(stream, &mut header[have..], deadline)?;
            }
            let len = u32::from_le_bytes(header) as usize;
            if len > limit {
                return Err(Error::TooLong { len, limit });
            }
            let mut body = Vec::new();
            let mut chunk = [0; 4096];
            while body.len() < len {
                let want = chunk.len().min(len - body.len());
                let got = read_before(stream, &mut chunk[..want], deadline)?;
                body.extend_from_slice(&chunk[..got]);
            }
            serde_json::from_slice(&body).map_err(|e| Error::Malformed(e.to_string()))
        }
    }
}

/// Writes one frame, waiting at most `patience` for each write that the other side's buffer refuses.
pub fn write<T: Serialize>(stream: &UnixStream, message: &T, patience: Duration) -> Result<(), Error> {
    let body = serde_json::to_vec(message).map_err(|e| Error::Malformed(e.to_string()))?;
    let len = u32::try_from(body.len())
        .map_err(|_| Error::TooLong { len: body.len(), limit: u32::MAX as usize })?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(&body);
    stream.set_write_timeout(Some(patience))?;
    (&*stream).write_all(&frame).map_err(timed_out)
}

/// Reads at least one byte, or fails.
fn read_before(stream: &UnixStream, out: &mut [u8], deadline: Instant) -> Result<usize, Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Error::TimedOut);
    }
    stream.set_read_timeout(Some(left))?;
    match read_some(stream, out)? {
        0 => Err(Error::Truncated),
        n => Ok(n),
    }
}

fn read_some(mut stream: &UnixStream, out: &mut [u8]) -> Result<usize, Error> {
    loop {
        match stream.read(out) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other.map_err(timed_out),
        }
    }
}

fn timed_out(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::TimedOut,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Error::Closed,
        _ => Error::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Patience =
        Patience { first: Some(Duration::from_millis(100)), rest: Duration::from_millis(100) };

    fn read_bytes(bytes: &[u8], close: bool) -> Result<Vec<String>, Error> {
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(bytes).unwrap();
        let keep = if close {
            drop(a);
            None
        } else {
            Some(a)
        };
        let result = read(&b, 64, QUICK);
        drop(keep);
        result
    }

    #[test]
    fn frame_written_is_read_back() {
        let (a, b) = UnixStream::pair().unwrap();
        let message = vec!["x".to_string(), "\u{1f600}\0".to_string()];
        write(&a, &message, Duration::from_secs(1)).unwrap();
        assert_eq!(read::<Vec<String>>(&b, 64, QUICK).unwrap(), message);
    }

    #[test]
    fn read_hostile_frames_fail_in_their_own_way() {
        assert!(matches!(read_bytes(b"", true), Err(Error::Closed)));
        assert!(matches!(read_bytes(b"\x02\0", true), Err(Error::Truncated)));
        assert!(matches!(read_bytes(b"\x02\0\0\0[", true), Err(Error::Truncated)));
        assert!(matches!(read_bytes(b"\xff\xff\xff\xff", false), Err(Error::TooLong { .. })));
        assert!(matches!(read_bytes(b"\x02\0\0\0{]", false), Err(Error::Malformed(_))));
        assert!(matches!(read_bytes(b"\0\0\0\0", false), Err(Error::Malformed(_))));
        assert!(matches!(read_bytes(b"\x03\0\0\0[\xff]", false), Err(Error::Malformed(_))));
        assert!(matches!(read_bytes(b"", false), Err(Error::TimedOut)));
    }

    #[test]
    fn read_deeply_nested_json_is_refused_not_recursed() {
        let (a, b) = UnixStream::pair().unwrap();
        let deep = "[".repeat(10_000);
        (&a).write_all(&(deep.len() as u32).to_le_bytes()).unwrap();
        (&a).write_all(deep.as_bytes()).unwrap();
        assert!(matches!(read::<serde_json::Value>(&b, MAX_REQUEST, QUICK), Err(Error::Malformed(_))));
    }

    #[test]
    fn read_one_byte_at_a_time_runs_out_of_patience() {
        let (a, b) = UnixStream::pair().unwrap();
        let drip = std::thread::spawn(move || {
            for byte in *b"\x20\0\0\0[1,1,1,1,1,1,1,1,1" {
                if (&a).write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let began = Instant::now();
        assert!(matches!(read::<Vec<u8>>(&b, 64, QUICK), Err(Error::TimedOut)));
        assert!(began.elapsed() < Duration::from_secs(1));
        drop(b);
        drip.join().unwrap();
    }
}
