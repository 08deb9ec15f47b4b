//! `cargo xtask demo --native`: an emulated ARM board, on it the hypervisor, on that a control domain, and in that a guest
//! under `vmctl run`.

mod board;
pub mod control_domain;
pub mod hypervisor;
pub mod image;
mod loader;
pub mod programs;
#[cfg(test)]
mod refusals;
pub mod soak;
mod uimage;

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::demo::{self, Plan};
use crate::ends::Ends;
use crate::{guest_script, guests};
pub use board::{Board, Gic, Platform, comma};
pub use control_domain::Role;
pub use loader::Loader;

/// What the demo's options say of the board and the guest.
pub struct Options {
    pub platform: Platform,
    /// The board's interrupt controller; without, the platform's own.
    pub gic: Option<Gic>,
    /// Whose Debian the guest is; without, the board's.
    pub guest: Option<Platform>,
    /// Stop at the control domain: the shell, or the command, is its.
    pub control_domain: bool,
    /// What starts the hypervisor, as on a real board; without, QEMU does.
    pub loader: Option<Loader>,
    pub guest_memory: String,
    pub guest_cpus: u32,
}

/// Boots the board. Runs the plan's script in the guest or the control domain, or leaves the terminal to its shell.
pub fn demo(options: &Options, plan: Plan) -> Result<ExitCode> {
    let board = Board::new(options.platform, options.gic)?;
    let Plan { script, token } = plan;
    let guest = options.guest.unwrap_or(options.platform);
    if (options.platform, guest) == (Platform::Armhf, Platform::Arm64) {
        bail!("a Cortex-A15 runs no 64-bit guests: leave --guest out");
    }
    let limit = options.platform.command_line_size().min(guest.command_line_size());
    let interactive = script.is_none();
    let role = if options.control_domain {
        Role::ControlDomain { script, token: token.clone() }
    } else {
        let words = script.map(|script| guest_script::words_within(&script, &token, limit)).transpose()?;
        Role::Guest {
            words: words.unwrap_or_default(),
            memory: options.guest_memory.clone(),
            cpus: options.guest_cpus,
            interactive,
        }
    };
    let images = prepare(options.platform, guest, &role)?;
    let ends = Ends::install()?;
    let bootargs = role.command_line(options.platform);
    let mut command = match options.loader {
        None => board.command(&images.hypervisor, &images.kernel, &images.initrd, &bootargs)?,
        Some(loader) => {
            let (disk, firmware) = (images.folder.path().join("disk"), images.folder.path().join("firmware"));
            let read = |path| std::fs::read(path).context("could not read what the board is to boot");
            let (kernel, initrd) = (read(&images.kernel)?, read(&images.initrd)?);
            let parts =
                image::Parts { platform: options.platform, kernel, initrd, cmdline: bootargs, dtb: None };
            image::write(&parts, &disk)?;
            loader::command(loader, &board, &disk, &firmware)?
        }
    };
    if interactive {
        command.args(["-serial", "mon:stdio"]);
        eprintln!("Booting {}; `poweroff` leaves, Control-A X ends the board", board.describe());
        let mut child = command.spawn().context("QEMU did not start")?;
        let _watched = ends.watch(&child);
        let status = child.wait()?;
        if !status.success() && !ends.asked() {
            bail!("the emulated board ended with {status}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    command.args(["-serial", "stdio"]).stdin(Stdio::null());
    demo::follow(command, "QEMU", &board.describe(), &token, &ends, &mut std::io::stdout())
}

/// Makes what the tests of `platform` boot, and QEMU, so that they need not.
pub fn make_ready(platform: Platform) -> Result<()> {
    loader::fetch()?;
    let board = Board::new(platform, None)?;
    programs::build(platform)?;
    let hypervisor = hypervisor::build(platform)?;
    guests::ensure(platform.arch())?;
    board.command(&hypervisor, &hypervisor, &hypervisor, "").map(drop)
}

/// What a board boots.
struct Images {
    hypervisor: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    /// The initrd lies in it.
    folder: tempfile::TempDir,
}

/// Makes everything that is not there yet.
fn prepare(platform: Platform, guest: Platform, role: &Role) -> Result<Images> {
    let own = guests::ensure(platform.arch())?;
    let guest = guests::ensure(guest.arch())?;
    let programs = programs::build(platform)?;
    let hypervisor = hypervisor::build(platform)?;
    let folder = tempfile::Builder::new().prefix("auberge-native-").tempdir()?;
    let initrd = folder.path().join("initrd.img");
    std::fs::write(&initrd, control_domain::initrd(&own, &guest, &programs, role)?)
        .with_context(|| format!("could not write {}", initrd.display()))?;
    Ok(Images { hypervisor, kernel: own.kernel, initrd, folder })
}
