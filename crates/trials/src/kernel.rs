//! A guest kernel for arm64 that does what a guest shouldn't, made of random instructions: system registers, system instructions, cache
//! maintenance by set and way, loads and stores where there is no memory or an interrupt controller, calls of the firmware, and words that are
//! no instructions. Its exceptions go on behind the instruction. At the end it says so on the serial port, and switches the machine off.
//!
//! Encodings: Arm ARM C4.1. It runs without MMU, at EL1, with interrupts masked.

use crate::random::Random;

/// Bytes of the image, of which the vectors and the code have places.
pub const SIZE: usize = 1 << 20;
pub const VECTORS: usize = 0x800;
pub const CODE: usize = 0x1000;
/// What it tries.
pub const TRIES: usize = 6000;
/// Said at the end.
pub const SURVIVED: &str = "kernel survived\n";

/// Of Auberge's virt board, as of QEMU's.
pub const UART: u64 = 0x0900_0000;
pub const DISTRIBUTOR: u64 = 0x0800_0000;
pub const INTERFACE: u64 = 0x0801_0000;
const REDISTRIBUTORS: u64 = 0x080a_0000;
pub const VIRTIO: u64 = 0x0a00_0000;

pub const PSCI: u64 = 0x8400_0000;
pub const SYSTEM_OFF: u64 = 8;
/// Of PSCI's functions, what would end the trial early: suspending, switching off, resetting.
pub const ENDINGS: [u64; 8] = [1, 2, SYSTEM_OFF, 9, 0xc, 0xd, 0xe, 0x12];

const ERET: u32 = 0xd69f_03e0;
const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;

struct Code(Vec<u32>);

impl Code {
    fn put(&mut self, instruction: u32) {
        self.0.push(instruction);
    }
    /// X`register` becomes `value`: MOVZ, MOVK.
    fn set(&mut self, register: u32, value: u64) {
        for part in 0..4 {
            let opcode = if part == 0 { 0xd280_0000 } else { 0xf280_0000 };
            self.put(opcode | part << 21 | ((value >> (16 * part)) as u32 & 0xffff) << 5 | register);
        }
    }
    /// MSR (`load`: MRS) of a system register; op0 is 2 or 3.
    fn system_register(&mut self, load: bool, [op0, op1, crn, crm, op2]: [u32; 5], register: u32) {
        let direction = if load { 1 << 21 } else { 0 };
        self.put(
            0xd500_0000 | direction | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5 | register,
        );
    }
}

/// Whether writing it would end the trial: SCTLR_EL1 (the MMU), VBAR_EL1 (the vectors), and what is restored from an exception.
fn is_lifeline([op0, _, crn, crm, _]: [u32; 5]) -> bool {
    op0 == 3 && matches!((crn, crm), (1 | 12, 0) | (4, _))
}

fn attempt(code: &mut Code, random: &mut Random) {
    let value = match random.below(3) {
        0 => random.next(),
        1 => 1 << random.below(64),
        _ => random.one_of(&[0, u64::MAX, 0x4000_0000]),
    };
    let mut field = |bound: u64| random.below(bound) as u32;
    let name = [2 + field(2), field(8), field(16), field(16), field(8)];
    code.set(1, value);
    match random.below(8) {
        0 | 1 => code.system_register(true, name, 2),
        2 if !is_lifeline(name) => code.system_register(false, name, 1),
        // System instructions: caches, translations, and what is the implementation's own.
        3 => code.system_register(
            random.below(2) == 0,
            [1, name[1], random.one_of(&[7, 8, 11, 15]) as u32, name[3], name[4]],
            1,
        ),
        // DC ISW, CSW, CISW.
        4 => code.system_register(false, [1, 0, 7, random.one_of(&[6, 10, 14]) as u32, 2], 1),
        5 | 6 => {
            let (near, low, any) = (random.below(0x1_0000), random.next() & 0x3fff_ffff, random.next());
            let at = random.one_of(&[
                DISTRIBUTOR + near,
                DISTRIBUTOR + (near & !3),
                INTERFACE + (near & 0x1fff & !3),
                REDISTRIBUTORS + (near << 2 & !3),
                VIRTIO + near,
                low | 0x1000_0000,
                0xffff_0000,
                any & !7,
            ]);
            code.set(3, at);
            // STR, STRB, STR (64 bits), and the loads of the same sizes, and a pair.
            code.put(random.one_of(&[
                0xb900_0061,
                0x3900_0061,
                0xf900_0061,
                0xb940_0062,
                0x3940_0062,
                0xf940_0062,
                0xa940_0862,
            ]) as u32);
        }
        _ => {
            let (function, any) = (random.below(0x20), random.next());
            let psci = if ENDINGS.contains(&function) { 0 } else { function };
            code.set(0, random.one_of(&[PSCI | psci, PSCI | 1 << 30 | psci, any | 1 << 40, 0x8600_0000]));
            // HVC, SMC, UDF, WFE.
            code.put([HVC, SMC, 0, 0xd503_205f][random.below(4) as usize]);
        }
    }
}

