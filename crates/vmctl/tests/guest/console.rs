//! A VM's console, read as it comes and with a limit to how long it may keep silent.

use super::PATIENCE;
use crate::common::text;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// What the guest's init prints around a script's output.
const BEGIN: &str = "<auberge:run:begin>\n";
const END: &str = "<auberge:run:end ";

/// A vmctl with a console: `run`, or `console`.
pub struct Console {
    pub child: Child,
    began: Instant,
    output: Arc<Stream>,
    errors: Arc<Stream>,
    /// How much of the output was consumed.
    at: usize,
}

#[derive(Default)]
struct Stream {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

/// What a script did.
#[derive(Debug)]
pub struct Report {
    /// What the script printed.
    pub output: String,
    /// Its exit status.
    pub status: u8,
    /// The whole console.
    pub console: String,
}

impl Report {
    /// The rest of the first line that begins with `name` and a space.
    pub fn value(&self, name: &str) -> &str {
        let line = self.output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no line {name:?} in {}", self.output))
    }

    /// What stands between the lines `<name>` and `</name>`.
    pub fn part(&self, name: &str) -> &str {
        let (begin, end) = (format!("<{name}>\n"), format!("</{name}>\n"));
        let rest = self.output.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
        rest.unwrap_or_else(|| panic!("no part {name} in {}", self.output)).0
    }
}

impl Console {
    pub fn of(mut command: Command) -> Console {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = Stream::read(child.stdout.take().unwrap());
        let errors = Stream::read(child.stderr.take().unwrap());
        Console { child, began: Instant::now(), output, errors, at: 0 }
    }

    pub fn send(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` comes and gives what came before it; the next call looks behind it.
    pub fn expect(&mut self, text: &str) -> String {
        let (from, needle) = (self.at, text.as_bytes());
        let mut searched = from;
        let found = self.output.wait(|state| {
            let at = state.bytes[searched..].windows(needle.len()).position(|window| window == needle);
            let found = at.map(|at| searched + at);
            searched = from.max(state.bytes.len().saturating_sub(needle.len()));
            found
        });
        let all = self.output.bytes();
        let Some(found) = found else {
            let errors = self.errors.text();
            panic!(
                "{text:?} did not come within {:?}; vmctl: {errors}; seen: {}",
                self.began.elapsed(),
                tail(&all)
            );
        };
        self.at = found + needle.len();
        crate::common::text(&all[from..found])
    }

    /// Waits for the end of the process; gives its status and the whole standard output and error.
    pub fn finish(mut self) -> (ExitStatus, String, String) {
        let ended = self.output.wait(|state| state.ended.then_some(()));
        assert!(ended.is_some(), "vmctl did not end; seen: {}", tail(&self.output.bytes()));
        let status = crate::common::end(&mut self.child);
        self.errors.wait(|state| state.ended.then_some(()));
        (status, text(&self.output.bytes()), self.errors.text())
    }

    /// Waits for the script's end and the guest's, which has to power off or to exit with the script's status.
    pub fn report(self) -> Report {
        let (exit, console, errors) = self.finish();
        let script = console.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
        let last = tail(console.as_bytes());
        let Some((output, rest)) = script else { panic!("the script did not end ({exit} {errors}): {last}") };
        let status = rest.split_once('>').and_then(|(status, _)| status.parse().ok());
        let status: u8 = status.expect("the script's exit status");
        let by_debug_exit = i32::from(status) << 1 | 1;
        assert!(
            [0, by_debug_exit].map(Some).contains(&exit.code()),
            "vmctl: {exit} {errors}; its console: {last}"
        );
        Report { output: output.to_owned(), status, console: console.clone() }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Stream {
    fn read(mut from: impl Read + Send + 'static) -> Arc<Stream> {
        let stream = Arc::new(Stream::default());
        let ours = stream.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = from.read(&mut buffer).unwrap_or(0);
                let mut state = ours.state.lock().unwrap();
                state.bytes.extend(&buffer[..count]);
                state.ended = count == 0;
                ours.more.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        stream
    }

    /// Waits until `holds` gives something; none when the stream ended or stayed without it too long.
    fn wait<T>(&self, mut holds: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(found) = holds(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self.more.wait_timeout(state, left).unwrap().0;
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().bytes.clone()
    }

    fn text(&self) -> String {
        text(&self.bytes())
    }
}

/// The last of a console, for a message.
fn tail(bytes: &[u8]) -> String {
    text(&bytes[bytes.len().saturating_sub(3000)..])
}
