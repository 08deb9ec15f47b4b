//! A machine that both sides boot: the same kernel, initrd, disk and command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host;

/// What is booted, by Auberge or by QEMU.
pub struct Machine {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// A raw disk, the guest's /dev/vda.
    pub disk: Option<PathBuf>,
    pub cmdline: String,
    pub cpus: u32,
    pub memory_mib: u32,
}

/// `vmctl run` for `machine`, with the engine named or the one it chooses itself.
pub fn auberge(vmctl: &Path, engine: Option<&str>, machine: &Machine) -> Command {
    let mut command = Command::new(vmctl);
    command.args(["run", "-m", &format!("{}M", machine.memory_mib), "-p", &machine.cpus.to_string()]);
    if let Some(engine) = engine {
        command.args(["--engine", engine]);
    }
    command.args(["--cmdline", &machine.cmdline, "-b"]).arg(&machine.kernel);
    command.arg("--initrd").arg(&machine.initrd);
    if let Some(disk) = &machine.disk {
        let mut word = std::ffi::OsString::from("raw:");
        word.push(disk);
        command.arg("-d").arg(word);
    }
    command.arg("bench");
    command
}

/// Auberge's version and the commit that is built.
pub fn auberge_version() -> String {
    let mut describe = Command::new("git");
    describe.args(["describe", "--always", "--dirty"]).current_dir(host::workspace());
    let commit = host::output(&mut describe, "ask git for the commit").unwrap_or_default();
    format!("Auberge {} {}", env!("CARGO_PKG_VERSION"), commit.trim())
}
