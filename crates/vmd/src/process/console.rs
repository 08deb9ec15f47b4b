//! The console's pump: between the guest's first serial port and the file a person reads it by.

use super::ring::Ring;
use crate::launch::ConsoleKind;
use machine::{Handle, Output};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a pseudo-terminal that nobody has open is looked at.
const ATTACH_INTERVAL: Duration = Duration::from_millis(100);
/// A guest's serial port, as the pump sees it.
pub trait Port {
    /// Gives how many bytes were taken; when there is room for more, the output's `input_room` is called.
    fn input(&self, bytes: &[u8]) -> usize;
    /// There is room again for what the output refused.
    fn output_ready(&self);
}

impl Port for Handle {
    fn input(&self, bytes: &[u8]) -> usize {
        self.console_input(bytes)
    }
    fn output_ready(&self) {
        self.console_output_ready();
    }
}

/// How long the last output may stand still after the machine's end before it is given up.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// A VM's console; clones are the same one.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

struct Shared {
    ring: Ring,
    /// An eventfd that wakes the pump.
    wake: Option<OwnedFd>,
    kind: ConsoleKind,
}

impl Output for Shared {
    fn write(&self, bytes: &[u8]) -> usize {
        let written = self.ring.write(bytes);
        if written.was_empty {
            self.wake();
        }
        written.taken
    }
    fn input_room(&self) {
        self.wake();
    }
}

impl Shared {
    fn wake(&self) {
        if let Some(wake) = &self.wake {
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
    }
}

impl Console {
    pub fn new(kind: ConsoleKind) -> Self {
        // Without the eventfd, which only a host out of descriptors refuses, the pump looks around by itself.
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
        let ring = Ring::new(kind == ConsoleKind::Pty);
        Console { shared: Arc::new(Shared { ring, wake, kind }) }
    }

    /// Where the machine writes.
    pub fn output(&self) -> Arc<dyn Output> {
        self.shared.clone()
    }

    /// The machine has ended: the pump ends when all output is read, or nobody reads it.
    pub fn finish(&self) {
        self.shared.ring.finish();
        self.shared.wake();
    }

    /// Starts the pump's thread.
    pub fn pump(&self, file: OwnedFd, handle: Handle) -> io::Result<JoinHandle<()>> {
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags | rustix::fs::OFlags::NONBLOCK)?;
        let pump = Pump { shared: self.shared.clone(), file, input: Vec::new() };
        thread::Builder::new().name("console".into()).spawn(move || {
            pump.run(&handle);
        })
    }
}

struct Pump {
    shared: Arc<Shared>,
    file: OwnedFd,
    /// Read from the person, not yet taken by the guest.
    input: Vec<u8>,
}

impl Pump {
    fn run(mut self, port: &impl Port) {
        let mut attached = true;
        let mut moved = Instant::now();
        let shared = self.shared.clone();
        let ring = &shared.ring;
        loop {
            if !self.input.is_empty() {
                let taken = port.input(&self.input).min(self.input.len());
                self.input.drain(..taken);
            }
            if ring.take_refused() {
                port.output_ready();
            }
            if ring.is_finished() && (ring.is_empty() || !attached || moved.elapsed() > DRAIN_PATIENCE) {
                return;
            }
            if !attached && self.shared.kind == ConsoleKind::Stream {
                // The reader of a stream doesn't come back. Its process's end is seen on the control socket.
                return;
            }
            let events = match self.wait(attached) {
                Ok(events) => events,
                Err(e) => {
                    eprintln!("the console can't be served any more: {e}");
                    return;
                }
            };
            attached = !events.intersects(PollFlags::HUP | PollFlags::ERR);
            if !attached {
                // What a person typed and never saw taken is not for the next one's guest.
                self.input.clear();
                continue;
            }
            if events.contains(PollFlags::IN) {
                attached = self.read();
            }
            if events.contains(PollFlags::OUT) {
                let written = ring.offer(|bytes| rustix::io::write(&self.file, bytes));
                if written.is_ok_and(|n| n > 0) {
                    moved = Instant::now();
                }
            }
        }
    }

    /// Waits until there is something to do; gives the file's events.
    fn wait(&self, attached: bool) -> io::Result<PollFlags> {
        let ring = &self.shared.ring;
        let mut interest = PollFlags::empty();
        if self.input.is_empty() {
            interest |= PollFlags::IN;
        }
        if !ring.is_empty() {
            interest |= PollFlags::OUT;
        }
        let patience = match () {
            _ if !attached => Some(ATTACH_INTERVAL),
            _ if ring.is_finished() || self.shared.wake.is_none() => Some(ATTACH_INTERVAL),
            _ => None,
        };
        let timeout = patience
            .map(|p| Timespec { tv_sec: p.as_secs() as i64, tv_nsec: i64::from(p.subsec_nanos()) as _ });
        let mut fds = Vec::with_capacity(2);
        if let Some(wake) = &self.shared.wake {
            fds.push(PollFd::new(wake, PollFlags::IN));
        }
        if attached {
            fds.push(PollFd::new(&self.file, interest));
        }
        poll(&mut fds, timeout.as_ref())?;
        let seen = fds.get(usize::from(self.shared.wake.is_some())).map(|f| f.revents());
        if let Some(wake) = &self.shared.wake {
            let _ = rustix::io::read(wake, &mut [0; 8]);
        }
        match seen {
            Some(events) => Ok(events),
            // A hangup is always reported, so while it lasts the file is not waited for but looked at.
            None => {
                let mut fds = [PollFd::new(&self.file, interest)];
                poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
                Ok(fds[0].revents())
            }
        }
    }

    /// Reads what a person typed; false when the reader is gone.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 1024];
        match rustix::io::read(&self.file, &mut buffer) {
            // A stream's reader that ends its input goes away with it; a terminal's may stay.
            Ok(0) => self.shared.kind == ConsoleKind::Pty,
            Ok(n) => {
                self.input.extend_from_slice(&buffer[..n]);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }
}

fn poll(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> io::Result<()> {
    match rustix::event::poll(fds, timeout) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
