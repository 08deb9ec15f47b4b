//! The socket between a VM's process and who started it: one JSON message a packet, open files passed along.

use crate::ending::Ending;
use crate::spec::{MAX_DISKS, MAX_MODULES};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest message, in bytes; a socket's default send buffer takes one whole.
pub const MAX_MESSAGE: usize = 1 << 17;
/// Most open files in one message: console, kernel, debug console, modules, disks.
pub const MAX_FDS: usize = 3 + MAX_MODULES + MAX_DISKS;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a message of {0} bytes is too long for a VM's process")]
    TooLong(usize),
    #[error("a message was cut short or carried too many files")]
    Cut,
    #[error("a message can't be understood: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the VM's process can't be reached: {0}")]
    Io(#[from] io::Error),
}

/// What a VM's process is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToVm {
    /// The first message, with the open files of [`crate::launch::Launch`].
    Launch(Box<crate::launch::Launch>),
    PressPowerButton,
    Pause,
    Unpause,
    /// Flush the disks and end.
    Terminate,
}

/// What a VM's process tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromVm {
    /// The guest's first instruction is about to run.
    Started,
    /// The VM can't be made; a sentence. The process then ends.
    NotStarted(String),
    Paused,
    Unpaused,
    /// The VM has ended and its disks are flushed. The process then ends.
    Ended(Ending),
}

/// A connected pair of channels' ends.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with open files. Waits where the other side's buffer is full.
pub fn send<T: Serialize>(channel: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    send_with(channel, message, fds, SendFlags::NOSIGNAL)
}

/// Sends one message, or fails where the other side's buffer is full because it has not read for long.
pub fn try_send<T: Serialize>(channel: impl AsFd, message: &T) -> Result<(), Error> {
    send_with(channel, message, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_with<T: Serialize>(
    channel: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), Error> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MAX_MESSAGE {
        return Err(Error::TooLong(body.len()));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MAX_FDS || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(Error::Cut);
    }
    loop {
        match rustix::net::sendmsg(&channel, &[IoSlice::new(&body)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::Io(e.into())),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one message with its open files; `None` when the other side is gone.
pub fn receive<T: DeserializeOwned>(channel: impl AsFd) -> Result<Option<(T, Vec<OwnedFd>)>, Error> {
    let mut body = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut reset = false;
    let got = loop {
        let mut iov = [IoSliceMut::new(&mut body)];
        match rustix::net::recvmsg(&channel, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // The other side ended with messages unread. Linux says so once, before what it had sent itself.
            Err(Errno::CONNRESET) if !reset => reset = true,
            Err(Errno::CONNRESET) => return Ok(None),
            Err(e) => return Err(Error::Io(e.into())),
            Ok(got) => break got,
        }
    };
    let fds = control
        .drain()
        .filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect::<Vec<_>>();
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Error::Cut);
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&body[..got.bytes])?, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn message_with_files_arrives_with_them() {
        let (a, b) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"disk").unwrap();
        file.rewind().unwrap();
        send(&a, &ToVm::Pause, &[file.as_fd(), a.as_fd()]).unwrap();
        let (message, mut fds) = receive::<ToVm>(&b).unwrap().unwrap();
        assert_eq!((message, fds.len()), (ToVm::Pause, 2));
        let mut text = String::new();
        std::fs::File::from(fds.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "disk");
    }

    #[test]
    fn last_word_of_a_side_that_ends_with_messages_unread_arrives() {
        let (a, b) = pair().unwrap();
        send(&a, &ToVm::Terminate, &[]).unwrap();
        send(&b, &FromVm::Ended(Ending::Stopped), &[]).unwrap();
        drop(b);
        assert_eq!(receive::<FromVm>(&a).unwrap().unwrap().0, FromVm::Ended(Ending::Stopped));
        assert!(receive::<FromVm>(&a).unwrap().is_none());
    }

    #[test]
    fn longest_launch_fits_one_message() {
        use crate::spec::{MAX_COMMAND_LINE, MAX_MODULES};
        let body = "x".repeat(MAX_MESSAGE - 2);
        let (a, b) = pair().unwrap();
        send(&a, &body, &[]).unwrap();
        assert_eq!(receive::<String>(&b).unwrap().unwrap().0, body);
        assert!(matches!(send(&a, &"x".repeat(MAX_MESSAGE), &[]), Err(Error::TooLong(_))));
        let file = tempfile::tempfile().unwrap();
        let many = vec![file.as_fd(); MAX_FDS];
        send(&a, &ToVm::Pause, &many).unwrap();
        assert_eq!(receive::<ToVm>(&b).unwrap().unwrap().1.len(), MAX_FDS);
        // The daemon refuses a launch longer than one message with a sentence; see `Error::TooLong`.
        const { assert!(MAX_COMMAND_LINE * 2 < MAX_MESSAGE && MAX_MODULES > 0) };
    }

    #[test]
    fn try_send_to_one_that_does_not_read_fails_and_never_waits() {
        let (a, b) = pair().unwrap();
        let sent = (0..1_000_000).take_while(|_| try_send(&a, &ToVm::Pause).is_ok()).count();
        assert!((1..1_000_000).contains(&sent));
        assert_eq!(receive::<ToVm>(&b).unwrap().unwrap().0, ToVm::Pause);
        try_send(&a, &ToVm::Pause).unwrap();
    }

    #[test]
    fn receive_garbage_is_an_error_and_a_gone_peer_is_none() {
        let (a, b) = pair().unwrap();
        rustix::net::send(&a, b"{\"Launch\":", SendFlags::empty()).unwrap();
        assert!(matches!(receive::<ToVm>(&b), Err(Error::Malformed(_))));
        rustix::net::send(&a, &vec![b' '; MAX_MESSAGE + 1], SendFlags::empty()).unwrap();
        assert!(matches!(receive::<ToVm>(&b), Err(Error::Cut)));
        drop(a);
        assert!(receive::<ToVm>(&b).unwrap().is_none());
    }
}
