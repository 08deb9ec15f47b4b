//! What the tests of translated code share: programs, and both tiers beside each other.

use crate::cpu::{Cpu, RAX, RIP};
use crate::fault::Fault;
use crate::placed::Placed;
use crate::testing::{CODE, DATA, STACK, cpu64, peek, poke};

/// Assembles a program between two labels, of 64-bit code unless another size comes first; its bytes.
macro_rules! program {
    ($bits:literal $start:ident $end:ident, $($line:literal),* $(,)?) => {{
        #[allow(non_upper_case_globals)]
        mod labels {
            std::arch::global_asm!(
                ".pushsection .text",
                concat!(".code", $bits),
                concat!(stringify!($start), ":"),
                $($line,)*
                concat!(stringify!($end), ":"),
                ".code64",
                ".popsection",
            );
            unsafe extern "C" {
                pub safe static $start: u8;
                pub safe static $end: u8;
            }
        }
        let (start, end) = (&raw const labels::$start, &raw const labels::$end);
        // SAFETY: two labels in one section, in this order.
        unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
    }};
    ($start:ident $end:ident, $($line:literal),* $(,)?) => {
        program!("64" $start $end, $($line),*)
    };
}

pub(super) use program;

/// A vCPU whose blocks are translated before they run, and which comes back after some thousands of instructions.
pub fn translating(new: fn(&[u8]) -> Placed, code: &[u8]) -> Placed {
    let mut cpu = new(code);
    (cpu.t1.threshold, cpu.t1.counting) = (0, true);
    cpu
}

/// Runs until RIP is `end`.
pub fn run_to(cpu: &mut Cpu, end: u64) {
    for _ in 0..1_000_000 {
        if cpu.regs[RIP] == end {
            return;
        }
        assert_eq!(cpu.run_block(), None);
    }
    panic!("RIP never became {end:#x}; it is {:#x}", cpu.regs[RIP]);
}

/// Code that stores 7 into the operand of an instruction behind, mov al, 1, whose last byte is at CODE + 8, and ends at CODE + 11.
pub fn store_takes_effect(mut cpu: Placed) {
    for _ in 0..3 {
        cpu.regs[RIP] = CODE;
        run_to(&mut cpu, CODE + 11);
        assert_eq!(cpu.regs[RAX], 7);
        poke(&cpu, CODE + 8, &[1]);
    }
}

/// Runs a program in both tiers, to its end, and compares everything there is.
pub fn same(new: fn(&[u8]) -> Placed, code: &[u8], prepare: impl Fn(&mut Cpu)) -> Placed {
    // An endless loop behind it, so that nothing runs into what follows.
    let mut whole = code.to_vec();
    whole.extend([0xeb, 0xfe]);
    let end = CODE + code.len() as u64;
    // What was executed before it is translated is translated together.
    let tiers = [(u32::MAX, false), (0, false), (0, true), (2, false), (2, true)];
    let mut cpus = tiers.map(|(threshold, counting)| {
        let mut cpu = new(&whole);
        (cpu.t1.threshold, cpu.t1.counting) = (threshold, counting);
        prepare(&mut cpu);
        run_to(&mut cpu, end);
        cpu
    });
    let t0 = &cpus[0];
    for t1 in &cpus[1..] {
        assert_eq!(t0.regs, t1.regs);
        assert_eq!(t0.rflags(), t1.rflags());
        assert_eq!(vectors(t0), vectors(t1));
        assert!(peek(t0, DATA, STACK as usize) == peek(t1, DATA, STACK as usize), "memory differs");
        assert!(t1.t1.enter != 0 || t1.t1.threshold != 0, "nothing was translated");
    }
    std::mem::replace(&mut cpus[2], cpu64(&[]))
}

/// The x87 and vector state but for FOP, FIP and FDP, which translated code clears.
pub fn vectors(cpu: &Cpu) -> Vec<u8> {
    let mut state = cpu.vector.to_bytes();
    state[6..24].fill(0);
    state
}

/// Executes one block (or chain) that is to fault.
pub fn fault(cpu: &mut Cpu) -> Option<Fault> {
    for _ in 0..10 {
        if cpu.execute_block().is_err() {
            return cpu.fault.take();
        }
    }
    panic!("no fault; RIP is {:#x}", cpu.regs[RIP]);
}
