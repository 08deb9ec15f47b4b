//! What can go wrong in an engine, in sentences.

/// An engine's error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to choose from.
    #[error("there is no engine in this build for this processor ({})", std::env::consts::ARCH)]
    NoEngine,
    /// The engine lacks something the machine or the user asked for.
    #[error("the {engine} engine can't do this: {what}")]
    Unsupported { engine: &'static str, what: String },
    /// The host refused a resource.
    #[error("the host refused {what}: {source}")]
    Host { what: String, source: std::io::Error },
    /// A register file that no processor could hold.
    #[error("the register file is not valid: {0}")]
    InvalidState(String),
    /// A vCPU number out of range or taken.
    #[error("vCPU {0} can't be created: {1}")]
    InvalidVcpu(u32, String),
    #[error(transparent)]
    Memory(#[from] memory::Error),
}
