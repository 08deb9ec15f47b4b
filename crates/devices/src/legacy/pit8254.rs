//! The 8254 interval timer (8254 datasheet): three counters at 1.193182 MHz, ports 40h to 43h.
//!
//! Counter 0's output is IRQ 0, counter 2's gate and output are in port 61h ([`super::Speaker`]).

use super::pit_channel::Channel;
use super::{each_byte, fill_bytes};
use crate::wiring::{Alarm, Clock, IrqLine, Nanos, PortDevice, Timed};
use std::sync::Arc;

pub const FIRST_PORT: u16 = 0x40;
pub const PORTS: u16 = 4;
pub const IRQ: u8 = 0;

/// Input clock of each counter.
pub const HZ: u64 = 1_193_182;

/// Interrupts come no closer together than this, whatever a guest programs: the edges between are left out. 50 µs.
const SHORTEST_PERIOD: u64 = HZ / 20_000;

/// The chip.
pub struct Pit8254 {
    clock: Arc<dyn Clock>,
    alarm: Arc<dyn Alarm>,
    irq: Arc<dyn IrqLine>,
    channels: [Channel; 3],
    /// The rise of OUT 0 that the alarm is set for.
    next_rise: Option<u64>,
}

impl Pit8254 {
    /// No counter counts. `alarm` calls [`Timed::expire`].
    pub fn new(clock: Arc<dyn Clock>, alarm: Arc<dyn Alarm>, irq: Arc<dyn IrqLine>) -> Self {
        // Gates 0 and 1 are tied high.
        let channels = [Channel::new(true), Channel::new(true), Channel::new(false)];
        Self { clock, alarm, irq, channels, next_rise: None }
    }

    /// The board's reset.
    pub fn reset(&mut self) {
        *self = Self::new(self.clock.clone(), self.alarm.clone(), self.irq.clone());
        self.alarm.set(None);
        self.irq.set(false);
    }

    /// Level of a counter's output, 0 to 2.
    pub fn output(&mut self, channel: usize) -> bool {
        let now = self.now();
        self.channels.get_mut(channel).is_some_and(|channel| {
            channel.catch_up(now);
            channel.output(now)
        })
    }

    /// Sets counter 2's gate.
    pub fn set_gate2(&mut self, gate: bool) {
        let now = self.now();
        self.channels[2].set_gate(gate, now);
    }

    /// Counter 2's gate.
    pub fn gate2(&self) -> bool {
        self.channels[2].gate()
    }

    /// Input clocks by the board's clock.
    fn now(&self) -> u64 {
        (u128::from(self.clock.now()) * u128::from(HZ) / 1_000_000_000) as u64
    }

    /// The board's time of an input clock, rounded up.
    fn nanos(clocks: u64) -> Nanos {
        u64::try_from((u128::from(clocks) * 1_000_000_000).div_ceil(u128::from(HZ))).unwrap_or(u64::MAX)
    }

    /// Sets the alarm for counter 0's next rise.
    fn arm(&mut self, now: u64) {
        let channel = &mut self.channels[0];
        channel.catch_up(now);
        // Of rises that come too fast those are left out that would follow within the shortest period.
        let earliest = match channel.rise_period() {
            Some(period) if period < SHORTEST_PERIOD => now + SHORTEST_PERIOD,
            _ => now,
        };
        self.next_rise = channel.next_rise(earliest);
        self.alarm.set(self.next_rise.map(Self::nanos));
    }

    /// A rise of OUT 0 that has come by `now` interrupts, though nobody has looked at the alarm yet.
    fn deliver(&mut self, now: u64) {
        if self.next_rise.is_some_and(|rise| rise <= now) {
            self.next_rise = None;
            self.irq.set(false);
            self.irq.set(true);
        }
    }

    fn write_register(&mut self, offset: u16, byte: u8, now: u64) {
        match offset {
            0..=2 => {
                self.channels[usize::from(offset)].catch_up(now);
                self.channels[usize::from(offset)].write(byte, now);
            }
            3 => self.write_control(byte, now),
            _ => return,
        }
        if offset == 0 || offset == 3 && byte >> 6 == 0 && byte >> 4 & 3 != 0 {
            self.irq.set(self.channels[0].output(now));
            self.arm(now);
        }
    }

    fn write_control(&mut self, word: u8, now: u64) {
        match usize::from(word >> 6) {
            3 => {
                // Read-back: the bits that are 0 latch.
                for index in 0..3 {
                    if word & 2 << index == 0 {
                        continue;
                    }
                    let channel = &mut self.channels[index];
                    channel.catch_up(now);
                    if word & 1 << 5 == 0 {
                        channel.latch_count(now);
                    }
                    if word & 1 << 4 == 0 {
                        channel.latch_status(now);
                    }
                }
            }
            index => {
                let channel = &mut self.channels[index];
                channel.catch_up(now);
                if word >> 4 & 3 == 0 {
                    channel.latch_count(now);
                } else {
                    channel.write_control(word);
                }
            }
        }
    }
}

impl PortDevice for Pit8254 {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        let now = self.now();
        fill_bytes(offset, data, |offset| match self.channels.get_mut(usize::from(offset)) {
            Some(channel) => {
                channel.catch_up(now);
                channel.read(now)
            }
            // The control word can't be read.
            None => 0xff,
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        let now = self.now();
        self.deliver(now);
        for (offset, byte) in each_byte(offset, data) {
            self.write_register(offset, byte, now);
        }
    }
}

impl Timed for Pit8254 {
    fn expire(&mut self, _now: Nanos) {
        let now = self.now();
        self.deliver(now);
        match self.next_rise {
            // Called early.
            Some(rise) => self.alarm.set(Some(Self::nanos(rise))),
            None => self.arm(now),
        }
    }
}

#[cfg(test)]
#[path = "pit8254_tests.rs"]
mod tests;
