//! The commands that are one request to the daemon.

use crate::options::{Start, Stop};
use crate::{console, daemon, request};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use vmd::client::Error;
use vmd::protocol::{Reply, Request, VmRef};

/// How long a VM may take to stop before the person who waits is told why it may.
const NOTICE: Duration = Duration::from_secs(5);

/// `vmctl start`.
pub fn start(start: &Start, json: bool) -> anyhow::Result<ExitCode> {
    let spec = Box::new(request::spec(&start.vm, &start.machine)?);
    let client = daemon::connect_or_start()?;
    let Reply::Started { vm } = client.request(&Request::Start { spec })? else {
        return Err(Error::Unexpected.into());
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&vm)?);
    } else {
        let tty = vm.tty.as_deref().unwrap_or("-");
        eprintln!("vmctl: started vm {} successfully, tty {tty}", vm.id);
    }
    if start.console { console::console(&vm.id.to_string()) } else { Ok(ExitCode::SUCCESS) }
}

/// `vmctl stop`.
pub fn stop(stop: &Stop) -> anyhow::Result<ExitCode> {
    let client = daemon::connect()?;
    let vm = if stop.all { None } else { stop.vm.clone() };
    let Reply::Stopping { vms } = client.request(&Request::Stop { vm, force: stop.force })? else {
        return Err(Error::Unexpected.into());
    };
    for VmRef { id, name } in &vms {
        match stop.force {
            true => eprintln!("vmctl: forced to terminate vm {id} ({name})"),
            false => eprintln!("vmctl: requested to shutdown vm {id} ({name})"),
        }
    }
    if stop.wait && !stop.force {
        for VmRef { id, name } in vms {
            let notice = Notice::after(
                NOTICE,
                format!(
                    "vmctl: still waiting for vm {id} ({name}) to power off: its guest may not listen to the power button; it is \
                 ended {} seconds after it was asked, or at once by vmctl stop -f {name}",
                    vmd::registry::STOP_PATIENCE.as_secs()
                ),
            );
            let Reply::Ended { ending, .. } = client.request(&Request::Wait { vm: id.to_string() })? else {
                return Err(Error::Unexpected.into());
            };
            drop(notice);
            match ending {
                vmd::Ending::PoweredOff => eprintln!("vmctl: terminated vm {id} ({name})"),
                ending => eprintln!("vmctl: terminated vm {id} ({name}): {ending}"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line on standard error that comes after a while, unless dropped before.
struct Notice(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Notice {
    fn after(patience: Duration, line: String) -> Self {
        let (sender, dropped) = mpsc::channel();
        let wait = move || {
            if dropped.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{line}");
            }
        };
        // Without it the wait is only less talkative.
        Notice(std::thread::Builder::new().spawn(wait).ok().map(|thread| (sender, thread)))
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.0.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

/// `vmctl pause`.
pub fn pause(vm: String) -> anyhow::Result<ExitCode> {
    done(Request::Pause { vm }, "paused")
}

/// `vmctl unpause`.
pub fn unpause(vm: String) -> anyhow::Result<ExitCode> {
    done(Request::Unpause { vm }, "unpaused")
}

fn done(request: Request, what: &str) -> anyhow::Result<ExitCode> {
    match daemon::connect()?.request(&request)? {
        Reply::Done { vm } => eprintln!("vmctl: {what} vm {} ({})", vm.id, vm.name),
        _ => return Err(Error::Unexpected.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// `vmctl wait`: the exit status is that of `vmctl run`.
pub fn wait(vm: String) -> anyhow::Result<ExitCode> {
    let Reply::Ended { vm, ending } = daemon::connect()?.request(&Request::Wait { vm })? else {
        return Err(Error::Unexpected.into());
    };
    eprintln!("vmctl: vm {} ({}) has ended: {ending}", vm.id, vm.name);
    Ok(ExitCode::from(ending.exit_status()))
}
