//! What a VM's process is given: a description, and the open files it names by position.

use crate::spec::VmSpec;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A VM whose files are open. The files come beside it, in the order of [`Files::all`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Paths in it are for messages; the VM's process opens none of them.
    pub spec: VmSpec,
    pub console: ConsoleKind,
    pub debugcon: bool,
}

/// What the console's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleKind {
    /// The master of a pseudo-terminal: people come and go, the guest never waits for them.
    Pty,
    /// A stream socket whose reader wants every byte: the guest waits for it.
    Stream,
}

/// A VM's open files.
#[derive(Debug)]
pub struct Files {
    pub console: OwnedFd,
    pub kernel: OwnedFd,
    pub debugcon: Option<OwnedFd>,
    pub modules: Vec<OwnedFd>,
    pub disks: Vec<OwnedFd>,
}

impl Files {
    /// All of them, in the order in which they are sent.
    pub fn all(&self) -> Vec<BorrowedFd<'_>> {
        [&self.console, &self.kernel]
            .into_iter()
            .chain(&self.debugcon)
            .chain(&self.modules)
            .chain(&self.disks)
            .map(|fd| fd.as_fd())
            .collect()
    }

    /// The files that came with `launch`; `None` when their number doesn't match it.
    pub fn from_received(launch: &Launch, fds: Vec<OwnedFd>) -> Option<Files> {
        let expected = 2 + usize::from(launch.debugcon) + launch.spec.modules.len() + launch.spec.disks.len();
        if fds.len() != expected {
            return None;
        }
        let mut fds = fds.into_iter();
        Some(Files {
            console: fds.next()?,
            kernel: fds.next()?,
            debugcon: if launch.debugcon { fds.next() } else { None },
            modules: fds.by_ref().take(launch.spec.modules.len()).collect(),
            disks: fds.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fstat;

    #[test]
    fn files_sent_are_received_in_their_places() {
        let fd = || OwnedFd::from(tempfile::tempfile().unwrap());
        let mut spec = VmSpec::new("a", "/k");
        spec.disks = vec!["/d1".into(), "/d2".into()];
        let launch = Launch { spec, console: ConsoleKind::Pty, debugcon: true };
        let files = Files {
            console: fd(),
            kernel: fd(),
            debugcon: Some(fd()),
            modules: vec![],
            disks: vec![fd(), fd()],
        };
        let inode = |fd: &OwnedFd| fstat(fd).unwrap().st_ino;
        let sent = files.all().iter().map(|f| f.try_clone_to_owned().unwrap()).collect();
        let got = Files::from_received(&launch, sent).unwrap();
        assert_eq!(inode(&got.disks[1]), inode(&files.disks[1]));
        assert_eq!(inode(got.debugcon.as_ref().unwrap()), inode(files.debugcon.as_ref().unwrap()));
        assert!(Files::from_received(&launch, vec![fd(), fd()]).is_none());
    }
}
