//! The machine xtask runs on: where things lie, which programs are there, and how to run them.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where guests are kept: `$AUBERGE_GUESTS`, else `target/guests` of the workspace.
pub fn guests_folder() -> PathBuf {
    std::env::var_os("AUBERGE_GUESTS").map_or_else(|| workspace().join("target/guests"), PathBuf::from)
}

/// Whether this process may install packages.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether `program` is in one of the folders of `$PATH`.
pub fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A cargo command in the workspace: the cargo that runs xtask.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Runs `command` with this process's output; `why` completes the sentence "could not ...".
pub fn run(command: &mut Command, why: &str) -> Result<()> {
    let status = status(command, why)?;
    if !status.success() {
        bail!("could not {why}: {} ended with {status}", name(command));
    }
    Ok(())
}

/// Runs `command` with this process's output and gives its status.
pub fn status(command: &mut Command, why: &str) -> Result<ExitStatus> {
    command.status().with_context(|| format!("could not {why}: {} did not start", name(command)))
}

/// Runs `command` and gives its standard output; what it wrote to standard error is part of the error.
pub fn output(command: &mut Command, why: &str) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not {why}: {} did not start", name(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("could not {why}: {} ended with {}: {}", name(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// Installs Debian `packages` as root, saying why; where that can't be, says what to install.
pub fn install_packages(packages: &[&str], release: Option<&str>, why: &str) -> Result<()> {
    let list = packages.join(" ");
    if !is_root() || !has_program("apt-get") {
        bail!(
            "{why} needs the Debian package(s) {list}: please install them (as root: apt-get install {list})"
        );
    }
    eprintln!("Installing {list}: {why} needs it");
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).env("DEBIAN_FRONTEND", "noninteractive");
    if let Some(release) = release {
        install.args(["-t", release]);
    }
    install.args(packages).stdout(Stdio::null());
    run(&mut install, &format!("install {list}"))
}

/// The release build of `vmd` and `vmctl`, and the folder it lies in.
pub fn build_release() -> Result<PathBuf> {
    eprintln!("Building vmd and vmctl (release)");
    let mut build = cargo();
    build.args(["build", "--release", "--package", "vmd", "--package", "vmctl"]);
    run(&mut build, "build vmd and vmctl")?;
    Ok(target_folder()?.join("release"))
}

/// The folder that cargo builds into.
pub fn target_folder() -> Result<PathBuf> {
    // xtask itself lies in target/<profile>/xtask, wherever target is configured to be.
    let xtask = std::env::current_exe().context("could not find where cargo built xtask")?;
    let target = xtask.ancestors().nth(2).context("xtask does not lie in cargo's target folder")?;
    Ok(target.to_owned())
}

/// The processor's name as the kernel tells it, and how many there are.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{} x {count}", model.map_or("unknown processor", |(_, name)| name))
}
