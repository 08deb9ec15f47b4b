//! 32- and 16-bit programs in translated code, beside the interpreter.

use super::testing::{self, fault, program, store_takes_effect, translating};
use crate::cpu::{CS, Cpu, DS, ES, FS, GS, RAX, RBP, RBX, RCX, RDI, RDX, RIP, RSI, RSP, SS};
use crate::fault::Fault;
use crate::placed::Placed;
use crate::testing::{CODE, DATA, STACK, cpu16, cpu32, cpu64, peek, poke};
use x86::{Exception, Segment, Vector};

/// [`testing::same`], with what only 64-bit code sees, and upper halves, not zero.
fn same(new: fn(&[u8]) -> Placed, code: &[u8], prepare: impl Fn(&mut Cpu)) -> Placed {
    testing::same(new, code, |cpu| {
        (8..16).for_each(|r| cpu.regs[r] = 0x1111_2222_3333_0000 + r as u64);
        prepare(cpu);
    })
}

fn exception(vector: Vector) -> Option<Fault> {
    Some(Fault::Exception(Exception::with_code(vector, 0)))
}

#[test]
fn flat_32_bit_program_is_the_interpreters() {
    let code = program!("32"
        t1_flat32 t1_flat32_end,
        "mov ecx, 500",
        "2: mov eax, [esi + ecx*4]",
        "call 3f",
        "mov [edi + ecx*2], ax",
        "add bl, ah",
        "mov ch, dl",
        "xor ch, ch",
        "adc dh, [edi + 3]",
        "mov [edi + ecx*2 + 0x800], bh",
        "push dword ptr [esi + ecx]",
        "pop ebp",
        "push ebp",
        "push 0x12345678",
        "push -3",
        "pop ax",
        "pop dx",
        "add esp, 4",
        "pop dx",
        "push dx",
        "pushad",
        "popad",
        "pushfd",
        "pop ebp",
        "cmovs edx, [edi]",
        "inc dword ptr [edi + 0x1000]",
        "lea ebp, [ebx + eax*4 - 0x7f000000]",
        "lea bp, [bx + si + 4]",
        "movzx edx, bh",
        "lahf",
        "sahf",
        "shld [edi + 8], edx, cl",
        "loop 2b",
        "jecxz 4f",
        "nop",
        "3: push ebp",
        "mov ebp, esp",
        "sub esp, 24",
        "mov [ebp - 8], ecx",
        "imul eax, eax, 77",
        "mul cl",
        "cdq",
        "test al, 4",
        "je 5f",
        "rol eax, cl",
        "5: leave",
        "ret",
        "4: nop",
    );
    let cpu = same(cpu32, code, |cpu| {
        (cpu.regs[RSI], cpu.regs[RDI]) = (DATA, DATA + 0x2000);
        for n in 0..2048u64 {
            poke(cpu, DATA + n * 4, &(n as u32).wrapping_mul(0x9e37_79b9).to_le_bytes());
        }
    });
    assert!(cpu.retired > 8_000);
}

#[test]
fn real_mode_program_is_the_interpreters() {
    let code = program!("16"
        t1_real t1_real_end,
        "mov cx, 300",
        "2: mov bx, cx",
        "mov ax, [bx + si]",
        "call 3f",
        "mov [bx + di + 0x100], ax",
        "mov es:[di], ah",
        "push word ptr [bp + 2]",
        "pop dx",
        "push es",
        "pop ds",
        "push 0x1000",
        "pop ds",
        "push eax",
        "pop ebp",
        "movzx ebp, bp",
        "mov eax, [esi + ebx*2]",
        "pusha",
        "popa",
        "loop 2b",
        "jcxz 4f",
        "3: push bp",
        "mov bp, sp",
        "sub sp, 8",
        "mov [bp - 2], cx",
        "imul ax, ax, 77",
        "mul ch",
        "leave",
        "ret",
        // Some of MUL's flags are undefined.
        "4: test cx, cx",
    );
    let cpu = same(cpu16, code, |cpu| {
        cpu.seg[DS] = Segment::real_mode(0x1000, false);
        cpu.seg[ES] = Segment::real_mode(0x1234, false);
        cpu.seg[SS] = Segment::real_mode(0x2000, false);
        cpu.update_mode();
        cpu.regs[RSP] = 0xabcd_0000_1000;
        for n in 0..2048u64 {
            poke(cpu, DATA + n * 4, &(n as u32).wrapping_mul(0x9e37_79b9).to_le_bytes());
        }
    });
    assert_eq!(cpu.regs[RSP], 0xabcd_0000_1000, "the stack pointer's upper bits stay");
}

