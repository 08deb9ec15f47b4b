//! The guests' root file system: busybox, the kernel's modules for virtio and disks, and `guests/initrd/init`.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::applets;
use super::cpio::Archive;
use super::modules::{self, Tree};

const INIT: &[u8] = include_bytes!("../../../guests/initrd/init");
const INITTAB: &[u8] = include_bytes!("../../../guests/initrd/inittab");
const PROFILE: &[u8] = include_bytes!("../../../guests/initrd/profile");

/// The modules that `init` may load, or a person at the shell by `modprobe`.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "virtio_net",
    "virtio_balloon",
    "ext4",
    "crc32c_generic",
    "loop",
    "evdev",
    "button",
];

/// What this file puts into the archive, for telling whether an archive is still good.
pub fn recipe() -> Vec<u8> {
    [INIT, INITTAB, PROFILE, MODULES.join(" ").as_bytes(), include_bytes!("initrd.rs")].concat()
}

/// Builds the archive from the unpacked kernel and busybox packages and the `debug-exit` program where there is one, uncompressed: a
/// guest on a slow engine would unpack longer than this machine takes to read.
pub fn build(kernel: &Path, busybox: &Path, debug_exit: Option<&[u8]>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "etc", "lib", "mnt", "proc", "root", "run", "sys", "tmp", "var"] {
        archive.directory(folder, 0o755);
    }
    archive.symlink("sbin", "bin");
    archive.directory("var/log", 0o755);
    archive.symlink("var/run", "../run");
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.character_device("dev/null", 0o666, 1, 3);
    archive.file("init", 0o755, INIT);
    archive.file("etc/inittab", 0o644, INITTAB);
    archive.directory("etc/acpi", 0o755);
    archive.directory("etc/acpi/PWRF", 0o755);
    archive.file("etc/acpi/PWRF/00000080", 0o755, b"#!/bin/sh\nexec poweroff\n");
    archive.file("etc/profile", 0o644, PROFILE);
    archive.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", 0o644, b"root:x:0:\n");
    archive.symlink("etc/mtab", "/proc/mounts");

    let program = ["bin/busybox", "usr/bin/busybox"].map(|path| busybox.join(path));
    let program = program.iter().find(|path| path.exists()).context("the busybox package has no busybox")?;
    let program = std::fs::read(program)?;
    let applets = applets::names(&program);
    if !applets.iter().any(|applet| applet == "sh") {
        bail!("no table of applets was found in the busybox package's program");
    }
    archive.file("bin/busybox", 0o755, &program);
    for applet in applets.iter().filter(|applet| *applet != "busybox") {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    if let Some(debug_exit) = debug_exit {
        archive.file("bin/debug-exit", 0o755, debug_exit);
    }
    add_modules(&mut archive, kernel)?;
    Ok(archive.finish())
}

fn add_modules(archive: &mut Archive, kernel: &Path) -> Result<()> {
    let all = kernel.join("lib/modules");
    let version = std::fs::read_dir(&all)
        .ok()
        .and_then(|mut entries| entries.next())
        .with_context(|| format!("the kernel package has no {}", all.display()))??
        .file_name();
    let tree = Tree::open(&all.join(&version))?;
    let modules = tree.closure(MODULES)?;
    let root = format!("lib/modules/{}", version.to_string_lossy());
    let mut folders = std::collections::BTreeSet::new();
    for file in modules.iter().map(|module| format!("{root}/{}", module.path)) {
        let parents = Path::new(&file).ancestors().skip(1);
        folders.extend(parents.filter_map(|folder| folder.to_str()).map(str::to_owned));
    }
    // Sorted, a folder comes before what it holds; "" and "lib" are there already.
    for folder in folders.iter().filter(|folder| folder.len() > "lib".len()) {
        archive.directory(folder, 0o755);
    }
    for module in &modules {
        archive.file(&format!("{root}/{}", module.path), 0o644, &module.contents);
    }
    archive.file(&format!("{root}/modules.dep"), 0o644, modules::modules_dep(&modules).as_bytes());
    archive.file(&format!("{root}/modules.alias"), 0o644, modules::modules_alias(&modules).as_bytes());
    Ok(())
}
