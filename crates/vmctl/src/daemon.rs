//! Finding the daemon, or starting it.

use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vmd::client::{self, Client};
use vmd::socket;

/// How long a daemon that another vmctl starts may take from its lock to listening.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connects to the daemon.
pub fn connect() -> Result<Client, client::Error> {
    Client::connect(&socket::path())
}

/// Whether an error of [`connect`] means that no daemon runs.
pub fn is_absent(error: &client::Error) -> bool {
    matches!(error, client::Error::Socket(socket::Error::Connect { .. }))
}

/// Connects to the daemon, and starts it where none runs.
pub fn connect_or_start() -> anyhow::Result<Client> {
    match connect() {
        Err(e) if is_absent(&e) => {}
        other => return Ok(other?),
    }
    let vmd = find()?;
    tracing::info!("starting {}", vmd.display());
    // It returns when the daemon listens, or when it has said why it can't.
    let mut command = Command::new(&vmd);
    let said = command.stdin(Stdio::null()).output();
    let said = said.with_context(|| format!("{} can't be run", vmd.display()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect() {
            Ok(client) => return Ok(client),
            // Another vmctl's vmd was quicker, but may not listen yet.
            Err(e) if !said.status.success() && is_absent(&e) => {
                if Instant::now() >= deadline {
                    let why = String::from_utf8_lossy(&said.stderr);
                    bail!("no vmd runs, and {} could not be started: {}", vmd.display(), why.trim());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// The vmd beside this program, else the one in `PATH`.
fn find() -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("vmd")));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&paths).map(|dir| dir.join("vmd")))
        .find(|path| path.is_file())
        .context("no vmd runs, and there is none to start beside vmctl or in PATH")
}
