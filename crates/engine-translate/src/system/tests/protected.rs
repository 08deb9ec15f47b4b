//! 32-bit protected mode and virtual-8086 mode.

use super::*;
use crate::cpu::{CS, DS, ES, RAX, RIP, RSP, SS};
use crate::placed::Placed;
use x86::{Cr4, Rflags};

const HANDLER: u64 = 0x7000;

fn protected(code: &[u8]) -> Placed {
    let mut cpu = cpu32(code);
    tables(&mut cpu);
    poke(&cpu, TSS + 4, &0x30000u32.to_le_bytes());
    poke(&cpu, TSS + 8, &DATA0.to_le_bytes());
    cpu
}

fn gate(cpu: &Cpu, vector: u64, selector: u16, kind: u64, dpl: u64) {
    poke64(cpu, IDT + vector * 8, HANDLER | (selector as u64) << 16 | (0x80 | dpl << 5 | kind) << 40);
}

fn to_ring3(cpu: &mut Cpu) {
    cpu.cpl = 3;
    for reg in [ES, SS, DS] {
        cpu.seg[reg].selector = DATA3;
        cpu.seg[reg].attributes |= 0x60;
    }
    cpu.seg[CS].selector = CODE3;
    cpu.update_mode();
}

fn to_v86(cpu: &mut Cpu, iopl: u64) {
    cpu.set_rflags(0x20202 | iopl << 12);
    cpu.cpl = 3;
    for s in &mut cpu.seg {
        *s = super::super::descriptors::v86_segment(0);
    }
    cpu.regs[RSP] = 0xfff0;
    cpu.update_mode();
}

#[test]
fn interrupt_gates_of_both_sizes_at_the_same_privilege() {
    for (kind, size) in [(0x6, 2), (0x7, 2), (0xe, 4), (0xf, 4)] {
        let mut cpu = protected(&[0xcd, 0x30]);
        gate(&cpu, 0x30, CODE0, kind, 0);
        cpu.set_rflags(0x202);
        step(&mut cpu).unwrap();
        assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (HANDLER, STACK - 3 * size));
        let item = |n: u64| peek64(&cpu, STACK - (3 - n) * size) & (u64::MAX >> (64 - 8 * size));
        assert_eq!((item(0), item(1), item(2)), (CODE + 2, CODE0 as u64, 0x202), "type {kind:#x}");
        assert_eq!(cpu.system_flags.contains(Rflags::IF), kind & 1 != 0);
    }
}

#[test]
fn interrupt_from_ring_3_takes_the_stack_of_the_tss_and_iret_returns() {
    let mut cpu = protected(&[0xcd, 0x30]);
    gate(&cpu, 0x30, CODE0, 0xe, 3);
    poke(&cpu, HANDLER, &[0xcf]);
    to_ring3(&mut cpu);
    cpu.set_rflags(0x202);
    step(&mut cpu).unwrap();
    assert_eq!((cpu.cpl, cpu.regs[RSP], cpu.seg[SS].selector), (0, 0x30000 - 20, DATA0));
    let frame: Vec<_> = (0..5).map(|i| peek32(&cpu, 0x30000 - 20 + 4 * i)).collect();
    assert_eq!(frame, [CODE as u32 + 2, CODE3 as u32, 0x202, STACK as u32, DATA3 as u32]);
    step(&mut cpu).unwrap();
    assert_eq!((cpu.cpl, cpu.regs[RSP], cpu.regs[RIP]), (3, STACK, CODE + 2));
    assert_eq!((cpu.seg[DS].selector, cpu.seg[SS].selector), (DATA3, DATA3));
}

#[test]
fn inner_stack_that_is_not_right_is_an_invalid_tss() {
    for (ss, limit, expected) in [
        (0, 0x67, with(Vector::TS, 0)),
        (DATA3, 0x67, with(Vector::TS, DATA3 as u32 & !3)),
        (CODE0, 0x67, with(Vector::TS, CODE0 as u32)),
        (0x200, 0x67, with(Vector::TS, 0x200)),
        (DATA0, 0x0a, with(Vector::TS, TSS_SELECTOR as u32)),
    ] {
        let mut cpu = protected(&[0xcd, 0x30]);
        gate(&cpu, 0x30, CODE0, 0xe, 3);
        poke(&cpu, TSS + 8, &ss.to_le_bytes());
        cpu.tr.limit = limit;
        to_ring3(&mut cpu);
        assert_eq!(fault(&mut cpu), expected, "SS {ss:#x}");
    }
    // From outside the program, EXT is set too.
    let mut cpu = protected(&[]);
    gate(&cpu, 0x20, 0x200, 0xe, 0);
    gate(&cpu, 13, CODE0, 0xe, 0);
    assert_eq!(cpu.deliver_interrupt(0x20), None);
    assert_eq!(peek32(&cpu, cpu.regs[RSP]), 0x201);
}

