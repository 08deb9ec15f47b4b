//! Interrupts, hang-ups and requests to end this process, while a child of it runs.

use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Passes such requests to the child that runs, so that what comes after it still cleans up.
#[derive(Default)]
pub struct Ends {
    child: Arc<Mutex<Watched>>,
}

#[derive(Default)]
struct Watched {
    pid: Option<Pid>,
    group: bool,
    asked: bool,
}

/// As long as this lives, its child is the one that requests are passed to.
pub struct Watching<'a>(&'a Ends);

impl Ends {
    /// Takes over this process's interrupts; once in its life.
    pub fn install() -> Result<Ends> {
        let ends = Ends::default();
        let watched = Arc::clone(&ends.child);
        ctrlc::set_handler(move || {
            let mut watched = watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            watched.asked = true;
            match watched.pid {
                Some(pid) if watched.group => drop(kill_process_group(pid, Signal::TERM)),
                Some(pid) => drop(kill_process(pid, Signal::TERM)),
                None => std::process::exit(130),
            }
        })
        .context("could not take over this terminal's interrupt")?;
        Ok(ends)
    }

    pub fn watch(&self, child: &Child) -> Watching<'_> {
        self.begin(child, false)
    }

    /// The same for a child that leads a process group: the request goes to all of the group.
    pub fn watch_group(&self, child: &Child) -> Watching<'_> {
        self.begin(child, true)
    }

    fn begin(&self, child: &Child, group: bool) -> Watching<'_> {
        let mut watched = self.lock();
        watched.pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        watched.group = group;
        Watching(self)
    }

    /// Whether this process was asked to end.
    pub fn asked(&self) -> bool {
        self.lock().asked
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.lock().pid = None;
    }
}
