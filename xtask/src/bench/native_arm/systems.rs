//! The emulated board with each of the hypervisors on it, and on that the measuring guest.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::costs::{self, Costs, END};
use super::guest::{self, Guest, Machine};
use super::xen;
use crate::demo::wait_or_end;
use crate::ends::Ends;
use crate::guests::{self, cpio::Archive};
use crate::host;
use crate::native::{Board, Platform, Role, comma, control_domain, hypervisor, programs};
use crate::progress::Step;

/// A board on which the guest hasn't come to its end by then never will.
const LIMIT: Duration = Duration::from_secs(600);
/// An instruction is a nanosecond, and time in which nothing runs passes at once.
const ICOUNT: &str = "shift=0,sleep=off";
/// Where Xen's domain has its kernel loaded.
const DOMAIN_KERNEL: u32 = 0x5000_0000;
/// How much of what a board said goes into an error, in bytes.
const TOLD: usize = 2000;

/// A hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    Auberge,
    Xen,
    Kvm,
}

impl System {
    pub const ALL: [System; 3] = [Self::Auberge, Self::Xen, Self::Kvm];

    pub fn name(self) -> &'static str {
        match self {
            Self::Auberge => "Auberge",
            Self::Xen => "Xen",
            Self::Kvm => "KVM",
        }
    }

    /// Whether it is there for such boards. Linux has no KVM for 32-bit ARM any more.
    pub fn runs_on(self, platform: Platform) -> bool {
        self != Self::Kvm || platform == Platform::Arm64
    }
}

/// What boots on the boards of a platform; files are made in its folder.
pub struct Bench {
    platform: Platform,
    guest: Guest,
    folder: tempfile::TempDir,
}

impl Bench {
    pub fn new(platform: Platform) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("auberge-cost-").tempdir()?;
        let guest = Guest::build(platform, folder.path())?;
        Ok(Self { platform, guest, folder })
    }

    /// Boots `system` on a board with one processor and lets the guest measure it.
    pub fn costs(&self, system: System, board: &Board, ends: &Ends) -> Result<Costs> {
        let mut command = match system {
            System::Auberge => self.auberge(board),
            System::Xen => self.xen(board),
            System::Kvm => self.kvm(board),
        }?;
        let _step = Step::begin(format!("Measuring {} on {}", system.name(), board.describe()));
        command.args(["-icount", ICOUNT, "-serial", "stdio"]);
        let console = console(&mut command, ends)?;
        costs::parse(&console).with_context(|| {
            format!(
                "{} on {} was not measured; the board said:\n{}",
                system.name(),
                board.describe(),
                end(&console)
            )
        })
    }

    fn file(&self, name: &str, contents: &[u8]) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, contents).with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }

    /// The hypervisor, its control domain, and in that `vmctl run`.
    fn auberge(&self, board: &Board) -> Result<Command> {
        let image = self.file("guest.img", &self.guest.image(&Machine::auberge(board.gic())))?;
        let guest = guests::Guest { kernel: image, initrd: self.file("no-initrd", b"")? };
        let own = guests::ensure(self.platform.arch())?;
        let programs = programs::build(self.platform)?;
        let hypervisor = hypervisor::build(self.platform)?;
        let script = Some("vmctl run -b /guest/vmlinuz -m 64M cost".to_owned());
        let role = Role::ControlDomain { script, token: "cost".to_owned() };
        let initrd = self.file("initrd.img", &control_domain::initrd(&own, &guest, &programs, &role)?)?;
        board.command(&hypervisor, &own.kernel, &initrd, &role.command_line(self.platform))
    }

    /// Xen, which starts the guest by itself from the device tree; there is no other domain.
    fn xen(&self, board: &Board) -> Result<Command> {
        let xen = guests::ensure_xen(self.platform.arch())?;
        let image = self.guest.image(&Machine::xen(board.gic()));
        let len = u32::try_from(image.len()).context("the measuring guest is too long")?;
        let image = self.file("domain.img", &image)?;
        let plain = self.folder.path().join("board.dtb");
        let mut dump = board.bare()?;
        dump.arg("-machine").arg(format!("dumpdtb={}", comma(&plain.to_string_lossy())));
        host::output(&mut dump, "ask QEMU for the board's device tree")?;
        let tree = std::fs::read(&plain).with_context(|| format!("could not read {}", plain.display()))?;
        let tree = self.file("domain.dtb", &xen::with_domain(&tree, DOMAIN_KERNEL, len)?)?;
        let mut command = board.bare()?;
        command.arg("-kernel").arg(xen).arg("-dtb").arg(tree).args(["-append", "console=dtuart"]);
        let file = comma(&image.to_string_lossy());
        command.arg("-device").arg(format!("loader,file={file},addr={DOMAIN_KERNEL:#x},force-raw=on"));
        Ok(command)
    }

    /// Debian's Linux at EL2, whose first process runs the guest and is all there is.
    fn kvm(&self, board: &Board) -> Result<Command> {
        let kernel = guests::ensure(self.platform.arch())?.kernel;
        let monitor = guest::monitor(self.folder.path())?;
        let mut archive = Archive::default();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, &std::fs::read(monitor)?);
        archive.file("guest.img", 0o644, &self.guest.image(&Machine::auberge(board.gic())));
        let initrd = self.file("monitor.img", &archive.finish())?;
        let mut command = board.bare()?;
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        command.args(["-append", "console=ttyAMA0 panic=-1 quiet"]);
        Ok(command)
    }
}

