//! Instructions that need another before them: indirect branches, POPF, loads of segment registers.

use crate::generate::{Generator, Item};
use crate::rng::Rng;
use iced_x86::{Decoder, DecoderOptions};

/// Bytes being put together; operand sizes in bytes.
struct Bytes {
    bits: u32,
    bytes: Vec<u8>,
    /// Where the branch's target goes, and its size.
    target: Option<(usize, usize)>,
    /// Where the instruction begins that all of it is about.
    main: usize,
}

impl Bytes {
    fn size(&mut self, size: usize) {
        let prefix = if self.bits == 64 { size == 2 } else { (size == 4) != (self.bits == 32) };
        if prefix {
            self.bytes.push(0x66);
        }
    }
    fn immediate(&mut self, size: usize, value: u32) {
        self.bytes.extend(&value.to_le_bytes()[..size.min(4)]);
    }
    fn target(&mut self, size: usize) {
        self.target = Some((self.bytes.len(), size.min(4)));
        self.immediate(size, 0);
    }
    fn push(&mut self, size: usize, value: u32) {
        self.size(size);
        self.bytes.push(0x68);
        self.immediate(size, value);
    }
    fn main(&mut self, size: usize, bytes: &[u8]) {
        self.main = self.bytes.len();
        self.size(size);
        self.bytes.extend(bytes);
    }
}

impl Generator {
    /// One of these. They change RAX, flags, RSP and what is on the stack; with segments of their own also those.
    pub fn special(&self, rng: &mut Rng) -> Option<Item> {
        let segments = !self.pool.is_empty();
        let size = match self.bits {
            64 => 8,
            32 if !segments => 4,
            _ => rng.pick(&[2, 4]),
        };
        let mut b = Bytes { bits: self.bits, bytes: Vec::new(), target: None, main: 0 };
        let code = if segments { self.pool[rng.below(2) as usize].selector() } else { 0 };
        match rng.below(if segments { 11 } else { 4 }) {
            // MOV, then JMP or CALL by register.
            0 => {
                // The upper half of RIP's register isn't cut in 64-bit code.
                b.size(if size == 8 { 4 } else { size });
                b.bytes.push(0xb8);
                b.target(size);
                let call = rng.percent(50);
                b.main(size, &[0xff, if call { 0xd0 } else { 0xe0 }]);
            }
            // PUSH, then RET.
            1 => {
                b.size(size);
                b.bytes.push(0x68);
                b.target(size);
                if rng.percent(50) {
                    b.main(size, &[0xc3]);
                } else {
                    b.main(size, &[0xc2, 8, 0]);
                }
            }
            // PUSH, then POPF: anything but TF; seldom AC.
            2 | 3 => {
                let ac = if rng.percent(20) { 0 } else { 1 << 18 };
                b.push(size, rng.next() as u32 & !0x100 & !ac);
                b.main(size, &[0x9d]);
            }
            4 => {
                b.main(size, &[if rng.percent(50) { 0xea } else { 0x9a }]);
                b.target(size);
                b.immediate(2, code as u32);
            }
            // PUSH of both halves, then far RET.
            5 => {
                b.push(size, code as u32);
                b.size(size);
                b.bytes.push(0x68);
                b.target(size);
                if rng.percent(50) {
                    b.main(size, &[0xcb]);
                } else {
                    b.main(size, &[0xca, 6, 0]);
                }
            }
            6 => {
                let (reg, s) = (rng.below(4) as u8, rng.below(6) as u8);
                b.main(size, &[0x8c, 0xc0 | s << 3 | [0, 2, 3, 5][reg as usize]]);
            }
            7 => {
                let one = rng.pick(&[0x06, 0x0e, 0x16, 0x1e, 0xa0, 0xa8]);
                let bytes = [0x0f, one];
                b.main(size, if one >= 0xa0 { &bytes } else { &bytes[1..] });
            }
            // MOV or POP to ES, SS, DS, GS.
            n => {
                let selector = self.selector(rng);
                if n == 8 {
                    b.push(size, selector as u32 | (rng.next() as u32) << 16);
                    let bytes: &[u8] = rng.pick(&[&[0x07][..], &[0x17], &[0x1f], &[0x0f, 0xa9]]);
                    b.main(size, bytes);
                } else {
                    b.size(2);
                    b.bytes.push(0xb8);
                    b.immediate(2, selector as u32);
                    let s = rng.pick(&[0, 2, 3, 5]);
                    b.main(size, &[0x8e, 0xc0 | s << 3]);
                }
            }
        }
        let mut decoder = Decoder::with_ip(self.bits, &b.bytes[b.main..], 0, DecoderOptions::NONE);
        let skip = b.target.map(|_| rng.below(2) as usize);
        Some(Item { instruction: decoder.decode(), bytes: Some(b.bytes), skip, target: b.target })
    }

    /// A selector to load: of the pool, null, or one that faults.
    fn selector(&self, rng: &mut Rng) -> u16 {
        let any = self.pool[rng.below(self.pool.len() as u64) as usize].selector();
        match rng.below(16) {
            0 => rng.below(4) as u16,
            1 => rng.pick(&[0x10, 0x18, 0x1b, 0xffff]),
            2 => any & !3 | rng.below(4) as u16,
            _ => any,
        }
    }
}
