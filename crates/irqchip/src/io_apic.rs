//! The I/O APIC: 82093AA with 24 pins, at version 20h (with an EOI register).
//!
//! Interrupts leave as the writes a message-signalled interrupt would make (address, data), through the closure that
//! each call is given. Send them on after letting go of any lock the local APICs' end-of-interrupt path needs.

use crate::message::{DeliveryMode, DestinationMode, EVERYONE, Message};

/// Interrupt input pins.
pub const PINS: usize = 24;

/// Version register: highest redirection entry, and a version with an EOI register.
const VERSION: u32 = (PINS as u32 - 1) << 16 | 0x20;

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const DELIVERY_STATUS: u64 = 1 << 12;
const LOGICAL: u64 = 1 << 11;
/// What a guest can write of an entry: destination (63:56, and 55:49 as its extension), mask, trigger, polarity, mode,
/// vector.
const WRITABLE: u64 = 0xfffe_0000_0001_ffff & !(REMOTE_IRR | DELIVERY_STATUS);

/// The I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoApic {
    id: u8,
    select: u8,
    /// Redirection table, bits as in the 82093AA datasheet 3.2.4.
    redirection: [u64; PINS],
    /// One bit a pin: asserted.
    lines: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new(0)
    }
}

impl IoApic {
    /// After power-on: every pin masked. `id` is the value of the ID register, bits 27:24.
    pub const fn new(id: u8) -> Self {
        Self { id: id & 0xf, select: 0, redirection: [MASKED; PINS], lines: 0 }
    }

    /// Back to power-on; the pins keep their levels.
    pub fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::new(self.id) };
    }

    /// Reads the 32-bit register at `offset` in its window: 00h IOREGSEL, 10h IOWIN. Others read as 0.
    pub fn read(&self, offset: u32) -> u32 {
        match offset & 0xff {
            0x00 => u32::from(self.select),
            0x10 => self.read_register(self.select),
            _ => 0,
        }
    }

    /// Writes the 32-bit register at `offset` in its window: 00h IOREGSEL, 10h IOWIN, 40h EOI.
    pub fn write(&mut self, offset: u32, value: u32, send: &mut dyn FnMut(u64, u32)) {
        match offset & 0xff {
            0x00 => self.select = value as u8,
            0x10 => self.write_register(self.select, value, send),
            0x40 => self.end_of_interrupt(value as u8, send),
            _ => {}
        }
    }

    fn read_register(&self, register: u8) -> u32 {
        match register {
            // Identification, and arbitration, which is loaded from it.
            0 | 2 => u32::from(self.id) << 24,
            1 => VERSION,
            _ => match self.entry_half(register) {
                Some((pin, shift)) => (self.redirection[pin] >> shift) as u32,
                None => 0,
            },
        }
    }

    fn write_register(&mut self, register: u8, value: u32, send: &mut dyn FnMut(u64, u32)) {
        if register == 0 {
            self.id = (value >> 24) as u8 & 0xf;
        }
        let Some((pin, shift)) = self.entry_half(register) else { return };
        let old = self.redirection[pin];
        let written = old & !(0xffff_ffff << shift) | u64::from(value) << shift;
        let mut entry = written & WRITABLE | old & REMOTE_IRR;
        if entry & LEVEL == 0 {
            // Software without an EOI register clears a stuck remote IRR this way.
            entry &= !REMOTE_IRR;
        }
        self.redirection[pin] = entry;
        self.sample_level(pin, send);
    }

    /// The pin and bit offset that a redirection register's number stands for.
    fn entry_half(&self, register: u8) -> Option<(usize, u32)> {
        let index = usize::from(register.checked_sub(0x10)?);
        (index < 2 * PINS).then_some((index / 2, (index as u32 & 1) * 32))
    }

    /// Asserts or de-asserts a pin. The polarity bit is not looked at: `asserted` is what the source means. A pin beyond
    /// the last is ignored.
    pub fn set_line(&mut self, pin: usize, asserted: bool, send: &mut dyn FnMut(u64, u32)) {
        if pin >= PINS {
            return;
        }
        let bit = 1 << pin;
        let rose = asserted && self.lines & bit == 0;
        self.lines = self.lines & !bit | if asserted { bit } else { 0 };
        let entry = self.redirection[pin];
        if entry & LEVEL != 0 {
            self.sample_level(pin, send);
        } else if rose && entry & MASKED == 0 {
            self.deliver(pin, send);
        }
    }

    /// A level-triggered pin interrupts while asserted, unmasked and not already in service.
    fn sample_level(&mut self, pin: usize, send: &mut dyn FnMut(u64, u32)) {
        let entry = self.redirection[pin];
        if self.lines & 1 << pin != 0 && entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL {
            self.redirection[pin] |= REMOTE_IRR;
            self.deliver(pin, send);
        }
    }

    fn deliver(&self, pin: usize, send: &mut dyn FnMut(u64, u32)) {
        let entry = self.redirection[pin];
        // The reserved mode interrupts nobody.
        let Some(delivery) = DeliveryMode::from_bits((entry >> 8) as u32) else { return };
        let destination = (entry >> 56 | (entry >> 49 & 0x7f) << 8) as u32;
        let (address, data) = Message {
            destination: if destination == 0xff { EVERYONE } else { destination },
            destination_mode: if entry & LOGICAL != 0 {
                DestinationMode::Logical
            } else {
                DestinationMode::Physical
            },
            delivery,
            vector: entry as u8,
            level_triggered: entry & LEVEL != 0,
            assert: true,
        }
        .to_msi();
        send(address, data);
    }

    /// A local APIC has ended service of `vector`: pins in service with it are free again, and interrupt again if still
    /// asserted.
    pub fn end_of_interrupt(&mut self, vector: u8, send: &mut dyn FnMut(u64, u32)) {
        for pin in 0..PINS {
            let entry = self.redirection[pin];
            if entry & REMOTE_IRR != 0 && entry as u8 == vector {
                self.redirection[pin] &= !REMOTE_IRR;
                self.sample_level(pin, send);
            }
        }
    }

    /// The redirection entry of `pin`, for saving and for a person.
    pub fn redirection(&self, pin: usize) -> Option<u64> {
        self.redirection.get(pin).copied()
    }
}
