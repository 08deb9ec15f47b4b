//! What the tests share: a directory with a kernel, a daemon of one's own, commands, a terminal.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod kernel;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest that anything may take that is quick on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The vmctl under test.
pub fn vmctl_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vmctl"))
}

/// The vmd beside it, built if this is the first time: cargo builds no other package's programs for a test.
pub fn vmd_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let directory = vmctl_program().parent().unwrap();
        // A profile's programs lie in a directory of its name, but for dev's.
        let name = directory.file_name().unwrap().to_str().unwrap();
        let profile = if name == "debug" { "dev" } else { name };
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "vmd", "--bin", "vmd", "--profile", profile]);
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        cargo.arg("--manifest-path").arg(crates.join("vmd/Cargo.toml"));
        cargo.arg("--target-dir").arg(directory.parent().unwrap());
        assert!(cargo.status().unwrap().success());
        directory.join("vmd")
    })
}

/// A directory with the test kernel in it, and the place of a daemon's socket.
pub struct Place {
    pub dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("auberge-vmctl-").tempdir().unwrap();
        std::fs::write(dir.path().join("kernel"), kernel::bytes()).unwrap();
        Place { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn socket(&self) -> PathBuf {
        self.path("vmd.sock")
    }

    /// `vmctl WORDS...` in this place; `$K` is the test kernel.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(vmctl_program());
        command.args(words.split_whitespace().map(|w| if w == "$K" { "kernel" } else { w }));
        command.current_dir(self.dir.path()).env("VMD_SOCKET", self.socket()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn vmctl(&self, words: &str) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs it to its end, which has to be good; gives its standard output.
    pub fn good(&self, words: &str) -> String {
        let output = self.vmctl(words);
        assert!(output.status.success(), "vmctl {words}: {} {}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs it to its end, which has to be exit status 1; gives its standard error.
    pub fn bad(&self, words: &str) -> String {
        let output = self.vmctl(words);
        assert_eq!(output.status.code(), Some(1), "vmctl {words}: {}", text(&output.stderr));
        text(&output.stderr)
    }

    /// Starts it with pipes.
    pub fn spawn(&self, words: &str) -> Session {
        session(self.command(words))
    }
}

/// Starts a command with pipes.
pub fn session(mut command: Command) -> Session {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    Session { child: child.unwrap(), seen: Vec::new() }
}

/// A daemon in the foreground, ended when dropped.
pub struct Daemon {
    pub place: Place,
    pub child: Child,
}

impl Daemon {
    pub fn new() -> Self {
        let place = Place::new();
        let log = File::create(place.path("log")).unwrap();
        let mut command = Command::new(vmd_program());
        command.arg("-d").env("VMD_SOCKET", place.socket()).stdin(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let mut daemon = Daemon { place, child };
        let socket = daemon.place.socket();
        until("the daemon listens", || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon ended at once");
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        daemon
    }

    /// A field of a VM in `vmctl status --json`.
    pub fn field(&self, vm: &str, field: &str) -> Option<String> {
        let output = self.place.vmctl(&format!("status --json {vm}"));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let value = &json.get(0)?[field];
        Some(value.as_str().map_or_else(|| value.to_string(), String::from))
    }

    pub fn pid(&self, vm: &str) -> i32 {
        self.field(vm, "pid").unwrap().parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A deaf guest would be waited for.
        let _ = self.place.vmctl("stop -f -a");
        signal(self.child.id() as i32, "TERM");
        let status = end(&mut self.child);
        if std::thread::panicking() {
            eprintln!(
                "vmd: {status}\n{}",
                std::fs::read_to_string(self.place.path("log")).unwrap_or_default()
            );
        }
    }
}

/// A running vmctl with pipes to it.
pub struct Session {
    pub child: Child,
    seen: Vec<u8>,
}

impl Drop for Session {
    /// A test that fails leaves nothing running.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    pub fn send(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Reads its standard output until `text` is there; gives all that was seen so far.
    pub fn expect(&mut self, text: &str) -> String {
        let mut byte = [0];
        while !self.seen.ends_with(text.as_bytes()) {
            let got = self.child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert!(got == 1, "it ended before {text:?}; seen: {}", String::from_utf8_lossy(&self.seen));
            self.seen.push(byte[0]);
        }
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Its status, and what is left of its standard output and error, when it has ended.
    pub fn finish(mut self) -> (ExitStatus, String, String) {
        let mut errors = self.child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut all = String::new();
            errors.read_to_string(&mut all).map(|_| all)
        });
        let mut rest = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        (end(&mut self.child), text(&rest), errors.join().unwrap().unwrap())
    }
}

/// Waits for a process, which has to end soon.
pub fn end(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn signal(pid: i32, name: &str) {
    let _ = Command::new("kill").args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status();
}

/// Whether a process is there and no zombie.
pub fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the command's closing parenthesis (proc(5)).
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// The only child of a process.
pub fn child_of(pid: u32) -> i32 {
    let mut child = None;
    until("the process has a child", || {
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        child = children.split_whitespace().next().and_then(|c| c.parse().ok());
        child.is_some()
    });
    child.unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A terminal with a vmctl in it.
pub struct Terminal {
    master: File,
    user: File,
    pub child: Child,
    seen: String,
}

impl Terminal {
    pub fn new(mut command: Command) -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let pty = vmd::parent::open_pty().unwrap();
        let user = File::options().read(true).write(true).open(&pty.path).unwrap();
        // As a shell leaves it.
        let mut cooked = tcgetattr(&user).unwrap();
        cooked.local_modes |= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(&user, OptionalActions::Now, &cooked).unwrap();
        let side = || Stdio::from(OwnedFd::from(user.try_clone().unwrap()));
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        Terminal { master: File::from(pty.master), user, child, seen: String::new() }
    }

    /// Whether the terminal is as a shell leaves it.
    pub fn is_cooked(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.user).unwrap().local_modes;
        modes.contains(rustix::termios::LocalModes::ECHO | rustix::termios::LocalModes::ICANON)
    }

    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Reads the screen until `text` is there.
    pub fn expect(&mut self, text: &str) {
        let began = Instant::now();
        while !self.seen.contains(text) {
            let mut fds = [rustix::event::PollFd::new(&self.master, rustix::event::PollFlags::IN)];
            let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            if rustix::event::poll(&mut fds, Some(&second)).unwrap() > 0 {
                let mut buffer = [0; 1024];
                let got = self.master.read(&mut buffer).unwrap();
                self.seen += &String::from_utf8_lossy(&buffer[..got]);
            }
            assert!(began.elapsed() < PATIENCE, "{text:?} did not come; seen: {:?}", self.seen);
        }
        let at = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..at);
    }
}
