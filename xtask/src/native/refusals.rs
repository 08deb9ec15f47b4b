//! What the hypervisor says on boards that it can't start on: each a sentence on the debug UART, and a stop.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::board::comma;
use super::{Platform, hypervisor};
use crate::bench::qemu;
use crate::{guests, host};

/// Until QEMU has said what it has to say: it takes a second, on a machine with nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a board is tried with.
struct Trial {
    folder: tempfile::TempDir,
    platform: Platform,
    hypervisor: PathBuf,
}

impl Trial {
    fn new(platform: Platform) -> Self {
        let hypervisor = hypervisor::build(platform).expect("the hypervisor");
        Self { folder: tempfile::tempdir().expect("a folder"), platform, hypervisor }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file is written");
        path
    }

    fn kernel(&self) -> Vec<u8> {
        let kernel = guests::ensure(self.platform.arch()).expect("Debian's kernel").kernel;
        std::fs::read(kernel).expect("the kernel is read")
    }

    fn qemu(&self, machine: &str, cpu: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(qemu::program(self.platform.arch()).expect("QEMU"));
        command
            .args(["-M", &format!("virt,acpi=off,{machine}"), "-cpu", cpu, "-accel", "tcg"])
            .args(arguments);
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        command
    }

    /// Sees that the hypervisor says `sentence` there, and nothing comes after it.
    #[track_caller]
    fn says(&self, mut command: Command, sentence: &str) {
        command.args(["-serial", "stdio", "-kernel"]).arg(&self.hypervisor);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("QEMU starts");
        let mut serial = child.stdout.take().expect("a serial line");
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok(count @ 1..) = serial.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let (mut said, end) = (Vec::new(), Instant::now() + PATIENCE);
        while Instant::now() < end && !String::from_utf8_lossy(&said).contains(sentence) {
            match receive.recv_timeout(Duration::from_millis(200)) {
                Ok(bytes) => said.extend(bytes),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        // It stops there.
        said.extend(receive.recv_timeout(Duration::from_millis(500)).unwrap_or_default());
        let runs = child.try_wait().expect("QEMU is asked").is_none();
        let _ = child.kill();
        let _ = child.wait();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<_> = said.lines().collect();
        assert!(
            matches!(lines[..], [line] if line.starts_with("auberge: ") && line.contains(sentence)),
            "{said}"
        );
        assert!(runs, "the board doesn't go on to anything else");
    }
}

/// QEMU's guest-loader, with a kernel as the module.
fn module(at: u64, kernel: &Path) -> String {
    format!("guest-loader,addr={at:#x},kernel={},bootargs=quiet", comma(&kernel.to_string_lossy()))
}

#[test]
fn boards_that_it_cannot_start_on_arm64() {
    let trial = Trial::new(Platform::Arm64);
    let at = 0x5000_0000;
    let kernel = trial.kernel();
    let good = module(at, &trial.file("kernel", &kernel));
    let a57 = |machine: &str, arguments: &[&str]| trial.qemu(machine, "cortex-a57", arguments);
    let el2 = "virtualization=on,gic-version=2";
    trial.says(
        a57("gic-version=2", &["-m", "1G", "-device", &good]),
        "Started at EL1: the hypervisor needs EL2",
    );
    trial.says(a57("secure=on,gic-version=2", &["-m", "1G", "-device", &good]), "Started at EL1");
    trial.says(a57(el2, &["-m", "1G"]), "No kernel: /chosen has no module");
    // The file is all there is memory for, and less is free below it.
    let high = module(0x4300_0000, &trial.file("kernel", &kernel));
    let memory = format!("{}K", (48 << 10) + kernel.len().div_ceil(1024));
    trial.says(
        a57(el2, &["-m", &memory, "-device", &high]),
        "Too little memory: there is no room for the kernel",
    );

    let short = trial.file("short", &kernel[..kernel.len() / 2]);
    let truncated = a57(el2, &["-m", "1G", "-device", &module(at, &short)]);
    trial.says(truncated, &format!("and there are {}.", kernel.len() / 2));
    let rubbish: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let rubbish = module(at, &trial.file("rubbish", &rubbish));
    trial.says(a57(el2, &["-m", "1G", "-device", &rubbish]), "The kernel module is not a Linux kernel");
    // Beyond the memory's end.
    trial.says(a57(el2, &["-m", "256M", "-device", &good]), "isn't in memory or overlaps");
    let many =
        trial.qemu("virtualization=on,gic-version=3", "max", &["-m", "1G", "-smp", "17", "-device", &good]);
    trial.says(many, "more than the 16 processors");

    // A tree whose interrupt controller is another.
    let tree = trial.folder.path().join("board.dtb");
    let dump = format!("{el2},dumpdtb={}", comma(&tree.to_string_lossy()));
    host::output(&mut a57(&dump, &["-m", "1G"]), "dump the board's device tree").expect("a tree");
    let mut tree = std::fs::read(tree).expect("the tree is read");
    let gic = b"arm,cortex-a15-gic";
    let place = tree.windows(gic.len()).position(|bytes| bytes == gic).expect("a GIC in the tree");
    tree[place] = b'b';
    // Without the room that QEMU leaves: structure and strings, by the header's offsets and sizes.
    let word = |at: usize| u32::from_be_bytes(tree[at..at + 4].try_into().expect("four bytes"));
    let end = (word(8) + word(36)).max(word(12) + word(32));
    tree.truncate(end as usize);
    tree[4..8].copy_from_slice(&end.to_be_bytes());
    let tree = trial.file("other.dtb", &tree);
    trial.says(
        a57(el2, &["-m", "1G", "-dtb", &tree.to_string_lossy()]),
        "no interrupt controller that is a GICv2 or GICv3",
    );
}

#[test]
fn boards_that_it_cannot_start_on_armhf() {
    let trial = Trial::new(Platform::Armhf);
    let at = 0x4a00_0000;
    let kernel = trial.kernel();
    let good = module(at, &trial.file("kernel", &kernel));
    let a15 = |machine: &str, arguments: &[&str]| {
        trial.qemu(&format!("gic-version=2,highmem=off{machine}"), "cortex-a15", arguments)
    };
    let el2 = ",virtualization=on";
    trial.says(a15("", &["-m", "1G", "-device", &good]), "Started in processor mode 0x13");
    trial.says(a15(",secure=on", &["-m", "1G", "-device", &good]), "Started in processor mode 0x13");
    trial.says(a15(el2, &["-m", "1G"]), "No kernel: /chosen has no module");
    // A zImage unpacks itself to where the hypervisor lies.
    let low = module(0x4300_0000, &trial.file("kernel", &kernel));
    trial.says(
        a15(el2, &["-m", "64M", "-device", &low]),
        "Too little memory: there is no room for the kernel",
    );
    let short = trial.file("short", &kernel[..kernel.len() / 2]);
    let truncated = a15(el2, &["-m", "1G", "-device", &module(at, &short)]);
    trial.says(truncated, &format!("and there are {}.", kernel.len() / 2));
}
