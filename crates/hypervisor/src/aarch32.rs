//! What traps of AArch32 code leave to be worked out: conditions, and IT blocks.

use arm::control::{mode, spsr};
use arm::syndrome::Syndrome;

/// Where AArch32 code goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub pc: u64,
    pub cpsr: u64,
}

/// An exception that is taken in AArch32 (DDI 0406C B1.8, B1.9; Arm ARM G1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    Undefined,
    FetchAbort,
    DataAbort,
}

impl Exception {
    /// Where its mode goes on, and that mode's link register. `sctlr` and `vbar` are the world's that takes it.
    pub fn take(self, from: Place, sctlr: u64, vbar: u64) -> (Place, u64) {
        let thumb = from.cpsr & THUMB != 0;
        // LR_und: the address after an ARM instruction; Thumb's are told by 2.
        let (to, vector, link) = match self {
            Self::Undefined => (mode::UND, 4, if thumb { 2 } else { 4 }),
            Self::FetchAbort => (mode::ABT, 12, 4),
            Self::DataAbort => (mode::ABT, 16, 8),
        };
        // A is set by aborts, I always; IT and J are cleared; T is SCTLR.TE, E SCTLR.EE; PAN stays, where there is one.
        let abort = if to == mode::ABT { 1 << 8 } else { 0 };
        let kept = from.cpsr & (0xf8 << 24 | 0xf << 16 | 1 << 22 | 0b111 << 6);
        let cpsr = kept | abort | 1 << 7 | (sctlr >> 30 & 1) << 5 | (sctlr >> 25 & 1) << 9 | u64::from(to);
        let base = if sctlr & 1 << 13 != 0 { 0xffff_0000 } else { vbar & 0xffff_ffe0 };
        (Place { pc: base + vector, cpsr }, from.pc.wrapping_add(link) & 0xffff_ffff)
    }
}

/// FSR of a synchronous external abort that isn't on a table walk; TTBCR says whether tables are of the long format.
pub fn external_abort_status(ttbcr: u64, write: bool) -> u64 {
    let status = if ttbcr & 1 << 31 != 0 { 1 << 9 | 0x10 } else { 0x08 };
    status | if write { 1 << 11 } else { 0 }
}

const THUMB: u64 = 1 << 5;

/// Whether the AArch32 instruction's condition holds: ISS has it, or the IT state of Thumb code does (Arm ARM D24.2.40, CV and COND).
pub fn condition_holds(syndrome: Syndrome, pstate: u64) -> bool {
    // Classes from 0x20 on aren't conditional any more when they are taken.
    if syndrome.class() >= 0x20 || pstate & spsr::AARCH32 == 0 {
        return true;
    }
    let condition = if syndrome.0 & 1 << 24 != 0 {
        syndrome.0 >> 20 & 0xf
    } else {
        let it = it_state(pstate);
        if it == 0 { return true } else { it >> 4 }
    };
    let flag = |bit: u32| pstate >> bit & 1 != 0;
    let (n, z, c, v) = (flag(31), flag(30), flag(29), flag(28));
    let holds = match condition >> 1 {
        0 => z,
        1 => c,
        2 => n,
        3 => v,
        4 => c && !z,
        5 => n == v,
        6 => n == v && !z,
        _ => return true,
    };
    holds != (condition & 1 != 0)
}

fn it_state(pstate: u64) -> u64 {
    pstate >> 8 & 0xfc | pstate >> 25 & 3
}

/// An instruction was done: the next one of Thumb's IT block.
pub fn step_it_block(pstate: &mut u64) {
    if *pstate & spsr::AARCH32 == 0 || *pstate & THUMB == 0 {
        return;
    }
    let it = it_state(*pstate);
    let it = if it & 7 == 0 { 0 } else { it & 0xe0 | it << 1 & 0x1f };
    *pstate = *pstate & !(0xfc << 8 | 3 << 25) | (it & 0xfc) << 8 | (it & 3) << 25;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_those_of_the_flags() {
        let trap = |condition: u64| Syndrome(0x03 << 26 | 1 << 25 | 1 << 24 | condition << 20);
        // EQ, NE, GE, LT, LE, AL with Z; with N.
        let with = |flags: u64| [0, 1, 10, 11, 13, 14].map(|c| condition_holds(trap(c), 0x13 | flags << 28));
        assert_eq!(with(0b0100), [true, false, true, false, true, true]);
        assert_eq!(with(0b1000), [false, true, false, true, true, true]);
        // Thumb: IT EQ, of which the first instruction is next; the condition is in the IT state.
        let thumb = Syndrome(0x03 << 26 | 1 << 25);
        let state = 0x08 << 8 | 1 << 5 | 0x13;
        assert!(!condition_holds(thumb, state) && condition_holds(thumb, state | 1 << 30));
    }

    #[test]
    fn exceptions_are_taken_as_the_world_that_takes_them_says() {
        // From Thumb code in User mode, within an IT block; to ARM code, vectors by VBAR.
        let from = Place { pc: 0x1002, cpsr: 0x0600_0430 };
        let (to, link) = Exception::Undefined.take(from, 0, 0x8000_0000);
        assert_eq!((to, link), (Place { pc: 0x8000_0004, cpsr: 0x9b }, 0x1004));
        // To big-endian Thumb code, high vectors; flags stay, and J is cleared.
        let from = Place { pc: 0x1000, cpsr: 0xf100_0010 };
        let (to, link) = Exception::DataAbort.take(from, 1 << 30 | 1 << 25 | 1 << 13, 0);
        assert_eq!((to, link), (Place { pc: 0xffff_0010, cpsr: 0xf000_03b7 }, 0x1008));
        assert_eq!(Exception::FetchAbort.take(from, 0, 0).0.pc, 12);
        assert_eq!(external_abort_status(1 << 31, true), 0xa10);
        assert_eq!(external_abort_status(0, false), 0x008);
    }

    #[test]
    fn it_blocks_end() {
        // ITT EQ: 0000 0100, two instructions.
        let mut state = 0x04 << 8 | 1 << 5 | 0x13;
        step_it_block(&mut state);
        assert_eq!(state, 0x08 << 8 | 1 << 5 | 0x13);
        step_it_block(&mut state);
        assert_eq!(state, 1 << 5 | 0x13);
    }
}
