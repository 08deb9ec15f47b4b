//! The same for ARMv7: a guest kernel of random coprocessor accesses, loads and stores where there is no memory or an interrupt
//! controller, calls of the firmware, and words that are no instructions, which goes on behind what it is refused.
//!
//! Encodings: Arm ARM DDI 0406C A8.8. It runs without MMU, in Supervisor mode, with interrupts masked.

use crate::kernel::{CODE, SIZE, TRIES, VECTORS};
use crate::kernel::{DISTRIBUTOR, ENDINGS, INTERFACE, PSCI, SURVIVED, SYSTEM_OFF, UART, VIRTIO};
use crate::random::Random;

const NOP: u32 = 0xe1a0_0000;
/// B to itself; the distance, in words, is added.
const B: u32 = 0xea00_0000;
const HVC: u32 = 0xe140_0070;
const SMC: u32 = 0xe160_0070;
const UDF: u32 = 0xe7f0_00f0;
const WFE: u32 = 0xe320_f002;
const ISB: u32 = 0xf57f_f06f;
/// STR R1, \[R3\].
const STR: u32 = 0xe583_1000;

/// R`register` becomes `value`: MOVW, MOVT.
fn set(code: &mut Vec<u32>, register: u32, value: u32) {
    for (opcode, half) in [(0xe300_0000, value & 0xffff), (0xe340_0000, value >> 16)] {
        code.push(opcode | half >> 12 << 16 | register << 12 | half & 0xfff);
    }
}

/// MCR of R`register` (`load`: MRC): the coprocessor, opc1, CRn, CRm, opc2.
fn coprocessor(load: bool, [p, opc1, crn, crm, opc2]: [u32; 5], register: u32) -> u32 {
    let direction = if load { 1 << 20 } else { 0 };
    0xee00_0010 | direction | opc1 << 21 | crn << 16 | register << 12 | p << 8 | opc2 << 5 | crm
}

/// Whether writing it would end the trial: SCTLR (the MMU), VBAR (the vectors), FCSEIDR (addresses).
fn is_lifeline([p, opc1, crn, crm, opc2]: [u32; 5]) -> bool {
    p == 15 && matches!((opc1, crn, crm, opc2), (0, 1 | 12, 0, 0) | (0, 13, 0, 0))
}

fn attempt(code: &mut Vec<u32>, random: &mut Random) {
    let value = match random.below(3) {
        0 => random.next() as u32,
        1 => 1 << random.below(32),
        _ => random.one_of(&[0, 0xffff_ffff, 0x4000_0000]) as u32,
    };
    let mut field = |bound: u64| random.below(bound) as u32;
    let name = [14 + field(2), field(8), field(16), field(16), field(8)];
    set(code, 1, value);
    match random.below(8) {
        0 | 1 => code.push(coprocessor(true, name, 2)),
        2 if !is_lifeline(name) => code.push(coprocessor(false, name, 1)),
        // MCRR and MRRC of R1 and R2: opc1, CRm.
        3 => {
            let load = random.below(2) as u32;
            code.push(0xec42_1000 | load << 20 | name[0] << 8 | name[1] << 4 | name[3]);
        }
        // DCISW, DCCSW, DCCISW; VMRS R2.
        4 => {
            let crm = random.one_of(&[6, 10, 14]) as u32;
            code.push(coprocessor(false, [15, 0, 7, crm, 2], 1));
            code.push(0xeef0_2a10 | name[2] << 16);
        }
        5 | 6 => {
            let (near, low, any) = (random.below(0x1_0000), random.next() & 0x3fff_ffff, random.next());
            let at = random.one_of(&[
                DISTRIBUTOR + near,
                DISTRIBUTOR + (near & !3),
                INTERFACE + (near & 0x1fff & !3),
                VIRTIO + near,
                low | 0x1000_0000,
                0xffff_0000,
                any & 0x3fff_fff8,
            ]);
            set(code, 3, at as u32);
            // STR, STRB, STRH; LDR, LDRB, LDRH, LDRSB; LDRD, and LDM of two.
            code.push(random.one_of(&[
                STR.into(),
                0xe5c3_1000,
                0xe1c3_10b0,
                0xe593_2000,
                0xe5d3_2000,
                0xe1d3_20b0,
                0xe1d3_20d0,
                0xe1c3_40d0,
                0xe893_0030,
            ]) as u32);
        }
        _ => {
            let (function, any) = (random.below(0x20), random.next());
            let psci = if ENDINGS.contains(&function) { 0 } else { function };
            set(
                code,
                0,
                random.one_of(&[PSCI | psci, PSCI | 1 << 30 | psci, any | 1 << 31, 0x8600_0000]) as u32,
            );
            code.push([HVC, SMC, UDF, WFE][random.below(4) as usize]);
        }
    }
}

