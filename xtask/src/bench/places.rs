//! The three places where rows run: this machine itself, Auberge, and QEMU's TCG.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::console::{self, Session};
use super::machine::{self, Machine};
use super::programs::Programs;
use super::qemu;
use crate::ends::Ends;
use crate::guest_script;
use crate::guests::{Arch, Guest};
use crate::host;
use crate::progress::Step;

/// In MiB: the rows' 128 MB, Debian's programs and what they write.
const MEMORY_MIB: u32 = 1024;
/// Repetitions go on for so long here, and there are so many at least. Short rows want many, since one that nothing
/// disturbed is what counts.
const NATIVE: (&str, &str) = ("1", "5");
/// The same in a guest, where rows are made to take about a second in TCG.
const GUEST: (&str, &str) = ("0.5", "2");

/// What all places need.
pub struct Places {
    pub vmctl: PathBuf,
    pub engine: String,
    pub guest: Guest,
    pub programs: Programs,
    /// Debian, when a row is one of its programs.
    pub debian: Option<Debian>,
}

/// Debian's programs: as a tree for this machine, and on a disk of this command's own, since a machine locks its disk.
pub struct Debian {
    tree: PathBuf,
    disk: PathBuf,
    _folder: tempfile::TempDir,
}

impl Debian {
    /// Copies the disk `image` to `folder`, until this is dropped.
    pub fn copy(image: &Path, tree: PathBuf, folder: &Path, ends: &Ends) -> Result<Debian> {
        let _step = Step::begin("Copying Debian's disk");
        let folder = tempfile::tempdir_in(folder)?;
        let copy = folder.path().join("debian.img");
        let mut command = Command::new("cp");
        // Holes stay holes.
        command.args(["--sparse=always", "--reflink=auto", "--"]).arg(image).arg(&copy);
        let mut child = command.stdin(Stdio::null()).spawn().context("cp did not start")?;
        let watched = ends.watch(&child);
        let status = child.wait()?;
        drop(watched);
        if ends.asked() {
            bail!("interrupted");
        }
        if !status.success() {
            bail!("could not copy {} to {}: cp ended with {status}", image.display(), copy.display());
        }
        Ok(Debian { tree, disk: copy, _folder: folder })
    }
}

impl Places {
    /// Runs rows on this machine.
    pub fn native(&self, rows: &[&str], ends: &Ends) -> Result<Session> {
        let mut command = match &self.debian {
            None => Command::new("sh"),
            Some(debian) => {
                // Mounts of its own below Debian's tree; and, for a user, the right to mount and to change the root.
                let mut command = Command::new("unshare");
                command.arg(if host::is_root() { "--mount" } else { "-rm" }).arg("sh").env("R", &debian.tree);
                command
            }
        };
        command.arg(self.programs.folder.join("run.sh")).args([NATIVE.0, NATIVE.1]).args(rows);
        command.env("B", &self.programs.folder);
        console::run(&mut command, None, "native", rows.len(), ends)
    }

    /// Runs rows in a guest of Auberge's.
    pub fn auberge(&self, rows: &[&str], cpus: u32, ends: &Ends) -> Result<Session> {
        let (machine, token) = self.machine(rows, cpus)?;
        let mut command = machine::auberge(&self.vmctl, Some(&self.engine), &machine);
        console::run(&mut command, Some(&token), "Auberge", rows.len(), ends)
    }

    /// Runs rows in a guest of QEMU's.
    pub fn qemu(&self, rows: &[&str], ends: &Ends) -> Result<Session> {
        let (machine, token) = self.machine(rows, 1)?;
        let mut command = qemu::command(qemu::program(Arch::Amd64)?, &machine);
        console::run(&mut command, Some(&token), "QEMU TCG", rows.len(), ends)
    }

    fn machine(&self, rows: &[&str], cpus: u32) -> Result<(Machine, String)> {
        let token = guest_script::random_token()?;
        let script = format!("sh /bench/run.sh {} {} {}", GUEST.0, GUEST.1, rows.join(" "));
        let machine = Machine {
            kernel: self.guest.kernel.clone(),
            initrd: self.programs.initrd.clone(),
            disk: self.debian.as_ref().map(|debian| debian.disk.clone()),
            cmdline: format!("console=ttyS0 quiet {}", guest_script::words(&script, &token)?),
            cpus,
            memory_mib: MEMORY_MIB,
        };
        Ok((machine, token))
    }
}
