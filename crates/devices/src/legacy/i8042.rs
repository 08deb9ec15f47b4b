//! The keyboard controller: an 8042 with one port, a keyboard on it, and the reset line of the machine.
//!
//! [`I8042`] itself is the data port, 60h; [`CommandPort`] is 64h, since the ports between belong to others. There is no
//! auxiliary (mouse) port: its commands answer as a port with nothing behind it does, quickly, so that kernels don't wait.

use super::ps2_keyboard::Ps2Keyboard;
use super::{each_byte, fill_bytes};
use crate::wiring::{BoardControl, BoardEvent, IrqLine, PortDevice};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub const DATA_PORT: u16 = 0x60;
pub const COMMAND_PORT: u16 = 0x64;
pub const KEYBOARD_IRQ: u8 = 1;

/// Answers of the controller that wait; a guest that never reads has more of them dropped.
const ANSWER_BUFFER: usize = 16;

/// Status register.
mod status {
    pub const OUTPUT_FULL: u8 = 1 << 0;
    pub const SYSTEM: u8 = 1 << 2;
    pub const COMMAND: u8 = 1 << 3;
    pub const NOT_LOCKED: u8 = 1 << 4;
    pub const AUXILIARY: u8 = 1 << 5;
}

/// Command byte.
mod control {
    pub const KEYBOARD_INTERRUPT: u8 = 1 << 0;
    pub const SYSTEM: u8 = 1 << 2;
    pub const KEYBOARD_DISABLED: u8 = 1 << 4;
    pub const AUXILIARY_DISABLED: u8 = 1 << 5;
    pub const TRANSLATE: u8 = 1 << 6;
}

/// Output port.
mod output_port {
    /// Low resets the processor.
    pub const NOT_RESET: u8 = 1 << 0;
    pub const A20: u8 = 1 << 1;
}

/// What a byte in the output buffer is.
#[derive(Clone, Copy)]
struct Output {
    byte: u8,
    auxiliary: bool,
}

/// The chip.
pub struct I8042 {
    keyboard: Ps2Keyboard,
    irq: Arc<dyn IrqLine>,
    board: Arc<dyn BoardControl>,
    buffer: Option<Output>,
    last_data: u8,
    answers: VecDeque<Output>,
    /// The command byte and the rest of the controller's memory.
    memory: [u8; 32],
    output_port: u8,
    /// The command whose argument is awaited at the data port.
    command: Option<u8>,
    last_was_command: bool,
    /// F0h came from the keyboard: the next code is a release.
    release: bool,
}

impl I8042 {
    /// As firmware leaves it: self test passed, keyboard enabled, interrupting and translated to set 1.
    pub fn new(irq: Arc<dyn IrqLine>, board: Arc<dyn BoardControl>) -> Self {
        let mut memory = [0; 32];
        memory[0] = INITIAL_CONTROL;
        Self {
            keyboard: Ps2Keyboard::new(),
            irq,
            board,
            buffer: None,
            last_data: 0,
            answers: VecDeque::with_capacity(ANSWER_BUFFER),
            memory,
            output_port: output_port::NOT_RESET | output_port::A20,
            command: None,
            last_was_command: false,
            release: false,
        }
    }

    /// The board's reset.
    pub fn reset(&mut self) {
        *self = Self::new(self.irq.clone(), self.board.clone());
        self.update();
    }

    /// Keys pressed and released, as scan codes of set 2 (the release of a key is F0h and its code). Whether they were
    /// taken: not while the guest has turned scanning off or doesn't read.
    pub fn key(&mut self, scan_codes: &[u8]) -> bool {
        let taken = self.keyboard.press(scan_codes);
        self.update();
        taken
    }

    /// The keyboard's LEDs: bit 0 scroll lock, bit 1 num lock, bit 2 caps lock.
    pub fn leds(&self) -> u8 {
        self.keyboard.leds()
    }

    fn control(&self) -> u8 {
        self.memory[0]
    }

    fn answer(&mut self, byte: u8, auxiliary: bool) {
        if self.answers.len() < ANSWER_BUFFER {
            self.answers.push_back(Output { byte, auxiliary });
        }
    }

    /// Fills the output buffer if it is empty and drives the interrupt line.
    fn update(&mut self) {
        if self.buffer.is_none() {
            self.buffer = self.answers.pop_front().or_else(|| self.next_from_keyboard());
        }
        let full = self.buffer.is_some_and(|output| !output.auxiliary);
        self.irq.set(full && self.control() & control::KEYBOARD_INTERRUPT != 0);
    }

    fn next_from_keyboard(&mut self) -> Option<Output> {
        if self.control() & control::KEYBOARD_DISABLED != 0 {
            return None;
        }
        let mut byte = self.keyboard.send()?;
        if self.control() & control::TRANSLATE != 0 {
            if byte == RELEASE {
                self.release = true;
                byte = self.keyboard.send()?;
            }
            byte = translate(byte) | if std::mem::take(&mut self.release) { 0x80 } else { 0 };
        }
        Some(Output { byte, auxiliary: false })
    }

