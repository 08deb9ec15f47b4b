//! Real mode, and the way out of it.

use super::*;
use crate::cpu::{CS, DS, RAX, RIP, RSP};
use x86::{Cr0, Rflags};

#[test]
fn interrupt_in_real_mode_pushes_three_words_and_iret_pops_them() {
    let mut cpu = cpu16(&[0xcd, 0x21]);
    poke(&cpu, 0x84, &[0x34, 0x12, 0x00, 0x20]);
    poke(&cpu, 0x21234, &[0xcf]);
    cpu.idtr = x86::segment::Table { base: 0, limit: 0x3ff };
    cpu.set_rflags(0x246);
    step(&mut cpu).unwrap();
    assert_eq!((cpu.seg[CS].selector, cpu.seg[CS].base, cpu.regs[RIP]), (0x2000, 0x20000, 0x1234));
    assert_eq!(peek(&cpu, 0xffea, 6), [0x02, 0x10, 0, 0, 0x46, 0x02]);
    assert!(!cpu.system_flags.contains(Rflags::IF));
    step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RSP], cpu.rflags()), (0x1002, 0xfff0, 0x246));
}

#[test]
fn interrupt_beyond_the_limit_in_real_mode_ends_in_shutdown() {
    let mut cpu = cpu16(&[]);
    cpu.idtr.limit = 0;
    assert!(matches!(cpu.deliver_interrupt(8), Some(engine::Exit::Shutdown(_))));
}

#[test]
fn segment_load_in_real_mode_shifts_and_keeps_the_limit() {
    let mut cpu = cpu16(&[0x8e, 0xd8]);
    cpu.regs[RAX] = 0x1234;
    // "Unreal mode": a limit left from protected mode stays.
    cpu.seg[DS].limit = u32::MAX;
    step(&mut cpu).unwrap();
    assert_eq!((cpu.seg[DS].base, cpu.seg[DS].limit), (0x12340, u32::MAX));
}

#[test]
fn way_from_real_to_protected_mode_and_its_first_far_jump() {
    // mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:0x7000
    let code = [0x0f, 0x20, 0xc0, 0x0c, 1, 0x0f, 0x22, 0xc0, 0xea, 0x00, 0x70, 0x08, 0x00];
    let mut cpu = cpu16(&code);
    tables(&mut cpu);
    for _ in 0..3 {
        step(&mut cpu).unwrap();
    }
    assert!(cpu.cr0.contains(Cr0::PE) && cpu.mode.is16(), "the old code segment goes on");
    step(&mut cpu).unwrap();
    assert_eq!((cpu.mode.bits(), cpu.regs[RIP], cpu.seg[CS].selector), (32, 0x7000, 8));
    assert_eq!(peek(&cpu, GDT + 8 + 5, 1), [0x9b], "the descriptor is marked accessed");
}

#[test]
fn far_call_and_return_in_real_mode() {
    let mut cpu = cpu16(&[0x9a, 0x00, 0x70, 0x00, 0x01]);
    poke(&cpu, 0x8000, &[0xca, 0x04, 0x00]);
    step(&mut cpu).unwrap();
    assert_eq!((cpu.seg[CS].selector, cpu.regs[RIP], cpu.regs[RSP]), (0x100, 0x7000, 0xffec));
    step(&mut cpu).unwrap();
    assert_eq!((cpu.seg[CS].selector, cpu.regs[RIP], cpu.regs[RSP]), (0, 0x1005, 0xfff4));
}

#[test]
fn protected_mode_instructions_in_real_mode_are_undefined() {
    // sldt, str, lldt, ltr, verr, verw, lar, lsl
    let codes: [&[u8]; 8] = [
        &[0x0f, 0x00, 0xc0],
        &[0x0f, 0x00, 0xc8],
        &[0x0f, 0x00, 0xd0],
        &[0x0f, 0x00, 0xd8],
        &[0x0f, 0x00, 0xe0],
        &[0x0f, 0x00, 0xe8],
        &[0x0f, 0x02, 0xc0],
        &[0x0f, 0x03, 0xc0],
    ];
    for code in codes {
        assert_eq!(fault(&mut cpu16(code)), Exception::ud(), "{code:x?}");
    }
}
