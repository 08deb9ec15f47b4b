//! A small assembler for the code around the guest's own instructions: 64-bit moves, sums and jumps.

use iced_x86::Register;

/// Host registers by number, those that have a part of their own in translated code.
pub const RAX: u8 = 0;
pub const RDX: u8 = 2;
pub const RSP: u8 = 4;
pub const RSI: u8 = 6;
pub const RDI: u8 = 7;
pub const R8: u8 = 8;
pub const R9: u8 = 9;
pub const R14: u8 = 14;
pub const R15: u8 = 15;

/// What R15 is above the vCPU's address. The fields used most are within a displacement of 8 bits then; and the low five
/// bits are 12, which is what SHRX makes of a linear address a page number with.
pub const BIAS: i32 = 172;
const _: () =
    assert!(align_of::<crate::cpu::Cpu>().is_multiple_of(32) && BIAS % 32 == address::PAGE_SHIFT as i32);

/// Condition codes as jumps encode them (SDM 1 B.1.4.7).
pub const BELOW: u8 = 2;
pub const ABOVE_OR_EQUAL: u8 = 3;
pub const EQUAL: u8 = 4;
pub const NOT_EQUAL: u8 = 5;
pub const BELOW_OR_EQUAL: u8 = 6;
pub const ABOVE: u8 = 7;
pub const SIGN: u8 = 8;

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    pub base: Option<u8>,
    /// Never the stack pointer.
    pub index: Option<u8>,
    /// Shift of the index, 0 to 3.
    pub scale: u8,
    pub disp: i32,
}

impl Mem {
    /// A field of the vCPU, `offset` bytes into it.
    pub const fn cpu(offset: usize) -> Self {
        Self { base: Some(R15), index: None, scale: 0, disp: offset as i32 - BIAS }
    }
    pub const fn at(base: u8, disp: i32) -> Self {
        Self { base: Some(base), index: None, scale: 0, disp }
    }
    pub const fn sum(base: u8, index: u8, disp: i32) -> Self {
        Self { base: Some(base), index: Some(index), scale: 0, disp }
    }
}

/// A place in the code being assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// Where code is to be put: from one address on and, what is seldom executed, up to another, both multiples of 16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub often: u64,
    pub seldom_end: u64,
}

/// Assembled code, its two parts.
#[derive(Default)]
pub struct Parts {
    pub often: Box<[u8]>,
    pub seldom: Box<[u8]>,
}

/// Code being assembled. Jumps have 32-bit displacements throughout.
#[derive(Default)]
pub struct Asm {
    pub code: Vec<u8>,
    labels: Vec<Option<usize>>,
    /// Where a displacement goes, and to which label.
    uses: Vec<(usize, usize)>,
    /// Where a displacement goes, and to which address.
    far: Vec<(usize, u64)>,
    /// Where the distance to another place in the code goes, from its own end.
    distances: Vec<(usize, usize)>,
    /// Where what is seldom executed begins.
    seldom: Option<usize>,
    /// Only one vCPU ever executes the code, and nobody while it is changed.
    pub alone: bool,
}

/// A point to go back to.
#[derive(Clone, Copy)]
pub struct Mark {
    code: usize,
    uses: usize,
    far: usize,
}