    fn read_data(&mut self) -> u8 {
        if let Some(output) = self.buffer.take() {
            self.last_data = output.byte;
            // The line falls between two bytes, so that each makes an edge.
            self.irq.set(false);
        }
        self.update();
        self.last_data
    }

    fn status(&self) -> u8 {
        let mut value = status::NOT_LOCKED;
        if let Some(output) = self.buffer {
            value |= status::OUTPUT_FULL | if output.auxiliary { status::AUXILIARY } else { 0 };
        }
        if self.control() & control::SYSTEM != 0 {
            value |= status::SYSTEM;
        }
        if self.last_was_command {
            value |= status::COMMAND;
        }
        value
    }

    fn write_data(&mut self, byte: u8) {
        self.last_was_command = false;
        match self.command.take() {
            Some(command @ 0x60..=0x7f) => {
                self.memory[usize::from(command & 0x1f)] = byte;
                // With no auxiliary port its disable bit can't be cleared; so drivers tell.
                self.memory[0] |= control::AUXILIARY_DISABLED;
            }
            Some(0xd1) => self.write_output_port(byte),
            Some(0xd2) => self.answer(byte, false),
            // The loopback of a port that isn't there doesn't give back what was sent.
            Some(0xd3) => self.answer(!byte, true),
            // To the mouse: nobody acknowledges, which a controller reports as a request to resend.
            Some(0xd4) => self.answer(0xfe, true),
            // A byte for the keyboard enables it.
            _ => {
                self.memory[0] &= !control::KEYBOARD_DISABLED;
                self.keyboard.receive(byte);
            }
        }
        self.update();
    }

    fn write_output_port(&mut self, value: u8) {
        self.output_port = value;
        if value & output_port::NOT_RESET == 0 {
            self.board.request(BoardEvent::Reset);
        }
    }

    fn write_command(&mut self, command: u8) {
        self.last_was_command = true;
        self.command = None;
        match command {
            0x20..=0x3f => self.answer(self.memory[usize::from(command & 0x1f)], false),
            0x60..=0x7f | 0xd1..=0xd4 => self.command = Some(command),
            // Test of the auxiliary port: its clock is stuck low.
            0xa9 => self.answer(0x01, false),
            0xaa => {
                self.memory[0] |= control::SYSTEM;
                self.answer(0x55, false);
            }
            0xab => self.answer(0x00, false),
            0xad => self.memory[0] |= control::KEYBOARD_DISABLED,
            0xae => self.memory[0] &= !control::KEYBOARD_DISABLED,
            // Input port: not locked.
            0xc0 => self.answer(0x80, false),
            0xd0 => {
                let full = if self.buffer.is_some() { 1 << 4 } else { 0 };
                self.answer(self.output_port & !(1 << 4) | full, false);
            }
            0xdd => self.output_port &= !output_port::A20,
            0xdf => self.output_port |= output_port::A20,
            // Pulses the output port's bits that are 0.
            0xf0..=0xff if command & output_port::NOT_RESET == 0 => self.board.request(BoardEvent::Reset),
            _ => {}
        }
        self.update();
    }
}

/// The data port.
impl PortDevice for I8042 {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        fill_bytes(offset, data, |offset| if offset == 0 { self.read_data() } else { 0xff });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        for (_, byte) in each_byte(offset, data).filter(|(offset, _)| *offset == 0) {
            self.write_data(byte);
        }
    }
}

/// The controller's other port: status when read, commands when written. It locks the controller.
pub struct CommandPort {
    controller: Arc<Mutex<I8042>>,
}

impl CommandPort {
    pub fn new(controller: Arc<Mutex<I8042>>) -> Self {
        Self { controller }
    }

    fn controller(&self) -> MutexGuard<'_, I8042> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PortDevice for CommandPort {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        fill_bytes(offset, data, |offset| if offset == 0 { self.controller().status() } else { 0xff });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        for (_, byte) in each_byte(offset, data).filter(|(offset, _)| *offset == 0) {
            self.controller().write_command(byte);
        }
    }
}

const INITIAL_CONTROL: u8 =
    control::KEYBOARD_INTERRUPT | control::SYSTEM | control::AUXILIARY_DISABLED | control::TRANSLATE;

/// Set 2's prefix of a release.
const RELEASE: u8 = 0xf0;

/// A code of set 2 as one of set 1. Answers of the keyboard above the table pass unchanged.
fn translate(byte: u8) -> u8 {
    TO_SET_1.get(usize::from(byte)).copied().unwrap_or(byte)
}

/// Set 2 to set 1, codes 00h to 84h.
#[rustfmt::skip]
const TO_SET_1: [u8; 0x85] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
    0x80, 0x81, 0x82, 0x41, 0x54,
];

#[cfg(test)]
#[path = "i8042_tests.rs"]
mod tests;
