//! The daemon's life: from the command line to the last VM's end.

use crate::control;
use crate::registry::Registry;
use crate::socket::{self, Listener};
use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// How long guests have to power off when the daemon is told to end.
const CLOSE_GRACE: Duration = Duration::from_secs(20);
/// What a daemon in the background says on standard output once it listens.
const READY: &str = "ready";
/// A background daemon's log is begun anew when it is longer than this, in bytes.
const MAX_LOG: usize = 8 << 20;

/// How the daemon was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `vmd -d`.
    Foreground,
    /// The background process that `vmd` without `-d` leaves behind.
    Background,
}

/// Runs the daemon until it is told to end.
pub fn run(mode: Mode, verbose: bool) -> anyhow::Result<()> {
    start_log(mode, verbose);
    let path = std::path::absolute(socket::path())?;
    if mode == Mode::Background {
        std::env::set_current_dir("/")?;
    }
    let signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let listener = Listener::bind(&path)?;
    destroy_left_machines();
    let registry = Arc::new(Registry::default());
    serve(&listener, registry.clone())?;
    tracing::info!("listening at {}", path.display());
    if mode == Mode::Background {
        println!("{READY}");
        // Whoever waits for that line waits for the end of the output too.
        rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    }
    let told = await_end(signals);
    // A daemon that ends is not to be found any more; the lock stays until it has ended.
    let _ = std::fs::remove_file(&path);
    tracing::info!("ending");
    registry.close(CLOSE_GRACE, || told.load(Ordering::SeqCst));
    drop(listener);
    Ok(())
}

/// The hypervisor keeps what a daemon left that was killed; nobody can run these machines any more, and there is only one daemon.
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
fn destroy_left_machines() {
    use engine::Engine;
    let native = engine_native::Native::open();
    if !matches!(native.probe(), engine::Probe::Usable { .. }) {
        return;
    }
    // A run that is under way ends with the next interrupt.
    for attempt in 0..50 {
        match native.destroy_all() {
            Ok(()) => return,
            Err(e) if attempt == 49 => tracing::warn!("machines that an earlier daemon left stay: {e}"),
            Err(_) => thread::sleep(std::time::Duration::from_millis(20)),
        }
    }
}

#[cfg(not(any(target_arch = "aarch64", target_arch = "arm")))]
fn destroy_left_machines() {}

fn serve(listener: &Listener, registry: Arc<Registry>) -> io::Result<()> {
    let socket = listener.socket.try_clone()?;
    let uid = rustix::process::getuid().as_raw();
    thread::Builder::new().name("control".into()).spawn(move || control::serve(&socket, &registry, uid))?;
    Ok(())
}

/// Returns when the daemon is told to end; the flag turns true when it is told again.
fn await_end(mut signals: signal_hook::iterator::Signals) -> Arc<AtomicBool> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        tracing::info!("there is no configuration file to load anew");
    }
    let flag = again.clone();
    thread::spawn(move || {
        for signal in signals.forever() {
            if signal != SIGHUP {
                flag.store(true, Ordering::SeqCst);
            }
        }
    });
    again
}

/// Leaves a daemon behind in the background; returns when it listens. The error is why it doesn't.
pub fn leave_behind(arguments: &[&str]) -> anyhow::Result<()> {
    let socket = socket::path();
    socket::make_directory(&socket)?;
    let log_path = log_path(&socket);
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(&log_path);
    let log = match log {
        Ok(log) => Stdio::from(log),
        Err(_) => Stdio::null(),
    };
    let mut daemon = Command::new("/proc/self/exe")
        .arg0("vmd")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("vmd can't be left in the background")?;
    let mut said = String::new();
    if let Some(stdout) = daemon.stdout.take() {
        stdout.take(4096).read_to_string(&mut said)?;
    }
    if said.lines().any(|line| line == READY) {
        return Ok(());
    }
    let _ = daemon.wait();
    match said.trim() {
        "" => anyhow::bail!("it ended; {} may say why", log_path.display()),
        why => anyhow::bail!("{why}"),
    }
}

/// Beside the socket.
fn log_path(socket: &Path) -> PathBuf {
    socket.with_extension("log")
}

fn start_log(mode: Mode, verbose: bool) {
    let level = if verbose { "debug" } else { "info" };
    let filter = EnvFilter::try_from_env("VMD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match mode {
        Mode::Foreground => builder.with_writer(io::stderr).init(),
        Mode::Background => {
            let written = Arc::new(AtomicUsize::new(0));
            builder.with_ansi(false).with_writer(move || BoundedLog(written.clone())).init();
        }
    }
}

/// Standard error as a file that does not grow for ever.
struct BoundedLog(Arc<AtomicUsize>);

impl Write for BoundedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = io::stderr().write(bytes)?;
        if self.0.fetch_add(written, Ordering::Relaxed) + written > MAX_LOG {
            self.0.store(0, Ordering::Relaxed);
            rustix::fs::ftruncate(rustix::stdio::stderr(), 0)?;
        }
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
