//! `cargo xtask demo`: a Debian kernel in Auberge, with a person at its shell or a command run in it.

use std::io::{IsTerminal as _, Read as _, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::ends::Ends;
use crate::guest_script::{self, Extractor, State};
use crate::guests::{self, Arch, Guest};
use crate::host;
use crate::native;
use crate::progress::Step;

const NAME: &str = "demo";
/// How long a guest or a daemon that was asked to end may take to do so.
const PATIENCE: Duration = Duration::from_secs(15);

/// What runs when there is no terminal and no command was given.
const DEFAULT_SCRIPT: &str = "uname -a";

#[derive(clap::Args)]
#[command(
    after_help = "At the shell, `poweroff` or a line that begins with `~.` ends the demo. With CMD, or without \
                        a terminal (then CMD is `uname -a`), the command runs in the guest, its output is printed, the \
                        guest is switched off, and the demo exits with the command's status."
)]
pub struct Args {
    /// The guest's architecture
    #[arg(long, value_enum, default_value_t = Arch::Amd64)]
    arch: Arch,
    /// The guest's processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// The guest's memory
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: String,
    /// Boot this kernel and fetch nothing from Debian
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The first root file system of that kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Boot the hypervisor on an emulated board, and the guest on that
    #[arg(long, value_enum, value_name = "PLATFORM", conflicts_with_all = ["arch", "kernel"])]
    native: Option<native::Platform>,
    /// The version of the emulated board's interrupt controller
    #[arg(long, value_enum, value_name = "VERSION", requires = "native")]
    gic: Option<native::Gic>,
    /// The guest's architecture, where it isn't the board's
    #[arg(long, value_enum, value_name = "PLATFORM", requires = "native")]
    guest: Option<native::Platform>,
    /// Stop at the control domain: the shell, or CMD, is its
    #[arg(long, requires = "native")]
    control_domain: bool,
    /// Have this boot loader start the hypervisor, from a disk as `cargo xtask image` makes it
    #[arg(long, value_enum, requires = "native")]
    loader: Option<native::Loader>,
    /// Run this in the guest; a single argument is a shell script
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let script = match args.command.as_slice() {
        [] if terminal => None,
        [] => Some(DEFAULT_SCRIPT.to_owned()),
        command => Some(guest_script::quote(command)),
    };
    // Before the long work: a command that does not fit is known at once.
    let token = guest_script::random_token()?;
    if let Some(platform) = args.native {
        let options = native::Options {
            platform,
            gic: args.gic,
            guest: args.guest,
            control_domain: args.control_domain,
            loader: args.loader,
            guest_memory: args.memory.clone(),
            guest_cpus: args.cpus,
        };
        return native::demo(&options, Plan { script, token });
    }
    let words = script.map(|script| guest_script::words(&script, &token)).transpose()?;
    let (kernel, initrd) = match &args.kernel {
        Some(kernel) => (kernel.clone(), args.initrd.clone()),
        None => {
            let Guest { kernel, initrd } = guests::ensure(args.arch)?;
            (kernel, Some(initrd))
        }
    };
    let programs = host::build_release()?;
    let machine = Machine { programs, kernel, initrd, memory: args.memory.clone(), cpus: args.cpus };
    let ends = Ends::install()?;
    match words {
        Some(words) => run_script(&machine, &words, &token, &ends, &mut std::io::stdout()),
        None => attach(&machine, &ends),
    }
}

/// What is to be run: a script whose output is marked with the token, or else a shell for the person.
pub struct Plan {
    pub script: Option<String>,
    pub token: String,
}

struct Machine {
    programs: PathBuf,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    memory: String,
    cpus: u32,
}

impl Machine {
    /// `vmctl WORD...` for this machine with `cmdline` for its kernel.
    fn vmctl(&self, words: &[&str], cmdline: &str) -> Command {
        let mut command = Command::new(self.programs.join("vmctl"));
        command.args(words).arg("-b").arg(&self.kernel).args(["--cmdline", cmdline, "-m", &self.memory]);
        command.args(["-p", &self.cpus.to_string()]);
        if let Some(initrd) = &self.initrd {
            command.arg("--initrd").arg(initrd);
        }
        command.arg(NAME);
        command
    }
}

/// Runs a script in the guest under `vmctl run`: its output to `output`, its status ours.
fn run_script(
    machine: &Machine,
    words: &str,
    token: &str,
    ends: &Ends,
    output: &mut dyn Write,
) -> Result<ExitCode> {
    let mut command = machine.vmctl(&["run"], &format!("console=ttyS0 quiet {words}"));
    command.stdin(Stdio::null());
    follow(command, "vmctl", &machine.kernel.display().to_string(), token, ends, output)
}