impl Asm {
    /// Offset of the next byte.
    pub fn here(&self) -> usize {
        self.code.len()
    }
    pub fn bytes(&mut self, b: &[u8]) {
        self.code.extend_from_slice(b);
    }
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }
    pub fn bind(&mut self, l: Label) {
        self.labels[l.0] = Some(self.code.len());
    }
    /// A label bound here.
    pub fn bound(&mut self) -> Label {
        let l = self.label();
        self.bind(l);
        l
    }
    /// A point to [`Self::reset`] to.
    pub fn mark(&self) -> Mark {
        Mark { code: self.code.len(), uses: self.uses.len(), far: self.far.len() }
    }
    /// Drops all that was appended since. Labels bound since must not be used.
    pub fn reset(&mut self, to: Mark) {
        self.code.truncate(to.code);
        self.uses.truncate(to.uses);
        self.far.truncate(to.far);
    }
    /// What follows is executed seldom, and put elsewhere: what is executed often takes fewer lines of the processor's cache.
    pub fn seldom_from_here(&mut self) {
        let fill = self.code.len().next_multiple_of(16) - self.code.len();
        // int3
        self.bytes(&[0xcc; 16][..fill]);
        self.seldom = Some(self.code.len());
    }
    /// Where a label was bound.
    pub fn place(&self, l: Label) -> Option<usize> {
        self.labels[l.0]
    }

    /// An instruction with a register (or opcode extension) and a memory operand.
    pub fn rm(&mut self, wide: bool, opcode: &[u8], reg: u8, m: Mem) {
        let (b, x) = (m.base.unwrap_or(0), m.index.unwrap_or(0));
        let rex = 0x40 | (wide as u8) << 3 | reg >> 3 << 2 | x >> 3 << 1 | b >> 3;
        if rex != 0x40 {
            self.code.push(rex);
        }
        self.bytes(opcode);
        let field = (reg & 7) << 3;
        let Some(base) = m.base else {
            let index = m.index.map_or(4, |x| x & 7);
            self.bytes(&[field | 4, m.scale << 6 | index << 3 | 5]);
            self.bytes(&m.disp.to_le_bytes());
            return;
        };
        let short = i8::try_from(m.disp);
        let mode = match short {
            Ok(0) if base & 7 != 5 => 0,
            Ok(_) => 0x40,
            Err(_) => 0x80,
        };
        if m.index.is_some() || base & 7 == 4 {
            let index = m.index.map_or(4, |x| x & 7);
            self.bytes(&[mode | field | 4, m.scale << 6 | index << 3 | base & 7]);
        } else {
            self.code.push(mode | field | base & 7);
        }
        match (mode, short) {
            (0, _) => {}
            (0x40, Ok(d)) => self.code.push(d as u8),
            _ => self.bytes(&m.disp.to_le_bytes()),
        }
    }
    /// An instruction with two registers, the second in ModRM's r/m.
    pub fn rr(&mut self, wide: bool, opcode: &[u8], reg: u8, rm: u8) {
        let rex = 0x40 | (wide as u8) << 3 | reg >> 3 << 2 | rm >> 3;
        if rex != 0x40 {
            self.code.push(rex);
        }
        self.bytes(opcode);
        self.code.push(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    /// Loads 64 bits.
    pub fn load(&mut self, reg: u8, m: Mem) {
        self.rm(true, &[0x8b], reg, m);
    }
    /// Stores 64 bits.
    pub fn store(&mut self, m: Mem, reg: u8) {
        self.rm(true, &[0x89], reg, m);
    }
    /// Copies 64 bits.
    pub fn copy(&mut self, to: u8, from: u8) {
        self.rr(true, &[0x8b], to, from);
    }
    /// An address, 64 bits.
    pub fn lea(&mut self, reg: u8, m: Mem) {
        self.rm(true, &[0x8d], reg, m);
    }
    /// Loads 16, 32 or 64 bits (`size` in bytes), zero-extended.
    pub fn load_sized(&mut self, size: usize, reg: u8, m: Mem) {
        match size {
            2 => self.rm(false, &[0x0f, 0xb7], reg, m),
            _ => self.rm(size == 8, &[0x8b], reg, m),
        }
    }
    /// Stores 16, 32 or 64 bits.
    pub fn store_sized(&mut self, size: usize, m: Mem, reg: u8) {
        if size == 2 {
            self.code.push(0x66);
        }
        self.rm(size == 8, &[0x89], reg, m);
    }
    /// Copies 16 bits, the others staying as they are; 32 bits, the upper ones becoming zero; or 64 bits.
    pub fn copy_sized(&mut self, size: usize, to: u8, from: u8) {
        if size == 2 {
            self.code.push(0x66);
        }
        self.rr(size == 8, &[0x8b], to, from);
    }
    pub fn load_immediate(&mut self, reg: u8, v: u64) {
        if let Ok(v) = u32::try_from(v) {
            if reg >= 8 {
                self.code.push(0x41);
            }
            self.code.push(0xb8 | reg & 7);
            self.bytes(&v.to_le_bytes());
        } else {
            self.bytes(&[0x48 | reg >> 3, 0xb8 | reg & 7]);
            self.bytes(&v.to_le_bytes());
        }
    }

    /// R14 becomes bits 31 to 12 of a register. Clobbers flags.
    pub fn page_number(&mut self, from: u8) {
        if is_x86_feature_detected!("bmi2") {
            // shrx r14d, from, r15d
            self.bytes(&[0xc4, if from < 8 { 0x62 } else { 0x42 }, 0x03, 0xf7, 0xf0 | from & 7]);
        } else {
            self.rr(false, &[0x8b], R14, from);
            self.rr(false, &[0xc1], 5, R14);
            self.bytes(&[address::PAGE_SHIFT as u8]);
        }
    }

    /// Fills up with a NOP so that what comes behind `opcode` more bytes begins at a multiple of four, unless only one vCPU executes it.
    pub fn align_behind(&mut self, opcode: usize) {
        if self.alone {
            return;
        }
        const NOPS: [&[u8]; 4] = [&[], &[0x90], &[0x66, 0x90], &[0x0f, 0x1f, 0x00]];
        self.bytes(NOPS[(self.here() + opcode).wrapping_neg() & 3]);
    }
    fn displacement(&mut self, l: Label) {
        self.uses.push((self.code.len(), l.0));
        self.bytes(&[0; 4]);
    }
    pub fn jump(&mut self, l: Label) {
        self.code.push(0xe9);
        self.displacement(l);
    }
    pub fn call(&mut self, l: Label) {
        self.code.push(0xe8);
        self.displacement(l);
    }
    pub fn jump_if(&mut self, condition: u8, l: Label) {
        self.bytes(&[0x0f, 0x80 | condition]);
        self.displacement(l);
    }
    /// Jump or call (`opcode` e9 or e8) to an address.
    pub fn far(&mut self, opcode: u8, target: u64) {
        self.code.push(opcode);
        self.far.push((self.code.len(), target));
        self.bytes(&[0; 4]);
    }
    /// Four bytes: the distance from their end to offset `to`.
    pub fn distance(&mut self, to: usize) {
        self.distances.push((self.code.len(), to));
        self.bytes(&[0; 4]);
    }

    /// The addresses of offsets, for all of the code to be put there.
    pub fn addresses(&self, room: Room) -> impl Fn(usize) -> u64 + use<> {
        let seldom = self.seldom.map(|split| {
            let len = (self.code.len() - split).next_multiple_of(16);
            (split, room.seldom_end.wrapping_sub(len as u64))
        });
        move |at| match seldom {
            Some((split, start)) if at >= split => start.wrapping_add((at - split) as u64),
            _ => room.often.wrapping_add(at as u64),
        }
    }
    /// Fills in the displacements, for code to be put there. `None` if a label was never bound.
    pub fn finish(&mut self, room: Room) -> Option<Parts> {
        let address = self.addresses(room);
        let mut put = |at: usize, target: u64| {
            let distance = target.wrapping_sub(address(at).wrapping_add(4)) as i32;
            self.code[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        };
        for &(at, label) in &self.uses {
            put(at, address(self.labels[label]?));
        }
        self.far.iter().for_each(|(at, target)| put(*at, *target));
        self.distances.iter().for_each(|(at, to)| put(*at, address(*to)));
        let split = self.seldom.unwrap_or(self.code.len());
        let (often, seldom) = self.code.split_at(split);
        Some(Parts { often: often.into(), seldom: seldom.into() })
    }
    /// Drops everything, for other code; labels must not be used.
    pub fn clear(&mut self) {
        self.code.clear();
        self.labels.clear();
        self.uses.clear();
        self.far.clear();
        self.distances.clear();
        self.seldom = None;
        self.alone = false;
    }
}

/// The register with a number and a size in bytes; of one byte the low ones only (SPL, not AH).
pub fn register(number: u8, size: usize) -> Register {
    let n = number as u32 & 15;
    match size {
        1 if n < 4 => Register::AL + n,
        1 => Register::SPL + (n - 4),
        2 => Register::AX + n,
        4 => Register::EAX + n,
        _ => Register::RAX + n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, FastFormatter};

    fn text(code: &[u8]) -> Vec<String> {
        let mut f = FastFormatter::new();
        Decoder::with_ip(64, code, 0, DecoderOptions::NONE)
            .iter()
            .map(|i| {
                let mut s = String::new();
                f.format(&i, &mut s);
                s
            })
            .collect()
    }

    #[test]
    fn every_base_and_index_assembles_to_itself() {
        for base in 0..16u8 {
            for disp in [0, 8, -200] {
                let mut a = Asm::default();
                a.load(3, Mem::at(base, disp));
                let i = Decoder::new(64, &a.code, 0).decode();
                assert_eq!((i.len(), i.memory_base().number()), (a.code.len(), base as usize));
                assert_eq!(i.memory_displacement64(), disp as i64 as u64);
                for index in (0..16u8).filter(|i| *i != 4) {
                    let mut a = Asm::default();
                    let m = Mem { base: Some(base), index: Some(index), scale: 3, disp };
                    a.store(m, 12);
                    let i = Decoder::new(64, &a.code, 0).decode();
                    assert_eq!(i.len(), a.code.len());
                    assert_eq!(
                        (i.memory_base().number(), i.memory_index().number()),
                        (base as usize, index as usize)
                    );
                    assert_eq!((i.memory_index_scale(), i.op1_register()), (8, Register::R12));
                }
            }
        }
        let mut a = Asm::default();
        a.lea(1, Mem { base: None, index: Some(9), scale: 2, disp: 16 });
        assert_eq!(text(&a.code), ["lea rcx,[r9*4+10h]"]);
    }

    #[test]
    fn jumps_reach_their_labels() {
        let mut a = Asm::default();
        let (back, ahead) = (a.bound(), a.label());
        a.jump_if(NOT_EQUAL, ahead);
        a.jump(back);
        a.bind(ahead);
        let code = a.finish(Room::default()).unwrap();
        assert_eq!(text(&code.often), ["jne 0Bh", "jmp 0h"]);
        assert!(code.seldom.is_empty());
        let mut a = Asm::default();
        let never = a.label();
        a.jump(never);
        assert!(a.finish(Room::default()).is_none());
    }

    #[test]
    fn displacements_between_the_two_parts_and_beyond() {
        let room = Room { often: 0x1000, seldom_end: 0x9000 };
        let mut a = Asm::default();
        let (tail, back) = (a.label(), a.label());
        a.jump_if(EQUAL, tail);
        a.bind(back);
        a.far(0xe9, 0x2000);
        a.seldom_from_here();
        a.distance(2);
        a.bind(tail);
        a.far(0xe8, 0x3000);
        a.jump(back);
        let parts = a.finish(room).unwrap();
        assert_eq!((parts.often.len(), parts.seldom.len()), (16, 14));
        let at = |part: &[u8], at: usize, address: u64| {
            let displacement = i32::from_le_bytes(part[at..at + 4].try_into().unwrap());
            (address + at as u64 + 4).wrapping_add_signed(displacement as i64)
        };
        assert_eq!(at(&parts.often, 2, 0x1000), 0x8ff4, "to the tail");
        assert_eq!(at(&parts.often, 7, 0x1000), 0x2000);
        assert_eq!(at(&parts.seldom, 0, 0x8ff0), 0x1002, "the displacement's place");
        assert_eq!(at(&parts.seldom, 5, 0x8ff0), 0x3000);
        assert_eq!(at(&parts.seldom, 10, 0x8ff0), 0x1006, "and back");
    }

    #[test]
    fn displacement_behind_any_opcode_is_aligned() {
        for before in 0..8 {
            for opcode in 1..3 {
                let mut a = Asm::default();
                a.bytes(&vec![0xf8; before]);
                a.align_behind(opcode);
                assert!((a.here() + opcode).is_multiple_of(4) && a.here() < before + 4);
                assert!(
                    text(&a.code[before..]).iter().all(|t| t.starts_with("nop"))
                        && text(&a.code[before..]).len() < 2
                );
            }
        }
    }

    #[test]
    fn registers_by_number_and_size() {
        assert_eq!(register(0, 1), Register::AL);
        assert_eq!(register(6, 1), Register::SIL);
        assert_eq!(register(12, 1), Register::R12L);
        assert_eq!(register(13, 4), Register::R13D);
        assert_eq!(register(5, 8), Register::RBP);
    }
}
