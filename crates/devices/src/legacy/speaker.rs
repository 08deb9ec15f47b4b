//! System control port B (61h): the gate of the timer's channel 2 and the speaker.

use super::Pit8254;
use crate::wiring::{Clock, PortDevice};
use std::sync::{Arc, Mutex, PoisonError};

pub const PORT: u16 = 0x61;

/// Gate of channel 2.
const GATE: u8 = 1 << 0;
/// Speaker data enable: there is no speaker; the bit reads back.
const SPEAKER: u8 = 1 << 1;
/// NMI sources disabled; there are none; the bits read back.
const NMI_DISABLE: u8 = 0b1100;
/// Toggles with each memory refresh.
const REFRESH: u8 = 1 << 4;
/// Output of channel 2.
const OUT2: u8 = 1 << 5;
/// A refresh every 15.085 µs, as channel 1 makes it in a PC.
const REFRESH_NANOS: u64 = 15_085;

/// The port. It looks into the timer, which it locks.
pub struct Speaker {
    pit: Arc<Mutex<Pit8254>>,
    clock: Arc<dyn Clock>,
    value: u8,
}

impl Speaker {
    pub fn new(pit: Arc<Mutex<Pit8254>>, clock: Arc<dyn Clock>) -> Self {
        Self { pit, clock, value: 0 }
    }

    /// The timer is reset by itself.
    pub fn reset(&mut self) {
        self.value = 0;
    }
}

impl PortDevice for Speaker {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(byte) = data.first_mut() else { return };
        let refresh = if !(self.clock.now() / REFRESH_NANOS).is_multiple_of(2) { REFRESH } else { 0 };
        let out = self.pit.lock().unwrap_or_else(PoisonError::into_inner).output(2);
        *byte = self.value | refresh | if out { OUT2 } else { 0 };
    }

    fn write(&mut self, _offset: u16, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        self.value = value & (GATE | SPEAKER | NMI_DISABLE);
        self.pit.lock().unwrap_or_else(PoisonError::into_inner).set_gate2(value & GATE != 0);
    }
}