/// Runs `command`, called `program`, whose output is the console of `machine`: what the script marked with `token` says goes to
/// `output`, its status is ours.
pub fn follow(
    mut command: Command,
    program: &str,
    machine: &str,
    token: &str,
    ends: &Ends,
    output: &mut dyn Write,
) -> Result<ExitCode> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("{program} did not start"))?;
    let _watched = ends.watch(&child);
    let mut step = Some(Step::begin(format!("Booting {machine}")));
    let mut console = child.stdout.take().with_context(|| format!("{program} has no output"))?;
    let mut extractor = Extractor::new(token);
    let mut last = Tail::default();
    let mut buffer = [0; 4096];
    loop {
        let count = console.read(&mut buffer).context("could not read the guest's console")?;
        if count == 0 {
            break;
        }
        let said = extractor.feed(&buffer[..count]);
        if extractor.state() == State::Booting {
            last.push(&buffer[..count]);
            if last.contains("Kernel panic - not syncing") {
                break;
            }
        } else {
            step = None;
        }
        output.write_all(&said).and_then(|()| output.flush())?;
        if matches!(extractor.state(), State::Ended(_)) {
            break;
        }
    }
    drop(step);
    // What the guest still has to say must not fill the pipe while it is switching itself off.
    std::thread::spawn(move || std::io::copy(&mut console, &mut std::io::sink()));
    let state = extractor.state();
    let ended = matches!(state, State::Ended(_));
    let status = wait_or_end(&mut child, if ended { PATIENCE } else { Duration::from_secs(2) })?;
    output.write_all(&extractor.finish())?;
    match state {
        State::Ended(status) => Ok(ExitCode::from(status)),
        _ if ends.asked() => Ok(ExitCode::from(130)),
        State::Running => bail!("the guest ended before the command did ({program}: {status})"),
        State::Booting => {
            bail!(
                "the guest ended before it ran the command ({program}: {status}); its console's end:\n{}",
                last.text()
            )
        }
    }
}

/// Starts a daemon of this demo's own and a machine in it, and leaves the terminal to `vmctl` until the person or the
/// guest leaves.
fn attach(machine: &Machine, ends: &Ends) -> Result<ExitCode> {
    // vmd takes a socket only in a folder that is this user's alone.
    let only_us = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix("auberge-demo-").permissions(only_us).tempdir()?;
    let socket = folder.path().join("vmd.sock");
    let mut daemon = Daemon::start(&machine.programs, &socket, &folder.path().join("vmd.log"))?;
    let cmdline = match std::env::var("TERM") {
        // Linux gives init what looks like NAME=VALUE and isn't its own.
        Ok(term) if term.bytes().all(|byte| byte.is_ascii_graphic()) => format!("console=ttyS0 TERM={term}"),
        _ => "console=ttyS0".to_owned(),
    };
    eprintln!("Booting {}; `poweroff` or `~.` leaves", machine.kernel.display());
    let mut start = machine.vmctl(&["start", "-c"], &cmdline);
    let mut child = start.env("VMD_SOCKET", &socket).spawn().context("vmctl did not start")?;
    let _watched = ends.watch(&child);
    let status = child.wait()?;
    // After `~.` the guest still runs; after `poweroff` it is gone, and that vmctl says so is of no interest.
    let mut stop = Command::new(machine.programs.join("vmctl"));
    stop.args(["stop", "-f", "-w", NAME]).env("VMD_SOCKET", &socket).stdin(Stdio::null());
    stop.stdout(Stdio::null()).stderr(Stdio::null());
    host::status(&mut stop, "stop the guest")?;
    let log = daemon.end()?;
    if !status.success() && !ends.asked() {
        bail!("vmctl start ended with {status}; vmd said:\n{log}");
    }
    Ok(ExitCode::SUCCESS)
}

/// A `vmd` that ends with this value.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(programs: &Path, socket: &Path, log: &Path) -> Result<Daemon> {
        let file = std::fs::File::create(log)?;
        let mut command = Command::new(programs.join("vmd"));
        command
            .arg("-d")
            .env("VMD_SOCKET", socket)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        // Out of reach of the terminal's interrupt: it has to live until the guest is stopped.
        let child = command.process_group(0).spawn().context("vmd did not start")?;
        let mut daemon = Daemon { child, log: log.to_owned() };
        let begun = Instant::now();
        while !socket.exists() {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("vmd ended with {status}; it said:\n{}", daemon.said());
            }
            if begun.elapsed() > PATIENCE {
                bail!("vmd made no socket within {} s; it said:\n{}", PATIENCE.as_secs(), daemon.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends the daemon and gives what it logged.
    fn end(&mut self) -> Result<String> {
        if self.child.try_wait()?.is_none() {
            send(&self.child, Signal::TERM);
            wait_or_end(&mut self.child, PATIENCE)?;
        }
        Ok(self.said())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("xtask: vmd could not be ended: {error:#}");
        }
    }
}

