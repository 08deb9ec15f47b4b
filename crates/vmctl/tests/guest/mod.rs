//! Real guests: Debian's kernels with a script to run or a shell, and the test kernels that `cargo xtask guests` makes.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod archive;
pub mod console;
pub mod debian;
pub mod kernel_log;
pub mod stress;

use crate::common::Place;
use base64::Engine as _;
use console::Console;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longest that a guest may take to boot or to run a test's script: minutes, where others use the machine too.
pub const PATIENCE: Duration = Duration::from_secs(280);

/// A guest's file; a missing one fails the test.
pub fn file(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    let path = std::env::var_os("AUBERGE_GUESTS").map_or(target, PathBuf::from).join(name);
    assert!(path.exists(), "there is no {}: run `cargo xtask guests` first", path.display());
    path
}

/// One of Debian's kernels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    Amd64,
    /// i386 with PAE: three levels of page tables.
    Pae,
    /// i386 without: two levels.
    Plain,
}

impl Kernel {
    pub fn kernel(self) -> PathBuf {
        file(match self {
            Kernel::Amd64 => "amd64/vmlinuz",
            Kernel::Pae => "i386/vmlinuz",
            Kernel::Plain => "i386/vmlinuz-686",
        })
    }

    /// The same as an ELF file, for PVH; Plain has no entry for it.
    pub fn vmlinux(self) -> PathBuf {
        file(match self {
            Kernel::Amd64 => "amd64/vmlinux",
            Kernel::Pae => "i386/vmlinux",
            Kernel::Plain => panic!("this kernel has no entry for PVH"),
        })
    }

    pub fn initrd(self) -> PathBuf {
        file(match self {
            Kernel::Amd64 => "amd64/initrd.img",
            Kernel::Pae => "i386/initrd.img",
            Kernel::Plain => "i386/initrd-686.img",
        })
    }
}

/// A Linux VM that is to be.
pub struct Linux {
    kernel: Kernel,
    image: PathBuf,
    words: String,
    files: archive::Archive,
    script: bool,
    options: Vec<String>,
}

impl Linux {
    /// With a shell on its console.
    pub fn new(kernel: Kernel) -> Self {
        let words = "console=ttyS0 quiet".to_owned();
        let (image, files) = (kernel.kernel(), archive::Archive::default());
        Linux { kernel, image, words, files, script: false, options: Vec::new() }
    }

    /// Booted by PVH.
    pub fn pvh(mut self) -> Self {
        self.image = self.kernel.vmlinux();
        self
    }

    /// Runs this instead of the shell, then powers off.
    pub fn script(mut self, script: &str) -> Self {
        self.files.file("test", script.as_bytes());
        self.script = true;
        self
    }

    /// Another file in the guest's root.
    pub fn file(mut self, name: &str, bytes: &[u8]) -> Self {
        self.files.file(name, bytes);
        self
    }

    /// More words for the kernel.
    pub fn words(mut self, words: &str) -> Self {
        self.words = format!("{} {words}", self.words);
        self
    }

    /// Without ACPI, and so with no way to power off: the guest ends by its status.
    pub fn without_acpi(self) -> Self {
        self.words("acpi=off auberge.debug-exit").options("--debug-exit")
    }

    /// More options for vmctl.
    pub fn options(mut self, options: &str) -> Self {
        self.options.extend(options.split_whitespace().map(str::to_owned));
        self
    }

    /// `vmctl WORD...` for this VM, called `name`.
    pub fn command(self, place: &Place, word: &str, name: &str) -> Command {
        let mut initrd = std::fs::read(self.kernel.initrd()).unwrap();
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(self.files.finish());
        let initrd = place.file(&format!("{name}.initrd"), &initrd);
        let mut words = self.words;
        if self.script {
            let script = base64::engine::general_purpose::STANDARD.encode("exec sh /test");
            words = format!("{words} auberge.run={script}");
        }
        let mut command = place.command(word);
        command.arg("-b").arg(self.image).arg("--initrd").arg(initrd);
        command.args(["--cmdline", &words]).args(&self.options).arg(name);
        command
    }

    /// `vmctl run`.
    pub fn run(self, place: &Place) -> Console {
        Console::of(self.command(place, "run", "linux"))
    }

    /// `vmctl start`, which has to succeed.
    pub fn start(self, place: &Place, name: &str) {
        let output = self.command(place, "start", name).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "vmctl start {name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
