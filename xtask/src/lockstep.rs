//! `cargo xtask lockstep`: boots a Debian guest with everything done twice, translated and interpreted, and compared.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::demo::wait_or_end;
use crate::guests::{self, Arch, Guest};
use crate::progress::Step;
use crate::{guest_script, host};

const ENGINE: &str = "translate:lockstep";
/// What `guests/initrd/init` prints first.
const INIT_REACHED: &str = "auberge: init reached";
/// How the engine's lines of progress begin; the number of instructions follows.
const PROGRESS: &str = "lockstep: ";
/// How a VM whose vCPU found a difference is complained of.
const DIFFERENCE: &str = "T0 and T1 differ";

#[derive(clap::Args)]
#[command(
    after_help = "At a difference it prints the block, registers and memory that differ, and ends with status 1. A boot \
                        to a shell takes minutes. With CMD the command runs in the guest before it is switched off."
)]
pub struct Args {
    /// The guest's architecture
    #[arg(long, value_enum, default_value_t = Arch::Amd64)]
    arch: Arch,
    /// Stop when the guest's init is reached (init), when the guest has switched itself off (end), or after so many compared instructions
    #[arg(long, value_name = "init|end|INSTRUCTIONS", default_value = "end", value_parser = until)]
    until: Until,
    /// The guest's memory; three times as much is used
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: String,
    /// Run this in the guest; a single argument is a shell script
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Init,
    End,
    Instructions(u64),
}

fn until(text: &str) -> Result<Until, String> {
    match text {
        "init" => Ok(Until::Init),
        "end" => Ok(Until::End),
        number => match number.replace('_', "").parse() {
            Ok(count) => Ok(Until::Instructions(count)),
            Err(_) => Err("it is `init`, `end` or a number of instructions".to_owned()),
        },
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let script = if args.command.is_empty() { "true".to_owned() } else { guest_script::quote(&args.command) };
    let words = guest_script::words(&script, &guest_script::random_token()?)?;
    let Guest { kernel, initrd } = guests::ensure(args.arch)?;
    let mut vmctl = Command::new(host::build_release()?.join("vmctl"));
    vmctl.args(["run", "--engine", ENGINE, "-m", &args.memory, "-b"]).arg(kernel).arg("--initrd").arg(initrd);
    vmctl.args(["--cmdline", &format!("console=ttyS0 {words}"), "lockstep"]);
    vmctl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    follow(vmctl.spawn().context("vmctl did not start")?, args.until)
}

/// Shows what the guest and the engine say until it is enough, or one of them ends it.
fn follow(mut child: Child, until: Until) -> Result<ExitCode> {
    let begun = Instant::now();
    let (send, lines) = channel();
    read(child.stdout.take().context("vmctl has no output")?, Source::Guest, send.clone());
    read(child.stderr.take().context("vmctl has no standard error")?, Source::Engine, send);
    let mut step = Step::begin("The first instructions are compared");
    let mut compared = 0;
    let mut differs = false;
    let mut enough = false;
    let mut said = String::new();
    for (source, line) in lines {
        if source == Source::Guest {
            println!("{line}");
            enough |= until == Until::Init && line.contains(INIT_REACHED);
        } else if let Some(progress) = line.strip_prefix(PROGRESS) {
            compared = instructions(progress).unwrap_or(compared);
            step.change(format!("{progress} ({} s)", begun.elapsed().as_secs()));
            enough |= matches!(until, Until::Instructions(limit) if compared >= limit);
        } else {
            differs |= line.contains(DIFFERENCE);
            said += &line;
            said.push('\n');
        }
        if enough {
            break;
        }
    }
    drop(step);
    let status = wait_or_end(&mut child, Duration::from_secs(if enough { 0 } else { 10 }))?;
    if differs {
        eprint!("{said}");
        return Ok(ExitCode::FAILURE);
    }
    if !enough && (!status.success() || until != Until::End) {
        bail!("the guest ended early (vmctl: {status}): {said}");
    }
    eprintln!(
        "No difference; the last count was {compared} instructions, after {} s",
        begun.elapsed().as_secs()
    );
    Ok(ExitCode::SUCCESS)
}

/// Who says something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Guest,
    Engine,
}

/// Sends a stream's lines on, as a terminal can show them.
fn read(stream: impl std::io::Read + Send + 'static, source: Source, to: Sender<(Source, String)>) {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        // A guest that never ends a line doesn't fill the memory.
        while matches!(stream.by_ref().take(1 << 16).read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line);
            let text = text.chars().filter(|c| !c.is_control() || *c == '\t').collect();
            if to.send((source, text)).is_err() {
                break;
            }
            line.clear();
        }
        // Nobody listens any more, but a full pipe would keep the guest from ending.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
}

/// The number that a line of progress begins with.
fn instructions(progress: &str) -> Option<u64> {
    progress.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(script: &str, until: Until) -> Result<ExitCode> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        follow(command.spawn().expect("a shell"), until)
    }

    fn is(result: Result<ExitCode>, code: ExitCode) {
        assert_eq!(format!("{:?}", result.expect("a status")), format!("{code:?}"));
    }

    #[test]
    fn until_is_a_place_or_a_number() {
        assert_eq!(until("init"), Ok(Until::Init));
        assert_eq!(until("50_000_000"), Ok(Until::Instructions(50_000_000)));
        assert!(until("ever").is_err());
    }

    #[test]
    fn follow_guest_that_powers_off_is_good() {
        is(script("echo hello; echo 'lockstep: 5 instructions alike' >&2", Until::End), ExitCode::SUCCESS);
    }

    #[test]
    fn follow_difference_is_status_1() {
        let vmctl = "echo 'vmctl: lockstep: crashed: T0 and T1 differ after 7 instructions' >&2; exit 100";
        is(script(vmctl, Until::End), ExitCode::FAILURE);
    }

    #[test]
    fn follow_enough_instructions_end_the_guest() {
        let vmctl =
            "echo 'lockstep: 50 instructions' >&2; echo 'lockstep: 150 instructions' >&2; exec sleep 1000";
        is(script(vmctl, Until::Instructions(100)), ExitCode::SUCCESS);
    }

    #[test]
    fn follow_guest_that_ends_before_init_is_an_error() {
        let error = script("echo 'no memory' >&2; exit 1", Until::Init).unwrap_err().to_string();
        assert!(error.contains("no memory"), "{error}");
        assert!(script("echo hello", Until::Init).is_err());
    }
}
