//! QEMU, the peer and the board: which program, its installation, and its command line.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::machine::Machine;
use crate::guests::Arch;
use crate::host;

const BACKPORTS: &str = "bookworm-backports";

/// QEMU's program for `arch`, installed when it is missing.
pub fn program(arch: Arch) -> Result<&'static str> {
    let (program, package) = match arch {
        Arch::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Arch::I386 => ("qemu-system-i386", "qemu-system-x86"),
        Arch::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
        Arch::Armhf => ("qemu-system-arm", "qemu-system-arm"),
    };
    if host::has_program(program) {
        return Ok(program);
    }
    let why = match package {
        "qemu-system-arm" => "an emulated ARM board",
        _ => "the comparison with QEMU's TCG",
    };
    if host::is_root() && host::has_program("apt-get") && is_bookworm() {
        let list = Path::new("/etc/apt/sources.list.d/auberge-backports.list");
        std::fs::write(list, format!("deb http://deb.debian.org/debian {BACKPORTS} main\n"))
            .with_context(|| format!("could not write {}", list.display()))?;
        host::run(
            Command::new("apt-get").args(["update", "-q"]).stdout(Stdio::null()),
            "fetch Debian's package lists",
        )?;
        host::install_packages(&[package], Some(BACKPORTS), why)?;
    } else {
        host::install_packages(&[package], None, why)?;
    }
    Ok(program)
}

fn is_bookworm() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "VERSION_CODENAME=bookworm")
}

/// Runs `machine` in TCG: the processor with all that TCG knows, no device but a serial line and the disk.
pub fn command(program: &str, machine: &Machine) -> Command {
    let mut command = Command::new(program);
    command.args(["-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-no-reboot"]);
    command.args(["-smp", &machine.cpus.to_string(), "-m", &machine.memory_mib.to_string()]);
    command.args(["-serial", "stdio", "-append", &machine.cmdline, "-kernel"]).arg(&machine.kernel);
    command.arg("-initrd").arg(&machine.initrd);
    if let Some(disk) = &machine.disk {
        // A comma ends a word of -drive unless it is doubled.
        let file = disk.to_string_lossy().replace(',', ",,");
        command.args(["-drive", &format!("if=virtio,format=raw,file={file}")]);
    }
    command
}

/// What QEMU says of its version.
pub fn version(program: &str) -> Result<String> {
    let said = host::output(Command::new(program).arg("--version"), "ask QEMU's version")?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}
