//! What can go wrong while a machine is put together or reset, in sentences.

/// A board's error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration that no such machine could have.
    #[error("{0}")]
    Config(String),
    /// A kernel or module could not be read.
    #[error("{name} can't be read: {source}")]
    Read { name: String, source: std::io::Error },
    /// A file that can't be booted.
    #[error("{name} can't be booted: {source}")]
    Boot { name: String, source: crate::boot::Error },
    /// The host refused a thread.
    #[error("the host refused a thread for {what}: {source}")]
    Thread { what: &'static str, source: std::io::Error },
    #[error(transparent)]
    Memory(#[from] memory::Error),
    #[error(transparent)]
    Engine(#[from] engine::Error),
}
