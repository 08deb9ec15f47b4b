//! FLDENV, FNSTENV, FNSAVE, FRSTOR: the x87 state in its four old formats (SDM 1 8.1.10).

use super::state::{FCW, FDP, FIP, FOP, FSW, FTW, ST0};
use crate::cpu::Cpu;
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::Op;
use iced_x86::{Code, Instruction};

/// Chooses the handler; `None` if it isn't one of these.
pub(super) fn select(i: &Instruction) -> Option<Lowered> {
    match i.code() {
        Code::Fldenv_m14byte => Lowered::next(fldenv::<14>),
        Code::Fldenv_m28byte => Lowered::next(fldenv::<28>),
        Code::Fnstenv_m14byte => Lowered::next(fnstenv::<14>),
        Code::Fnstenv_m28byte => Lowered::next(fnstenv::<28>),
        Code::Fnsave_m94byte => Lowered::next(fnsave::<14, 94>),
        Code::Fnsave_m108byte => Lowered::next(fnsave::<28, 108>),
        Code::Frstor_m94byte => Lowered::next(frstor::<14, 94>),
        Code::Frstor_m108byte => Lowered::next(frstor::<28, 108>),
        _ => None,
    }
}

impl Cpu {
    /// The environment: 14 bytes (16-bit format) or 28. Neither FCS nor FDS is kept, as on processors that say so in CPUID.07H.
    fn x87_environment<const LEN: usize>(&self) -> [u8; LEN] {
        let v = &self.vector;
        let (fip, fdp, fop) = (v.get64(FIP), v.get64(FDP), v.get16(FOP) & 0x7ff);
        let (fcw, fsw, tags) = (v.get16(FCW), v.get16(FSW), full_tags(self));
        let protected = self.protected();
        // The real-address formats hold a linear address in two parts, the upper one above the opcode.
        let upper = |p: u64| ((p >> 16) as u32 & 0xffff) << 12;
        let mut e = [0u8; LEN];
        if LEN == 14 {
            let (w4, w6) = if protected {
                (0, 0)
            } else {
                (upper(fip) as u16 & 0xf000 | fop, upper(fdp) as u16 & 0xf000)
            };
            let words = [fcw, fsw, tags, fip as u16, w4, fdp as u16, w6];
            for (to, w) in e.chunks_exact_mut(2).zip(words) {
                to.copy_from_slice(&w.to_le_bytes());
            }
        } else {
            let high = |w: u16| 0xffff_0000 | w as u32;
            let (d3, d4, d5, d6) = if protected {
                (fip as u32, (fop as u32) << 16, fdp as u32, 0xffff_0000)
            } else {
                (high(fip as u16), upper(fip) | fop as u32, high(fdp as u16), upper(fdp))
            };
            let words = [high(fcw), high(fsw), high(tags), d3, d4, d5, d6];
            for (to, w) in e.chunks_exact_mut(4).zip(words) {
                to.copy_from_slice(&w.to_le_bytes());
            }
        }
        e
    }

    fn load_x87_environment(&mut self, e: &[u8]) {
        let wide = e.len() >= 28;
        let step = if wide { 4 } else { 2 };
        let word = |n: usize| -> u32 {
            let mut b = [0u8; 4];
            if let Some(from) = e.get(n * step..n * step + step) {
                b[..step].copy_from_slice(from);
            }
            u32::from_le_bytes(b)
        };
        let protected = self.protected();
        let (fip, fdp, fop) = match (protected, wide) {
            (true, true) => (word(3), word(5), word(4) >> 16),
            // The 16-bit protected format has no opcode.
            (true, false) => (word(3), word(5), 0),
            (false, true) => {
                let join = |low: u32, high: u32| low & 0xffff | (high >> 12 & 0xffff) << 16;
                (join(word(3), word(4)), join(word(5), word(6)), word(4))
            }
            (false, false) => {
                let join = |low: u32, high: u32| low | (high >> 12 & 0xf) << 16;
                (join(word(3), word(4)), join(word(5), word(6)), word(4))
            }
        };
        // Bits 7 to 12, 14 and 15 of FCW: 6 and 7 to 12 as FLDCW treats them; FXRSTOR in the next stub takes them as they are.
        let fcw = word(0) as u16 & 0x1f3f | 0x40;
        let fsw = summarise(word(1) as u16, fcw);
        let tags = word(2) as u16;
        let valid = (0..8).fold(0u8, |bits, n| bits | ((tags >> (2 * n) & 3 != 3) as u8) << n);
        self.set_status(fsw);
        let v = &mut self.vector;
        v.put(FCW, &fcw.to_le_bytes());
        v.put(FTW, &[valid, 0]);
        v.put(FOP, &(fop as u16 & 0x7ff).to_le_bytes());
        v.put(FIP, &(fip as u64).to_le_bytes());
        v.put(FDP, &(fdp as u64).to_le_bytes());
    }
}

