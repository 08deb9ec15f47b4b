//! Whole programs in translated code, beside the interpreter.

use crate::cpu::{Cpu, RAX, RBX, RCX, RDI, RDX, RIP, RSI, RSP};
use crate::fault::Fault;
use crate::run::Done;
use crate::testing::{CODE, DATA, STACK, cpu64, peek, poke};
use address::GuestPhys;

/// Assembles a program between two labels; its bytes.
macro_rules! program {
    ($start:ident $end:ident, $($line:literal),* $(,)?) => {{
        #[allow(non_upper_case_globals)]
        mod labels {
            std::arch::global_asm!(
                ".pushsection .text",
                concat!(stringify!($start), ":"),
                $($line,)*
                concat!(stringify!($end), ":"),
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
}

pub(super) use program;

/// A vCPU whose blocks are translated before they run.
pub(super) fn translating(code: &[u8]) -> Cpu {
    let mut cpu = cpu64(code);
    cpu.t1.threshold = 0;
    cpu
}

/// Runs until RIP is `end`.
pub(super) fn run_to(cpu: &mut Cpu, end: u64) {
    for _ in 0..1_000_000 {
        if cpu.regs[RIP] == end {
            return;
        }
        assert_eq!(cpu.run_block(), None);
    }
    panic!("RIP never became {end:#x}; it is {:#x}", cpu.regs[RIP]);
}

/// Runs a program in both tiers, to its end, and compares everything there is.
pub(super) fn same(code: &[u8], prepare: impl Fn(&mut Cpu)) -> Cpu {
    // An endless loop behind it, so that nothing runs into what follows.
    let mut whole = code.to_vec();
    whole.extend([0xeb, 0xfe]);
    let end = CODE + code.len() as u64;
    let mut cpus = [u32::MAX, 0].map(|threshold| {
        let mut cpu = cpu64(&whole);
        cpu.t1.threshold = threshold;
        prepare(&mut cpu);
        for _ in 0..1_000_000 {
            if cpu.regs[RIP] == end {
                break;
            }
            assert_eq!(cpu.run_block(), None);
        }
        assert_eq!(cpu.regs[RIP], end);
        cpu
    });
    let [t0, t1] = &cpus;
    assert_eq!(t0.regs, t1.regs);
    assert_eq!(t0.rflags(), t1.rflags());
    assert_eq!(vectors(t0), vectors(t1));
    for (at, len) in [(DATA, 0x4000), (STACK - 0x1000, 0x1000)] {
        assert!(peek(t0, at, len) == peek(t1, at, len), "memory at {at:#x} differs");
    }
    std::mem::replace(&mut cpus[1], cpu64(&[]))
}

/// The x87 and vector state but for FOP, FIP and FDP, which translated code clears.
pub(super) fn vectors(cpu: &Cpu) -> Vec<u8> {
    let mut state = cpu.vector.to_bytes();
    state[6..24].fill(0);
    state
}

/// Executes one block (or chain) that is to fault.
pub(super) fn fault(cpu: &mut Cpu) -> Option<Fault> {
    for _ in 0..10 {
        if cpu.execute_block().is_err() {
            return cpu.fault.take();
        }
    }
    panic!("no fault; RIP is {:#x}", cpu.regs[RIP]);
}

#[test]
fn sum_over_memory_with_calls_is_the_interpreters() {
    let code = program!(
        t1_sum t1_sum_end,
        "mov ecx, 1000",
        "lea r12, [rip + 2f]",
        "2: mov eax, [rsi + rcx*4]",
        "call 3f",
        "mov [rdi + rcx*2], ax",
        "add r13, rax",
        "adc r14, 0",
        "push r13",
        "pop r15",
        "xor qword ptr [rdi], r15",
        "setc byte ptr [rdi + 9]",
        "cmovs rbx, [rdi]",
        "inc dword ptr [rdi + 0x30]",
        "dec ecx",
        "jne 2b",
        "jmp 5f",
        "3: push rbp",
        "mov rbp, rsp",
        "sub rsp, 24",
        "mov [rbp - 8], rcx",
        "imul rax, rax, 77",
        "mul rcx",
        "test al, 4",
        "je 4f",
        "rol rax, cl",
        "4: bsf rdx, rax",
        "leave",
        "ret",
        "5: nop",
    );
    let cpu = same(code, |cpu| {
        (cpu.regs[RSI], cpu.regs[RDI]) = (DATA, DATA + 0x2000);
        for n in 0..2048u64 {
            poke(cpu, DATA + n * 4, &(n as u32).wrapping_mul(0x9e37_79b9).to_le_bytes());
        }
    });
    assert_eq!(cpu.regs[RSP], STACK);
    assert!(cpu.retired > 20_000);
}

#[test]
fn accesses_across_pages_are_the_interpreters() {
    let code = program!(
        t1_across t1_across_end,
        "mov ecx, 40",
        "2: mov rax, [rsi + rcx]",
        "add [rsi + rcx + 2], eax",
        "mov [rsi + rcx - 3], cx",
        "dec ecx",
        "jne 2b",
    );
    same(code, |cpu| {
        cpu.regs[RSI] = DATA + 0xff0 - 10;
        poke(cpu, DATA + 0xfe0, &(0..64).collect::<Vec<u8>>());
    });
}

#[test]
fn indirect_branches_reach_their_targets() {
    let code = program!(
        t1_indirect t1_indirect_end,
        "mov ecx, 300",
        "2: lea rax, [rip + 3f]",
        "lea rdx, [rip + 4f]",
        "test cl, 1",
        "cmovne rax, rdx",
        "mov [rdi], rax",
        "call [rdi]",
        "call rax",
        "jmp rdx",
        "3: add rbx, 1",
        "ret",
        "4: add rbx, 16",
        "cmp rsp, r8",
        "je 5f",
        "ret 0",
        "5: dec ecx",
        "jne 2b",
    );
    let cpu = same(code, |cpu| (cpu.regs[RDI], cpu.regs[8]) = (DATA, STACK));
    assert_eq!(cpu.regs[RBX], 150 * 2 + 150 * 32 + 300 * 16);
}

#[test]
fn jump_to_another_page_and_back_is_followed() {
    // mov al, 1; jmp to the page after next; jmp -2 / there: add bl, al; jmp back behind
    let mut code = vec![0xb0, 1, 0xe9, 0xf9, 0x1f, 0, 0, 0xeb, 0xfe];
    code.resize(0x2000, 0x90);
    code.extend([0x00, 0xc3, 0xe9, 0, 0xe0, 0xff, 0xff]);
    let mut cpu = translating(&code);
    for n in 1..40 {
        cpu.regs[RIP] = CODE;
        run_to(&mut cpu, CODE + 7);
        assert_eq!(cpu.regs[RBX], n);
    }
}

#[test]
fn fault_in_a_block_leaves_everything_before_it_and_nothing_after() {
    let code = program!(
        t1_fault t1_fault_end,
        "add eax, edx", "inc ebx", "mov rcx, [rdi]", "inc ebx", "xor eax, eax");
    let mut cpu = translating(code);
    for n in 1..4 {
        cpu.regs[RIP] = CODE;
        (cpu.regs[RAX], cpu.regs[RDX], cpu.regs[RDI]) = (0xffff_ffff, 1, 1 << 60);
        let retired = cpu.retired;
        assert_eq!(fault(&mut cpu), Some(Fault::NonCanonical));
        assert_eq!((cpu.regs[RIP], cpu.regs[RAX], cpu.regs[RBX]), (CODE + 4, 0, n));
        assert_eq!(cpu.rflags() & 0x8d5, 1 | if n == 3 { 4 } else { 0 }, "INC's, and ADD's carry");
        assert_eq!(cpu.retired - retired, 2);
    }
}

#[test]
fn return_to_a_non_canonical_address_is_gp_at_the_return() {
    let mut cpu = translating(&[0xc3]);
    poke(&cpu, STACK, &(1u64 << 47).to_le_bytes());
    assert_eq!(fault(&mut cpu), Some(Fault::Exception(x86::Exception::gp(0))));
    assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (CODE, STACK));
}

#[test]
fn endless_loop_comes_back_in_time() {
    for code in [&[0xeb, 0xfe][..], &[0x48, 0xff, 0xc0, 0xeb, 0xfb], &[0xff, 0xe2]] {
        let mut cpu = translating(code);
        cpu.regs[RDX] = CODE;
        let mut before = 0;
        let mut long = 0;
        for _ in 0..20 {
            long += (cpu.execute_block() == Ok(Done::Many)) as u32;
            assert!(cpu.retired > before && cpu.retired - before <= 4096, "{code:x?}");
            before = cpu.retired;
        }
        assert!(long > 10, "{code:x?}");
        assert_eq!(cpu.regs[RIP], CODE);
    }
}

#[test]
fn pending_event_is_seen_after_the_op_that_caused_it() {
    // clts, which changes nothing of the mapping; then a loop
    let mut cpu = translating(&[0x0f, 0x06, 0xff, 0xc0, 0xeb, 0xfa]);
    for _ in 0..3 {
        cpu.execute_block().unwrap();
    }
    cpu.recheck();
    let before = cpu.retired;
    cpu.execute_block().unwrap();
    assert!(cpu.retired - before <= 8, "{}", cpu.retired - before);
}

#[test]
fn store_to_the_running_block_takes_effect() {
    // mov byte [rip+1], 7; mov al, 1; jmp +0
    let mut cpu = translating(&[0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1, 0xeb, 0]);
    for _ in 0..3 {
        cpu.regs[RIP] = CODE;
        run_to(&mut cpu, CODE + 11);
        assert_eq!(cpu.regs[RAX], 7);
        poke(&cpu, CODE + 8, &[1]);
    }
}

#[test]
fn store_to_a_linked_block_takes_effect() {
    let code = program!(
        t1_patch t1_patch_end,
        "2: mov [rdi], cl",
        "jmp 3f",
        ".skip 60, 0x90",
        "3: mov al, 0",
        "add ebx, eax",
        "dec ecx",
        "jne 2b",
    );
    let mut whole = code.to_vec();
    whole.extend([0xeb, 0xfe]);
    let mut cpu = translating(&whole);
    (cpu.regs[RCX], cpu.regs[RDI]) = (50, CODE + 65);
    assert_eq!(code[64], 0xb0);
    run_to(&mut cpu, CODE + code.len() as u64);
    assert_eq!(cpu.regs[RBX], 50 * 51 / 2);
}

#[test]
fn write_by_a_device_to_a_linked_block_takes_effect() {
    // jmp +0; mov al, 1; jmp -6
    let mut cpu = translating(&[0xeb, 0, 0xb0, 1, 0xeb, 0xfa]);
    for n in 1..100u8 {
        cpu.shared.memory.write(GuestPhys(CODE + 3), &[n]).unwrap();
        cpu.execute_block().unwrap();
        cpu.execute_block().unwrap();
        cpu.execute_block().unwrap();
        assert_eq!(cpu.regs[RAX], n as u64);
    }
}

#[test]
fn code_on_another_page_that_changed_is_not_jumped_to() {
    // call rdx; jmp -4 / there: mov al, 1; ret
    let mut cpu = translating(&[0xff, 0xd2, 0xeb, 0xfc]);
    cpu.regs[RDX] = CODE + 0x1000;
    poke(&cpu, CODE + 0x1000, &[0xb0, 1, 0xc3]);
    for n in 1..60u8 {
        cpu.shared.memory.write(GuestPhys(CODE + 0x1001), &[n]).unwrap();
        for _ in 0..3 {
            cpu.execute_block().unwrap();
        }
        assert_eq!(cpu.regs[RAX], n as u64);
    }
}

#[test]
fn alias_of_a_page_runs_relative_to_itself() {
    // Without paging an address and the one 4 GiB above it are the same memory.
    let code = program!(
        t1_alias t1_alias_end,
        "2: call 3f", "3: pop rax", "lea rbx, [rip + 2b]", "mov ecx, [rip + 2b]", "jmp 4f", "4: nop");
    let mut whole = code.to_vec();
    whole.extend([0xeb, 0xfe]);
    let mut cpu = translating(&whole);
    for round in 0..6 {
        let base = CODE + ((round & 1) << 32);
        cpu.regs[RIP] = base;
        run_to(&mut cpu, base + code.len() as u64);
        assert_eq!((cpu.regs[RAX], cpu.regs[RBX]), (base + 5, base));
        assert_eq!(cpu.regs[RCX] as u32, 0xe8, "the call itself");
    }
}

#[test]
fn changed_address_mapping_is_not_jumped_past() {
    // ret, to an address whose code was found before the mapping changed
    let mut cpu = translating(&[0xc3]);
    poke(&cpu, CODE + 0x1000, &[0xb0, 1, 0xeb, 0xfe]);
    poke(&cpu, STACK, &(CODE + 0x1000).to_le_bytes());
    for _ in 0..4 {
        (cpu.regs[RIP], cpu.regs[RSP]) = (CODE, STACK);
        cpu.execute_block().unwrap();
        cpu.execute_block().unwrap();
    }
    let before = cpu.jump_guard();
    cpu.tlb.forget_jumps();
    assert_ne!(cpu.jump_guard(), before);
    (cpu.regs[RIP], cpu.regs[RSP], cpu.regs[RAX]) = (CODE, STACK, 0);
    cpu.execute_block().unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RAX]), (CODE + 0x1000, 0), "it came back to ask");
}

