//! `cargo xtask guests`: the guests that the demo, the tests and the benchmarks boot.
//!
//! Below `target/guests` (or `$AUBERGE_GUESTS`):
//! `amd64/` and `i386/` hold `vmlinuz`, `initrd.img` and `vmlinux`, the kernel as an ELF file that boots by PVH (i386
//! also `vmlinuz-686` and `initrd-686.img`, the kernel without PAE, which has no entry for PVH), `arm64/` and `armhf/`
//! hold `vmlinuz` and `initrd.img` (arm64's `vmlinuz` is a plain Image, which boot loaders need) and `xen` where that
//! was asked for, `kernels/` the test kernels of `guests/kernels` and Debian's memtest86+; `amd64/debian.img` is a disk with Debian on it, and
//! `amd64/debian/` its tree (see `debian.rs`); `packages/` keeps what was downloaded, and `apt/` apt's state.

mod applets;
mod apt;
mod assembly;
pub mod cpio;
mod debian;
mod initrd;
mod modules;
mod store;
mod vmlinux;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::host;
use crate::progress::Step;
use apt::Apt;
use store::{Lock, Manifest, Store};

#[derive(clap::Args)]
pub struct Args {
    /// Only the guests of this architecture
    #[arg(long, value_enum, default_value_t = Choice::All)]
    arch: Choice,
    /// List what is there and where it comes from; fetch nothing
    #[arg(long)]
    list: bool,
    /// Ask Debian for newer packages, even though the guests are whole
    #[arg(long)]
    update: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Amd64,
    I386,
    Arm64,
    Armhf,
    /// What the tests on this machine need: amd64 and i386
    All,
}

/// A guest's architecture, by Debian's name. On the command line it is one that this machine itself can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    Amd64,
    I386,
    #[value(skip)]
    Arm64,
    #[value(skip)]
    Armhf,
}

impl fmt::Display for Arch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Arch::Amd64 => "amd64",
            Arch::I386 => "i386",
            Arch::Arm64 => "arm64",
            Arch::Armhf => "armhf",
        })
    }
}

/// Debian's Xen beside an ARM guest's kernel.
const XEN: &str = "xen";
const XEN_MANIFEST: &str = "xen.json";

/// One of Debian's kernels for an architecture.
struct Flavour {
    /// The meta-package that names today's kernel package.
    meta: &'static str,
    kernel: &'static str,
    initrd: &'static str,
    /// The kernel's ELF image, where that has an entry for PVH.
    vmlinux: Option<&'static str>,
}

impl Arch {
    fn is_x86(self) -> bool {
        matches!(self, Arch::Amd64 | Arch::I386)
    }

    fn flavours(self) -> &'static [Flavour] {
        match self {
            Arch::Amd64 => &[Flavour {
                meta: "linux-image-cloud-amd64",
                kernel: "vmlinuz",
                initrd: "initrd.img",
                vmlinux: Some("vmlinux"),
            }],
            Arch::I386 => &[
                Flavour {
                    meta: "linux-image-686-pae",
                    kernel: "vmlinuz",
                    initrd: "initrd.img",
                    vmlinux: Some("vmlinux"),
                },
                Flavour {
                    meta: "linux-image-686",
                    kernel: "vmlinuz-686",
                    initrd: "initrd-686.img",
                    vmlinux: None,
                },
            ],
            Arch::Arm64 => &[Flavour {
                meta: "linux-image-arm64",
                kernel: "vmlinuz",
                initrd: "initrd.img",
                vmlinux: None,
            }],
            Arch::Armhf => &[Flavour {
                meta: "linux-image-armmp-lpae",
                kernel: "vmlinuz",
                initrd: "initrd.img",
                vmlinux: None,
            }],
        }
    }
}

