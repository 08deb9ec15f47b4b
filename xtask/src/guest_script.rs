//! A script that the guest runs instead of a shell: the words on the kernel command line that carry it in, and the
//! markers on the console that bring its output and its status out. The other half is `guests/initrd/init`.

use anyhow::{Result, anyhow, bail};
use base64::Engine as _;

/// Linux's COMMAND_LINE_SIZE on x86, in bytes.
const COMMAND_LINE_SIZE: usize = 2048;
/// Room for the words of whoever boots it.
const OTHERS: usize = 256;

/// The kernel command line's words that make the guest run `script` and mark its output with `token`.
///
/// Errors: a script too long for a kernel command line.
pub fn words(script: &str, token: &str) -> Result<String> {
    words_within(script, token, COMMAND_LINE_SIZE)
}

/// The same for a kernel whose command line has `size` bytes.
pub fn words_within(script: &str, token: &str, size: usize) -> Result<String> {
    let longest = size.saturating_sub(OTHERS);
    let words = words_unchecked(script, token);
    if words.len() > longest {
        bail!(
            "the command is {} bytes long, but the kernel's command line has room for {} only; \
             put it in a file on a disk of the guest",
            script.len(),
            longest.saturating_sub(words_unchecked("", token).len()) / 4 * 3
        );
    }
    Ok(words)
}

/// The same for a script that is known to be short.
pub fn words_unchecked(script: &str, token: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(script);
    format!("auberge.run={encoded} auberge.token={token}")
}

/// A word that no guest prints by chance.
pub fn random_token() -> Result<String> {
    let number =
        getrandom::u64().map_err(|error| anyhow!("this machine gives no random numbers: {error}"))?;
    Ok(format!("{number:016x}"))
}

/// What `sh` reads as exactly these arguments; a single one is a script and stays as it is.
pub fn quote(arguments: &[String]) -> String {
    match arguments {
        [script] => script.clone(),
        _ => arguments.iter().map(|argument| quote_one(argument)).collect::<Vec<_>>().join(" "),
    }
}

fn quote_one(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

/// Takes the script's output out of a console's bytes, as they come.
pub struct Extractor {
    begin: Vec<u8>,
    end: Vec<u8>,
    pending: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The guest has not come to the script yet.
    Booting,
    /// The script runs.
    Running,
    /// The script ended with this status.
    Ended(u8),
}

impl Extractor {
    pub fn new(token: &str) -> Extractor {
        Extractor {
            begin: format!("<auberge:{token}:begin>\n").into_bytes(),
            end: format!("<auberge:{token}:end ").into_bytes(),
            pending: Vec::new(),
            state: State::Booting,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Takes the console's next bytes and gives those that the script certainly wrote.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(bytes);
        if self.state == State::Booting {
            let Some(at) = find(&self.pending, &self.begin) else {
                // Only a beginning of the marker can still matter.
                let keep = self.pending.len().min(self.begin.len() - 1);
                self.pending.drain(..self.pending.len() - keep);
                return Vec::new();
            };
            self.pending.drain(..at + self.begin.len());
            self.state = State::Running;
        }
        if self.state != State::Running {
            self.pending.clear();
            return Vec::new();
        }
        if let Some(at) = find(&self.pending, &self.end) {
            let rest = &self.pending[at + self.end.len()..];
            let Some(close) = rest.iter().position(|&byte| byte == b'>') else {
                return self.pending.drain(..at).collect();
            };
            let status = std::str::from_utf8(&rest[..close]).ok().and_then(|text| text.parse().ok());
            self.state = State::Ended(status.unwrap_or(u8::MAX));
            self.pending.truncate(at);
            return std::mem::take(&mut self.pending);
        }
        let held = (1..self.end.len()).rev().find(|&length| self.pending.ends_with(&self.end[..length]));
        let give = self.pending.len() - held.unwrap_or(0);
        self.pending.drain(..give).collect()
    }

    /// What is held back when the console ends before the end marker came.
    pub fn finish(self) -> Vec<u8> {
        if self.state == State::Running { self.pending } else { Vec::new() }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &[u8] =
        b"Linux version 6.1\r\n<auberge:t:begin>\nhello <auberge:\nno newline<auberge:t:end 3>\nreboot: Power down\r\n";

    #[test]
    fn extractor_whole_console_gives_exact_output_and_status() {
        let mut extractor = Extractor::new("t");
        assert_eq!(extractor.feed(CONSOLE), b"hello <auberge:\nno newline");
        assert_eq!(extractor.state(), State::Ended(3));
        assert_eq!(extractor.feed(b"more"), b"");
    }

    #[test]
    fn extractor_any_split_gives_the_same_output() {
        for size in 1..CONSOLE.len() {
            let mut extractor = Extractor::new("t");
            let output: Vec<u8> = CONSOLE.chunks(size).flat_map(|chunk| extractor.feed(chunk)).collect();
            assert_eq!(output, b"hello <auberge:\nno newline", "in pieces of {size}");
            assert_eq!(extractor.state(), State::Ended(3));
        }
    }

    #[test]
    fn extractor_another_token_is_output() {
        let mut extractor = Extractor::new("t");
        assert_eq!(extractor.feed(b"<auberge:t:begin>\n<auberge:u:end 0>\n"), b"<auberge:u:end 0>\n");
        assert_eq!(extractor.state(), State::Running);
    }

    #[test]
    fn extractor_console_cut_short_gives_what_was_held_back() {
        let mut extractor = Extractor::new("t");
        assert_eq!(extractor.feed(b"<auberge:t:begin>\nhalf <auberge:t:en"), b"half ");
        assert_eq!(extractor.state(), State::Running);
        assert_eq!(extractor.finish(), b"<auberge:t:en");
    }

    #[test]
    fn extractor_long_boot_log_stays_small() {
        let mut extractor = Extractor::new("t");
        for _ in 0..1000 {
            extractor.feed(&[b'x'; 4096]);
        }
        assert!(extractor.pending.len() < 64);
    }

    #[test]
    fn quote_single_argument_is_a_script() {
        assert_eq!(quote(&["ls | wc -l".into()]), "ls | wc -l");
    }

    #[test]
    fn quote_several_arguments_survive_the_shell() {
        let arguments = ["echo", "a b", "it's", "", "$HOME", "--x=1"].map(String::from);
        assert_eq!(quote(&arguments), r"echo 'a b' 'it'\''s' '' '$HOME' --x=1");
    }

    #[test]
    fn words_too_long_command_is_refused_with_the_limit() {
        assert!(words("uname -a", "t").is_ok());
        let error = words(&"x".repeat(2000), "t").unwrap_err().to_string();
        assert!(error.contains("2000 bytes"), "{error}");
    }
}