#[test]
fn data_segment_loads_check_type_privilege_and_presence() {
    // mov ds, ax: (selector, CPL, what happens)
    let table = [
        (DATA0, 0, None),
        (0, 0, None),
        (3, 3, None),
        (DATA3, 0, None),
        (CODE0, 0, None),
        (CONFORMING, 3, None),
        (DATA0, 3, Some(gp(DATA0 as u32))),
        (DATA0 | 3, 0, Some(gp(DATA0 as u32))),
        (CODE0, 3, Some(gp(CODE0 as u32))),
        (TSS_SELECTOR, 0, Some(gp(TSS_SELECTOR as u32))),
        (0x200, 0, Some(gp(0x200))),
        (4 | 8, 0, Some(gp(0xc))),
        (ABSENT, 0, Some(with(Vector::NP, ABSENT as u32))),
    ];
    for (selector, cpl, expected) in table {
        let mut cpu = protected(&[0x8e, 0xd8]);
        cpu.ldtr.unusable = true;
        if cpl == 3 {
            to_ring3(&mut cpu);
        }
        cpu.regs[RAX] = selector as u64;
        match expected {
            Some(e) => assert_eq!(fault(&mut cpu), e, "{selector:#x} at {cpl}"),
            None => {
                step(&mut cpu).unwrap();
                assert_eq!(cpu.seg[DS].selector, selector);
                assert_eq!(cpu.seg[DS].unusable, selector & !3 == 0);
            }
        }
    }
}

#[test]
fn stack_segment_loads_check_privilege_exactly() {
    for (selector, expected) in [
        (DATA0, None),
        (0, Some(gp(0))),
        (DATA0 | 3, Some(gp(DATA0 as u32))),
        (DATA3, Some(gp(DATA3 as u32 & !3))),
        (CODE0, Some(gp(CODE0 as u32))),
    ] {
        let mut cpu = protected(&[0x8e, 0xd0]);
        cpu.regs[RAX] = selector as u64;
        match expected {
            Some(e) => assert_eq!(fault(&mut cpu), e, "{selector:#x}"),
            None => {
                step(&mut cpu).unwrap();
                assert!(cpu.interrupt_shadow, "interrupts wait for the load of the stack pointer");
            }
        }
    }
    let mut cpu = protected(&[0x8e, 0xd0]);
    poke64(&cpu, GDT + FREE as u64, 0x00cf_1200_0000_ffff);
    cpu.regs[RAX] = FREE as u64;
    assert_eq!(fault(&mut cpu), with(Vector::SS, FREE as u32));
}

#[test]
fn call_gate_copies_parameters_and_far_return_drops_them_on_both_stacks() {
    let mut cpu = protected(&[0x9a, 0, 0, 0, 0, FREE as u8 | 3, 0]);
    poke64(&cpu, GDT + FREE as u64, HANDLER | (CODE0 as u64) << 16 | 2 << 32 | 0xec << 40);
    poke(&cpu, STACK, &[1, 0, 0, 0, 2, 0, 0, 0]);
    poke(&cpu, HANDLER, &[0xca, 8, 0]);
    to_ring3(&mut cpu);
    step(&mut cpu).unwrap();
    let frame: Vec<_> = (0..6).map(|i| peek32(&cpu, 0x30000 - 24 + 4 * i)).collect();
    assert_eq!(frame, [CODE as u32 + 7, CODE3 as u32, 1, 2, STACK as u32, DATA3 as u32]);
    assert_eq!((cpu.cpl, cpu.regs[RSP]), (0, 0x30000 - 24));
    step(&mut cpu).unwrap();
    assert_eq!((cpu.cpl, cpu.regs[RIP], cpu.regs[RSP]), (3, CODE + 7, STACK + 8));
}

