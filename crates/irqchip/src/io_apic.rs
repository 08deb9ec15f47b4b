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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// An I/O APIC, and what it sent.
    struct Bench {
        chip: IoApic,
        sent: Vec<Message>,
    }

    impl Bench {
        fn new() -> Self {
            Self { chip: IoApic::new(2), sent: Vec::new() }
        }

        fn write(&mut self, register: u8, value: u32) {
            let mut send = |address, data| self.sent.push(Message::from_msi(address, data).unwrap());
            self.chip.write(0, u32::from(register), &mut send);
            self.chip.write(0x10, value, &mut send);
        }

        fn read(&mut self, register: u8) -> u32 {
            self.chip.write(0, u32::from(register), &mut |_, _| panic!("sent"));
            self.chip.read(0x10)
        }

        fn entry(&mut self, pin: u8, low: u32, high: u32) {
            self.write(0x11 + 2 * pin, high);
            self.write(0x10 + 2 * pin, low);
        }

        fn line(&mut self, pin: usize, asserted: bool) {
            self.chip.set_line(pin, asserted, &mut |address, data| {
                self.sent.push(Message::from_msi(address, data).unwrap());
            });
        }

        fn eoi(&mut self, vector: u8) {
            self.chip.end_of_interrupt(vector, &mut |address, data| {
                self.sent.push(Message::from_msi(address, data).unwrap());
            });
        }

        /// Vectors sent since the last call.
        fn vectors(&mut self) -> Vec<u8> {
            self.sent.drain(..).map(|message| message.vector).collect()
        }
    }

    #[test]
    fn registers_after_power_on_are_the_datasheets() {
        let mut bench = Bench::new();
        assert_eq!(bench.read(0), 0x0200_0000);
        assert_eq!(bench.read(1), 0x0017_0020);
        assert_eq!(bench.read(2), 0x0200_0000);
        for register in 0x10..0x40 {
            assert_eq!(bench.read(register), if register & 1 == 0 { 0x1_0000 } else { 0 });
        }
        assert_eq!((bench.read(0x40), bench.read(0xff), bench.read(3)), (0, 0, 0));
    }

    #[test]
    fn redirection_entry_keeps_only_writable_bits() {
        let mut bench = Bench::new();
        bench.entry(5, u32::MAX, u32::MAX);
        assert_eq!((bench.read(0x1a), bench.read(0x1b)), (0x1_afff, 0xfffe_0000));
    }

    #[test]
    fn edge_pin_sends_once_a_rise() {
        let mut bench = Bench::new();
        bench.entry(4, 0x31, 0x0300_0000);
        for asserted in [true, true, false, true] {
            bench.line(4, asserted);
        }
        let expected = Message {
            destination: 3,
            destination_mode: DestinationMode::Physical,
            delivery: DeliveryMode::Fixed,
            vector: 0x31,
            level_triggered: false,
            assert: true,
        };
        assert_eq!(bench.sent, [expected, expected]);
    }

    #[test]
    fn edge_on_a_masked_pin_is_lost() {
        let mut bench = Bench::new();
        bench.entry(4, 0x1_0031, 0);
        bench.line(4, true);
        bench.entry(4, 0x0031, 0);
        assert_eq!(bench.vectors(), []);
    }

    #[test]
    fn level_pin_sends_again_after_eoi_while_asserted() {
        let mut bench = Bench::new();
        bench.entry(10, 0x8045, 0);
        bench.line(10, true);
        assert_eq!(bench.vectors(), [0x45]);
        assert_eq!(bench.read(0x24), 0xc045, "remote IRR");
        bench.line(10, false);
        bench.line(10, true);
        assert_eq!(bench.vectors(), [], "still in service");
        bench.eoi(0x44);
        assert_eq!(bench.vectors(), []);
        bench.eoi(0x45);
        assert_eq!(bench.vectors(), [0x45]);
        bench.line(10, false);
        bench.eoi(0x45);
        assert_eq!((bench.vectors(), bench.read(0x24)), (Vec::new(), 0x8045));
    }

    #[test]
    fn level_pin_unmasked_while_asserted_sends() {
        let mut bench = Bench::new();
        bench.line(10, true);
        bench.entry(10, 0x1_8045, 0);
        assert_eq!(bench.vectors(), []);
        bench.entry(10, 0x0_8045, 0);
        assert_eq!(bench.vectors(), [0x45]);
    }

    #[test]
    fn level_pin_masked_in_service_is_freed_by_eoi_without_sending() {
        let mut bench = Bench::new();
        bench.entry(10, 0x8045, 0);
        bench.line(10, true);
        bench.entry(10, 0x1_8045, 0);
        bench.vectors();
        bench.eoi(0x45);
        assert_eq!((bench.vectors(), bench.read(0x24)), (Vec::new(), 0x1_8045));
        bench.entry(10, 0x8045, 0);
        assert_eq!(bench.vectors(), [0x45]);
    }

    #[test]
    fn eoi_register_frees_the_vector() {
        let mut bench = Bench::new();
        bench.entry(10, 0x8045, 0);
        bench.line(10, true);
        bench.vectors();
        bench.chip.write(0x40, 0x45, &mut |_, _| {});
        assert_eq!(bench.read(0x24), 0xc045, "sent again at once, the line is asserted");
    }

    #[test]
    fn trigger_mode_written_to_edge_clears_remote_irr() {
        let mut bench = Bench::new();
        bench.entry(10, 0x8045, 0);
        bench.line(10, true);
        bench.line(10, false);
        bench.entry(10, 0x1_0045, 0);
        bench.entry(10, 0x1_8045, 0);
        assert_eq!(bench.read(0x24), 0x1_8045);
    }

    #[test]
    fn eoi_of_a_shared_vector_frees_every_pin_with_it() {
        let mut bench = Bench::new();
        for pin in [10, 11] {
            bench.entry(pin, 0x8045, 0);
            bench.line(usize::from(pin), true);
        }
        assert_eq!(bench.vectors(), [0x45, 0x45]);
        bench.line(10, false);
        bench.eoi(0x45);
        assert_eq!(bench.vectors(), [0x45]);
    }

    #[test]
    fn destination_fields_reach_the_message() {
        let table = [
            (0x0931, 0x0f00_0000, 0x0f, DestinationMode::Logical, DeliveryMode::LowestPriority),
            (0x0031, 0xff00_0000, EVERYONE, DestinationMode::Physical, DeliveryMode::Fixed),
            (0x0031, 0x0102_0000, 0x101, DestinationMode::Physical, DeliveryMode::Fixed),
            (0x0400, 0x0000_0000, 0, DestinationMode::Physical, DeliveryMode::Nmi),
            (0x0700, 0x0000_0000, 0, DestinationMode::Physical, DeliveryMode::ExtInt),
        ];
        for (low, high, destination, destination_mode, delivery) in table {
            let mut bench = Bench::new();
            bench.entry(0, low, high);
            bench.line(0, true);
            let sent = bench.sent[0];
            assert_eq!(
                (sent.destination, sent.destination_mode, sent.delivery),
                (destination, destination_mode, delivery)
            );
        }
    }

    proptest! {
        /// A guest writes anything, lines do anything: bounded messages, no panic.
        #[test]
        fn any_accesses_send_at_most_one_message_a_pin(
            steps in prop::collection::vec((0u8..4, any::<u8>(), any::<u32>()), 0..200),
        ) {
            let mut chip = IoApic::new(0);
            for (step, small, value) in steps {
                let mut sent = 0;
                let mut send = |_, _| sent += 1;
                match step {
                    0 => chip.set_line(usize::from(small), value & 1 != 0, &mut send),
                    1 => chip.end_of_interrupt(small, &mut send),
                    2 => {
                        chip.write(0, u32::from(small), &mut send);
                        chip.write(0x10, value, &mut send);
                    }
                    _ => chip.write(value, value, &mut send),
                }
                prop_assert!(sent <= PINS);
                for pin in 0..PINS {
                    let entry = chip.redirection(pin).unwrap();
                    prop_assert!(entry & REMOTE_IRR == 0 || entry & LEVEL != 0);
                }
            }
        }
    }
}
