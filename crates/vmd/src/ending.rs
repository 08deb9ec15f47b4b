//! How a VM ended, and the exit status that says so.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Exit status of `vmctl run` and `vmctl wait`: the guest did what the engine can't go on from.
pub const EXIT_CRASHED: u8 = 100;
/// The VM's process died.
pub const EXIT_DIED: u8 = 102;
/// The VM was ended from outside: `stop -f`, a guest that didn't power off in time, or the daemon's end.
pub const EXIT_FORCED: u8 = 104;

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The guest powered off.
    PoweredOff,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// The machine can't go on; a sentence that says why.
    Crashed(String),
    /// Ended from outside, its disks flushed.
    Stopped,
    /// Killed from outside on request; what the guest had not flushed may be lost to it.
    Killed,
    /// Its process died unasked; a sentence that says how.
    Died(String),
    /// It never ran; a sentence that says why.
    NotStarted(String),
}

impl Ending {
    /// The exit status that scripts see. A debug-exit value is given as QEMU gives it, `(value << 1) | 1`, so always
    /// odd; the statuses that Auberge gives itself are even, but for 1.
    pub fn exit_status(&self) -> u8 {
        match self {
            Ending::PoweredOff => 0,
            Ending::DebugExit(value) => ((value << 1) | 1) as u8,
            Ending::Crashed(_) => EXIT_CRASHED,
            Ending::Died(_) => EXIT_DIED,
            Ending::Stopped | Ending::Killed => EXIT_FORCED,
            Ending::NotStarted(_) => 1,
        }
    }

    /// True where a person should be told why.
    pub fn is_failure(&self) -> bool {
        matches!(self, Ending::Crashed(_) | Ending::Died(_) | Ending::NotStarted(_))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::PoweredOff => f.write_str("powered off"),
            Ending::DebugExit(value) => write!(f, "exited with value {value:#x}"),
            Ending::Crashed(why) => write!(f, "crashed: {why}"),
            Ending::Stopped => f.write_str("stopped"),
            Ending::Killed => f.write_str("killed"),
            Ending::Died(why) | Ending::NotStarted(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_debug_exit_is_as_qemu_gives_it() {
        assert_eq!(Ending::DebugExit(0x10).exit_status(), 33);
        assert_eq!(Ending::DebugExit(0).exit_status(), 1);
        assert_eq!(Ending::DebugExit(u32::MAX).exit_status(), 255);
    }

    #[test]
    fn exit_status_own_codes_are_even_and_distinct() {
        let own = [
            Ending::Crashed(String::new()),
            Ending::Died(String::new()),
            Ending::Stopped,
            Ending::PoweredOff,
        ];
        for (i, a) in own.iter().enumerate() {
            assert_eq!(a.exit_status() % 2, 0);
            for b in &own[..i] {
                assert_ne!(a.exit_status(), b.exit_status());
            }
        }
    }
}