#[test]
fn full_code_memory_is_emptied_and_filled_again() {
    let mut cpu = translating(&[]);
    // Every address its own block, which nothing follows: mov eax, imm32; ret
    let block = [0xb8, 1, 2, 3, 4, 0xc3];
    poke(&cpu, STACK, &CODE.to_le_bytes());
    let (mut cleared, mut last) = (0, 0);
    for round in 0..4 {
        for n in 0..0x2000 {
            let at = 0x40000 + n * 8;
            if round == 0 {
                poke(&cpu, at, &block);
            }
            (cpu.regs[RIP], cpu.regs[RSP], cpu.regs[RAX]) = (at, STACK, 0);
            cpu.execute_block().unwrap();
            assert_eq!((cpu.regs[RAX], cpu.regs[RIP]), (0x0403_0201, CODE));
            let used = cpu.t1.runtime.as_ref().unwrap().used();
            cleared += (used < last) as u32;
            last = used;
        }
    }
    assert!(cleared > 1, "{cleared} {last}");
}

#[test]
fn without_translation_nothing_is_translated() {
    let mut cpu = cpu64(&[0xeb, 0xfe]);
    cpu.t1.threshold = u32::MAX;
    for _ in 0..100 {
        assert_eq!(cpu.execute_block(), Ok(Done::Block));
    }
    assert!(cpu.t1.runtime.is_none());
}
