//! Debian packages by apt, for any architecture and without root: apt's lists, cache and sources lie in a folder of
//! their own, and the system's stay as they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Arch;
use crate::host;

pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";
/// The release that the guests are of.
pub const RELEASE: &str = "bookworm";

/// Where packages come from: `$AUBERGE_DEBIAN_MIRROR`, else Debian's own network of mirrors.
pub fn mirror() -> String {
    std::env::var("AUBERGE_DEBIAN_MIRROR").unwrap_or_else(|_| MIRROR.to_owned())
}

/// apt with a state of its own.
pub struct Apt {
    folder: PathBuf,
    /// What apt said when its lists could not all be fetched. Told only when a package is then missing: a mirror in
    /// the middle of an update still has most packages.
    update_error: Option<anyhow::Error>,
}

impl Apt {
    /// Prepares apt in `folder` and fetches Debian's lists of packages.
    ///
    /// Errors: no apt or no Debian keys on this machine.
    pub fn open(folder: &Path) -> Result<Apt> {
        for (program, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg")] {
            if !host::has_program(program) {
                bail!(
                    "the guests come from Debian by {program}, which is not on this machine: install the package \
                     {package}, or give a kernel and an initrd of your own (cargo xtask demo --kernel FILE --initrd FILE)"
                );
            }
        }
        if !Path::new(KEYRING).exists() {
            bail!(
                "Debian's keys are not at {KEYRING}: install the package debian-archive-keyring, or give a kernel and \
                 an initrd of your own (cargo xtask demo --kernel FILE --initrd FILE)"
            );
        }
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            std::fs::create_dir_all(&part).with_context(|| format!("could not make {}", part.display()))?;
        }
        std::fs::write(folder.join("status"), "")?;
        let from = format!("signed-by={KEYRING}] {} {RELEASE} main", mirror());
        let sources = format!("deb [arch=amd64,i386,arm64,armhf {from}\ndeb-src [{from}\n");
        std::fs::write(folder.join("sources.list"), sources)?;
        let mut apt = Apt { folder: folder.to_owned(), update_error: None };
        let mut update = apt.command("apt-get");
        update.args(["update", "-q"]);
        apt.update_error = host::output(&mut update, "fetch Debian's package lists").err();
        Ok(apt)
    }

    /// An apt program told to leave the system's state alone.
    fn command(&self, program: &str) -> Command {
        let folder = std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let folder = folder.display();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".into(),
            "Dir::Etc::preferencesparts=/dev/null".into(),
            "APT::Architecture=amd64".into(),
            "APT::Architectures::=amd64".into(),
            "APT::Architectures::=i386".into(),
            "APT::Architectures::=arm64".into(),
            "APT::Architectures::=armhf".into(),
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=3".into(),
            // Without this, lists that could not be fetched are a warning and status 0.
            "APT::Update::Error-Mode=any".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command.stdin(Stdio::null()).env("LC_ALL", "C");
        command
    }

    /// The package that a meta-package such as `linux-image-cloud-amd64` stands for today.
    pub fn resolve(&self, meta: &str, arch: Arch) -> Result<String> {
        let why = format!("find Debian's package {meta}");
        let mut depends = self.command("apt-cache");
        depends.args(["depends", "--important", &format!("{meta}:{arch}")]);
        let text = host::output(&mut depends, &why).map_err(|error| self.explain(error))?;
        let package = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let package = package.with_context(|| format!("{meta} depends on no package"))?;
        Ok(package.split(':').next().unwrap_or(package).to_owned())
    }

    /// Downloads `package` (apt checks its hash against Debian's signed lists) into `folder`.
    pub fn download(&self, package: &str, arch: Arch, folder: &Path) -> Result<PathBuf> {
        let landing = tempfile::tempdir_in(folder)?;
        let mut download = self.command("apt-get");
        download.args(["download", "-q", &format!("{package}:{arch}")]).current_dir(landing.path());
        host::output(&mut download, &format!("download {package}")).map_err(|error| self.explain(error))?;
        let file = std::fs::read_dir(landing.path())?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get downloaded no file for {package}"))?;
        let kept = folder.join(format!("{package}_{arch}.deb"));
        std::fs::rename(&file, &kept)?;
        Ok(kept)
    }

    /// Downloads upstream's archive of the source `package` to the file `kept`.
    pub fn download_source(&self, package: &str, kept: &Path) -> Result<()> {
        let landing = tempfile::tempdir_in(kept.parent().unwrap_or(Path::new(".")))?;
        let mut download = self.command("apt-get");
        download.args(["source", "-q", "--download-only", package]).current_dir(landing.path());
        let why = format!("download the source of {package}");
        host::output(&mut download, &why).map_err(|error| self.explain(error))?;
        let file = std::fs::read_dir(landing.path())?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.to_string_lossy().ends_with(".orig.tar.gz"))
            .with_context(|| format!("apt-get downloaded no .orig.tar.gz for {package}"))?;
        std::fs::rename(&file, kept)?;
        Ok(())
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match &self.update_error {
            Some(update) => anyhow::anyhow!("{error:#}; before that, {update:#}"),
            None => error,
        }
    }
}

/// Unpacks a package's files into `folder`, without installing anything.
pub fn unpack(package: &Path, folder: &Path) -> Result<()> {
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(package).arg(folder);
    host::output(&mut unpack, &format!("unpack {}", package.display())).map(drop)
}