/// The kernel, as a zImage (Linux, Documentation/arch/arm/booting.rst).
pub fn image(seed: u64) -> Vec<u8> {
    let mut image = vec![0u8; SIZE];
    let mut put = |at: usize, words: &[u32]| {
        for (n, word) in words.iter().enumerate() {
            image[at + n * 4..at + n * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
    };
    let branch = |from: usize, to: usize| B | ((to as i32 - from as i32 - 8) >> 2) as u32 & 0xff_ffff;
    put(0, &[NOP; 8]);
    // The magic number, the beginning, which is anywhere, and the end.
    put(0x20, &[branch(0x20, CODE), 0x016f_2818, 0, SIZE as u32]);
    // Undefined, supervisor call and fetch abort: MOVS PC, LR. Data abort: SUBS PC, LR, #4. Others never come.
    let (next, behind_data) = (0xe1b0_f00e, 0xe25e_f004);
    put(VECTORS, &[branch(0, 0), next, next, next, behind_data, branch(0, 0), branch(0, 0), branch(0, 0)]);
    let (mut code, mut random) = (Vec::new(), Random::new(seed));
    // SUB R1, PC, #CODE + 8 - VECTORS, in two; VBAR.
    code.extend([0xe24f_1b02, 0xe241_1008, coprocessor(false, [15, 0, 12, 0, 0], 1), ISB]);
    for _ in 0..TRIES {
        attempt(&mut code, &mut random);
    }
    set(&mut code, 3, UART as u32);
    for byte in SURVIVED.bytes() {
        set(&mut code, 1, byte.into());
        code.push(STR);
    }
    set(&mut code, 0, (PSCI | SYSTEM_OFF) as u32);
    code.extend([HVC, branch(0, 0)]);
    put(CODE, &code);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_fits_and_starts_behind_the_vectors() {
        for seed in 0..8 {
            let image = image(seed);
            assert_eq!((image.len(), &image[0x24..0x28]), (SIZE, &0x016f_2818u32.to_le_bytes()[..]));
            // B . + 0xfe0.
            assert_eq!(image[0x20..0x24], 0xea00_03f6u32.to_le_bytes());
        }
    }

    #[test]
    fn instructions_are_encoded_as_the_manual_has_them() {
        let mut code = Vec::new();
        set(&mut code, 3, 0x1234_5678);
        // MOVW R3, #0x5678; MOVT R3, #0x1234.
        assert_eq!(code, [0xe305_3678, 0xe341_3234]);
        // MRC p15, 0, R2, c0, c0, 0; MCR p15, 0, R1, c7, c14, 2.
        assert_eq!(coprocessor(true, [15, 0, 0, 0, 0], 2), 0xee10_2f10);
        assert_eq!(coprocessor(false, [15, 0, 7, 14, 2], 1), 0xee07_1f5e);
        assert!(is_lifeline([15, 0, 1, 0, 0]) && !is_lifeline([14, 0, 1, 0, 0]));
    }
}
