//! Accesses that are looked up together, beside the interpreter.

use super::testing::{fault, program};
use super::tests::same;
use crate::cpu::{Cpu, RAX, RBX, RCX, RDI, RIP, RSI, RSP};
use crate::fault::Fault;
use crate::testing::{CODE, DATA, STACK, cpu64, peek, poke};

#[test]
fn groups_of_accesses_across_pages_are_the_interpreters() {
    let code = program!(
        t1_groups t1_groups_end,
        "mov ecx, 90",
        "2: mov rax, [rsi]",
        "add [rsi + 8], rax",
        "mov [rsi + 12], ecx",
        "xor rdx, [rsi + 40]",
        "mov r8, rsi",
        "lea r9, [r8 + 24]",
        "mov [r9], rdx",
        "inc byte ptr [r9 - 9]",
        "movups xmm0, [r8 + 16]",
        "movups [rsi + 48], xmm0",
        "push rax",
        "push rdx",
        "sub rsp, 24",
        "mov [rsp + 8], rcx",
        "add rcx, [rsp + 32]",
        "sub rcx, [rsp + 32]",
        "call 3f",
        "add rsp, 24",
        "pop rbx",
        "xadd [rsp], rbx",
        "pop r12",
        "inc rsi",
        "add rsp, 3",
        "dec ecx",
        "jne 2b",
        "jmp 4f",
        "3: push rbp",
        "mov rbp, rsp",
        "sub rsp, 16",
        "mov [rbp - 4], ecx",
        "movaps xmm1, [rdi]",
        "movaps [rdi + 16], xmm1",
        "lock inc dword ptr [rdi + 32]",
        "lock add qword ptr [rdi + 40], 5",
        "mov r13d, [rbp - 4]",
        "mov eax, [rip + 5f]",
        "add eax, [rip + 5f + 2]",
        "leave",
        "ret",
        "5: .quad 0x123456789abcdef",
        "4: nop",
    );
    // The structure and the stack go over the ends of their pages.
    same(code, |cpu| {
        (cpu.regs[RSI], cpu.regs[RDI]) = (DATA + 0x1000 - 70, DATA + 0x2000 - 16);
        cpu.regs[RSP] = STACK - 0x180;
        for n in 0..1024u64 {
            poke(cpu, DATA + n * 8, &n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        enable_sse(cpu);
    });
}

/// As an operating system has it before programs use vectors.
fn enable_sse(cpu: &mut Cpu) {
    cpu.cr4 |= x86::Cr4::OSFXSR | x86::Cr4::OSXMMEXCPT;
    cpu.update_mode();
}

#[test]
fn fault_in_a_group_is_its_accesss_own() {
    let code = program!(
        t1_group_fault t1_group_fault_end,
        "mov rax, [rsi - 8]", "inc ebx", "mov rcx, [rsi]", "inc ebx", "mov [rsi + 8], rbx");
    for threshold in [u32::MAX, 0] {
        let mut cpu = cpu64(code);
        cpu.t1.threshold = threshold;
        for n in 1..4 {
            cpu.regs[RIP] = CODE;
            // The last canonical page of its half: nothing is there, and nothing may be behind it.
            (cpu.regs[RAX], cpu.regs[RCX], cpu.regs[RSI]) = (0, 7, 1 << 47);
            assert_eq!(fault(&mut cpu), Some(Fault::NonCanonical));
            assert_eq!((cpu.regs[RIP], cpu.regs[RBX], cpu.regs[RCX]), (CODE + 6, n, 7));
            assert_eq!(cpu.regs[RAX], u64::MAX, "what a bus without a device reads");
        }
    }
}

#[test]
fn group_on_a_device_goes_to_the_device() {
    let code = program!(
        t1_group_device t1_group_device_end,
        "mov ecx, 20",
        "2: mov rax, [rsi]",
        "mov [rsi + 8], ecx",
        "add rbx, [rsi + 16]",
        "mov rdx, [rdi]",
        "mov [rdi + 8], rdx",
        "dec ecx",
        "jne 2b",
    );
    let cpu = same(code, |cpu| (cpu.regs[RSI], cpu.regs[RDI]) = (0x8000_0000, DATA));
    assert_eq!((cpu.regs[RAX], cpu.regs[RBX]), (u64::MAX, 0u64.wrapping_sub(20)));
}

#[test]
fn group_of_stores_to_the_running_block_takes_effect() {
    let code = program!(
        t1_group_patch t1_group_patch_end,
        "mov edx, 60",
        "2: mov [rdi + 1], dl",
        "mov [rdi + 3], dl",
        "mov [rip + 3f + 5], dl",
        "mov [rip + 3f + 7], dl",
        "3: mov al, 0",
        "mov bl, 0",
        "mov cl, 0",
        "mov ch, 0",
        "add r8, rax",
        "add r9, rbx",
        "add r10, rcx",
        "dec edx",
        "jne 2b",
    );
    let place = code.windows(4).position(|w| w == [0xb0, 0, 0xb3, 0]).unwrap() as u64;
    let cpu = same(code, |cpu| cpu.regs[RDI] = CODE + place);
    assert_eq!((cpu.regs[8], cpu.regs[9], cpu.regs[10]), (1830, 1830, 1830 * 257));
}

/// Turns paging on: 4 KiB pages, linear is physical; the page tables' last level.
pub(super) fn identity_paging(cpu: &mut Cpu) -> u64 {
    const TABLES: u64 = 0x40000;
    for n in 0..3 {
        poke(cpu, TABLES + n * 0x1000, &((TABLES + (n + 1) * 0x1000) | 3).to_le_bytes());
    }
    for n in 0..256u64 {
        poke(cpu, TABLES + 0x3000 + n * 8, &(n << 12 | 3).to_le_bytes());
    }
    cpu.cr3 = TABLES;
    cpu.cr4 |= x86::Cr4::PAE;
    cpu.cr0 |= x86::Cr0::PG;
    cpu.tlb.flush();
    cpu.update_mode();
    TABLES + 0x3000
}

#[test]
fn page_that_moves_between_accesses_of_a_group_is_found_again() {
    let code = program!(
        t1_group_move t1_group_move_end,
        "mov ecx, 64",
        "2: mov rax, [rsi]",
        "add [rsi + 8], rax",
        "xor qword ptr [rdi], 0x3000",
        "invlpg [rsi]",
        "add rbx, [rsi]",
        "mov [rsi + 16], rbx",
        "sub rdx, [rsi + 8]",
        "dec ecx",
        "jne 2b",
    );
    same(code, |cpu| {
        let table = identity_paging(cpu);
        (cpu.regs[RSI], cpu.regs[RDI]) = (DATA + 0x1000, table + ((DATA + 0x1000) >> 12) * 8);
        for n in 0..4u64 {
            poke(cpu, DATA + n * 0x1000, &(n * 1001 + 1).to_le_bytes());
        }
    });
}

#[test]
fn new_address_space_is_seen_by_the_next_access() {
    let code = program!(
        t1_spaces t1_spaces_end,
        "mov ecx, 100",
        "2: mov cr3, r12",
        "add rax, [rsi]",
        "mov [rsi + 8], rax",
        "mov cr3, r13",
        "add rbx, [rsi]",
        "mov [rsi + 8], rbx",
        "dec ecx",
        "jne 2b",
    );
    let cpu = same(code, |cpu| {
        identity_paging(cpu);
        // Another set of tables, with DATA's page elsewhere.
        for n in 0..4u64 {
            let table = peek(cpu, 0x40000 + n * 0x1000, 0x1000);
            poke(cpu, 0x50000 + n * 0x1000, &table);
            if n < 3 {
                poke(cpu, 0x50000 + n * 0x1000, &((0x51000 + n * 0x1000) | 3).to_le_bytes());
            }
        }
        poke(cpu, 0x53000 + (DATA >> 12) * 8, &((DATA + 0x1000) | 3).to_le_bytes());
        (cpu.regs[12], cpu.regs[13], cpu.regs[RSI]) = (0x40000, 0x50000, DATA);
        poke(cpu, DATA, &3u64.to_le_bytes());
        poke(cpu, DATA + 0x1000, &5u64.to_le_bytes());
    });
    assert_eq!((cpu.regs[RAX], cpu.regs[RBX]), (300, 500));
}
