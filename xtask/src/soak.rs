//! `cargo xtask soak`: a mixed load in a guest for as long as one likes, compared with the same load on this machine. The
//! jobs are those of `guests/soak/jobs.sh`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::demo::wait_or_end;
use crate::ends::Ends;
use crate::guests::{self, Disk};
use crate::progress::Step;
use crate::{guest_script, host, native};

#[derive(clap::Args)]
pub struct Args {
    /// How long the guest works
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// The guest's processors
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Jobs at a time; by default one more than there are processors
    #[arg(long)]
    workers: Option<u32>,
    /// A vmctl to use, instead of a release build of this tree
    #[arg(long)]
    vmctl: Option<PathBuf>,
    /// Two guests in the hypervisor on an emulated board instead, until each of their processors has taken its interrupts
    #[arg(long, value_enum, value_name = "PLATFORM", conflicts_with_all = ["minutes", "cpus", "workers", "vmctl"])]
    native: Option<native::Platform>,
    /// The version of that board's interrupt controller
    #[arg(long, value_enum, value_name = "VERSION", requires = "native")]
    gic: Option<native::Gic>,
    /// Timer interrupts on each processor: by default an hour's, at 250 a second
    #[arg(long, default_value_t = 900_000, requires = "native")]
    interrupts: u64,
}

const JOBS: &str = include_str!("../../guests/soak/jobs.sh");
const LOOP: &str = include_str!("../../guests/soak/loop.sh");
const COMMANDS: &str = include_str!("../../guests/userland/commands.sh");
const ENTER: &str = include_str!("../../guests/debian/enter");

/// The jobs whose results this machine tells; the stress programs know theirs.
const COMPARED: [&str; 3] = ["userland", "compile", "pack"];
const STRESS: [&str; 6] = ["main", "patch", "debug", "signals", "state", "memory"];
const MEMORY: &str = "1536M";
/// A guest that says nothing for so long has hung: longer than any job takes.
const SILENCE: Duration = Duration::from_secs(3900);

pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(platform) = args.native {
        return native::soak::run(platform, args.gic, args.interrupts);
    }
    let disk = guests::ensure_disk()?;
    let vmctl = match &args.vmctl {
        Some(path) => path.clone(),
        None => host::build_release()?.join("vmctl"),
    };
    let ends = Ends::install()?;
    let work = tempfile::tempdir()?;
    let files = work.path().join("files");
    prepare(&files, &disk)?;
    let tar = work.path().join("files.tar");
    let mut pack = Command::new("tar");
    // A disk is whole sectors long.
    pack.arg("-C").arg(&files).args(["-b", "1", "-cf"]).arg(&tar).arg(".");
    host::output(&mut pack, "pack the jobs")?;
    let image = work.path().join("disk");
    let mut copy = Command::new("cp");
    copy.args(["--sparse=always", "--reflink=auto"]).arg(&disk.image).arg(&image);
    host::output(&mut copy, "copy the disk")?;

    let folder = host::workspace().join("target/soak");
    std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let log = folder.join(format!("console-{}", std::process::id()));
    println!("console: {}", log.display());
    let workers = args.workers.unwrap_or(args.cpus + 1);
    let script = format!(
        "mount -t ext4 -o noatime /dev/vda /mnt && mkdir /mnt/soak && tar -C /mnt/soak -xf /dev/vdb || exit 1
        for folder in proc sys dev; do mount -o bind /$folder /mnt/$folder; done; mount -t tmpfs tmpfs /mnt/tmp
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root chroot /mnt bash /soak/loop.sh {} {workers}",
        args.minutes
    );
    let mut command = Command::new(vmctl);
    command.args(["run", "-m", MEMORY, "-p", &args.cpus.to_string()]);
    let words = guest_script::words(&script, "soak")?;
    command.args(["--cmdline", &format!("console=ttyS0 quiet {words}")]);
    command.arg("-b").arg(&disk.guest.kernel).arg("--initrd").arg(&disk.guest.initrd);
    command.arg("-d").arg(&image).arg("-d").arg(&tar).arg("soak");
    watch(&mut command, &log, &ends)
}

