//! Debian itself on a disk: a bookworm with systemd, a compiler, interpreters and a debugger, made by mmdebstrap.
//!
//! `amd64/debian.img` is the disk, an ext4 file system without a partition table, to be booted with the guests' kernel
//! and initrd and the words `root=/dev/vda`; root logs in without a password. `amd64/debian/` is the same tree
//! unpacked, for running the same programs on this machine: `chroot target/guests/amd64/debian`. Made without root,
//! the image's files have their owners all the same, but the folder's belong to the user.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::apt::{Apt, KEYRING, RELEASE};
use super::store::{self, Store};
use crate::host;
use crate::progress::Step;

pub const IMAGE: &str = "debian.img";
pub const TREE: &str = "debian";
/// The manifest of these two; the kernel beside them has its own.
pub const MANIFEST: &str = "debian.json";

const PACKAGES: &[&str] = &[
    // A system.
    "systemd-sysv",
    "udev",
    "dbus",
    "login",
    "procps",
    "kmod",
    // Programs whose output is known.
    "gcc",
    "libc6-dev",
    "make",
    "perl",
    "python3",
    "sqlite3",
    "xz-utils",
    "gzip",
    "mawk",
    "bash",
    "dash",
    // Programs that single-step others, and that make code as they go.
    "gdb",
    "strace",
    "luajit",
    "libpcre2-8-0",
];

/// What the image's apt does: lists of packages compressed, since they are most of what it reads.
const APT_OPTIONS: &[&str] = &["Acquire::Languages \"none\"", "Acquire::GzipIndexes \"true\""];

/// What no program needs.
const DPKG_OPTIONS: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
];

/// The package whose source lies in `/usr/src/lua`.
const SOURCE: &str = "lua5.4";
/// The image's size: twice what is in it. What is free takes no room on the host's disk.
const SIZE: &str = "1G";
/// The time that the image's files have at most, in seconds since 1970: files younger than that differ from one making
/// to the next. Before any package of bookworm that was published since.
const TIME: &str = "1700000000";

const SETUP: &str = include_str!("../../../guests/debian/setup");
const PACK: &str = include_str!("../../../guests/debian/pack");

/// The folder's disk and tree of Debian, made now when they are not there as this recipe makes them, or when `remake`.
/// `packages` keeps what was downloaded by `apt`.
pub fn make<'a>(
    folder: &Path,
    remake: bool,
    packages: &Path,
    apt: impl FnOnce() -> Result<&'a Apt>,
) -> Result<Store> {
    let store = Store::with_manifest(folder.to_owned(), MANIFEST)?;
    let recipe =
        store::sha256(&[include_bytes!("debian.rs").as_slice(), SETUP.as_bytes(), PACK.as_bytes()].concat());
    if !remake && store.current(&recipe, &[IMAGE]).is_some() && store.path(TREE).is_dir() {
        return Ok(store);
    }
    for (program, package) in [("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs")] {
        if !host::has_program(program) && !Path::new("/usr/sbin").join(program).exists() {
            host::install_packages(&[package], None, "making a disk with Debian on it")?;
        }
    }
    let source = packages.join(format!("{SOURCE}.orig.tar.gz"));
    if !source.exists() {
        let _step = Step::begin(format!("Downloading Debian's source of {SOURCE}"));
        apt()?.download_source(SOURCE, &source)?;
    }
    let work = tempfile::tempdir_in(folder)?;
    let tar = work.path().join("debian.tar");
    // mmdebstrap hands it to tar by a pipe, from which tar takes nothing compressed.
    let unzipped = work.path().join("source.tar");
    let mut unzip = Command::new("gzip");
    unzip.arg("-dc").arg(&source).stdout(File::create(&unzipped)?);
    host::run(&mut unzip, &format!("unpack {}", source.display()))?;
    bootstrap(&tar, &unzipped)?;
    let image = work.path().join(IMAGE);
    pack(&tar, &image)?;
    let tree = work.path().join(TREE);
    unpack(&tar, &tree)?;
    let installed = installed(&tree)?;

    store.forget()?;
    let old = store.path(TREE);
    if old.exists() {
        std::fs::remove_dir_all(&old).with_context(|| format!("could not remove {}", old.display()))?;
    }
    std::fs::rename(&tree, &old)?;
    std::fs::rename(&image, store.path(IMAGE))?;
    store.vouch(&recipe, installed, &[IMAGE])?;
    Ok(store)
}

/// Installs all packages into a tree and writes that as a tar.
fn bootstrap(tar: &Path, source: &Path) -> Result<()> {
    let _step = Step::begin("Installing Debian for the disk debian.img (some minutes)");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=auto", "--variant=apt", "--architectures=amd64", "--format=tar"]);
    // The lists stay, for apt to have something to look for.
    command.args(["--skip=cleanup/apt/lists", &format!("--include={}", PACKAGES.join(","))]);
    command.args(APT_OPTIONS.iter().map(|option| format!("--aptopt={option}")));
    command.args(DPKG_OPTIONS.iter().map(|option| format!("--dpkgopt={option}")));
    let source = std::path::absolute(source)?;
    command.arg(format!("--customize-hook=tar-in {} /usr/src", quoted(&source)?));
    command.arg(format!("--customize-hook={SETUP}"));
    command.arg(RELEASE).arg(tar);
    command.arg(format!("deb [signed-by={KEYRING}] {} {RELEASE} main", super::apt::mirror()));
    command.env("SOURCE_DATE_EPOCH", TIME).env("LC_ALL", "C");
    host::output(&mut command, "install Debian into a folder").map(drop)
}

/// A path as the shell of a hook reads it.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// Makes the image of the tree in `tar`.
fn pack(tar: &Path, image: &Path) -> Result<()> {
    let _step = Step::begin("Making the disk debian.img");
    // mmdebstrap runs a command as the root of a user namespace, with all the users that this one may be.
    let mut command = if host::is_root() {
        Command::new("sh")
    } else {
        let mut command = Command::new("mmdebstrap");
        command.args(["--unshare-helper", "sh"]);
        command
    };
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(["-c", PACK, "sh", SIZE]).env("SOURCE_DATE_EPOCH", TIME);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).current_dir("/");
    command.stdin(File::open(tar)?).stdout(File::create(image)?).stderr(Stdio::piped());
    let output = command.output().context("could not make the disk: no shell")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("could not make the disk with Debian on it ({}): {}", output.status, said.trim());
    }
    Ok(())
}

/// Unpacks the tree for this machine's own use. Devices are root's to make, and come from this machine.
fn unpack(tar: &Path, tree: &Path) -> Result<()> {
    std::fs::create_dir(tree)?;
    let mut command = Command::new("tar");
    command.arg("-C").arg(tree).args(["--numeric-owner", "--exclude=./dev/*", "-xf"]).arg(tar);
    host::output(&mut command, "unpack the tree of Debian").map(drop)
}

/// Each of the tree's packages with its version.
fn installed(tree: &Path) -> Result<Vec<String>> {
    let mut query = Command::new("dpkg-query");
    query.arg("--admindir").arg(tree.join("var/lib/dpkg"));
    query.args(["--show", "--showformat=${Package} ${Version}\\n"]);
    let list = host::output(&mut query, "list the packages of the tree of Debian")?;
    Ok(list.lines().map(str::to_owned).collect())
}
