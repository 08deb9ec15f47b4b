//! Flags that are left unsaved at edges, beside the interpreter.

use super::testing::{fault, program, run_to};
use crate::cpu::{Cpu, RAX, RBX, RCX, RDI, RDX, RIP};
use crate::fault::Fault;
use crate::placed::Placed;
use crate::remote::pending;
use crate::testing::{CODE, DATA, cpu32, cpu64, cpus64};
use address::GuestPhys;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// A vCPU whose code does not count, so that edges look ahead.
fn looking(code: &[u8], threshold: u32) -> Placed {
    let mut cpu = cpu64(code);
    cpu.t1.threshold = threshold;
    cpu
}

/// Runs a program in both tiers, with what is behind its branches announced before they are translated, and not.
fn same(new: fn(&[u8]) -> Placed, code: &[u8]) {
    let mut whole = code.to_vec();
    whole.extend([0xeb, 0xfe]);
    let ran = [u32::MAX, 0, 1, 5].map(|threshold| {
        let mut cpu = new(&whole);
        cpu.t1.threshold = threshold;
        run_to(&mut cpu, CODE + code.len() as u64);
        cpu
    });
    for t1 in &ran[1..] {
        assert_eq!((ran[0].regs, ran[0].rflags()), (t1.regs, t1.rflags()));
    }
}

#[test]
fn flags_are_kept_for_what_reads_them_behind_a_branch() {
    let code = program!(
        t1_ahead t1_ahead_end,
        "mov ecx, 400",
        "2: add eax, 0x12345679",
        "jnc 3f",
        "mov edx, eax",
        "xor edx, ecx",
        "jmp 4f",
        "3: mov ebp, edi",
        "adc ebp, 5",
        "setp bl",
        "cmp eax, ebx",
        "4: jo 5f",
        "inc esi",
        "jmp 6f",
        "5: rcl esi, 1",
        "6: lahf",
        "add edi, eax",
        "jmp 7f",
        "7: cmc",
        "sbb ebx, esi",
        "js 8f",
        "shl ebx, cl",
        "jz 8f",
        "mov edx, 3",
        "rol ebx, 3",
        "jmp 9f",
        "8: and ebx, 0xffffff",
        "jmp 9f",
        "9: lea esi, [rsi + rdi*2]",
        "setc dl",
        "dec ecx",
        "jne 2b",
    );
    same(cpu64, code);
    // It means much the same in 32-bit code.
    same(cpu32, code);
}

#[test]
fn flags_are_saved_only_where_something_may_read_them() {
    // 0: stc; jmp 5 / 3: nop, twice / 5: mov eax, [rdi]; 7: xor eax, eax (or: sbb eax, eax); jmp -2
    for (exact, opcode, saved) in [(false, 0x31, false), (false, 0x19, true), (true, 0x31, true)] {
        let code = [0xf9, 0xeb, 2, 0x90, 0x90, 0x8b, 0x07, opcode, 0xc0, 0xeb, 0xfe];
        let mut cpu = looking(&code, 3);
        cpu.t1.exact_flags = exact;
        for _ in 0..10 {
            (cpu.regs[RIP], cpu.regs[RDI]) = (CODE, DATA);
            run_to(&mut cpu, CODE + 9);
        }
        (cpu.regs[RIP], cpu.regs[RDI]) = (CODE, 1 << 60);
        cpu.set_rflags(0);
        assert_eq!(fault(&mut cpu), Some(Fault::NonCanonical));
        assert_eq!((cpu.regs[RIP], cpu.rflags() & 1), (CODE + 5, saved as u64));
    }
}

#[test]
fn flags_are_saved_where_a_chain_leaves_because_something_is_pending() {
    // 0: add eax, edx; jmp 0
    for threshold in [0, u32::MAX] {
        let mut cpu = looking(&[0x01, 0xd0, 0xeb, 0xfc], threshold);
        for _ in 0..5 {
            (cpu.regs[RIP], cpu.regs[RAX], cpu.regs[RDX]) = (CODE, 0xffff_ffff, 1);
            cpu.set_rflags(0);
            cpu.remote.post(pending::RECHECK);
            assert_eq!(cpu.run_block(), None);
            assert_eq!((cpu.regs[RIP], cpu.regs[RAX], cpu.rflags() & 0x8d5), (CODE, 0, 0x55));
        }
    }
}