/// Waits for a child; one that takes longer than `patience` is asked to end, then made to.
pub fn wait_or_end(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    for signal in [Some(Signal::TERM), Some(Signal::KILL), None] {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(signal) = signal {
            send(child, signal);
        }
    }
    Ok(child.wait()?)
}

fn send(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile, which is what the signal is for.
        let _ = kill_process(pid, signal);
    }
}

/// The last bytes of a console, for an error that shows them.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    const KEPT: usize = 2000;

    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(Self::KEPT + 4096);
        self.0.drain(..excess);
    }

    fn contains(&self, text: &str) -> bool {
        self.0.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// The last lines, as a terminal can show them.
    fn text(&self) -> String {
        let kept = &self.0[self.0.len().saturating_sub(Self::KEPT)..];
        String::from_utf8_lossy(kept)
            .replace('\r', "")
            .chars()
            .filter(|c| !c.is_control() || *c == '\n')
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_long_console_keeps_its_end() {
        let mut tail = Tail::default();
        for number in 0..10_000 {
            tail.push(format!("line {number}\r\n").as_bytes());
        }
        assert!(tail.0.len() <= Tail::KEPT + 4096);
        assert!(tail.text().ends_with("line 9999\n"));
        assert!(tail.text().len() <= Tail::KEPT);
    }

    /// A machine whose `vmctl` and `vmd` are these shell scripts.
    fn machine(vmctl: &str, vmd: &str) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, script) in [("vmctl", vmctl), ("vmd", vmd)] {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("made executable");
        }
        let machine = Machine {
            programs: folder.path().to_owned(),
            kernel: "vmlinuz".into(),
            initrd: Some("initrd.img".into()),
            memory: "512M".into(),
            cpus: 2,
        };
        (folder, machine)
    }

    fn script(vmctl: &str) -> (Result<ExitCode>, String) {
        let (_folder, machine) = machine(vmctl, "");
        let mut output = Vec::new();
        let result = run_script(&machine, "auberge.run=eA==", "t", &Ends::default(), &mut output);
        (result, String::from_utf8(output).expect("text"))
    }

    #[test]
    fn run_script_guest_that_runs_it_gives_output_and_status() {
        let arguments = "run -b vmlinuz --cmdline console=ttyS0 quiet auberge.run=eA== -m 512M -p 2 --initrd initrd.img demo";
        let vmctl = r#"printf 'boot\r\n<auberge:t:begin>\n%s\n<auberge:t:end 7>\nPower down\r\n' "$*""#;
        let (result, output) = script(vmctl);
        assert_eq!(output, format!("{arguments}\n"));
        assert_eq!(format!("{:?}", result.expect("ended")), format!("{:?}", ExitCode::from(7)));
    }

    #[test]
    fn run_script_guest_that_ends_in_its_middle_is_an_error_after_its_output() {
        let (result, output) = script("printf '<auberge:t:begin>\\nhalf <aub'");
        assert_eq!(output, "half <aub");
        assert!(result.unwrap_err().to_string().contains("before the command did"));
    }

    #[test]
    fn run_script_kernel_that_panics_is_an_error_with_the_console_s_end() {
        let (result, output) = script("printf 'Kernel panic - not syncing: no init\\n'; exec sleep 1000");
        assert_eq!(output, "");
        assert!(result.unwrap_err().to_string().contains("no init"));
    }

    #[test]
    fn attach_leaving_the_console_stops_the_guest_and_the_daemon() {
        let vmctl = r#"echo "$*" >>"$(dirname "$0")/calls""#;
        let vmd = r#"trap 'echo ended >>"$(dirname "$0")/calls"; exit 0' TERM
            echo "$VMD_SOCKET" >"$(dirname "$0")/socket"; : >"$VMD_SOCKET"; while :; do sleep 0.05; done"#;
        let (folder, machine) = machine(vmctl, vmd);
        attach(&machine, &Ends::default()).expect("left");
        let read = |name| std::fs::read_to_string(folder.path().join(name)).expect("written");
        let calls = read("calls");
        let calls: Vec<&str> = calls.lines().collect();
        assert!(calls[0].starts_with("start -c -b vmlinuz --cmdline console=ttyS0"), "{calls:?}");
        assert_eq!(calls[1..], ["stop -f -w demo", "ended"]);
        assert!(!Path::new(read("socket").trim()).parent().expect("a folder").exists());
    }

    #[test]
    fn attach_daemon_that_ends_at_once_is_an_error_with_its_log() {
        let (_folder, machine) = machine("", "echo no memory left >&2; exit 3");
        let error = attach(&machine, &Ends::default()).unwrap_err().to_string();
        assert!(error.contains("no memory left"), "{error}");
    }

    #[test]
    fn wait_or_end_child_that_stays_is_ended() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        let status = wait_or_end(&mut child, Duration::from_millis(50)).expect("ended");
        assert!(!status.success());
    }
}
