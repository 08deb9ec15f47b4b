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

/// A vCPU whose blocks are translated before they run, and which comes back after some thousands of instructions.
pub(super) fn translating(code: &[u8]) -> Cpu {
    let mut cpu = cpu64(code);
    (cpu.t1.threshold, cpu.t1.counting) = (0, true);
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
    let mut cpus = [(u32::MAX, false), (0, false), (0, true)].map(|(threshold, counting)| {
        let mut cpu = cpu64(&whole);
        (cpu.t1.threshold, cpu.t1.counting) = (threshold, counting);
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
    let t0 = &cpus[0];
    for t1 in &cpus[1..] {
        assert_eq!(t0.regs, t1.regs);
        assert_eq!(t0.rflags(), t1.rflags());
        assert_eq!(vectors(t0), vectors(t1));
        for (at, len) in [(DATA, 0x4000), (STACK - 0x1000, 0x1000)] {
            assert!(peek(t0, at, len) == peek(t1, at, len), "memory at {at:#x} differs");
        }
    }
    std::mem::replace(&mut cpus[2], cpu64(&[]))
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
fn call_at_the_end_of_a_page_returns_to_the_next() {
    // At the page's end: call there. In the next page: inc ebx; dec ecx; jne back to the call; jmp on. There: ret.
    let mut code = vec![0x90; 0xffb];
    code[..5].copy_from_slice(&[0xe9, 0xf6, 0x0f, 0, 0]);
    code.extend([0xe8, 10, 0, 0, 0]);
    code.extend([0xff, 0xc3, 0xff, 0xc9, 0x75, 0xf5, 0xeb, 3, 0x90, 0x90, 0xc3]);
    let cpu = same(&code, |cpu| cpu.regs[RCX] = 70);
    assert_eq!(cpu.regs[RBX], 70);
}

#[test]
fn system_instructions_done_in_place_are_the_interpreters() {
    let code = program!(
        t1_system t1_system_end,
        "mov ecx, 100",
        "2: cli",
        "pushfq",
        "pop rax",
        "add rbx, rax",
        "imul edx, ecx, 0x2fd",
        "and edx, 0xed5",
        "push rdx",
        "popfq",
        "adc rbx, 0",
        "seto sil",
        "pushfq",
        "add rbx, [rsp]",
        "popfq",
        "pushfq",
        "pop rax",
        "sti",
        "xor r12, rax",
        "pushfq",
        "pop rax",
        "rol rbx, 3",
        "add rbx, rax",
        "swapgs",
        "mov rax, gs:[rdi]",
        "add rbx, rax",
        "add qword ptr [rdi], 77",
        "dec ecx",
        "jne 2b",
        // Neither is the same twice.
        "rdtsc",
        "shl rdx, 32",
        "lea r8, [rdx + rax]",
        "rdtscp",
        "shl rdx, 32",
        "add rax, rdx",
        "sub rax, r8",
        "shr rax, 63",
        "mov r9, rcx",
        "mov r8, 0",
        "mov rdx, 0",
    );
    let cpu = same(code, |cpu| {
        cpu.regs[RDI] = DATA;
        cpu.sys.kernel_gs_base = 0x100;
        cpu.sys.tsc_aux = 0x1234;
        poke(cpu, DATA, &[3; 0x200]);
    });
    assert_eq!((cpu.regs[RAX], cpu.regs[9]), (0, 0x1234), "the time does not run backwards");
    assert_eq!(cpu.sys.kernel_gs_base, 0x100);
}

#[test]
fn interrupts_allowed_again_are_looked_for_where_one_waits() {
    // sti / pushfq-image in RDX to the flags, with something waiting that IF held back.
    for code in [&[0xfb, 0xeb, 0xfe][..], &[0x52, 0x9d, 0xeb, 0xfe]] {
        for waiting in [0, crate::remote::pending::INTERRUPT] {
            let mut cpu = translating(code);
            cpu.system_flags.remove(x86::Rflags::IF);
            (cpu.regs[RDX], cpu.sys.waiting) = (0x202, waiting);
            cpu.execute_block().unwrap();
            assert!(cpu.system_flags.contains(x86::Rflags::IF));
            assert_eq!(cpu.remote.pending.load(std::sync::atomic::Ordering::SeqCst) != 0, waiting != 0);
        }
    }
}

#[test]
fn calls_deeper_than_returns_are_foreseen_return() {
    let code = program!(
        t1_deep t1_deep_end,
        "mov ecx, 5000",
        "call 2f",
        "jmp 4f",
        "2: dec ecx",
        "je 3f",
        "call 2b",
        "add rbx, 3",
        "3: ret 0",
        "4: nop",
    );
    let cpu = same(code, |_| ());
    assert_eq!((cpu.regs[RBX], cpu.regs[RSP]), (4999 * 3, STACK));
}

#[test]
fn frames_left_without_a_return_cost_nothing_but_time() {
    let code = program!(
        t1_long t1_long_end,
        "mov ecx, 200",
        "2: call 3f",
        "dec ecx",
        "jne 2b",
        "jmp 9f",
        "3: push rbp",
        "mov r8, rsp",
        "call 4f",
        "7: mov rsp, r8",
        "pop rbp",
        "inc rbx",
        "ret",
        "4: call 5f",
        "add rdx, 1",
        "ret",
        "5: call 6f",
        "add rdx, 16",
        "ret",
        "6: test cl, 1",
        "jne 8f",
        "ret",
        "8: jmp 7b",
        "9: nop",
    );
    let cpu = same(code, |_| ());
    assert_eq!((cpu.regs[RBX], cpu.regs[RDX]), (200, 100 * 17));
}

#[test]
fn returns_to_where_no_call_was_are_followed() {
    let code = program!(
        t1_mismatch t1_mismatch_end,
        "mov ecx, 100",
        "2: lea rax, [rip + 3f]",
        "push rax",
        "ret",
        "ud2",
        "3: call 4f",
        "ud2",
        "4: lea rax, [rip + 5f]",
        "mov [rsp], rax",
        "ret",
        // A call whose return address is dropped, and a return that releases arguments.
        "5: call 6f",
        "6: pop rdx",
        "push rbx",
        "push rbx",
        "call 7f",
        "dec ecx",
        "jne 2b",
        "jmp 8f",
        "7: inc rbx",
        "ret 16",
        "8: nop",
    );
    let cpu = same(code, |_| ());
    assert_eq!((cpu.regs[RBX], cpu.regs[RSP]), (100, STACK));
}

#[test]
fn code_behind_a_call_that_the_called_changes_takes_effect() {
    let code = program!(
        t1_behind t1_behind_end,
        "mov ecx, 60",
        "2: lea rax, [rip + 9f]",
        "call rax",
        "3: mov al, 0",
        "movzx eax, al",
        "add ebx, eax",
        "call 9f",
        "4: mov al, 0",
        "movzx eax, al",
        "add ebx, eax",
        "dec ecx",
        "jne 2b",
        "jmp 5f",
        ".skip 4096, 0x90",
        "9: lea rdx, [rip + 3b]",
        "mov [rdx + 1], cl",
        "lea rdx, [rip + 4b]",
        "mov [rdx + 1], cl",
        "ret",
        "5: nop",
    );
    let cpu = same(code, |_| ());
    assert_eq!(cpu.regs[RBX], 60 * 61);
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

/// Endless loops: a jump to itself, with something before it, of two blocks, through a register (RDX is its address), by
/// returns from calls and without, of a conditional jump with flags kept, over two pages.
const LOOPS: [&[u8]; 8] = [
    &[0xeb, 0xfe],
    &[0x48, 0xff, 0xc0, 0xeb, 0xfb],
    &[0xff, 0xc0, 0xeb, 0, 0xff, 0xc3, 0xeb, 0xf8],
    &[0xff, 0xe2],
    &[0xe8, 2, 0, 0, 0, 0xeb, 0xf9, 0xc3],
    &[0x52, 0xc3],
    &[0x01, 0xc8, 0x71, 0xfc, 0x70, 0xfa],
    &[0xe9, 0xfb, 0xff, 0xff, 0xff],
];

#[test]
fn endless_loop_that_counts_comes_back_in_time() {
    for code in LOOPS {
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
        assert!((CODE..CODE + code.len() as u64).contains(&cpu.regs[RIP]));
    }
}

#[test]
fn pending_event_is_seen_after_the_op_that_caused_it() {
    // inc eax; mov rbx, cr8, which may change nothing; inc eax; a loop around these; with something pending, after the
    // first instruction that is T0's.
    let mut cpu = translating(&[0xff, 0xc0, 0x44, 0x0f, 0x20, 0xc3, 0xff, 0xc0, 0xeb, 0xf6]);
    for _ in 0..3 {
        cpu.recheck();
        cpu.regs[RIP] = CODE;
        let before = cpu.regs[RAX];
        cpu.execute_block().unwrap();
        assert_eq!((cpu.regs[RAX] - before, cpu.regs[RIP]), (1, CODE + 6));
    }
}

#[test]
fn endless_loop_ends_soon_after_something_is_posted() {
    for (n, code) in LOOPS.iter().enumerate() {
        let mut cpu = translating(code);
        cpu.t1.counting = false;
        cpu.regs[RDX] = CODE;
        let remote = cpu.remote.clone();
        let started = std::sync::atomic::AtomicBool::new(false);
        let posted = std::thread::scope(|s| {
            let poster = s.spawn(|| {
                while !started.load(std::sync::atomic::Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                std::thread::sleep(std::time::Duration::from_millis(3));
                remote.post(crate::remote::pending::KICK);
                std::time::Instant::now()
            });
            for _ in 0..4 {
                // The first ones come back to be led to each other.
                started.store(true, std::sync::atomic::Ordering::SeqCst);
                cpu.execute_block().unwrap();
                if cpu.remote.pending.load(std::sync::atomic::Ordering::SeqCst) != 0 {
                    break;
                }
            }
            poster.join().unwrap()
        });
        assert!(posted.elapsed() < std::time::Duration::from_millis(200), "loop {n}");
        assert!((CODE..CODE + 0x40).contains(&cpu.regs[RIP]));
    }
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