#[test]
fn far_return_outwards_takes_inner_segments_away() {
    let mut cpu = protected(&[0xcb]);
    for (i, v) in [0x7000u32, CODE3 as u32, 0x21000, DATA3 as u32].iter().enumerate() {
        poke(&cpu, STACK + 4 * i as u64, &v.to_le_bytes());
    }
    step(&mut cpu).unwrap();
    assert!(cpu.seg[DS].unusable && cpu.seg[DS].selector == 0, "ring 0's data segment is gone");
    assert_eq!((cpu.cpl, cpu.regs[RSP]), (3, 0x21000));
}

#[test]
fn far_jumps_check_privilege_of_code_segments() {
    for (selector, cpl, expected) in [
        (CODE0, 0, None),
        (CONFORMING, 3, None),
        (CODE0, 3, Some(gp(CODE0 as u32))),
        (CODE3, 0, Some(gp(CODE3 as u32 & !3))),
        (DATA0, 0, Some(gp(DATA0 as u32))),
        (0, 0, Some(gp(0))),
        (0x200, 0, Some(gp(0x200))),
    ] {
        let mut cpu = protected(&[0xea, 0, 0x70, 0, 0, selector as u8, (selector >> 8) as u8]);
        if cpl == 3 {
            to_ring3(&mut cpu);
        }
        match expected {
            Some(e) => assert_eq!(fault(&mut cpu), e, "{selector:#x}"),
            None => {
                step(&mut cpu).unwrap();
                assert_eq!((cpu.cpl, cpu.seg[CS].selector), (cpl, selector & !3 | cpl as u16));
            }
        }
    }
}

#[test]
fn jump_beyond_the_new_limit_faults_in_the_old_code() {
    let mut cpu = protected(&[0xea, 0x01, 0x10, 0, 0, FREE as u8, 0]);
    poke64(&cpu, GDT + FREE as u64, 0x0040_9a00_0000_1000);
    assert_eq!(fault(&mut cpu), gp(0));
    assert_eq!(cpu.seg[CS].selector, CODE0);
}

#[test]
fn lar_and_lsl_answer_for_what_the_privilege_may_see() {
    for (selector, cpl, rights) in [
        (DATA0, 0, Some(0x00cf_9200u64 & 0xf0_ff00)),
        (DATA0, 3, None),
        (DATA3, 3, Some(0x00c0_f200)),
        (CONFORMING, 3, Some(0x00c0_9e00)),
        (TSS_SELECTOR, 0, Some(0x8900)),
        (0, 0, None),
        (0x200, 0, None),
    ] {
        let mut cpu = protected(&[0x0f, 0x02, 0xc1, 0x0f, 0x03, 0xd1]);
        if cpl == 3 {
            to_ring3(&mut cpu);
        }
        cpu.regs[1] = selector as u64;
        step(&mut cpu).unwrap();
        assert_eq!(cpu.rflags() & 0x40 != 0, rights.is_some(), "{selector:#x}");
        if let Some(r) = rights {
            assert_eq!(cpu.regs[RAX] & 0xf0_ff00, r);
        }
        step(&mut cpu).unwrap();
        if rights.is_some() {
            assert_eq!(cpu.regs[2], if selector == TSS_SELECTOR { 0x67 } else { 0xffff_ffff });
        }
    }
}

#[test]
fn io_below_iopl_goes_by_the_bitmap() {
    // in al, 0x21; then the same for 0x22.
    for (port, allowed) in [(0x21, true), (0x22, false)] {
        let mut cpu = protected(&[0xe4, port]);
        to_ring3(&mut cpu);
        cpu.tr.limit = 0x68 + 32;
        poke(&cpu, TSS + 0x66, &[0x68, 0]);
        poke(&cpu, TSS + 0x68, &[0xff, 0xff, 0xff, 0xff, 0xfd, 0xff]);
        let r = step(&mut cpu);
        assert_eq!(r.is_ok(), allowed, "{port:#x}: {r:?}");
        cpu.regs[RIP] = CODE;
        cpu.set_rflags(0x3002);
        assert_eq!(step(&mut cpu), Ok(()), "IOPL 3 needs no bitmap");
    }
    let mut cpu = protected(&[0xe4, 0x80]);
    to_ring3(&mut cpu);
    poke(&cpu, TSS + 0x66, &[0x68, 0]);
    assert_eq!(fault(&mut cpu), gp(0), "the TSS has no bitmap");
}

