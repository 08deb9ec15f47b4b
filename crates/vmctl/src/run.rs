//! `vmctl run`: a VM in the foreground, with no daemon.

use crate::attach::{Attachment, Event};
use crate::signals;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ExitCode, Stdio};
use vmd::channel::{FromVm, ToVm};
use vmd::launch::{ConsoleKind, Launch};
use vmd::vm::{self, VmProcess};
use vmd::{Ending, VmSpec, parent};

/// Runs the VM to its end; gives the exit status.
pub fn run(spec: VmSpec) -> anyhow::Result<ExitCode> {
    spec.check()?;
    let (console, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let files = parent::open(&spec, theirs, true)?;
    let name = spec.name.clone();
    let launch = Launch { debugcon: files.debugcon.is_some(), spec, console: ConsoleKind::Stream };
    let vm = VmProcess::start(launch, files, Stdio::inherit())?;
    let (ending, signal) = attend(vm, console)?;
    if let (Some(signal), Ending::Stopped) = (signal, &ending) {
        signals::die_of(signal);
    }
    if ending.is_failure() {
        eprintln!("vmctl: {name}: {ending}");
    }
    Ok(ExitCode::from(ending.exit_status()))
}

/// Attends to the VM until it has ended; gives how, and the signal that made it.
fn attend(mut vm: VmProcess, console: OwnedFd) -> anyhow::Result<(Ending, Option<i32>)> {
    let sender = vm.sender()?;
    let mut attachment = Attachment::new(console)?;
    if attachment.is_interactive() {
        eprint!("vmctl: the console of the VM; ~. ends it\r\n");
    }
    let mut ending = None;
    let mut stopped_by = None;
    let mut left = false;
    let mut gone = false;
    loop {
        let channel = (!gone).then(|| vm.channel().try_clone_to_owned()).transpose()?;
        match attachment.next(channel.as_ref().map(|c| c.as_fd()))? {
            Event::Signal(signal) if gone || stopped_by.is_some() => {
                vm.kill();
                let _ = vm.reap();
                drop(attachment);
                signals::die_of(signal);
            }
            Event::Signal(signal) => {
                stopped_by = Some(signal);
                let _ = sender.send(&ToVm::Terminate);
            }
            Event::OutputGone => {
                stopped_by = stopped_by.or(Some(signal_hook::consts::SIGPIPE));
                let _ = sender.send(&ToVm::Terminate);
                attachment.discard_output();
            }
            Event::Left => {
                left = true;
                attachment.release_terminal();
                let _ = sender.send(&ToVm::Terminate);
            }
            Event::Also => match vm.receive() {
                Some(FromVm::Ended(how)) => ending = Some(how),
                Some(FromVm::NotStarted(why)) => ending = Some(Ending::NotStarted(why)),
                Some(_) => {}
                None => gone = true,
            },
            Event::Ended => break,
        }
    }
    drop(attachment);
    let status = vm.reap()?;
    let ending = match ending {
        Some(Ending::Stopped) if left => Ending::PoweredOff,
        Some(ending) => ending,
        None => Ending::Died(vm::describe_death(status)),
    };
    Ok((ending, stopped_by))
}