/// What the guest gets: the jobs, and what they print on this machine.
fn prepare(files: &Path, disk: &Disk) -> Result<()> {
    let expected = files.join("expected");
    std::fs::create_dir_all(&expected)?;
    for (name, text) in [("jobs.sh", JOBS), ("loop.sh", LOOP), ("commands.sh", COMMANDS)] {
        std::fs::write(files.join(name), text)?;
    }
    let sources = host::workspace().join("guests/stress");
    let mut compile = Command::new("cc");
    compile.args(["-static", "-O2", "-pthread", "-o"]).arg(files.join("stress"));
    compile.args(STRESS.map(|name| sources.join(format!("{name}.c"))));
    host::output(&mut compile, "compile the stress programs")?;
    let tree = std::fs::canonicalize(&disk.tree)?;
    for job in COMPARED {
        let _step = Step::begin(format!("Running the job {job} on this machine"));
        let mut native = Command::new("unshare");
        native.arg("--mount");
        if !host::is_root() {
            native.arg("--map-root-user");
        }
        native.args(["sh", "-c", ENTER, "sh"]).arg(&tree);
        native.args(["sh", "-c", "mkdir /tmp/work; cd /tmp/work; exec sh /root/files/jobs.sh $0 2>&1", job]);
        native.current_dir(files);
        let why = format!("run the job {job} in Debian's tree, which takes root or user namespaces");
        let output = host::output(&mut native, &why)?;
        std::fs::write(expected.join(job), output)?;
    }
    Ok(())
}

/// Runs the guest to its end or its first failure.
fn watch(command: &mut Command, log: &Path, ends: &Ends) -> Result<ExitCode> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut console = File::create(log).with_context(|| format!("could not write {}", log.display()))?;
    let begun = Instant::now();
    let mut child = command.spawn().context("vmctl did not start")?;
    let watched = ends.watch(&child);
    let mut output = child.stdout.take().context("there is no console")?;
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            if send.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut tally = Tally::default();
    let mut line = Vec::new();
    let mut failure = None;
    while failure.is_none() {
        match receive.recv_timeout(SILENCE) {
            Ok(bytes) => {
                console.write_all(&bytes)?;
                for byte in bytes {
                    if byte == b'\n' {
                        failure = failure.or(tally.line(String::from_utf8_lossy(&line).trim_end()));
                        line.clear();
                    } else {
                        line.push(byte);
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => failure = Some("the guest has hung".into()),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // What it has to say of the failure, and then its end.
    while let Ok(bytes) = receive.recv_timeout(Duration::from_secs(10)) {
        console.write_all(&bytes)?;
    }
    let status = wait_or_end(&mut child, Duration::from_secs(20))?;
    drop(watched);
    println!("{tally}in {:.1} minutes", begun.elapsed().as_secs_f64() / 60.0);
    if ends.asked() {
        bail!("interrupted");
    }
    if failure.is_none() && !(tally.ended && status.success()) {
        failure = Some(format!("vmctl ended with {status} before the guest's time was over"));
    }
    match failure {
        None => Ok(ExitCode::SUCCESS),
        Some(failure) => bail!("{failure}; the console is in {}", log.display()),
    }
}

/// What the guest has said it did.
#[derive(Default)]
struct Tally {
    /// How often each job was done.
    done: BTreeMap<String, u64>,
    ended: bool,
}

impl Tally {
    /// Takes a line of the console; gives what failed.
    fn line(&mut self, line: &str) -> Option<String> {
        let word = line.strip_prefix("soak: ")?;
        if let Some((seconds, job)) = word.strip_prefix("done ").and_then(|rest| rest.split_once(" s ")) {
            *self.done.entry(job.to_owned()).or_default() += 1;
            println!("{:6} {job} ({seconds} s)", self.done.values().sum::<u64>());
        }
        self.ended |= word == "ended";
        word.strip_prefix("failed ").map(|job| format!("failed: {job}"))
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (job, count) in &self.done {
            writeln!(formatter, "{count:6} times {job}")?;
        }
        write!(formatter, "{:6} jobs were done ", self.done.values().sum::<u64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_counts_jobs_and_tells_the_first_failure() {
        let mut tally = Tally::default();
        assert_eq!(tally.line("soak: done 3 s stress patch_here"), None);
        assert_eq!(tally.line("soak: done 4 s stress patch_here"), None);
        assert_eq!(tally.line("soak: done 40 s compile"), None);
        assert_eq!(tally.line("something else"), None);
        assert_eq!(
            tally.to_string(),
            "     1 times compile\n     2 times stress patch_here\n     3 jobs were done "
        );
        assert_eq!(tally.line("soak: failed pack"), Some("failed: pack".into()));
        assert!(!tally.ended);
        assert_eq!(tally.line("soak: ended"), None);
        assert!(tally.ended);
    }
}