#[test]
fn privileged_instructions_at_cpl_3_are_gp() {
    // cli, sti, hlt, clts, lgdt, lidt, lmsw, ltr, lldt, mov cr0, mov from cr3, rdmsr, wrmsr, wbinvd, invlpg
    let codes: [&[u8]; 15] = [
        &[0xfa],
        &[0xfb],
        &[0xf4],
        &[0x0f, 0x06],
        &[0x0f, 0x01, 0x10],
        &[0x0f, 0x01, 0x18],
        &[0x0f, 0x01, 0xf0],
        &[0x0f, 0x00, 0xd8],
        &[0x0f, 0x00, 0xd0],
        &[0x0f, 0x22, 0xc0],
        &[0x0f, 0x20, 0xd8],
        &[0x0f, 0x32],
        &[0x0f, 0x30],
        &[0x0f, 0x09],
        &[0x0f, 0x01, 0x38],
    ];
    for code in codes {
        let mut cpu = protected(code);
        to_ring3(&mut cpu);
        assert_eq!(fault(&mut cpu), gp(0), "{code:x?}");
    }
    // UMIP: sgdt, sidt, smsw, sldt, str.
    let umip: [&[u8]; 5] = [
        &[0x0f, 0x01, 0x00],
        &[0x0f, 0x01, 0x08],
        &[0x0f, 0x01, 0xe0],
        &[0x0f, 0x00, 0xc0],
        &[0x0f, 0x00, 0xc8],
    ];
    for code in umip {
        let mut cpu = protected(code);
        to_ring3(&mut cpu);
        cpu.regs[RAX] = DATA;
        step(&mut cpu).unwrap();
        cpu.regs[RIP] = CODE;
        cpu.cr4 |= Cr4::UMIP;
        assert_eq!(fault(&mut cpu), gp(0), "{code:x?}");
    }
}

#[test]
fn virtual_8086_interrupt_reaches_ring_0_with_all_segments_and_iret_goes_back() {
    let mut cpu = protected(&[0xcd, 0x30]);
    gate(&cpu, 0x30, CODE0, 0xe, 3);
    poke(&cpu, HANDLER, &[0xcf]);
    to_v86(&mut cpu, 3);
    cpu.seg[DS] = super::super::descriptors::v86_segment(0x1234);
    step(&mut cpu).unwrap();
    assert_eq!((cpu.cpl, cpu.v86(), cpu.regs[RSP]), (0, false, 0x30000 - 36));
    assert!(cpu.seg[DS].unusable);
    let frame: Vec<_> = (0..9).map(|i| peek32(&cpu, 0x30000 - 36 + 4 * i)).collect();
    assert_eq!(frame, [CODE as u32 + 2, 0, 0x23202, 0xfff0, 0, 0, 0x1234, 0, 0]);
    step(&mut cpu).unwrap();
    assert!(cpu.v86());
    assert_eq!((cpu.seg[DS].base, cpu.regs[RIP], cpu.cpl), (0x12340, CODE + 2, 3));
}

#[test]
fn virtual_8086_int_below_iopl_3_is_gp_or_redirected_by_vme() {
    let mut cpu = protected(&[0xcd, 0x30]);
    to_v86(&mut cpu, 0);
    assert_eq!(fault(&mut cpu), gp(0));
    // VME with a clear redirection bit: as in real mode, VIF for IF.
    let mut cpu = protected(&[0xcd, 0x30]);
    to_v86(&mut cpu, 0);
    cpu.cr4 |= Cr4::VME;
    cpu.system_flags |= Rflags::VIF;
    cpu.tr.limit = 0x200;
    poke(&cpu, TSS + 0x66, &[0x88, 0]);
    poke(&cpu, 0xc0, &[0x00, 0x70, 0, 0]);
    step(&mut cpu).unwrap();
    assert!(cpu.v86() && !cpu.system_flags.contains(Rflags::VIF) && cpu.system_flags.contains(Rflags::IF));
    assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (0x7000, 0xffea));
    assert_eq!(peek(&cpu, 0xffee, 2), [0x02, 0x32], "IF as VIF was, IOPL 3");
    // A set bit: the monitor.
    let mut cpu = protected(&[0xcd, 0x30]);
    to_v86(&mut cpu, 0);
    cpu.cr4 |= Cr4::VME;
    cpu.tr.limit = 0x200;
    poke(&cpu, TSS + 0x66, &[0x88, 0]);
    poke(&cpu, TSS + 0x68 + 6, &[1]);
    assert_eq!(fault(&mut cpu), gp(0));
}

