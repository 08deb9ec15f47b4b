//! One thread a VM: hears its process, reaps it, keeps the end of its console readable.

use crate::channel::FromVm;
use crate::ending::Ending;
use crate::parent;
use crate::protocol::VmRef;
use crate::registry::Registry;
use crate::vm::{self, VmProcess};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::ChildStderr;
use std::thread;
use std::time::{Duration, Instant};

/// How long the last output may stay unread in a console that someone has open.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// Longest line of a VM's process that the log takes, in bytes.
const MAX_LINE: usize = 400;
/// Lines of a VM's process that the log takes at once; beyond it one a second.
const BURST: u32 = 100;

/// Attends to the VM's process until it is reaped.
pub fn supervise(registry: &Registry, vm: VmRef, mut process: VmProcess, console: OwnedFd) {
    let pid = process.pid();
    tracing::info!(vm = vm.name, id = vm.id, pid, "started its process");
    let log = process.take_stderr().map(|stderr| {
        let name = vm.name.clone();
        thread::spawn(move || Log::new(name).read(stderr))
    });
    let mut said = None;
    while let Some(message) = process.receive() {
        match message {
            FromVm::Started => registry.note_started(vm.id),
            FromVm::Paused => registry.note_paused(vm.id, true),
            FromVm::Unpaused => registry.note_paused(vm.id, false),
            FromVm::NotStarted(why) => said = Some(Ending::NotStarted(why)),
            FromVm::Ended(ending) => said = Some(ending),
        }
    }
    registry.note_gone(vm.id);
    let status = process.reap();
    // The process is gone, so its standard error has an end, unless it left a child behind, which none does.
    let last_line = log.and_then(|log| log.join().ok()).unwrap_or_default();
    let ending = said.unwrap_or_else(|| {
        let how = match status {
            Ok(status) => vm::describe_death(status),
            Err(e) => format!("the VM's process can't be waited for: {e}"),
        };
        Ending::Died(if last_line.is_empty() { how } else { format!("{how}; it said last: {last_line}") })
    });
    // Closing the master throws away what the other side has not read; and the daemon may end once no VM is left.
    parent::drain_pty(&console, LAST_OUTPUT);
    registry.note_ended(vm.id, ending);
}

/// A VM's process's standard error on its way to the daemon's log, bounded in length and rate.
struct Log {
    vm: String,
    line: Vec<u8>,
    last: String,
    allowance: u32,
    refilled: Instant,
    dropped: u64,
}

impl Log {
    fn new(vm: String) -> Self {
        Log {
            vm,
            line: Vec::new(),
            last: String::new(),
            allowance: BURST,
            refilled: Instant::now(),
            dropped: 0,
        }
    }

    /// Reads to the end; gives the last line.
    fn read(mut self, mut stderr: ChildStderr) -> String {
        let mut buffer = [0; 4096];
        while let Ok(n) = stderr.read(&mut buffer) {
            if n == 0 {
                break;
            }
            self.take(&buffer[..n]);
        }
        self.end_line();
        self.last
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < MAX_LINE => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        // Control characters would play tricks on the terminal of whoever reads the log.
        let text: String = String::from_utf8_lossy(&self.line)
            .chars()
            .map(|c| if c.is_control() { '.' } else { c })
            .collect();
        self.line.clear();
        let refill = self.refilled.elapsed().as_secs().min(u64::from(BURST)) as u32;
        if refill > 0 {
            self.allowance = (self.allowance + refill).min(BURST);
            self.refilled = Instant::now();
        }
        if self.allowance == 0 {
            self.dropped += 1;
        } else {
            self.allowance -= 1;
            if std::mem::take(&mut self.dropped) > 0 {
                tracing::warn!(vm = self.vm, "lines of its process were left out");
            }
            tracing::info!(vm = self.vm, "{text}");
        }
        self.last = text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_line_flood_is_bounded_and_the_last_line_kept() {
        let mut log = Log::new("a".into());
        log.take(&[b'x'; 100_000]);
        assert_eq!(log.line.len(), MAX_LINE);
        for i in 0..1000 {
            log.take(format!("\nline {i}\x1b[2J").as_bytes());
        }
        log.take(b"\n");
        assert!(log.dropped >= 800);
        assert_eq!(log.last, "line 999.[2J");
    }
}
