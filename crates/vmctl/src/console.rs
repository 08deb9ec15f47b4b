//! `vmctl console`: the user's terminal joined to a VM's.

use crate::attach::{Attachment, Event};
use crate::{daemon, signals};
use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, OFlags};
use rustix::termios::OptionalActions;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use vmd::client::Error;
use vmd::protocol::{Reply, Request};

/// Joins the terminal to the VM's console until the person leaves or the VM ends.
pub fn console(vm: &str) -> anyhow::Result<ExitCode> {
    let reply = daemon::connect()?.request(&Request::Console { vm: vm.to_string() })?;
    let Reply::Console { vm, tty } = reply else { return Err(Error::Unexpected.into()) };
    let device = open(&tty)?;
    let mut attachment = Attachment::new(device.into())?;
    let interactive = attachment.is_interactive();
    if interactive {
        eprint!("Connected to {tty} (speed 115200), the console of {}; ~. leaves it\r\n", vm.name);
    }
    loop {
        match attachment.next(None)? {
            Event::Left => {
                drop(attachment);
                eprintln!("\nvmctl: left the console of {}; it runs on", vm.name);
                return Ok(ExitCode::SUCCESS);
            }
            Event::Ended => {
                drop(attachment);
                if interactive {
                    eprintln!("\nvmctl: {} has ended", vm.name);
                }
                return Ok(ExitCode::SUCCESS);
            }
            Event::Signal(signal) => {
                drop(attachment);
                signals::die_of(signal);
            }
            Event::OutputGone => {
                drop(attachment);
                signals::die_of(signal_hook::consts::SIGPIPE);
            }
            Event::Also => {}
        }
    }
}

/// Opens a console's device in raw mode, for this process alone.
fn open(tty: &str) -> anyhow::Result<File> {
    let device = File::options()
        .read(true)
        .write(true)
        .custom_flags((OFlags::NOCTTY | OFlags::NONBLOCK).bits() as i32)
        .open(tty)
        .with_context(|| format!("the console {tty} can't be opened"))?;
    if rustix::fs::flock(&device, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another vmctl console has {tty}: leave that one with ~. first");
    }
    let mut termios = rustix::termios::tcgetattr(&device)?;
    termios.make_raw();
    rustix::termios::tcsetattr(&device, OptionalActions::Now, &termios)?;
    Ok(device)
}
