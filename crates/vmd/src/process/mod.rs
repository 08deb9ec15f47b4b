//! A VM's own process: it is told what to run over the socket on its standard input, runs it, and ends.
//!
//! `vmd` and `vmctl run` start it as their own executable with [`ARGUMENT`]. It opens nothing by path but, before it
//! confines itself, what an engine needs; when the
//! socket closes, because whoever started it is gone, it flushes the VM's disks and ends.

mod console;
mod machine;
mod ring;
mod sandbox;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod syscalls;

use crate::channel::{self, FromVm, ToVm};
use crate::ending::Ending;
use crate::launch::Files;
use ::machine::Handle;
use console::Console;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// First argument of the process that becomes a VM's.
pub const ARGUMENT: &str = "--vm-process";
/// How long the machine has to end once it is told to, before the process ends without it.
const TERMINATE_PATIENCE: Duration = Duration::from_secs(15);
/// How soon the power button is pressed again.
const PRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Exit status of a process that gave up on its machine.
const EXIT_STUCK: i32 = 3;

/// Becomes a VM's process if this process was started as one; else returns. To be called first thing in `main`.
pub fn enter_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|a| a == ARGUMENT) {
        let status = match run() {
            Ok(()) => 0,
            Err(e) => {
                eprintln!("the VM's process: {}", crate::sentence(&e));
                1
            }
        };
        std::process::exit(status);
    }
}

fn run() -> anyhow::Result<()> {
    let channel = Arc::new(sandbox::take_over_stdin()?);
    sandbox::detach()?;
    survive_file_size_limit()?;
    let Some((first, fds)) = channel::receive::<ToVm>(&*channel)? else { return Ok(()) };
    let ToVm::Launch(launch) = first else { anyhow::bail!("the first message was no launch") };
    let files = Files::from_received(&launch, fds)
        .ok_or_else(|| anyhow::anyhow!("the launch came with the wrong number of files"))?;
    sandbox::name(&launch.spec.name);
    // The process's control group can't be read once it is confined.
    let fits = ::machine::host_memory::check(launch.spec.memory_mib << 20);
    let engines = machine::engines(&launch.spec);
    sandbox::confine();
    if let Err(e) = fits {
        channel::send(&*channel, &FromVm::NotStarted(crate::sentence(&e.into())), &[])?;
        return Ok(());
    }

    let console = Console::new(launch.console);
    let Files { console: console_fd, kernel, debugcon, modules, disks } = files;
    let made = machine::make(&launch.spec, &engines, console.output(), kernel, debugcon, modules, disks);
    let machine = match made {
        Ok(machine) => machine,
        Err(e) => {
            channel::send(&*channel, &FromVm::NotStarted(crate::sentence(&e)), &[])?;
            return Ok(());
        }
    };
    let handle = machine.handle();
    let pump = console.pump(console_fd, handle.clone())?;
    let ender = Ender { handle: handle.clone(), told: Arc::default() };
    end_on_signals(ender.clone())?;
    let commands = channel.clone();
    thread::Builder::new().name("control".into()).spawn(move || obey(commands, handle, ender))?;

    // Whoever started us may be gone already; `obey` sees it and ends the machine.
    let _ = channel::send(&*channel, &FromVm::Started, &[]);
    let ending = match machine.run() {
        ::machine::Ending::PoweredOff | ::machine::Ending::Reset => Ending::PoweredOff,
        ::machine::Ending::DebugExit(value) => Ending::DebugExit(value),
        ::machine::Ending::Crashed(why) => Ending::Crashed(why),
        ::machine::Ending::Stopped => Ending::Stopped,
    };
    console.finish();
    let _ = pump.join();
    let _ = channel::send(&*channel, &FromVm::Ended(ending), &[]);
    Ok(())
}

/// Makes a write beyond RLIMIT_FSIZE an error, as on a full disk, that the guest sees; by default it is a signal that
/// ends the process (setrlimit(2)).
fn survive_file_size_limit() -> std::io::Result<()> {
    // A signal that is handled, in whatever way, leaves the write with EFBIG.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    Ok(())
}

/// Ends the machine from any thread, once, and the process if the machine won't end.
#[derive(Clone)]
struct Ender {
    handle: Handle,
    told: Arc<Mutex<bool>>,
}

impl Ender {
    fn end(&self) {
        if std::mem::replace(&mut *self.told.lock().unwrap_or_else(|e| e.into_inner()), true) {
            return;
        }
        let handle = self.handle.clone();
        thread::spawn(move || handle.stop());
        thread::spawn(|| {
            thread::sleep(TERMINATE_PATIENCE);
            eprintln!("the machine did not end when told to; its process ends without it");
            std::process::exit(EXIT_STUCK);
        });
    }
}

/// `kill` of this process alone is a clean end too.
fn end_on_signals(ender: Ender) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            ender.end();
        }
    })?;
    Ok(())
}

/// Presses the power button; again and again while the guest doesn't listen to it, as it doesn't early in its boot.
fn press_until_heard(handle: &Handle) {
    while handle.status() != ::machine::Status::Ended && !handle.press_power_button() {
        thread::sleep(PRESS_INTERVAL);
    }
}

/// Carries out commands until the machine is to end.
fn obey(channel: Arc<OwnedFd>, handle: Handle, ender: Ender) {
    loop {
        match channel::receive::<ToVm>(channel.as_fd()) {
            Ok(Some((ToVm::PressPowerButton, _))) => {
                let handle = handle.clone();
                thread::spawn(move || press_until_heard(&handle));
            }
            Ok(Some((ToVm::Pause, _))) => {
                handle.pause();
                let _ = channel::send(channel.as_fd(), &FromVm::Paused, &[]);
            }
            Ok(Some((ToVm::Unpause, _))) => {
                handle.unpause();
                let _ = channel::send(channel.as_fd(), &FromVm::Unpaused, &[]);
            }
            Ok(Some((ToVm::Launch(_) | ToVm::Terminate, _))) | Ok(None) | Err(_) => {
                ender.end();
                return;
            }
        }
    }
}
