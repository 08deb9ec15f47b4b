//! A PS/2 keyboard: answers commands, and sends scan codes of set 2.

use std::collections::VecDeque;

/// Bytes of scan codes that wait, as in a keyboard of the time; what comes on top is lost.
const KEY_BUFFER: usize = 16;
/// Bytes of answers that wait. A host that sends commands and never reads has them dropped.
const ANSWER_BUFFER: usize = 16;

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
const ECHO: u8 = 0xee;
/// Two-byte id of an MF2 keyboard.
const ID: [u8; 2] = [0xab, 0x83];

/// The keyboard.
#[derive(Debug)]
pub struct Ps2Keyboard {
    /// Answers go out before keys.
    answers: VecDeque<u8>,
    keys: VecDeque<u8>,
    /// The command whose argument is awaited.
    command: Option<u8>,
    scanning: bool,
    set: u8,
    leds: u8,
    last_sent: u8,
}

impl Default for Ps2Keyboard {
    fn default() -> Self {
        Self {
            answers: VecDeque::with_capacity(ANSWER_BUFFER),
            keys: VecDeque::with_capacity(KEY_BUFFER),
            command: None,
            scanning: true,
            set: 2,
            leds: 0,
            last_sent: 0,
        }
    }
}

impl Ps2Keyboard {
    /// After power-on, its self test read by somebody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keys pressed and released, as scan codes of set 2: taken as a whole or, where the buffer has no room, not at all.
    /// Ignored while scanning is off.
    pub fn press(&mut self, scan_codes: &[u8]) -> bool {
        let fits = self.scanning && self.keys.len() + scan_codes.len() <= KEY_BUFFER;
        if fits {
            self.keys.extend(scan_codes);
        }
        fits
    }

    /// LEDs: bit 0 scroll lock, bit 1 num lock, bit 2 caps lock.
    pub fn leds(&self) -> u8 {
        self.leds
    }

    /// The next byte on the wire.
    pub fn send(&mut self) -> Option<u8> {
        let byte = self.answers.pop_front().or_else(|| self.keys.pop_front())?;
        self.last_sent = byte;
        Some(byte)
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len() + bytes.len() <= ANSWER_BUFFER {
            self.answers.extend(bytes);
        }
    }

    fn defaults(&mut self) {
        self.keys.clear();
        self.set = 2;
    }

    /// A byte from the host.
    pub fn receive(&mut self, byte: u8) {
        match self.command.take() {
            // A byte above the arguments' range is a new command.
            Some(command) if byte < 0xed => self.argument(command, byte),
            _ => self.start_command(byte),
        }
    }

    fn start_command(&mut self, command: u8) {
        match command {
            // LEDs, scan code set, typematic rate, keys' modes of set 3: an argument follows.
            0xed | 0xf0 | 0xf3 | 0xfb..=0xfd => {
                self.command = Some(command);
                self.answer(&[ACKNOWLEDGE]);
            }
            0xee => self.answer(&[ECHO]),
            0xf2 => self.answer(&[ACKNOWLEDGE, ID[0], ID[1]]),
            0xf4 => {
                self.keys.clear();
                self.scanning = true;
                self.answer(&[ACKNOWLEDGE]);
            }
            0xf5 => {
                self.defaults();
                self.scanning = false;
                self.answer(&[ACKNOWLEDGE]);
            }
            0xf6 => {
                self.defaults();
                self.answer(&[ACKNOWLEDGE]);
            }
            0xf7..=0xfa => self.answer(&[ACKNOWLEDGE]),
            0xfe => self.answer(&[self.last_sent]),
            0xff => {
                self.defaults();
                self.answers.clear();
                self.scanning = true;
                self.leds = 0;
                self.answer(&[ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    fn argument(&mut self, command: u8, byte: u8) {
        match (command, byte) {
            (0xed, leds) => {
                self.leds = leds & 7;
                self.answer(&[ACKNOWLEDGE]);
            }
            (0xf0, 0) => self.answer(&[ACKNOWLEDGE, self.set]),
            (0xf0, 1..=3) => {
                self.set = byte;
                self.answer(&[ACKNOWLEDGE]);
            }
            (0xf0, _) => self.answer(&[RESEND]),
            _ => self.answer(&[ACKNOWLEDGE]),
        }
    }
}