#[test]
fn single_step_traps_after_each_instruction_with_bs() {
    let mut cpu = protected(&[0x90, 0x90]);
    gate(&cpu, 1, CODE0, 0xe, 0);
    cpu.set_rflags(0x102);
    assert_eq!(cpu.handle_events(), None);
    assert!(cpu.single && cpu.sys.stepping);
    step(&mut cpu).unwrap();
    cpu.after_single();
    assert_eq!(cpu.handle_events(), None);
    assert_eq!((cpu.regs[RIP], cpu.dr[4] & 0xf00f), (HANDLER, 0x4000));
    assert_eq!(peek32(&cpu, cpu.regs[RSP]), CODE as u32 + 1);
    assert!(!cpu.system_flags.contains(Rflags::TF));
}

#[test]
fn breakpoints_on_code_fault_before_and_on_data_trap_after() {
    let mut cpu = protected(&[0x90, 0xa3, 0, 0, 1, 0]);
    gate(&cpu, 1, CODE0, 0xe, 0);
    cpu.dr = [CODE + 1, DATA, 0, 0, 0xffff_0ff0, 0x00d0_0405];
    cpu.debug_registers_changed();
    cpu.handle_events();
    step(&mut cpu).unwrap();
    cpu.after_single();
    cpu.handle_events();
    assert_eq!((cpu.regs[RIP], cpu.dr[4] & 0xf00f), (HANDLER, 1));
    assert_ne!(
        peek32(&cpu, cpu.regs[RSP] + 8) & Rflags::RF.bits() as u32,
        0,
        "the return won't meet it again"
    );
    // Back with RF set: the store happens, and then its trap.
    cpu.regs[RIP] = CODE + 1;
    cpu.dr[4] = 0xffff_0ff0;
    cpu.system_flags |= Rflags::RF;
    cpu.handle_events();
    step(&mut cpu).unwrap();
    cpu.after_single();
    cpu.handle_events();
    assert_eq!((cpu.regs[RIP], cpu.dr[4] & 0xf00f), (HANDLER, 2));
    assert_eq!(peek32(&cpu, cpu.regs[RSP]), CODE as u32 + 6);
}

#[test]
fn fault_while_breakpoints_are_armed_leaves_them_armed_for_its_handler() {
    let mut cpu = protected(&[0x0f, 0x0b]);
    gate(&cpu, 1, CODE0, 0xe, 0);
    gate(&cpu, 6, CODE0, 0xe, 0);
    poke(&cpu, HANDLER, &[0xa3, 0, 0, 1, 0, 0x40, 0x40]);
    cpu.dr = [0, DATA, 0, 0, 0xffff_0ff0, 0x00d0_0404];
    cpu.debug_registers_changed();
    for _ in 0..2 {
        assert_eq!(cpu.handle_events(), None);
        assert_eq!(cpu.run_block(), None);
    }
    // The trap comes behind the handler's store, not behind its block.
    assert_eq!(cpu.handle_events(), None);
    assert_eq!((cpu.regs[RIP], cpu.dr[4] & 0xf00f), (HANDLER, 2));
    assert_eq!(peek32(&cpu, cpu.regs[RSP]), HANDLER as u32 + 5);
}

#[test]
fn push_of_a_segment_register_checks_alignment_where_asked() {
    // push gs
    let mut cpu = protected(&[0x66, 0x0f, 0xa8]);
    to_ring3(&mut cpu);
    cpu.cr0 |= x86::Cr0::AM;
    cpu.set_rflags(0x4_0202);
    cpu.update_mode();
    cpu.regs[RSP] = 0x3_0001;
    assert_eq!(fault(&mut cpu), with(Vector::AC, 0));
    cpu.regs[RSP] = 0x3_0000;
    step(&mut cpu).unwrap();
}