#[test]
fn addresses_wrap_at_4_gib() {
    let code = program!("32"
        t1_wrap32 t1_wrap32_end,
        "mov ecx, 20",
        "2: mov eax, [ebx + 0x7fff0000]",
        "add [ebx + esi + 0x7fff0000], eax",
        "mov edx, [esi*4 - 4]",
        "add ebx, 4",
        "dec ecx",
        "jne 2b",
    );
    let cpu = same(cpu32, code, |cpu| {
        // Their upper halves belong to 64-bit code.
        cpu.regs[RBX] = 0x8002_0000;
        (cpu.regs[RSI], cpu.regs[RDX]) = (0x4000_0000 + DATA / 4, 0x7777_0000_0000);
        (0..64).for_each(|n| poke(cpu, DATA + n * 4, &(n as u32 + 5).to_le_bytes()));
    });
    assert_eq!(cpu.regs[RBX], 0x8002_0000 + 80);
}

#[test]
fn upper_halves_are_no_part_of_32_bit_addresses() {
    let code = program!("32"
        t1_upper t1_upper_end,
        "mov eax, [ebx]",
        "mov [edi + eax*8 + 4], eax",
        "push edx",
        "pop dx",
        "add al, 3",
    );
    same(cpu32, code, |cpu| {
        for r in [RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI] {
            cpu.regs[r] |= 0x5555_0000_0000_0000;
        }
        (cpu.regs[RBX], cpu.regs[RDI]) = (0xffff_0000_0000 + DATA, 0x1_0000_0000 + DATA);
    });
}

#[test]
fn addresses_of_16_bits_wrap_at_64_kib() {
    let code = program!("16"
        t1_wrap16 t1_wrap16_end,
        "mov cx, 20",
        "2: mov al, [bx + si + 0x7000]",
        "add [bx + si + 0x7001], al",
        "lea dx, [bx + si + 0x7001]",
        "inc bx",
        "loop 2b",
    );
    let cpu = same(cpu16, code, |cpu| {
        (cpu.regs[RBX], cpu.regs[RSI]) = (0x1_4ff8, 0xdead_4000);
        cpu.seg[DS] = Segment::real_mode(0x1000, false);
        cpu.update_mode();
        poke(cpu, DATA + 0xfff8, &[1; 8]);
    });
    assert_eq!(cpu.regs[RDX], 0xc);
}

#[test]
fn jump_of_16_bits_wraps_at_64_kib() {
    // At 1000:fffc, jmp +4: to 1000:0002, where mov al, 7; jmp -4 is.
    let mut cpu = translating(cpu16, &[]);
    poke(&cpu, 0x1fffc, &[0xeb, 4]);
    poke(&cpu, 0x10002, &[0xb0, 7, 0xeb, 0xfc]);
    cpu.seg[CS] = Segment::real_mode(0x1000, true);
    cpu.update_mode();
    for _ in 0..3 {
        cpu.regs[RIP] = 0xfffc;
        cpu.regs[RAX] = 0;
        cpu.execute_block().unwrap();
        cpu.execute_block().unwrap();
        assert_eq!((cpu.regs[RAX], cpu.regs[RIP]), (7, 2));
    }
}

#[test]
fn code_reached_by_two_bases_pushes_its_own_addresses() {
    // call +0, at one linear address with two bases
    let mut cpu = translating(cpu16, &[]);
    poke(&cpu, 0x10100, &[0xe8, 0, 0, 0xeb, 0xfe]);
    for (selector, ip) in [(0x1000, 0x100u64), (0x1010, 0), (0x1000, 0x100), (0x0fff, 0x110)].repeat(3) {
        cpu.seg[CS] = Segment::real_mode(selector, true);
        cpu.update_mode();
        (cpu.regs[RIP], cpu.regs[RSP]) = (ip, 0x8000);
        cpu.execute_block().unwrap();
        assert_eq!((cpu.regs[RSP], cpu.regs[RIP]), (0x7ffe, ip + 3));
        assert_eq!(peek(&cpu, 0x7ffe, 2), (ip as u16 + 3).to_le_bytes());
    }
}

