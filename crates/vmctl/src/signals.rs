//! Signals that end vmctl, as something to wait for beside files.

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Catches SIGHUP, SIGINT, SIGQUIT and SIGTERM for as long as the process lives.
pub struct Signals {
    wake: UnixStream,
    last: Arc<AtomicI32>,
}

impl Signals {
    pub fn catch() -> io::Result<Self> {
        let (wake, write) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let last = Arc::new(AtomicI32::new(0));
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            let last = last.clone();
            // SAFETY: an atomic store is all it does, which is async-signal-safe.
            unsafe {
                signal_hook::low_level::register(signal, move || last.store(signal, Ordering::SeqCst))
            }?;
            // Registered after the store, and run in that order: who is woken finds the number.
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Signals { wake, last })
    }

    /// Readable when a signal has come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The last signal that came since the last call.
    pub fn take(&mut self) -> Option<i32> {
        let mut bytes = [0; 64];
        while self.wake.read(&mut bytes).is_ok_and(|n| n == bytes.len()) {}
        match self.last.swap(0, Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }
}

/// Ends this process by `signal`, as if it had not been caught, so that whoever waits for it sees that.
pub fn die_of(signal: i32) -> ! {
    let _ = signal_hook::low_level::emulate_default_handler(signal);
    std::process::exit(128 + signal)
}
