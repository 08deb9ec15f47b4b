//! What of a board goes on by itself: its clock, its alarms, and the virtio devices' threads. They run and stand still together.

use crate::Result;
use crate::alarms::Alarms;
use crate::clock::BoardClock;
use crate::lock;
use devices::virtio::Runner;
use std::sync::{Arc, Mutex};

/// All of it.
pub struct Background {
    pub clock: Arc<BoardClock>,
    alarms: Arc<Alarms>,
    /// The virtio devices', by what messages call them.
    runners: Vec<(String, Arc<Runner>)>,
    /// Whether the clock runs and the devices' threads may work. Outermost of a board's locks.
    running: Mutex<bool>,
}

impl Background {
    /// Starts the threads, and holds everything as after `set_running(false)`. `name` is the machine's.
    pub fn start(
        name: &str,
        clock: Arc<BoardClock>,
        alarms: Arc<Alarms>,
        runners: Vec<(String, Arc<Runner>)>,
    ) -> Result<Self> {
        runners.iter().for_each(|(_, r)| r.quiesce());
        alarms.start(name)?;
        Ok(Self { clock, alarms, runners, running: Mutex::new(false) })
    }

    /// Everything goes on, or stands still: nothing changes memory then.
    pub fn set_running(&self, running: bool) {
        let mut now = lock(&self.running);
        if *now == running {
            return;
        }
        *now = running;
        if running {
            self.clock.unpause();
            self.alarms.clock_unpaused();
            self.runners.iter().for_each(|(_, r)| r.resume());
        } else {
            self.runners.iter().for_each(|(_, r)| r.quiesce());
            self.clock.pause();
            self.alarms.wait_until_idle();
        }
    }

    /// Drains the devices, flushes the disks, ends every thread; gives a sentence where something was lost.
    pub fn finish(&self) -> std::result::Result<(), String> {
        match self.stop() {
            lost if lost.is_empty() => Ok(()),
            lost => Err(format!("the guest's last writes may be lost: {}", lost.join("; "))),
        }
    }

    fn stop(&self) -> Vec<String> {
        self.alarms.stop();
        let stopped = self.runners.iter().map(|(name, r)| (name, r.stop()));
        stopped.filter_map(|(name, result)| result.err().map(|e| format!("{name}: {e}"))).collect()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Of a machine that never ran; else they are gone and this does nothing.
        for lost in self.stop() {
            log::error!("{lost}");
        }
    }
}