/// Runs a board until its guest has come to its end, and gives all that was said on its serial line.
fn console(command: &mut Command, ends: &Ends) -> Result<String> {
    let mut complaints = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints.try_clone()?);
    let mut child = command.spawn().context("QEMU did not start")?;
    let watched = ends.watch(&child);
    let mut serial = child.stdout.take().context("the board has no serial line")?;
    let (send, receive) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = serial.read(&mut buffer) {
            let from = said.len().saturating_sub(END.len());
            said.extend_from_slice(&buffer[..count]);
            if said[from..].windows(END.len()).any(|window| window == END.as_bytes()) {
                break;
            }
        }
        // Nobody waits any more when the limit has passed.
        let _ = send.send(());
        said
    });
    let reached = receive.recv_timeout(LIMIT).is_ok();
    wait_or_end(&mut child, Duration::ZERO)?;
    drop(watched);
    if ends.asked() {
        bail!("interrupted");
    }
    let said = reader.join().map_err(|_| anyhow::anyhow!("the board's serial line could not be read"))?;
    let said = String::from_utf8_lossy(&said).into_owned();
    if !reached || !said.contains(END) {
        let mut complaint = String::new();
        std::io::Seek::rewind(&mut complaints)?;
        complaints.read_to_string(&mut complaint)?;
        bail!("the guest never came to its end; the board said:\n{}\n{}", end(&said), complaint.trim());
    }
    Ok(said)
}

/// The last of what a board said, without what moves a terminal's cursor.
fn end(said: &str) -> String {
    let from = said.char_indices().rev().map(|(at, _)| at).take(TOLD).last().unwrap_or(0);
    said[from..].chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> Result<String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        console(&mut command, &Ends::default())
    }

    #[test]
    fn console_of_a_board_that_goes_on_after_the_guest_is_what_was_said() {
        let said = run("printf 'cost call 1 2\\ncost '; printf 'end\\n'; exec sleep 1000").expect("reached");
        assert!(said.contains("cost call 1 2"));
    }

    #[test]
    fn console_of_a_board_that_ends_early_is_an_error_with_all_it_said() {
        let error = run("echo Panic on CPU 0; echo no such device >&2").unwrap_err().to_string();
        assert!(error.contains("Panic on CPU 0") && error.contains("no such device"), "{error}");
    }
}