#[test]
fn code_behind_a_branch_that_comes_to_read_flags_finds_them() {
    // 0: stc; jmp 5 / 3: nop, twice / 5: xor edx, edx (or: sbb edx, edx); jmp -2
    let mut cpu = looking(&[0xf9, 0xeb, 2, 0x90, 0x90, 0x31, 0xd2, 0xeb, 0xfe], 0);
    for n in 0..40 {
        let reads = n % 3 == 2;
        cpu.shared.memory.write(GuestPhys(CODE + 5), &[if reads { 0x19 } else { 0x31 }]).unwrap();
        for _ in 0..2 {
            (cpu.regs[RIP], cpu.regs[RDX]) = (CODE, 7);
            cpu.set_rflags(0);
            if n % 2 == 0 {
                run_to(&mut cpu, CODE + 7);
                assert_eq!(cpu.regs[RDX], if reads { 0xffff_ffff } else { 0 });
                continue;
            }
            // Changed when the branch was executed, but not what it goes to.
            while cpu.regs[RIP] == CODE {
                assert_eq!(cpu.run_block(), None);
            }
            if cpu.regs[RIP] == CODE + 5 {
                cpu.shared.memory.write(GuestPhys(CODE + 5), &[0x19]).unwrap();
                run_to(&mut cpu, CODE + 7);
                assert_eq!(cpu.regs[RDX], 0xffff_ffff);
            }
        }
    }
}

/// While chains go round on one page a device makes what a branch goes to read flags, or not: it is executed as it was or as
/// it is, but with the branch's flags.
#[test]
fn code_that_comes_to_read_flags_while_chains_run_finds_them() {
    const END: u64 = CODE + 0x57;
    // 0: clc; jmp 0x43
    let mut code = vec![0xf8, 0xeb, 0x40];
    code.resize(0x43, 0x90);
    // 0x43: mov edx, 5; 0x48: add edx, edx (or adc); sub edx, 10; or ebx, edx; inc r8d; cmp r8d, ecx; jb 0, with a carry
    code.extend([0xba, 5, 0, 0, 0, 0x01, 0xd2, 0x83, 0xea, 10, 0x09, 0xd3]);
    code.extend([0x41, 0xff, 0xc0, 0x41, 0x39, 0xc8, 0x72, 0xa9, 0xeb, 0xfe]);
    let mut cpus = cpus64(2, &code);
    let memory = cpus[0].shared.memory.clone();
    let done = AtomicBool::new(false);
    let run = |cpu: &mut Cpu| {
        cpu.t1.threshold = 2;
        cpu.remote.enter();
        for _ in 0..200 {
            (cpu.regs[RIP], cpu.regs[RCX], cpu.regs[8]) = (CODE, 20_000, 0);
            while cpu.regs[RIP] != END {
                if cpu.remote.pending.load(SeqCst) != 0 {
                    assert_eq!(cpu.handle_events(), None);
                }
                assert_eq!(cpu.run_block(), None);
            }
        }
        cpu.remote.leave();
        cpu.regs[RBX]
    };
    std::thread::scope(|s| {
        s.spawn(|| {
            for n in 0u32.. {
                if done.load(SeqCst) {
                    break;
                }
                memory.write(GuestPhys(CODE + 0x48), &[if n % 2 == 0 { 0x11 } else { 0x01 }]).unwrap();
                std::thread::sleep(std::time::Duration::from_micros(100));
            }
        });
        let threads: Vec<_> = cpus.iter_mut().map(|cpu| s.spawn(|| run(cpu))).collect();
        let wrong: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
        done.store(true, SeqCst);
        assert!(wrong.iter().all(|w| matches!(w, Ok(0))), "{wrong:x?}");
    });
}
