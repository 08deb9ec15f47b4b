//! Finding the daemon, or starting it.

use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::Command;
use vmd::client::{self, Client};
use vmd::socket;

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
    let status = Command::new(&vmd).status().with_context(|| format!("{} can't be run", vmd.display()))?;
    match connect() {
        Ok(client) => Ok(client),
        Err(_) if !status.success() => bail!("no vmd runs, and {} could not be started", vmd.display()),
        Err(e) => Err(e.into()),
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