/// FSW with ES and B as the flags and masks want them.
pub(super) fn summarise(fsw: u16, fcw: u16) -> u16 {
    if fsw & !fcw & 0x3f != 0 { fsw | 0x8080 } else { fsw & !0x8080 }
}

/// The tag word from FXSAVE's eight bits and the registers (SDM 1 10.5.1.1).
fn full_tags(cpu: &Cpu) -> u16 {
    let top = cpu.vector.get16(FSW) >> 11 & 7;
    let valid = cpu.vector.get16(FTW);
    (0..8u16).fold(0, |tags, physical| {
        let tag = if valid >> physical & 1 == 0 {
            3
        } else {
            let at = ST0 + (physical.wrapping_sub(top) & 7) as usize * 16;
            let mantissa = cpu.vector.get64(at);
            let exponent = cpu.vector.get16(at + 8) & 0x7fff;
            match (exponent, mantissa) {
                (0, 0) => 1,
                (0 | 0x7fff, _) => 2,
                (_, m) if m >> 63 == 0 => 2,
                _ => 0,
            }
        };
        tags | tag << (2 * physical)
    })
}

fn fnstenv<const LEN: usize>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_x87()?;
    let linear = cpu.vector_linear(op, LEN as u64, true)?;
    let e = cpu.x87_environment::<LEN>();
    cpu.write_bytes(linear, &e)?;
    // All exceptions masked behind the store.
    let fcw = cpu.vector.get16(FCW) | 0x3f;
    let fsw = summarise(cpu.vector.get16(FSW), fcw);
    cpu.vector.put(FCW, &fcw.to_le_bytes());
    cpu.vector.put(FSW, &fsw.to_le_bytes());
    Ok(())
}

fn fldenv<const LEN: usize>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_x87()?;
    cpu.pending_x87()?;
    let linear = cpu.vector_linear(op, LEN as u64, false)?;
    let mut e = [0u8; LEN];
    cpu.read_bytes(linear, &mut e)?;
    cpu.load_x87_environment(&e);
    Ok(())
}

fn fnsave<const ENV: usize, const LEN: usize>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_x87()?;
    let linear = cpu.vector_linear(op, LEN as u64, true)?;
    let mut image = [0u8; LEN];
    image[..ENV].copy_from_slice(&cpu.x87_environment::<ENV>());
    for (n, to) in image[ENV..].chunks_exact_mut(10).enumerate() {
        to.copy_from_slice(&cpu.vector.get::<10>(ST0 + n * 16));
    }
    cpu.write_bytes(linear, &image)?;
    // As FNINIT: the registers' contents stay, empty, at their physical places.
    cpu.set_status(0);
    let registers: [u8; 128] = cpu.vector.get(ST0);
    cpu.vector.init_x87();
    cpu.vector.put(ST0, &registers);
    Ok(())
}

fn frstor<const ENV: usize, const LEN: usize>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_x87()?;
    cpu.pending_x87()?;
    let linear = cpu.vector_linear(op, LEN as u64, false)?;
    let mut image = [0u8; LEN];
    cpu.read_bytes(linear, &mut image)?;
    cpu.load_x87_environment(&image[..ENV]);
    for (n, from) in image[ENV..].chunks_exact(10).enumerate() {
        let mut r = [0u8; 16];
        r[..10].copy_from_slice(from);
        cpu.vector.put(ST0 + n * 16, &r);
    }
    Ok(())
}
