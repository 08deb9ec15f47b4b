//! Whole programs in translated code, beside the interpreter.

use super::testing::{self, fault, program, run_to};
use crate::cpu::{Cpu, RAX, RBX, RCX, RDI, RDX, RIP, RSI, RSP};
use crate::fault::Fault;
use crate::placed::Placed;
use crate::testing::{CODE, DATA, STACK, cpu64, poke};

/// A vCPU for 64-bit code, as [`testing::translating`] makes it.
pub(super) fn translating(code: &[u8]) -> Placed {
    testing::translating(cpu64, code)
}

/// [`testing::same`] of 64-bit code.
pub(super) fn same(code: &[u8], prepare: impl Fn(&mut Cpu)) -> Placed {
    testing::same(cpu64, code, prepare)
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
    cpu.t1.exact_flags = true;
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
fn flags_that_are_read_later_survive_accesses() {
    let code = program!(
        t1_live t1_live_end,
        "mov ecx, 200",
        "2: add eax, ecx",
        "mov rdx, [rsi + rcx*8]",
        "mov [rdi + rcx], dl",
        "inc ebx",
        "push rdx",
        "adc r8, [rsi]",
        "shl rdx, 3",
        "mov r12, [rsi + 8]",
        "setp r9b",
        "test edx, edx",
        "mov r13, [rsi + rcx]",
        "bt r13, rcx",
        "mov [rdi + 0x500], r13",
        "sbb r14, rdx",
        "pop r15",
        "shl r15d, cl",
        "mov [rdi + 0x508], r15",
        "seto r10b",
        "rol r15w, 5",
        "mov [rdi + 0x510], r15",
        "rcl r11, 1",
        // Of its flags only CF and OF are defined.
        "imul r11, rdx, 33",
        "mov r12, [rdi]",
        "cmovc rbp, r12",
        "sub r11, r12",
        "mov r12, [rdi + 8]",
        "lahf",
        "cmovs rbp, r12",
        "dec ecx",
        "jne 2b",
    );
    for exact in [false, true] {
        same(code, |cpu| {
            cpu.t1.exact_flags = exact;
            (cpu.regs[RSI], cpu.regs[RDI]) = (DATA, DATA + 0x2000);
            for n in 0..512u64 {
                poke(cpu, DATA + n * 8, &n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            }
        });
    }
}

#[test]
fn every_form_of_address_reaches_its_place() {
    let code = program!(
        t1_forms t1_forms_end,
        "mov ecx, 40",
        "2: mov eax, [rsi + rcx*4 + 8]",
        "add [rdi + r12*2], eax",
        "mov rdx, [rsi + r12]",
        "xor [r13 + r12*4 - 64], rdx",
        "add r8, [rcx*8 + 0x10000]",
        "mov [r14*8 + 0x12000], r8",
        "mov r14, [0x10010]",
        "and r14d, 0xff",
        "mov r12d, [rip + 3f - 4]",
        "and r12d, 0x3f",
        "lea r13, [rdi + 0x200]",
        "mov r15, [rsi]",
        "mov [rsi + r12], r15b",
        "cmp r15, [r13]",
        "cmovb r15, [r13 + rcx]",
        "add qword ptr fs:[8], 3",
        "mov rax, gs:[r12]",
        "adc gs:[rcx*8 + 16], r15",
        "sbb fs:[rsi + rcx - 0x10000], rax",
        "dec ecx",
        "lea r12, [rsi + rcx]",
        "sub r12, rsi",
        "test ecx, ecx",
        "jne 2b",
        "jmp 4f",
        ".long 0x12345678",
        "3: .long 0x9abcdef0",
        "4: nop",
    );
    same(code, |cpu| {
        (cpu.regs[RSI], cpu.regs[RDI], cpu.regs[13]) = (DATA, DATA + 0x1000, DATA + 0x1100);
        cpu.regs[12] = 64;
        (cpu.seg[4].base, cpu.seg[5].base) = (DATA + 0x800, DATA + 0x3000);
        cpu.update_mode();
        for n in 0..512u64 {
            poke(cpu, DATA + n * 8, &n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
    });
}

#[test]
fn return_to_a_non_canonical_address_is_gp_at_the_return() {
    let mut cpu = translating(&[0xc3]);
    poke(&cpu, STACK, &(1u64 << 47).to_le_bytes());
    assert_eq!(fault(&mut cpu), Some(Fault::Exception(x86::Exception::gp(0))));
    assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (CODE, STACK));
}
