//! Between the user's terminal, or standard input and output, and a VM's console.

use crate::signals::Signals;
use crate::terminal::{Escape, RawMode};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Written at once to standard output, at most: what a pipe that is ready surely takes.
const WRITE_PIECE: usize = 4096;
/// Typed bytes that the console has no room for, at most.
const INPUT_LIMIT: usize = 4096;

/// What happened, to be acted on by whoever called [`Attachment::next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The person typed `~.`.
    Left,
    /// The console's other end is gone, and all it sent is written.
    Ended,
    /// This signal came.
    Signal(i32),
    /// Nobody reads standard output any more.
    OutputGone,
    /// The file given to `next` is readable or hung up.
    Also,
}

/// A console joined to standard input and output.
pub struct Attachment {
    console: OwnedFd,
    console_open: bool,
    stdin_open: bool,
    /// `~.` is looked for only in what a person types.
    escape: Option<Escape>,
    raw: Option<RawMode>,
    signals: Signals,
    to_guest: Vec<u8>,
    to_user: Vec<u8>,
    discards: bool,
}

impl Attachment {
    /// Takes the terminal on standard input, if it is one, into raw mode until the attachment is dropped.
    pub fn new(console: OwnedFd) -> io::Result<Self> {
        let signals = Signals::catch()?;
        let flags = rustix::fs::fcntl_getfl(&console)?;
        rustix::fs::fcntl_setfl(&console, flags | rustix::fs::OFlags::NONBLOCK)?;
        let raw = RawMode::enter(rustix::stdio::stdin())?;
        Ok(Attachment {
            console,
            console_open: true,
            stdin_open: true,
            escape: raw.is_some().then(Escape::new),
            raw,
            signals,
            to_guest: Vec::new(),
            to_user: Vec::new(),
            discards: false,
        })
    }

    /// Whether a person sits at a terminal.
    pub fn is_interactive(&self) -> bool {
        self.raw.is_some()
    }

    /// Gives the terminal back to its former mode; nothing is read from standard input any more.
    pub fn release_terminal(&mut self) {
        self.raw = None;
        self.stdin_open = false;
    }

    /// Throws away what the guest sends from now on.
    pub fn discard_output(&mut self) {
        self.to_user.clear();
        self.discards = true;
    }

    /// Moves bytes both ways until something happens. `also` is waited for too.
    pub fn next(&mut self, also: Option<BorrowedFd<'_>>) -> io::Result<Event> {
        loop {
            if !self.console_open && self.to_user.is_empty() && also.is_none() {
                return Ok(Event::Ended);
            }
            let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
            let when = |wanted, flags| if wanted { flags } else { PollFlags::empty() };
            let mut fds = vec![PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN)];
            let mut watch = |fd, wanted: bool, flags| {
                wanted.then(|| {
                    fds.push(PollFd::from_borrowed_fd(fd, flags));
                    fds.len() - 1
                })
            };
            let console_events = when(self.to_user.is_empty(), PollFlags::IN)
                | when(!self.to_guest.is_empty(), PollFlags::OUT);
            // While there is nothing to ask of the console, its hangup would be reported again and again.
            let console =
                watch(self.console.as_fd(), self.console_open && !console_events.is_empty(), console_events);
            let input = watch(stdin, self.stdin_open && self.to_guest.len() < INPUT_LIMIT, PollFlags::IN);
            let output = watch(stdout, !self.to_user.is_empty(), PollFlags::OUT);
            let also = also.and_then(|fd| watch(fd, true, PollFlags::IN));
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let seen = |at: Option<usize>| at.map_or(PollFlags::empty(), |i| fds[i].revents());
            let (console, input, output, also) = (seen(console), seen(input), seen(output), seen(also));
            let signalled = !fds[0].revents().is_empty();

            if signalled && let Some(signal) = self.signals.take() {
                return Ok(Event::Signal(signal));
            }
            if !output.is_empty() && !self.write_to_user()? {
                return Ok(Event::OutputGone);
            }
            if console.intersects(PollFlags::OUT) {
                self.write_to_guest();
            }
            if console.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && self.to_user.is_empty()
            {
                self.read_from_guest();
            }
            if !input.is_empty() && self.read_from_user() {
                return Ok(Event::Left);
            }
            if !also.is_empty() {
                return Ok(Event::Also);
            }
        }
    }

    /// False when nobody reads any more.
    fn write_to_user(&mut self) -> io::Result<bool> {
        let piece = &self.to_user[..self.to_user.len().min(WRITE_PIECE)];
        match rustix::io::write(rustix::stdio::stdout(), piece) {
            Ok(n) => {
                self.to_user.drain(..n);
                Ok(true)
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(true),
            Err(Errno::PIPE | Errno::IO) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn write_to_guest(&mut self) {
        match rustix::io::write(&self.console, &self.to_guest) {
            Ok(n) => drop(self.to_guest.drain(..n)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // What the guest sent last may still be there to read; its end is seen then.
            Err(_) => self.to_guest.clear(),
        }
    }

    fn read_from_guest(&mut self) {
        let mut buffer = [0; WRITE_PIECE];
        match rustix::io::read(&self.console, &mut buffer) {
            Ok(n) if n > 0 && self.discards => {}
            Ok(n) if n > 0 => self.to_user.extend_from_slice(&buffer[..n]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A terminal whose other end is gone gives EIO, a socket its end.
            _ => self.console_open = false,
        }
    }

    /// True when the person leaves.
    fn read_from_user(&mut self) -> bool {
        let mut buffer = [0; 1024];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(n) if n > 0 => match &mut self.escape {
                Some(escape) => return escape.filter(&buffer[..n], &mut self.to_guest),
                None => self.to_guest.extend_from_slice(&buffer[..n]),
            },
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The end of the input is not the end of the VM.
            _ => self.stdin_open = false,
        }
        false
    }
}
