//! A push button at a pin of a [`Pl061`]. Nothing about it is a chip: a person's finger stays on it for a while.

use super::Pl061;
use crate::pci::lock;
use crate::wiring::{Alarm, Clock, Nanos, Timed};
use std::sync::{Arc, Mutex};

/// How long the pin stays high: drivers look at it some time after its edge.
const HELD: Nanos = 100_000_000;

/// The button.
pub struct PowerButton {
    gpio: Arc<Mutex<Pl061>>,
    pin: u8,
    clock: Arc<dyn Clock>,
    alarm: Arc<dyn Alarm>,
}

impl PowerButton {
    /// Connects pin `pin` to high while pressed. `alarm` calls [`Timed::expire`].
    pub fn new(gpio: Arc<Mutex<Pl061>>, pin: u8, clock: Arc<dyn Clock>, alarm: Arc<dyn Alarm>) -> Self {
        Self { gpio, pin, clock, alarm }
    }

    /// Presses it. False: the guest doesn't listen to it, and nothing happens.
    pub fn press(&mut self) -> bool {
        let mut gpio = lock(&self.gpio);
        let listens = gpio.listens(self.pin);
        if listens {
            gpio.set_pin(self.pin, true);
            self.alarm.set(Some(self.clock.now().saturating_add(HELD)));
        }
        listens
    }

    /// The board's reset: nobody presses it.
    pub fn reset(&mut self) {
        self.alarm.set(None);
        lock(&self.gpio).set_pin(self.pin, false);
    }
}

impl Timed for PowerButton {
    fn expire(&mut self, _now: Nanos) {
        lock(&self.gpio).set_pin(self.pin, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeAlarm, FakeClock, FakeLine, run_until};
    use crate::wiring::MmioDevice;

    #[test]
    fn press_is_a_pulse_that_a_listening_guest_sees() {
        let (clock, alarm, line) = (FakeClock::new(), FakeAlarm::new(), FakeLine::new());
        let gpio = Arc::new(Mutex::new(Pl061::new(line.clone())));
        let mut button = PowerButton::new(gpio.clone(), 3, clock.clone(), alarm.clone());
        assert!(!button.press());
        assert_eq!(alarm.at(), None);
        // Both edges.
        lock(&gpio).write(0x408, &[8]);
        lock(&gpio).write(0x410, &[8]);
        assert!(button.press());
        assert!(line.is_high());
        lock(&gpio).write(0x41c, &[8]);
        run_until(&clock, &alarm, &mut button, HELD - 1);
        assert!(!line.is_high());
        run_until(&clock, &alarm, &mut button, HELD);
        assert!(line.is_high(), "released");
        button.reset();
        assert_eq!(alarm.at(), None);
    }
}
