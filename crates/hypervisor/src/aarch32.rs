//! What traps of AArch32 code leave to be worked out: conditions, and IT blocks.

use arm::control::spsr;
use arm::syndrome::Syndrome;

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
    fn it_blocks_end() {
        // ITT EQ: 0000 0100, two instructions.
        let mut state = 0x04 << 8 | 1 << 5 | 0x13;
        step_it_block(&mut state);
        assert_eq!(state, 0x08 << 8 | 1 << 5 | 0x13);
        step_it_block(&mut state);
        assert_eq!(state, 1 << 5 | 0x13);
    }
}
