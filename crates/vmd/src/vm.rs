//! A VM's process as seen by whoever started it.

use crate::channel::{self, FromVm, ToVm};
use crate::launch::{Files, Launch};
use crate::process;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a process has to be gone after its socket closed, before it is killed.
const REAP_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the VM's process can't be started: {0}")]
    Spawn(#[source] io::Error),
    #[error(transparent)]
    Channel(#[from] channel::Error),
    #[error("{0} before it could be told what to run")]
    Died(String),
}

/// A VM's process. Dropping it makes the process end cleanly, and kills it if that takes too long; whoever wants to know
/// how it ended calls [`VmProcess::reap`].
#[derive(Debug)]
pub struct VmProcess {
    child: Child,
    channel: OwnedFd,
}

impl VmProcess {
    /// Starts the process and hands it its VM.
    pub fn start(launch: Launch, files: Files, stderr: Stdio) -> Result<Self, Error> {
        let (ours, theirs) = channel::pair().map_err(Error::Spawn)?;
        let child = Command::new("/proc/self/exe")
            .arg0(format!("vmd: vm {}", launch.spec.name))
            .arg(process::ARGUMENT)
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(Error::Spawn)?;
        let mut vm = VmProcess { child, channel: ours };
        if let Err(e) = channel::send(&vm.channel, &ToVm::Launch(Box::new(launch)), &files.all()) {
            let gone = matches!(e, channel::Error::Io(ref e) if e.kind() == io::ErrorKind::BrokenPipe);
            if !gone {
                vm.kill();
            }
            let status = vm.reap().map_err(Error::Spawn)?;
            return Err(if gone { Error::Died(describe_death(status)) } else { e.into() });
        }
        Ok(vm)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The read end of the process's standard error, where it was started with [`Stdio::piped`].
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Another descriptor of the socket, for sending from other threads.
    pub fn sender(&self) -> io::Result<Sender> {
        Ok(Sender { channel: self.channel.try_clone()? })
    }

    /// The next message; `None` when the process is gone or speaks nonsense.
    pub fn receive(&self) -> Option<FromVm> {
        match channel::receive::<FromVm>(&self.channel) {
            Ok(Some((message, _))) => Some(message),
            Ok(None) => None,
            Err(e) => {
                tracing::warn!(pid = self.pid(), "a VM's process is given up: {e}");
                None
            }
        }
    }

    /// To wait for a message beside other things.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Kills the process at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for the process, which has closed its socket, to be gone; kills it if it isn't soon.
    pub fn reap(mut self) -> io::Result<ExitStatus> {
        self.await_exit()
    }

    fn await_exit(&mut self) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + REAP_PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        self.child.wait()
    }
}

impl Drop for VmProcess {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // A sender may have the socket open too.
            let _ = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both);
            let _ = self.await_exit();
        }
    }
}

/// Sends to a VM's process.
#[derive(Debug)]
pub struct Sender {
    channel: OwnedFd,
}

impl Sender {
    /// Never waits: a process that reads nothing for long is given no more.
    pub fn send(&self, message: &ToVm) -> Result<(), Error> {
        Ok(channel::try_send(&self.channel, message)?)
    }
}

/// How a process died that was not told to, as a sentence.
pub fn describe_death(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(number), _) => {
            let name = signal_hook::low_level::signal_name(number)
                .map_or_else(|| format!("signal {number}"), String::from);
            format!("the VM's process was killed by {name}")
        }
        (None, code) => format!("the VM's process ended by itself, with status {}", code.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describe_death_names_the_signal_or_the_status() {
        assert!(describe_death(ExitStatus::from_raw(9)).ends_with("SIGKILL"));
        assert!(describe_death(ExitStatus::from_raw(101 << 8)).ends_with("101"));
    }
}