#[test]
fn end_of_the_code_segment_is_gp_behind_the_last_instruction() {
    for limit in [CODE + 3, CODE + 2] {
        // inc eax, twice; jmp -2, which is beyond the lower limit in part
        let mut cpu = translating(cpu32, &[0x40, 0x40, 0xeb, 0xfc]);
        cpu.seg[CS].limit = limit as u32;
        cpu.update_mode();
        for _ in 0..3 {
            if limit == CODE + 3 {
                cpu.execute_block().unwrap();
                assert_eq!(cpu.regs[RIP], CODE);
                continue;
            }
            cpu.regs[RIP] = CODE;
            assert_eq!(fault(&mut cpu), exception(Vector::GP));
            assert_eq!(cpu.regs[RIP], CODE + 2);
        }
    }
}

#[test]
fn jump_beyond_the_code_limit_is_gp_at_the_jump() {
    // jmp +0x40; jmp eax; ret; call +0x40; loop +0x40
    for code in [&[0xeb, 0x40][..], &[0xff, 0xe0], &[0xc3], &[0xe8, 0x40, 0, 0, 0], &[0xe2, 0x40]] {
        let mut cpu = translating(cpu32, code);
        cpu.seg[CS].limit = CODE as u32 + 0x20;
        cpu.update_mode();
        (cpu.regs[RAX], cpu.regs[RCX]) = (CODE + 0x21, 5);
        poke(&cpu, STACK, &(CODE as u32 + 0x21).to_le_bytes());
        for _ in 0..3 {
            assert_eq!(fault(&mut cpu), exception(Vector::GP), "{code:x?}");
            assert_eq!((cpu.regs[RIP], cpu.regs[RSP], cpu.regs[RCX]), (CODE, STACK, 5));
        }
    }
}

#[test]
fn limit_fault_in_a_block_leaves_everything_before_it_and_nothing_after() {
    let code = program!("32"
        t1_limit t1_limit_end,
        "add eax, edx", "inc ebx", "mov ecx, fs:[edi]", "inc ebx", "xor eax, eax");
    for (limit, right) in [(0xfff, 0xc093), (u32::MAX, 0xc013), (0x2000, 0xc097), (u32::MAX, 0xc099)] {
        let mut cpu = translating(cpu32, code);
        cpu.t1.exact_flags = true;
        cpu.seg[FS] = Segment { selector: 0x30, base: DATA, limit, attributes: right, unusable: false };
        cpu.update_mode();
        for n in 1..4 {
            cpu.regs[RIP] = CODE;
            (cpu.regs[RAX], cpu.regs[RDX], cpu.regs[RDI]) = (0xffff_ffff, 1, 0xffd);
            assert_eq!(fault(&mut cpu), exception(Vector::GP), "limit {limit:#x}, rights {right:#x}");
            assert_eq!((cpu.regs[RIP], cpu.regs[RAX], cpu.regs[RBX]), (CODE + 3, 0, n));
            assert_eq!(cpu.rflags() & 0x8d5, 1 | if n == 3 { 4 } else { 0 }, "INC's, and ADD's carry");
        }
    }
}

#[test]
fn stack_beyond_its_limit_is_ss() {
    let mut cpu = translating(cpu32, &[0x50]);
    cpu.seg[SS].limit = STACK as u32 - 2;
    cpu.update_mode();
    for _ in 0..3 {
        assert_eq!(fault(&mut cpu), exception(Vector::SS));
        assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (CODE, STACK));
    }
}

#[test]
fn read_only_segment_is_read_and_not_written() {
    // mov eax, gs:[edi]; mov gs:[edi], eax
    let mut cpu = translating(cpu32, &[0x65, 0x8b, 0x07, 0x65, 0x89, 0x07]);
    cpu.seg[GS].attributes = 0xc091;
    cpu.update_mode();
    cpu.regs[RDI] = DATA;
    poke(&cpu, DATA, &[7]);
    for _ in 0..3 {
        cpu.regs[RIP] = CODE;
        assert_eq!(fault(&mut cpu), exception(Vector::GP));
        assert_eq!((cpu.regs[RIP], cpu.regs[RAX]), (CODE + 3, 7));
    }
}