/// A kernel and its first root file system.
#[derive(Debug)]
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let folder = host::guests_folder();
    if args.list {
        return list(&folder);
    }
    let archs: &[Arch] = match args.arch {
        Choice::Amd64 => &[Arch::Amd64],
        Choice::I386 => &[Arch::I386],
        Choice::Arm64 => &[Arch::Arm64],
        Choice::Armhf => &[Arch::Armhf],
        Choice::All => &[Arch::Amd64, Arch::I386],
    };
    if args.update {
        for part in ["packages", "apt"] {
            let path = folder.join(part);
            if path.exists() {
                std::fs::remove_dir_all(&path)?;
            }
        }
    }
    let mut maker = Maker::new(folder.clone(), args.update)?;
    for &arch in archs {
        maker.debian(arch)?;
    }
    if archs.contains(&Arch::Amd64) {
        maker.disk()?;
    }
    if archs.iter().any(|arch| arch.is_x86()) {
        maker.kernels()?;
    }
    list(&folder)
}

/// The default guest of `arch`, made now when it is not there yet.
pub fn ensure(arch: Arch) -> Result<Guest> {
    let mut maker = Maker::new(host::guests_folder(), false)?;
    let store = maker.debian(arch)?;
    Ok(Guest { kernel: store.path("vmlinuz"), initrd: store.path("initrd.img") })
}

/// Debian's Xen for `arch`, an ARM one, made now when it is not there yet.
pub fn ensure_xen(arch: Arch) -> Result<PathBuf> {
    let mut maker = Maker::new(host::guests_folder(), false)?;
    let store = maker.xen(arch)?;
    Ok(store.path(XEN))
}

/// Downloads one of Debian's packages, unless it was before.
pub fn fetch_package(name: &str, arch: Arch) -> Result<()> {
    Maker::new(host::guests_folder(), false)?.package(name, arch, false).map(drop)
}

/// Unpacks one of Debian's packages into `folder`, downloaded unless it was before.
pub fn unpack_package(name: &str, arch: Arch, folder: &Path) -> Result<()> {
    let package = Maker::new(host::guests_folder(), false)?.package(name, arch, false)?;
    std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    apt::unpack(&package, folder)
}

/// Debian on a disk.
#[derive(Debug)]
pub struct Disk {
    pub guest: Guest,
    /// A raw disk with an ext4 file system, to be booted by `guest` with `root=/dev/vda`; to be copied, not written.
    pub image: PathBuf,
    /// The same files, unpacked.
    pub tree: PathBuf,
}

/// Debian for amd64 on a disk, made now when it is not there yet.
pub fn ensure_disk() -> Result<Disk> {
    let mut maker = Maker::new(host::guests_folder(), false)?;
    let store = maker.debian(Arch::Amd64)?;
    let guest = Guest { kernel: store.path("vmlinuz"), initrd: store.path("initrd.img") };
    let store = maker.disk()?;
    Ok(Disk { guest, image: store.path(debian::IMAGE), tree: store.path(debian::TREE) })
}

/// Every guest; gives the folder they lie in.
pub fn ensure_all() -> Result<PathBuf> {
    let mut maker = Maker::new(host::guests_folder(), false)?;
    maker.debian(Arch::Amd64)?;
    maker.debian(Arch::I386)?;
    if cfg!(target_arch = "x86_64") {
        maker.disk()?;
    }
    maker.kernels()?;
    Ok(maker.folder)
}

/// The Debian packages and versions that the guests of `arch` were made from.
pub fn sources(arch: Arch) -> Vec<String> {
    manifest_sources(arch, "manifest.json")
}

/// The same for Xen.
pub fn xen_sources(arch: Arch) -> Vec<String> {
    manifest_sources(arch, XEN_MANIFEST)
}

fn manifest_sources(arch: Arch, manifest: &str) -> Vec<String> {
    let manifest = std::fs::read(host::guests_folder().join(arch.to_string()).join(manifest));
    let manifest = manifest.ok().and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
    manifest.map(|manifest| manifest.sources).unwrap_or_default()
}

