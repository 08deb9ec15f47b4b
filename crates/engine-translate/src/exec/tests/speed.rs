//! How fast the tiers are: `cargo test --release -p engine-translate -- --ignored --nocapture mips`.

use crate::cpu::{RCX, RDI, RIP, RSI};
use crate::testing::{self, CODE, DATA};

std::arch::global_asm!(
    ".pushsection .text",
    // Registers: what a hash's inner loop does.
    "speed_registers:",
    "2: mov rax, rdx",
    "xor rdx, rbx",
    "rol rax, 7",
    "add rbx, rax",
    "lea r8, [rbx + rax*4 + 3]",
    "and r8, r9",
    "sub r9, rdx",
    "shr r8, 3",
    "or r10, r8",
    "movzx r11d, r10b",
    "imul r11, rbx",
    "test r11, r11",
    "js 3f",
    "inc r12",
    "3: dec rcx",
    "jne 2b",
    "speed_registers_end:",
    // Memory: loads and stores in short blocks, a call in each round.
    "speed_memory:",
    "2: mov rax, [rsi]",
    "add rax, [rdi + 8]",
    "mov [rdi + 16], rax",
    "movzx edx, byte ptr [rsi + 3]",
    "cmp edx, 7",
    "jbe 3f",
    "add qword ptr [rdi + 24], 1",
    "3: call 4f",
    "mov rbx, [rsi + 40]",
    "test bl, 1",
    "jne 5f",
    "mov [rdi], edx",
    "5: dec rcx",
    "jne 2b",
    "jmp speed_memory_end",
    "4: push rbp",
    "mov rbp, rsp",
    "mov eax, [rsi + 4]",
    "pop rbp",
    "ret",
    "speed_memory_end:",
    // A sort's inner loop: branches that go either way.
    "speed_branches:",
    "2: mov eax, ecx",
    "imul eax, eax, 0x45d9f3b",
    "shr eax, 16",
    "and eax, 0x3ff",
    "mov edx, [rsi + rax*4]",
    "cmp edx, [rsi + rax*4 + 4]",
    "jle 3f",
    "mov r8d, [rsi + rax*4 + 4]",
    "mov [rsi + rax*4], r8d",
    "mov [rsi + rax*4 + 4], edx",
    "3: add r9d, edx",
    "cmp r9d, 1000",
    "ja 4f",
    "inc r10",
    "4: dec rcx",
    "jne 2b",
    "speed_branches_end:",
    ".popsection",
);

unsafe extern "C" {
    static speed_registers: u8;
    static speed_registers_end: u8;
    static speed_memory: u8;
    static speed_memory_end: u8;
    static speed_branches: u8;
    static speed_branches_end: u8;
}

/// Processor time of this thread in seconds: other work on the machine doesn't count.
fn processor_time() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

#[test]
#[ignore = "a measurement"]
fn mips() {
    // SAFETY: labels in one section, in this order.
    let programs: [(&str, &[u8]); 3] = unsafe {
        let between = |a: *const u8, b: *const u8| std::slice::from_raw_parts(a, b.offset_from(a) as usize);
        [
            ("registers", between(&raw const speed_registers, &raw const speed_registers_end)),
            ("memory", between(&raw const speed_memory, &raw const speed_memory_end)),
            ("branches", between(&raw const speed_branches, &raw const speed_branches_end)),
        ]
    };
    for ((name, code), threshold) in programs.into_iter().flat_map(|p| [(p, u32::MAX), (p, 16)]) {
        let mut cpu = testing::cpu64(code);
        cpu.t1.threshold = threshold;
        let tier = if threshold == u32::MAX { "T0" } else { "T1" };
        for n in 0..2048u64 {
            testing::poke(&cpu, DATA + n * 4, &(n as u32).wrapping_mul(0x9e37_79b9).to_le_bytes());
        }
        (cpu.regs[RCX], cpu.regs[RSI], cpu.regs[RDI]) = (10_000_000, DATA, DATA + 0x3000);
        let end = CODE + code.len() as u64;
        let start = processor_time();
        let mut blocks = 0u64;
        while cpu.regs[RIP] != end {
            assert!(cpu.run_block().is_none());
            blocks += 1;
        }
        let seconds = processor_time() - start;
        let mips = cpu.retired as f64 / seconds / 1e6;
        let length = cpu.retired as f64 / blocks as f64;
        println!(
            "{name} {tier}: {mips:.0} million instructions/s, {length:.1} a block, {:.2} ns each",
            1e3 / mips
        );
    }
}