#[test]
fn new_base_of_a_segment_is_seen_by_code_translated_before() {
    // inc dword fs:[4]; jmp -9
    let mut cpu = translating(cpu32, &[0x64, 0xff, 5, 4, 0, 0, 0, 0xeb, 0]);
    for n in 0..20u64 {
        cpu.seg[FS].base = DATA + n % 2 * 0x100;
        cpu.update_mode();
        cpu.regs[RIP] = CODE;
        cpu.execute_block().unwrap();
    }
    for at in [DATA + 4, DATA + 0x104] {
        assert_eq!(peek(&cpu, at, 4), 10u32.to_le_bytes());
    }
}

#[test]
fn store_to_running_32_bit_code_takes_effect() {
    // mov byte [CODE + 8], 7; mov al, 1; jmp +0
    store_takes_effect(translating(cpu32, &[0xc6, 0x05, 8, 0x10, 0, 0, 7, 0xb0, 1, 0xeb, 0]));
}

#[test]
fn virtual_8086_code_is_translated() {
    let code = program!("16"
        t1_v86 t1_v86_end,
        "mov cx, 50",
        "2: add [bx], cx",
        "push cx",
        "pop ax",
        "loop 2b",
    );
    let cpu = same(cpu32, code, |cpu| {
        cpu.system_flags |= x86::Rflags::VM;
        cpu.cpl = 3;
        for s in [ES, SS, DS, FS, GS] {
            cpu.seg[s] =
                Segment { selector: 0x1000, base: 0x10000, limit: 0xffff, attributes: 0xf3, unusable: false };
        }
        cpu.seg[CS] = Segment { selector: 0, base: 0, limit: 0xffff, attributes: 0xf3, unusable: false };
        cpu.update_mode();
        cpu.regs[RSP] = 0x8000;
    });
    assert_eq!(peek(&cpu, DATA, 2), 1275u16.to_le_bytes());
}

#[test]
fn addresses_of_32_bits_in_64_bit_code_wrap() {
    // mov eax, [ebx + 0x7fff0000]; add [r9d + r12d*4 - 4], eax; lea rdx, [ebx + 0x7fff0000]; jmp +0
    let code = [
        0x67, 0x8b, 0x83, 0, 0, 0xff, 0x7f, 0x67, 0x43, 0x01, 0x44, 0xa1, 0xfc, 0x67, 0x48, 0x8d, 0x93, 0, 0,
        0xff, 0x7f,
    ];
    let cpu = same(cpu64, &code, |cpu| {
        cpu.regs[RBX] = 0x1_8002_0000;
        (cpu.regs[9], cpu.regs[12]) = (0xabcd_0000_0000 + DATA + 0x10, 0xffff_ffff_ffff_fffe);
        poke(cpu, DATA, &[9]);
    });
    assert_eq!((cpu.regs[RAX], cpu.regs[RDX]), (9, DATA));
    assert_eq!(peek(&cpu, DATA + 4, 1), [9]);
}

#[test]
fn code_at_two_places_in_turn_is_translated_for_them_ever_more_seldom() {
    // inc eax; jmp +0, at one physical address with two bases
    let mut cpu = translating(cpu32, &[0x40, 0xeb, 0]);
    let mut sizes = Vec::new();
    for n in 0..4000 {
        cpu.seg[CS].base = 8 + n % 2 * 8;
        cpu.update_mode();
        cpu.regs[RIP] = CODE - cpu.seg[CS].base;
        assert_eq!(cpu.run_block(), None);
        assert_eq!((cpu.regs[RAX], cpu.regs[RIP]), (n + 1, CODE - cpu.seg[CS].base + 3));
        sizes.push(cpu.shared.code.size().0);
    }
    sizes.dedup();
    assert!((4..20).contains(&sizes.len()), "{sizes:?}");
    // Where it stays it is translated, in the end.
    let before = sizes.pop();
    for n in 0..80_000 {
        cpu.regs[RIP] = CODE - cpu.seg[CS].base;
        assert_eq!(cpu.run_block(), None);
        assert_eq!(cpu.regs[RAX], 4001 + n);
    }
    assert!(cpu.shared.code.size().0 > before.unwrap());
}
