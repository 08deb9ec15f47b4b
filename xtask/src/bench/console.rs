//! One place's run: the rows' lines are read as they come, with the host's own clock and processor time beside them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt as _;

use anyhow::{Context, Result, bail};

use super::lines::{self, Line, Sample};
use super::{memory, processes};
use crate::demo::wait_or_end;
use crate::ends::Ends;
use crate::guest_script::{Extractor, State};
use crate::progress::Step;

/// A place that says nothing for so long has hung.
const SILENCE: Duration = Duration::from_secs(900);
/// A guest whose script has ended switches itself off meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is kept of words that are no lines of the benchmark, for an error that shows them.
const KEPT: usize = 2000;

/// What came of a row in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Measured(Measured),
    Skipped(String),
    Failed(String),
}

/// A row's times in one place, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    pub sample: Sample,
    /// From the row's beginning to its end by this machine's clock.
    pub elapsed: u64,
    /// The processor time of one repetition: the program's own, or all that the machine around it took.
    pub cpu: u64,
}

/// A place's rows, and the bytes its processes took beyond the guest's memory at the script's marks.
#[derive(Debug, Default)]
pub struct Session {
    pub rows: BTreeMap<String, Outcome>,
    pub memory: BTreeMap<String, u64>,
}

/// Runs `command`, which says the rows' lines: a guest's console between the markers of `token`, or the script itself.
///
/// Errors: it does not start, hangs, ends with another status than 0 before all rows are through, or this process is
/// asked to end.
pub fn run(
    command: &mut Command,
    token: Option<&str>,
    who: &str,
    rows: usize,
    ends: &Ends,
) -> Result<Session> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{who} did not start"))?;
    let watched = ends.watch_group(&child);
    let console = child.stdout.take().context("there is no console")?;
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut console = console;
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut buffer) {
            // Nobody listens any more: the rest is read all the same, so that the guest can switch itself off.
            let _ = send.send((Instant::now(), buffer[..count].to_vec()));
        }
    });
    let mut listener = Listener::new(&child, token, who, rows);
    let ended = listener.listen(&receive, begun);
    let patience = if ended.is_ok() { PATIENCE } else { Duration::from_secs(2) };
    let status = wait_or_end(&mut child, patience)?;
    drop(watched);
    if ends.asked() {
        bail!("interrupted");
    }
    ended.with_context(|| format!("{who} ended with {status}; it said last:\n{}", listener.tail.trim()))?;
    if token.is_none() && !status.success() {
        listener.status = status.code();
    }
    match listener.status {
        Some(0) | None => Ok(listener.session),
        Some(status) => listener.complain(status),
    }
}

struct Listener<'a> {
    pid: u32,
    /// The program's own processor time says enough where there is no machine around it.
    native: bool,
    who: &'a str,
    rows: usize,
    extractor: Option<Extractor>,
    pending: Vec<u8>,
    tail: String,
    processes: Vec<u32>,
    begun: Option<(Instant, u64)>,
    step: Option<Step>,
    status: Option<i32>,
    session: Session,
}

