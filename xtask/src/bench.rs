//! `cargo xtask bench`: Auberge beside QEMU's TCG, on one machine, in one run.

use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::demo::wait_or_end;
use crate::guests::{self, Arch, Guest};
use crate::progress::Step;
use crate::{guest_script, host};

/// What `guests/initrd/init` prints first.
const INIT_REACHED: &[u8] = b"auberge: init reached";
/// A boot that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(300);
const BACKPORTS: &str = "bookworm-backports";

#[derive(clap::Subcommand)]
pub enum Bench {
    /// Time from starting the program to the guest's first process, one processor, 512 MiB
    Boot(Boot),
}

#[derive(clap::Args)]
pub struct Boot {
    /// Boots on each side; the medians are compared
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The guest's architecture
    #[arg(long, value_enum, default_value_t = Arch::Amd64)]
    arch: Arch,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Times in seconds.
#[derive(Serialize)]
struct Report {
    bench: &'static str,
    machine: String,
    guest: String,
    auberge: String,
    qemu: String,
    auberge_seconds: Vec<f64>,
    qemu_seconds: Vec<f64>,
    auberge_median: f64,
    qemu_median: f64,
    /// Auberge's median by QEMU's: under 1 when Auberge is faster.
    ratio: f64,
}

pub fn run(bench: &Bench) -> Result<ExitCode> {
    let Bench::Boot(args) = bench;
    let guest = guests::ensure(args.arch)?;
    let qemu = qemu(args.arch)?;
    let vmctl = host::build_release()?.join("vmctl");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=args.runs {
        let _step = Step::begin(format!("Boot {round} of {} in Auberge and in QEMU", args.runs));
        // Alternating, so that a busy moment of this machine hits both.
        ours.push(seconds(&mut auberge_command(&vmctl, &guest)?).context("Auberge did not boot the guest")?);
        theirs.push(seconds(&mut qemu_command(qemu, &guest)?).context("QEMU did not boot the guest")?);
    }
    let (auberge_median, qemu_median) = (median(&ours), median(&theirs));
    let report = Report {
        bench: "boot",
        machine: host::processor(),
        guest: format!("{} {}", args.arch, guests::sources(args.arch).join(", ")),
        auberge: auberge_version(),
        qemu: first_line(&host::output(Command::new(qemu).arg("--version"), "ask QEMU's version")?),
        auberge_seconds: ours,
        qemu_seconds: theirs,
        auberge_median,
        qemu_median,
        ratio: auberge_median / qemu_median,
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) {
    let times = |seconds: &[f64]| seconds.iter().map(|s| format!("{s:.2}")).collect::<Vec<_>>().join(" ");
    println!("boot to init, one processor, 512 MiB, on {}", report.machine);
    println!("guest:          {}", report.guest);
    println!(
        "Auberge:        {:6.2} s  ({})  {}",
        report.auberge_median,
        times(&report.auberge_seconds),
        report.auberge
    );
    println!(
        "QEMU TCG:       {:6.2} s  ({})  {}",
        report.qemu_median,
        times(&report.qemu_seconds),
        report.qemu
    );
    println!("Auberge / QEMU: {:6.2}", report.ratio);
}

/// The same command line for both sides: the same console, and a guest that switches itself off.
fn cmdline() -> Result<String> {
    Ok(format!("console=ttyS0 {}", guest_script::words("true", "bench")?))
}

fn auberge_command(vmctl: &Path, guest: &Guest) -> Result<Command> {
    let mut command = Command::new(vmctl);
    command.args(["run", "-m", "512M", "-p", "1", "--cmdline", &cmdline()?, "-b"]).arg(&guest.kernel);
    command.arg("--initrd").arg(&guest.initrd).arg("bench");
    Ok(command)
}

fn qemu_command(qemu: &str, guest: &Guest) -> Result<Command> {
    let mut command = Command::new(qemu);
    command.args([
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-smp",
        "1",
        "-m",
        "512",
        "-nodefaults",
        "-display",
        "none",
    ]);
    command.args(["-serial", "stdio", "-no-reboot", "-append", &cmdline()?, "-kernel"]).arg(&guest.kernel);
    command.arg("-initrd").arg(&guest.initrd);
    Ok(command)
}

/// QEMU's program for `arch`, installed when it is missing.
fn qemu(arch: Arch) -> Result<&'static str> {
    let program = match arch {
        Arch::Amd64 => "qemu-system-x86_64",
        Arch::I386 => "qemu-system-i386",
    };
    if host::has_program(program) {
        return Ok(program);
    }
    let why = "the comparison with QEMU's TCG";
    if host::is_root() && host::has_program("apt-get") && is_bookworm() {
        let list = Path::new("/etc/apt/sources.list.d/auberge-backports.list");
        std::fs::write(list, format!("deb http://deb.debian.org/debian {BACKPORTS} main\n"))
            .with_context(|| format!("could not write {}", list.display()))?;
        host::run(
            Command::new("apt-get").args(["update", "-q"]).stdout(Stdio::null()),
            "fetch Debian's package lists",
        )?;
        host::install_packages(&["qemu-system-x86"], Some(BACKPORTS), why)?;
    } else {
        host::install_packages(&["qemu-system-x86"], None, why)?;
    }
    Ok(program)
}

fn is_bookworm() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "VERSION_CODENAME=bookworm")
}

/// Runs a machine until its console says that init was reached, and gives the time that took in seconds.
fn seconds(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    let mut complaints = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("{} did not start", name(command)))?;
    let mut console = child.stdout.take().context("the machine has no console")?;
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..count]);
            if seen.windows(INIT_REACHED.len()).any(|window| window == INIT_REACHED) {
                // Nobody waits any more when the limit has passed.
                let _ = send.send(begun.elapsed());
                break;
            }
            let excess = seen.len().saturating_sub(INIT_REACHED.len());
            seen.drain(..excess);
        }
        drop(send);
        std::io::copy(&mut console, &mut std::io::sink())
    });
    let reached = receive.recv_timeout(LIMIT);
    let patience = if reached.is_ok() { Duration::from_secs(20) } else { Duration::from_secs(1) };
    let status = wait_or_end(&mut child, patience)?;
    let Ok(reached) = reached else {
        let mut said = String::new();
        complaints.rewind()?;
        complaints.read_to_string(&mut said)?;
        bail!(
            "its console never said that init was reached; {} ended with {status}: {}",
            name(command),
            said.trim()
        );
    };
    Ok(reached.as_secs_f64())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn auberge_version() -> String {
    let mut describe = Command::new("git");
    describe.args(["describe", "--always", "--dirty"]).current_dir(host::workspace());
    let commit = host::output(&mut describe, "ask git for the commit").unwrap_or_default();
    format!("Auberge {} {}", env!("CARGO_PKG_VERSION"), commit.trim())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The middle value, or the mean of the two in the middle. Not a number for no values.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn seconds_console_that_says_init_reached_is_timed() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'boot...\\nauberge: init'; printf ' reached\\n'"]);
        assert!(seconds(&mut command).expect("reached") < 60.0);
    }

    #[test]
    fn seconds_program_that_ends_without_a_word_is_an_error_with_its_complaint() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such kernel >&2; exit 3"]);
        let error = seconds(&mut command).unwrap_err().to_string();
        assert!(error.contains("no such kernel"), "{error}");
    }
}
