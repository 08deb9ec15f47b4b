//! The user's terminal: raw mode that is always undone, and the keys that leave a console.

use rustix::termios::{OptionalActions, Termios};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A terminal in raw mode, until dropped.
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Puts `terminal` into raw mode; `None` where it is no terminal.
    pub fn enter(terminal: impl AsFd) -> io::Result<Option<Self>> {
        if !rustix::termios::isatty(&terminal) {
            return Ok(None);
        }
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = rustix::termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&terminal, OptionalActions::Drain, &raw)?;
        Ok(Some(RawMode { terminal, before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Finds `~.` and `~~` at the beginning of a line in what a person types, as cu(1) and ssh(1) do.
#[derive(Debug)]
pub struct Escape {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    Tilde,
    InLine,
}

impl Escape {
    pub fn new() -> Self {
        Escape { state: State::LineStart }
    }

    /// Appends to `out` what the guest is to get; true when the person typed `~.`: what follows it is dropped.
    pub fn filter(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in typed {
            match (self.state, byte) {
                (State::LineStart, b'~') => {
                    self.state = State::Tilde;
                    continue;
                }
                (State::Tilde, b'.') => return true,
                (State::Tilde, b'~') => {}
                (State::Tilde, _) => out.push(b'~'),
                _ => {}
            }
            out.push(byte);
            self.state = if matches!(byte, b'\r' | b'\n') { State::LineStart } else { State::InLine };
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&str]) -> (String, bool) {
        let mut escape = Escape::new();
        let mut out = Vec::new();
        let left = pieces.iter().any(|p| escape.filter(p.as_bytes(), &mut out));
        (String::from_utf8(out).unwrap(), left)
    }

    #[test]
    fn tilde_dot_leaves_only_at_the_beginning_of_a_line() {
        assert_eq!(typed(&["~."]), (String::new(), true));
        assert_eq!(typed(&["ls\r~", ".more"]), ("ls\r".into(), true));
        assert_eq!(typed(&["a~.\r"]), ("a~.\r".into(), false));
    }

    #[test]
    fn tilde_tilde_sends_one_and_other_keys_pass() {
        assert_eq!(typed(&["~~.", "\r~x~."]), ("~.\r~x~.".into(), false));
        assert_eq!(typed(&["~\r~."]), ("~\r".into(), true));
        assert_eq!(typed(&["cd ~\r"]), ("cd ~\r".into(), false));
    }

    #[test]
    fn enter_on_a_pipe_is_none_and_on_a_terminal_is_undone() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert!(RawMode::enter(&read).unwrap().is_none());
        let pty = vmd::parent::open_pty().unwrap();
        let user = std::fs::File::options().read(true).write(true).open(&pty.path).unwrap();
        let mut cooked = rustix::termios::tcgetattr(&user).unwrap();
        cooked.local_modes |= rustix::termios::LocalModes::ECHO;
        rustix::termios::tcsetattr(&user, OptionalActions::Now, &cooked).unwrap();
        let echo = || {
            rustix::termios::tcgetattr(&user).unwrap().local_modes.contains(rustix::termios::LocalModes::ECHO)
        };
        let raw = RawMode::enter(&user).unwrap();
        assert!(raw.is_some() && !echo());
        drop(raw);
        assert!(echo());
    }
}
