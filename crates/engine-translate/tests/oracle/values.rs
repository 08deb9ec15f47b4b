//! Random values: integers, floats, registers, memory; the awkward ones more often than not.

use crate::rng::Rng;
use crate::state::{Registers, XSAVE, place};

/// An integer that is interesting more often than not.
pub fn scalar(rng: &mut Rng) -> u64 {
    let r = rng.next();
    match rng.below(12) {
        0 => rng.pick(&[
            0,
            1,
            2,
            u64::MAX,
            1 << 63,
            (1 << 63) - 1,
            1 << 31,
            0xffff_ffff,
            0x7fff_ffff,
            0x8000,
            0x7fff,
            0x80,
            0x7f,
            0xff,
        ]),
        1 => r & 0xff,
        2 => r & 0xffff,
        3 => r & 0xffff_ffff,
        4 => r as i32 as u64,
        5 => r as i8 as u64,
        6 => 1 << (r & 63),
        7 => (1u64 << (r & 63)).wrapping_neg(),
        _ => r,
    }
}

fn float32(rng: &mut Rng) -> u32 {
    let r = rng.next() as u32;
    match rng.below(14) {
        0 => rng.pick(&[
            0,
            0x8000_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0xffc0_1234,
            0x7f80_0001,
            0xffa0_0000,
        ]),
        1 => r & 0x807f_ffff,
        2 => rng.pick(&[
            1,
            0x7f_ffff,
            0x80_0000,
            0x7f7f_ffff,
            0xff7f_ffff,
            0x3f80_0000,
            0xbf80_0000,
            0x4f00_0000,
            0xcf00_0000,
        ]),
        3..=8 => {
            (r & 0x807f_ffff)
                | (0x3f80_0000u32.wrapping_add((rng.below(48) as u32) << 23).wrapping_sub(24 << 23))
        }
        9 => (rng.below(2000) as f32 - 1000.0).to_bits(),
        _ => r,
    }
}

fn float64(rng: &mut Rng) -> u64 {
    let r = rng.next();
    let fraction = r & 0x800f_ffff_ffff_ffff;
    match rng.below(14) {
        0 => rng.pick(&[
            0,
            1 << 63,
            0x7ff0 << 48,
            0xfff0 << 48,
            0x7ff8 << 48,
            0xfff8_0000_0000_1234,
            0x7ff0_0000_0000_0001,
            0xfff4 << 48,
        ]),
        1 => fraction,
        2 => rng.pick(&[
            1,
            0x000f_ffff_ffff_ffff,
            0x0010 << 48,
            0x7fef_ffff_ffff_ffff,
            0x3ff0 << 48,
            0xc3e0 << 48,
            0x43e0 << 48,
            0x41e0 << 48,
            0xc1e0 << 48,
        ]),
        3..=8 => fraction | (0x3ff - 64 + rng.below(128)) << 52,
        9 => (rng.below(2000) as f64 - 1000.0).to_bits(),
        _ => r,
    }
}

fn float80(rng: &mut Rng) -> [u8; 10] {
    let mut mantissa = rng.next() | 1 << 63;
    let mut exponent = match rng.below(10) {
        0 => 0,
        1 => 0x7fff,
        2 => rng.below(0x8000) as u16,
        3 => rng.pick(&[1, 2, 0x7ffe, 0x3f80, 0x407f, 0x3c00, 0x43ff, 0x3fff]),
        _ => 0x3fff + rng.below(128) as u16 - 64,
    };
    match rng.below(12) {
        0 => mantissa = 0,
        1 => mantissa = 1 << 63,
        2 => mantissa = rng.next() >> rng.below(64),
        3 => mantissa = 0xc000 << 48,
        _ => {}
    }
    exponent |= (rng.below(2) as u16) << 15;
    let mut b = [0; 10];
    b[..8].copy_from_slice(&mantissa.to_le_bytes());
    b[8..].copy_from_slice(&exponent.to_le_bytes());
    b
}

/// Sixteen bytes of floats, doubles, integers or anything.
fn lane(rng: &mut Rng) -> [u8; 16] {
    let mut b = [0; 16];
    match rng.below(4) {
        0 | 1 => b.chunks_exact_mut(4).for_each(|c| c.copy_from_slice(&float32(rng).to_le_bytes())),
        2 => b.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&float64(rng).to_le_bytes())),
        _ => b.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&scalar(rng).to_le_bytes())),
    }
    b
}

/// A whole register file; general registers and RIP are the caller's.
pub fn registers(rng: &mut Rng, bits: u32) -> Registers {
    let mut x = [0u8; XSAVE];
    let fcw: u16 = match rng.below(4) {
        0 => 0x0040 | (rng.next() as u16 & 0xf3f),
        1 => 0x007f | (rng.next() as u16 & 0xf00),
        _ => 0x037f,
    };
    let mut fsw = (rng.next() as u16) & 0x7f00;
    if rng.percent(30) {
        fsw |= rng.next() as u16 & 0x7f;
    }
    if rng.percent(93) {
        fsw &= !(!fcw & 0x3f);
    }
    if fsw & !fcw & 0x3f != 0 {
        fsw |= 0x8080;
    }
    x[..2].copy_from_slice(&fcw.to_le_bytes());
    x[2..4].copy_from_slice(&fsw.to_le_bytes());
    x[4] = rng.pick(&[0xff, 0xff, 0xff, 0, rng.clone().next() as u8]);
    x[24..28].copy_from_slice(&mxcsr(rng).to_le_bytes());
    for n in 0..8 {
        let value = float80(rng);
        x[32 + n * 16..42 + n * 16].copy_from_slice(&value);
    }
    for n in 0..if bits == 64 { 16 } else { 8 } {
        let (low, high) = (lane(rng), lane(rng));
        x[160 + n * 16..176 + n * 16].copy_from_slice(&low);
        x[576 + n * 16..592 + n * 16].copy_from_slice(&high);
    }
    // CF, PF, AF, ZF, SF, OF; seldom DF.
    let rflags = rng.next() & 0x8d5 | (rng.percent(15) as u64) << 10;
    Registers { gpr: [0; 16], rip: 0, rflags, xsave: x }
}

fn mxcsr(rng: &mut Rng) -> u32 {
    let r = rng.next() as u32;
    match rng.below(4) {
        // Anything unmasked, any rounding, FTZ, DAZ.
        0 => r & 0xffff,
        1 => 0x1f80 | r & 0xe07f,
        _ => 0x1f80,
    }
}

/// The writable pages.
pub fn data(rng: &mut Rng) -> Vec<u8> {
    let mut d = Vec::with_capacity(place::DATA_LEN);
    // Fresh values around, old ones repeated: filling all of it anew would take longest of all.
    let lanes: Vec<[u8; 16]> = (0..37)
        .map(|_| match rng.below(6) {
            0 => {
                let mut b = [0; 16];
                b[..10].copy_from_slice(&float80(rng));
                b
            }
            _ => lane(rng),
        })
        .collect();
    while d.len() < place::DATA_LEN {
        d.extend(lanes[d.len() / 16 % 37]);
    }
    d
}
