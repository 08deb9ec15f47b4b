//! Boot loaders of real boards, on the emulated ones: Debian's U-Boot for QEMU, and GRUB on its UEFI firmware. They boot a folder
//! that [`super::image`] has made, as a disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::board::{Board, Platform};
use crate::guests::{self, Arch};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Loader {
    #[value(name = "u-boot")]
    UBoot,
    Grub,
}

impl Loader {
    /// The packages whose files it is made of: their names, and Debian's port that has them.
    fn packages(self) -> &'static [(&'static str, Arch)] {
        match self {
            Loader::UBoot => &[("u-boot-qemu", Arch::Amd64)],
            Loader::Grub => &[("qemu-efi-aarch64", Arch::Amd64), ("grub-efi-arm64-bin", Arch::Arm64)],
        }
    }

    /// Downloads its packages and unpacks them into `folder`.
    fn unpack(self, folder: &Path) -> Result<()> {
        self.packages().iter().try_for_each(|(name, arch)| guests::unpack_package(name, *arch, folder))
    }
}

/// Downloads what all of them are made of.
pub fn fetch() -> Result<()> {
    let loaders = [Loader::UBoot, Loader::Grub];
    loaders
        .iter()
        .flat_map(|loader| loader.packages())
        .try_for_each(|(name, arch)| guests::fetch_package(name, *arch))
}

/// A board that boots `disk` by itself; the firmware lies in `work`, and a GRUB is put on the disk.
pub fn command(loader: Loader, board: &Board, disk: &Path, work: &Path) -> Result<Command> {
    loader.unpack(work).with_context(|| format!("there is no {loader:?} to boot the board"))?;
    let firmware = match (loader, board.platform()) {
        (Loader::UBoot, Platform::Arm64) => work.join("usr/lib/u-boot/qemu_arm64/u-boot.bin"),
        (Loader::UBoot, Platform::Armhf) => work.join("usr/lib/u-boot/qemu_arm/u-boot.bin"),
        (Loader::Grub, Platform::Arm64) => {
            install_grub(work, disk)?;
            work.join("usr/share/qemu-efi-aarch64/QEMU_EFI.fd")
        }
        (Loader::Grub, Platform::Armhf) => {
            bail!("GRUB starts hypervisors on arm64 only: say --loader u-boot")
        }
    };
    board.disk_command(&firmware, disk)
}

/// Where UEFI looks for what to start, and GRUB for its modules and menu: Debian's monolithic one has /EFI/debian built in.
fn install_grub(work: &Path, disk: &Path) -> Result<()> {
    let modules = work.join("usr/lib/grub/arm64-efi");
    let copy = |from: PathBuf, to: PathBuf| {
        let folder = to.parent().unwrap_or(disk);
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        std::fs::copy(&from, &to).with_context(|| format!("could not copy {}", from.display()))
    };
    copy(modules.join("monolithic/grubaa64.efi"), disk.join("EFI/BOOT/BOOTAA64.EFI"))?;
    for module in ["xen_boot.mod", "fdt.mod", "moddep.lst"] {
        copy(modules.join(module), disk.join("EFI/debian/arm64-efi").join(module))?;
    }
    copy(disk.join("grub.cfg"), disk.join("EFI/debian/grub.cfg"))?;
    Ok(())
}
