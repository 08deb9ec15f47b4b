//! `cargo xtask bench boot`: the time from starting a machine to its first process.

use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::machine::{self, Machine};
use super::qemu;
use super::statistics::median;
use crate::demo::wait_or_end;
use crate::ends::Ends;
use crate::guests::{self, Arch};
use crate::progress::Step;
use crate::{guest_script, host};

/// What `guests/initrd/init` prints first.
const INIT_REACHED: &[u8] = b"auberge: init reached";
/// A boot that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(clap::Args)]
pub struct Args {
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

/// The seconds that one kernel took to init, again and again on both sides.
pub struct Times {
    pub auberge: Vec<f64>,
    pub qemu: Vec<f64>,
}

/// Boots the guest of `arch` `runs` times on each side.
///
/// Errors: a side doesn't boot, or this process is asked to end by way of `ends`.
pub fn measure(
    arch: Arch,
    vmctl: &Path,
    engine: Option<&str>,
    runs: u32,
    ends: Option<&Ends>,
) -> Result<Times> {
    let guest = guests::ensure(arch)?;
    let qemu = qemu::program(arch)?;
    let machine = Machine {
        kernel: guest.kernel,
        initrd: guest.initrd,
        disk: None,
        // The same for both sides: the same console, and a guest that switches itself off.
        cmdline: format!("console=ttyS0 {}", guest_script::words("true", "bench")?),
        cpus: 1,
        memory_mib: 512,
    };
    let mut times = Times { auberge: Vec::new(), qemu: Vec::new() };
    for round in 1..=runs {
        let _step = Step::begin(format!("Boot {round} of {runs} of {arch} in Auberge and in QEMU"));
        // Alternating, so that a busy moment of this machine hits both.
        let mut ours = machine::auberge(vmctl, engine, &machine);
        times.auberge.push(seconds(&mut ours, ends).context("Auberge did not boot the guest")?);
        let mut theirs = qemu::command(qemu, &machine);
        times.qemu.push(seconds(&mut theirs, ends).context("QEMU did not boot the guest")?);
    }
    Ok(times)
}

pub fn run(args: &Args) -> Result<ExitCode> {
    guests::ensure(args.arch)?;
    let qemu = qemu::program(args.arch)?;
    let vmctl = host::build_release()?.join("vmctl");
    let Times { auberge: ours, qemu: theirs } = measure(args.arch, &vmctl, None, args.runs, None)?;
    let (auberge_median, qemu_median) = (median(&ours), median(&theirs));
    let report = Report {
        bench: "boot",
        machine: host::processor(),
        guest: format!("{} {}", args.arch, guests::sources(args.arch).join(", ")),
        auberge: machine::auberge_version(),
        qemu: qemu::version(qemu)?,
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

/// Runs a machine until its console says that init was reached, and gives the time that took in seconds.
fn seconds(command: &mut Command, ends: Option<&Ends>) -> Result<f64> {
    let begun = Instant::now();
    let mut complaints = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("{} did not start", name(command)))?;
    let watched = ends.map(|ends| ends.watch(&child));
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
    drop(watched);
    if ends.is_some_and(Ends::asked) {
        bail!("interrupted");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_console_that_says_init_reached_is_timed() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'boot...\\nauberge: init'; printf ' reached\\n'"]);
        assert!(seconds(&mut command, None).expect("reached") < 60.0);
    }

    #[test]
    fn seconds_program_that_ends_without_a_word_is_an_error_with_its_complaint() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such kernel >&2; exit 3"]);
        let error = seconds(&mut command, None).unwrap_err().to_string();
        assert!(error.contains("no such kernel"), "{error}");
    }
}
