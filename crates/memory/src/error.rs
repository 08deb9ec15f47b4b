//! What can go wrong with guest memory, in sentences.

use address::GuestPhys;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{len} bytes at guest-physical {address} are not all memory")]
    OutOfRange { address: GuestPhys, len: u64 },
    #[error("guest-physical {address} is read-only memory")]
    ReadOnly { address: GuestPhys },
    #[error("memory regions overlap or are not whole pages: {0}")]
    BadLayout(String),
    #[error("the host can't give {bytes} bytes of guest memory: {source}; ask for less with -m")]
    Host { bytes: u64, source: std::io::Error },
}
