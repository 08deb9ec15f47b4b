//! Hardware task switches.

use super::*;
use crate::cpu::{CS, DS, RAX, RIP, RSP, SS};
use crate::placed::Placed;
use x86::{Cr0, Rflags};

const NEW: u64 = 0x9000;

/// A vCPU in one task, another at selector [`FREE`] and, through a task gate, at `FREE + 8`.
fn two_tasks(code: &[u8]) -> Placed {
    let mut cpu = cpu32(code);
    tables(&mut cpu);
    poke(&cpu, GDT + 0x2d, &[0x8b]);
    poke64(&cpu, GDT + FREE as u64, 0x0000_8900_9000_0067);
    poke64(&cpu, GDT + FREE as u64 + 8, (FREE as u64) << 16 | 0x85 << 40);
    let words = [
        (0x20, 0x7000),
        (0x24, 0x202),
        (0x28, 0x1111),
        (0x38, 0x31000),
        (0x48, DATA0 as u32),
        (0x4c, CODE0 as u32),
        (0x50, DATA0 as u32),
        (0x54, DATA0 as u32),
    ];
    for (at, v) in words {
        poke(&cpu, NEW + at, &u32::to_le_bytes(v));
    }
    cpu
}

fn jmp(selector: u16) -> [u8; 7] {
    [0xea, 0, 0, 0, 0, selector as u8, (selector >> 8) as u8]
}
fn call(selector: u16) -> [u8; 7] {
    [0x9a, 0, 0, 0, 0, selector as u8, (selector >> 8) as u8]
}

#[test]
fn jump_to_a_task_saves_and_loads_everything_and_moves_the_busy_bit() {
    for selector in [FREE, FREE + 8] {
        let mut cpu = two_tasks(&jmp(selector));
        cpu.regs[RAX] = 0xabcd;
        step(&mut cpu).unwrap();
        assert_eq!(
            (cpu.regs[RIP], cpu.regs[RAX], cpu.regs[RSP], cpu.rflags()),
            (0x7000, 0x1111, 0x31000, 0x202)
        );
        assert_eq!((cpu.seg[CS].selector, cpu.seg[SS].selector, cpu.tr.selector), (CODE0, DATA0, FREE));
        assert!(cpu.cr0.contains(Cr0::TS));
        assert_eq!((peek32(&cpu, TSS + 0x20), peek32(&cpu, TSS + 0x28)), (CODE as u32 + 7, 0xabcd));
        assert_eq!(peek(&cpu, GDT + 0x2d, 1), [0x89]);
        assert_eq!(peek(&cpu, GDT + FREE as u64 + 5, 1), [0x8b]);
        assert_eq!(peek(&cpu, NEW, 2), [0, 0], "a jump leaves no link");
    }
}

#[test]
fn call_to_a_task_links_back_and_iret_returns() {
    let mut cpu = two_tasks(&call(FREE));
    poke(&cpu, 0x7000, &[0xcf]);
    cpu.regs[RAX] = 0xabcd;
    step(&mut cpu).unwrap();
    assert!(cpu.system_flags.contains(Rflags::NT));
    assert_eq!(peek(&cpu, NEW, 2), TSS_SELECTOR.to_le_bytes());
    assert_eq!(peek(&cpu, GDT + 0x2d, 1), [0x8b], "the calling task stays busy");
    step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RAX], cpu.tr.selector), (CODE + 7, 0xabcd, TSS_SELECTOR));
    assert_eq!(peek(&cpu, GDT + FREE as u64 + 5, 1), [0x89]);
    assert_eq!(peek32(&cpu, NEW + 0x24) & Rflags::NT.bits() as u32, 0);
}

#[test]
fn exception_through_a_task_gate_pushes_its_error_code_there() {
    let mut cpu = two_tasks(&[]);
    poke64(&cpu, IDT + 8 * 13, (FREE as u64) << 16 | 0x85 << 40);
    assert_eq!(cpu.deliver_exception(gp(0x1234)), None);
    assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (0x7000, 0x31000 - 4));
    assert_eq!(peek32(&cpu, 0x31000 - 4), 0x1234);
    assert_eq!(peek32(&cpu, TSS + 0x20), CODE as u32);
}

#[test]
fn task_that_can_not_be_entered_faults_in_the_old_one() {
    for (change, expected) in [
        ((GDT + FREE as u64 + 5, 0x8bu8), gp(FREE as u32)),
        ((GDT + FREE as u64 + 5, 0x09), with(Vector::NP, FREE as u32)),
        ((GDT + FREE as u64, 0x66), with(Vector::TS, FREE as u32)),
    ] {
        let mut cpu = two_tasks(&jmp(FREE));
        poke(&cpu, change.0, &[change.1]);
        assert_eq!(fault(&mut cpu), expected);
        assert_eq!((cpu.regs[RIP], cpu.tr.selector), (CODE, TSS_SELECTOR));
    }
}

#[test]
fn task_with_a_bad_segment_faults_in_the_new_one() {
    for (at, selector, expected) in [
        (0x4c, DATA0, with(Vector::TS, DATA0 as u32)),
        (0x4c, 0, with(Vector::TS, 0)),
        (0x50, CODE0, with(Vector::TS, CODE0 as u32)),
        (0x54, 0x200, with(Vector::TS, 0x200)),
        (0x54, ABSENT, with(Vector::NP, ABSENT as u32)),
        (0x60, DATA0, with(Vector::TS, DATA0 as u32)),
    ] {
        let mut cpu = two_tasks(&jmp(FREE));
        poke(&cpu, NEW + at, &selector.to_le_bytes());
        assert_eq!(fault(&mut cpu), expected, "{at:#x}");
        assert_eq!((cpu.regs[RIP], cpu.tr.selector), (0x7000, FREE));
    }
}

#[test]
fn sixteen_bit_task_keeps_to_words() {
    let mut cpu = two_tasks(&jmp(FREE));
    poke64(&cpu, GDT + FREE as u64, 0x0000_8100_9000_002b);
    poke(&cpu, NEW, &[0; 0x60]);
    for (at, v) in [
        (0xe, 0x7000u16),
        (0x10, 2),
        (0x12, 0x2222),
        (0x1a, 0x3000),
        (0x22, DATA0),
        (0x24, CODE0),
        (0x26, DATA0),
        (0x28, DATA0),
    ] {
        poke(&cpu, NEW + at, &v.to_le_bytes());
    }
    step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RAX] as u16, cpu.seg[DS].selector), (0x7000, 0x2222, DATA0));
}
