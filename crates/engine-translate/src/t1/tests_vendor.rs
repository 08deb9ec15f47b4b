//! What processors do differently, or leave undefined: the same in both tiers.

use super::testing::{fault, program, same, translating};
use crate::cpu::{RAX, RDI};
use crate::fault::Fault;
use crate::testing::{DATA, MEMORY, cpu64, poke};
use crate::vendor::amd;

#[test]
fn undefined_flags_of_exact_code_are_the_interpreters() {
    let code = program!(
        t1_undefined t1_undefined_end,
        "mov ecx, 40",
        "2: lea eax, [rcx + rcx*8]",
        "sub eax, 150",
        "imul eax, [rdi + rcx*4]",
        "pushfq",
        "cmp eax, ecx",
        "mul dword ptr [rdi + rcx*4]",
        "pushfq",
        "add edx, 0x7fffff00",
        "imul dx",
        "pushfq",
        "dec ecx",
        "jne 2b",
    );
    same(cpu64, code, |cpu| {
        cpu.t1.exact_flags = true;
        cpu.regs[RDI] = DATA;
        for n in 0..64u64 {
            poke(cpu, DATA + n * 4, &(n as u32).wrapping_mul(0x9e37_79b9).to_le_bytes());
        }
    });
}

#[test]
fn rotation_through_carry_by_its_whole_width_may_change_of() {
    // Nothing moves; OF is undefined.
    let code = program!(
        t1_through_carry t1_through_carry_end,
        "mov al, 0x80",
        "xor ebx, ebx",
        "rcl al, 9",
        "seto bl",
        "stc",
        "rcl byte ptr [rdi], 27",
        "seto bh",
        "rcr word ptr [rdi], 17",
        "seto cl",
    );
    same(cpu64, code, |cpu| cpu.regs[RDI] = DATA);
}

#[test]
fn movsxd_to_16_bits_at_the_end_of_memory_reads_no_more_than_there_is() {
    // movsxd ax, [rdi]: the processor reads four bytes, or two.
    let code = [0x66, 0x63, 0x07];
    let mut cpu = translating(cpu64, &code);
    cpu.regs[RDI] = MEMORY - 2;
    poke(&cpu, MEMORY - 2, &[0x34, 0x12]);
    if amd() {
        // What is behind is no memory: left to whatever device there may be.
        assert_ne!(fault(&mut cpu), Some(Fault::NonCanonical));
        return;
    }
    assert!(cpu.execute_block().is_ok());
    assert_eq!(cpu.regs[RAX], 0x1234);
}