/// The kernel, as an Image (Linux, Documentation/arch/arm64/booting.rst).
pub fn image(seed: u64) -> Vec<u8> {
    let mut image = vec![0u8; SIZE];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    // B to the code; so many bytes, little-endian with 4 KiB pages, anywhere.
    put(0, &(0x1400_0000 | (CODE as u32 / 4)).to_le_bytes());
    put(16, &[SIZE as u64, 0xa].map(u64::to_le_bytes).concat());
    put(56, b"ARM\x64");
    for vector in 0..16 {
        // Of synchronous ones: MRS X30, ELR_EL1; ADD X30, X30, #4; MSR ELR_EL1, X30. Of the others: masked from then on.
        let handler = match vector % 4 {
            0 => [0xd538_403e, 0x9100_13de, 0xd518_403e, ERET],
            _ => [0xd538_401e, 0xb27a_0fde, 0xd518_401e, ERET],
        };
        put(VECTORS + vector * 0x80, &handler.map(u32::to_le_bytes).concat());
    }
    let (mut code, mut random) = (Code(Vec::new()), Random::new(seed));
    // ADR X30, vectors; MSR VBAR_EL1, X30; ISB.
    let back = (VECTORS as i64 - CODE as i64) as u32;
    code.put(0x1000_0000 | (back & 3) << 29 | (back >> 2 & 0x7_ffff) << 5 | 30);
    code.put(0xd518_c01e);
    code.put(0xd503_3fdf);
    for _ in 0..TRIES {
        attempt(&mut code, &mut random);
    }
    code.set(3, UART);
    for byte in SURVIVED.bytes() {
        code.set(1, byte.into());
        code.put(0xb900_0061);
    }
    code.set(0, PSCI | SYSTEM_OFF);
    code.put(HVC);
    code.put(0x1400_0000);
    let words = code.0.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>();
    put(CODE, &words);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_fits_and_starts_behind_the_vectors() {
        for seed in 0..8 {
            let image = image(seed);
            assert_eq!((image.len(), &image[56..60]), (SIZE, &b"ARM\x64"[..]));
            assert_eq!(image[..4], 0x1400_0400u32.to_le_bytes());
            // ADR X30, . - 0x800.
            assert_eq!(image[CODE..CODE + 4], 0x10ff_c01eu32.to_le_bytes());
        }
    }

    #[test]
    fn instructions_are_encoded_as_the_manual_has_them() {
        let mut code = Code(Vec::new());
        code.set(3, 0x1234_0000_5678_9abc);
        code.system_register(true, [3, 0, 0, 0, 0], 2);
        code.system_register(false, [1, 0, 7, 14, 2], 1);
        // MRS X2, MIDR_EL1; DC CISW, X1.
        assert_eq!(code.0[..2], [0xd293_5783, 0xf2aa_cf03]);
        assert_eq!(code.0[4..], [0xd538_0002, 0xd508_7e41]);
        assert!(
            is_lifeline([3, 0, 1, 0, 0]) && is_lifeline([3, 0, 12, 0, 0]) && !is_lifeline([3, 0, 2, 0, 0])
        );
    }
}