fn list(folder: &Path) -> Result<ExitCode> {
    println!("{}", folder.display());
    let parts = [
        ("amd64", "manifest.json"),
        ("amd64", debian::MANIFEST),
        ("i386", "manifest.json"),
        ("arm64", "manifest.json"),
        ("armhf", "manifest.json"),
        ("kernels", "manifest.json"),
    ];
    for (part, manifest_name) in parts {
        let Ok(text) = std::fs::read(folder.join(part).join(manifest_name)) else {
            println!("  {part}/{manifest_name}: not there; cargo xtask guests makes it");
            continue;
        };
        let manifest: Manifest = serde_json::from_slice(&text)?;
        match manifest.sources.len() {
            0..10 => println!("  {part}: from {}", manifest.sources.join(", ")),
            many => println!("  {part}: from {many} packages of Debian, named in {part}/{manifest_name}"),
        }
        for (name, size) in manifest.sizes() {
            println!("    {name:20} {:>8} KiB", size.div_ceil(1024));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes guests, with what that needs opened when first needed.
struct Maker {
    folder: PathBuf,
    apt: Option<Apt>,
    remake: bool,
    _lock: Lock,
}

impl Maker {
    fn new(folder: PathBuf, remake: bool) -> Result<Maker> {
        let lock = Lock::take(&folder)?;
        Ok(Maker { folder, apt: None, remake, _lock: lock })
    }

    /// A package's file, downloaded unless it was before; `meta` is resolved to the package it stands for.
    fn package(&mut self, name: &str, arch: Arch, meta: bool) -> Result<PathBuf> {
        let packages = self.folder.join("packages");
        std::fs::create_dir_all(&packages)
            .with_context(|| format!("could not make {}", packages.display()))?;
        let kept = packages.join(format!("{name}_{arch}.deb"));
        if kept.exists() {
            return Ok(kept);
        }
        let _step = Step::begin(format!("Downloading Debian's {name} ({arch})"));
        let apt = opened(&mut self.apt, &self.folder)?;
        let package = if meta { apt.resolve(name, arch)? } else { name.to_owned() };
        let file = apt.download(&package, arch, &packages)?;
        if file != kept {
            std::fs::rename(&file, &kept)?;
        }
        Ok(kept)
    }

    /// Debian's kernels of `arch`, each with an initrd.
    fn debian(&mut self, arch: Arch) -> Result<Store> {
        let store = Store::open(self.folder.join(arch.to_string()))?;
        let sources = [include_bytes!("mod.rs").as_slice(), include_bytes!("vmlinux.rs")].concat();
        let recipe = store::sha256(&[initrd::recipe(), assembly::recipe()?, sources].concat());
        let flavours = arch.flavours().iter();
        let names: Vec<_> = flavours
            .flat_map(|flavour| [Some(flavour.kernel), Some(flavour.initrd), flavour.vmlinux])
            .flatten()
            .collect();
        if !self.remake && store.current(&recipe, &names).is_some() {
            return Ok(store);
        }
        let work = tempfile::tempdir_in(&self.folder)?;
        let busybox = work.path().join("busybox");
        let package = self.package("busybox-static", arch, false)?;
        apt::unpack(&package, &busybox)?;
        let mut sources = vec![version(&package)?];
        // A port, which only x86 has.
        let debug_exit = if arch.is_x86() { Some(assembly::debug_exit(arch)?) } else { None };
        let mut files = Vec::new();
        for flavour in arch.flavours() {
            let package = self.package(flavour.meta, arch, true)?;
            let _step = Step::begin(format!("Making {arch}/{}", flavour.initrd));
            let unpacked = work.path().join(flavour.meta);
            apt::unpack(&package, &unpacked)?;
            sources.push(version(&package)?);
            let kernel = read_beginning_with(&unpacked.join("boot"), "vmlinuz-")?;
            if let Some(vmlinux) = flavour.vmlinux {
                let image = vmlinux::extract(&kernel);
                files.push((vmlinux, image.with_context(|| format!("could not make {arch}/{vmlinux}"))?));
            }
            if arch == Arch::Arm64 {
                check_image(&kernel).with_context(|| format!("could not make {arch}/{}", flavour.kernel))?;
            }
            files.push((flavour.kernel, kernel));
            files.push((flavour.initrd, initrd::build(&unpacked, &busybox, debug_exit.as_deref())?));
        }
        store.replace(&recipe, sources, &borrowed(&files))?;
        Ok(store)
    }

    /// Debian's Xen.
    fn xen(&mut self, arch: Arch) -> Result<Store> {
        let store = Store::with_manifest(self.folder.join(arch.to_string()), XEN_MANIFEST)?;
        let recipe = store::sha256(include_bytes!("mod.rs"));
        if !self.remake && store.current(&recipe, &[XEN]).is_some() {
            return Ok(store);
        }
        let package = self.package(&format!("xen-hypervisor-4.17-{arch}"), arch, false)?;
        let work = tempfile::tempdir_in(&self.folder)?;
        apt::unpack(&package, work.path())?;
        let image = work.path().join(format!("boot/xen-4.17-{arch}"));
        let image = std::fs::read(&image).with_context(|| format!("could not read {}", image.display()))?;
        store.replace(&recipe, vec![version(&package)?], &[(XEN, &image)])?;
        Ok(store)
    }

    /// Debian on a disk, and its tree.
    fn disk(&mut self) -> Result<Store> {
        let packages = self.folder.join("packages");
        std::fs::create_dir_all(&packages)?;
        let amd64 = self.folder.join(Arch::Amd64.to_string());
        debian::make(&amd64, self.remake, &packages, || opened(&mut self.apt, &self.folder))
    }

    /// The test kernels, and memtest86+ for both architectures.
    fn kernels(&mut self) -> Result<()> {
        const MEMTEST: [&str; 2] = ["memtest86+x64.bin", "memtest86+ia32.bin"];
        let store = Store::open(self.folder.join("kernels"))?;
        let recipe = store::sha256(&[assembly::recipe()?, include_bytes!("mod.rs").to_vec()].concat());
        let names: Vec<_> = assembly::kernel_names().chain(MEMTEST).collect();
        if !self.remake && store.current(&recipe, &names).is_some() {
            return Ok(());
        }
        let package = self.package("memtest86+", Arch::Amd64, false)?;
        let _step = Step::begin("Making the test kernels");
        let work = tempfile::tempdir_in(&self.folder)?;
        apt::unpack(&package, work.path())?;
        let mut files = assembly::kernels()?;
        for name in MEMTEST {
            files.push((name, read_beginning_with(&work.path().join("boot"), name)?));
        }
        let sources = vec!["guests/kernels".to_owned(), version(&package)?];
        store.replace(&recipe, sources, &borrowed(&files))?;
        Ok(())
    }
}

/// apt, opened when first needed.
fn opened<'a>(apt: &'a mut Option<Apt>, folder: &Path) -> Result<&'a Apt> {
    match apt {
        Some(apt) => Ok(apt),
        none => Ok(none.insert(Apt::open(&folder.join("apt"))?)),
    }
}

fn borrowed<'a>(files: &'a [(&'a str, Vec<u8>)]) -> Vec<(&'a str, &'a [u8])> {
    files.iter().map(|(name, contents)| (*name, contents.as_slice())).collect()
}

/// Refuses what is no uncompressed arm64 kernel (Linux, Documentation/arm64/booting.rst: `magic` at offset 56).
fn check_image(kernel: &[u8]) -> Result<()> {
    const MAGIC: (usize, &[u8]) = (56, b"ARM\x64");
    if kernel.get(MAGIC.0..MAGIC.0 + 4) != Some(MAGIC.1) {
        bail!(
            "Debian's kernel is no plain Image but, it seems, a compressed one, which boot loaders don't take"
        );
    }
    Ok(())
}

/// A package's name and version, from the package.
fn version(package: &Path) -> Result<String> {
    let mut show = std::process::Command::new("dpkg-deb");
    show.args(["--show", "--showformat=${Package} ${Version}"]).arg(package);
    host::output(&mut show, &format!("read {}", package.display()))
}

/// The contents of the one file in `folder` whose name begins with `prefix`.
fn read_beginning_with(folder: &Path, prefix: &str) -> Result<Vec<u8>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("there is no {}", folder.display()))?;
    let file = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .with_context(|| format!("there is no {prefix} in {}", folder.display()))?;
    std::fs::read(&file).with_context(|| format!("could not read {}", file.display()))
}