impl<'a> Listener<'a> {
    fn new(child: &Child, token: Option<&str>, who: &'a str, rows: usize) -> Listener<'a> {
        Listener {
            pid: child.id(),
            native: token.is_none(),
            who,
            rows,
            extractor: token.map(Extractor::new),
            pending: Vec::new(),
            tail: String::new(),
            processes: Vec::new(),
            begun: None,
            step: token.map(|_| Step::begin(format!("{who}: booting"))),
            status: None,
            session: Session::default(),
        }
    }

    fn listen(&mut self, receive: &Receiver<(Instant, Vec<u8>)>, begun: Instant) -> Result<()> {
        let mut last = begun;
        loop {
            match receive.recv_timeout(SILENCE) {
                Ok((at, bytes)) => {
                    last = at;
                    if self.feed(at, &bytes) {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("nothing was heard for {} s", last.elapsed().as_secs())
                }
                Err(RecvTimeoutError::Disconnected) if self.extractor.is_none() => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => bail!("the guest ended before its script did"),
            }
        }
    }

    /// Takes the next bytes; whether the guest's script has ended.
    fn feed(&mut self, at: Instant, bytes: &[u8]) -> bool {
        let (said, ended) = match &mut self.extractor {
            None => (bytes.to_vec(), None),
            Some(extractor) => {
                if extractor.state() == State::Booting {
                    keep(&mut self.tail, &String::from_utf8_lossy(bytes));
                }
                let said = extractor.feed(bytes);
                let ended = match extractor.state() {
                    State::Ended(status) => Some(status),
                    State::Booting | State::Running => None,
                };
                (said, ended)
            }
        };
        self.pending.extend_from_slice(&said);
        while let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.line(at, String::from_utf8_lossy(&line).trim_end());
        }
        self.status = ended.map(i32::from);
        ended.is_some()
    }

    fn line(&mut self, at: Instant, text: &str) {
        let Some(line) = lines::parse(text) else {
            keep(&mut self.tail, text);
            keep(&mut self.tail, "\n");
            return;
        };
        match line {
            Line::Mark(name) => {
                self.processes = processes::tree(self.pid);
                if let (false, Some(bytes)) = (self.native, memory::beyond_guest_memory(&self.processes)) {
                    self.session.memory.insert(name, bytes);
                }
            }
            Line::Begin(name) => {
                let count = self.session.rows.len() + 1;
                self.step = Some(Step::begin(format!("{}: {name} ({count} of {})", self.who, self.rows)));
                self.begun = Some((at, processes::cpu_nanoseconds(&self.processes)));
            }
            Line::End(name, sample) => {
                self.step = None;
                let (begun, before) = self.begun.take().unwrap_or((at, 0));
                let outside = processes::cpu_nanoseconds(&self.processes).saturating_sub(before);
                let cpu = if self.native { sample.cpu } else { outside } / sample.repeats;
                let elapsed = u64::try_from(at.duration_since(begun).as_nanos()).unwrap_or(u64::MAX);
                // Said at once: a run that is interrupted has been of use all the same.
                let milliseconds = |nanoseconds: u64| nanoseconds as f64 / 1e6;
                let (best, processor) = (milliseconds(sample.best), milliseconds(cpu));
                eprintln!("    {best:.2} ms at best, {processor:.2} ms of processor time");
                self.session.rows.insert(name, Outcome::Measured(Measured { sample, elapsed, cpu }));
            }
            Line::Skip(name, why) => drop(self.session.rows.insert(name, Outcome::Skipped(why))),
            Line::Fail(name, why) => drop(self.session.rows.insert(name, Outcome::Failed(why))),
        }
    }

    /// A script that failed in its middle: its rows count where it said why.
    fn complain(self, status: i32) -> Result<Session> {
        let told = self.session.rows.values().any(|outcome| matches!(outcome, Outcome::Failed(_)));
        if !told {
            bail!("{}: the rows ended with status {status}: {}", self.who, self.tail.trim());
        }
        Ok(self.session)
    }
}

/// Adds to the end of `tail` and forgets its beginning.
fn keep(tail: &mut String, text: &str) {
    tail.extend(text.chars().filter(|c| !c.is_control() || *c == '\n'));
    if tail.len() > KEPT {
        let excess = tail.len() - KEPT;
        let from = tail.char_indices().map(|(at, _)| at).find(|&at| at >= excess);
        tail.drain(..from.unwrap_or(tail.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "bench end a repeats 2 best 5 median 6 total 11 cpu 10 checksum ff";

    fn script(text: &str, token: Option<&str>) -> Result<Session> {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        run(&mut command, token, "the script", 2, &Ends::default())
    }

    #[test]
    fn run_native_script_gives_its_rows() {
        let session = script(&format!("echo bench begin a; echo {END}; echo bench skip b none here"), None);
        let session = session.expect("rows");
        let Some(Outcome::Measured(measured)) = session.rows.get("a") else {
            panic!("{:?}", session.rows);
        };
        assert_eq!((measured.cpu, measured.sample.best), (5, 5));
        assert_eq!(session.rows.get("b"), Some(&Outcome::Skipped("none here".into())));
    }

    #[test]
    fn run_guest_s_console_gives_the_rows_between_its_markers() {
        let text = format!(
            "echo Linux; echo bench skip x outside; echo '<auberge:t:begin>'; echo bench mark boot; \
             echo bench begin a; echo {END}; printf '<auberge:t:end 0>\\n'"
        );
        let session = script(&text, Some("t")).expect("rows");
        assert_eq!(session.rows.keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn run_guest_that_ends_early_is_an_error_with_its_last_words() {
        let error = script("echo Kernel panic: no memory", Some("t")).unwrap_err();
        assert!(format!("{error:#}").contains("no memory"), "{error:#}");
    }

    #[test]
    fn run_rows_that_fail_without_a_word_are_an_error_with_what_was_said() {
        let error = script(&format!("echo bench begin a; echo {END}; echo no such disk; exit 3"), None);
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("no such disk") && error.contains('3'), "{error}");
    }

    #[test]
    fn run_row_that_says_why_it_failed_leaves_the_others() {
        let text = format!("echo bench begin a; echo {END}; echo bench fail b two results; exit 1");
        let session = script(&text, None).expect("rows");
        assert_eq!(session.rows.len(), 2);
        assert_eq!(session.rows.get("b"), Some(&Outcome::Failed("two results".into())));
    }

    #[test]
    fn keep_long_text_keeps_its_end() {
        let mut tail = String::new();
        for _ in 0..1000 {
            keep(&mut tail, "übrig ");
        }
        keep(&mut tail, "end");
        assert!(tail.len() <= KEPT && tail.ends_with("übrig end"));
    }
}
