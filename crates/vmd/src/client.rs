//! A client's side of the conversation with the daemon.

use crate::frame::{self, MAX_REPLY, Patience};
use crate::protocol::{Hello, Reply, Request};
use crate::socket;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the daemon may take for its part of the greeting, and for the rest of a reply it has begun.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Socket(#[from] socket::Error),
    #[error("vmd doesn't answer: {0}")]
    Frame(#[from] frame::Error),
    /// The daemon's own sentence.
    #[error("{0}")]
    Refused(String),
    #[error("vmd gave an answer that is none to the request")]
    Unexpected,
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects and greets.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let stream = socket::connect(path)?;
        frame::write(&stream, &Hello::ours(), PATIENCE)?;
        let patience = Patience { first: Some(PATIENCE), rest: PATIENCE };
        // Instead of its greeting the daemon may say why it won't talk.
        let value: serde_json::Value = frame::read(&stream, MAX_REPLY, patience)?;
        if let Ok(Reply::Error { message }) = serde_json::from_value(value.clone()) {
            return Err(Error::Refused(message));
        }
        let hello: Hello = serde_json::from_value(value).map_err(|_| Error::Unexpected)?;
        hello.check().map_err(Error::Refused)?;
        Ok(Client { stream })
    }

    /// Asks, and waits for the answer for as long as it takes: a VM's end may be hours away.
    pub fn request(&self, request: &Request) -> Result<Reply, Error> {
        frame::write(&self.stream, request, PATIENCE)?;
        match frame::read(&self.stream, MAX_REPLY, Patience { first: None, rest: PATIENCE })? {
            Reply::Error { message } => Err(Error::Refused(message)),
            reply => Ok(reply),
        }
    }
}
