//! Long mode: gates, stacks, IRET, SYSCALL.

use super::*;
use crate::cpu::{CS, GS, RCX, RIP, RSP, SS};
use crate::placed::Placed;
use x86::{Efer, Rflags};

const HANDLER: u64 = 0x7000;

fn long(code: &[u8]) -> Placed {
    let mut cpu = cpu64(code);
    tables(&mut cpu);
    cpu.seg[CS].selector = CODE0_LONG;
    poke64(&cpu, TSS + 4, 0x30000);
    poke64(&cpu, TSS + 0x24, 0x38008);
    cpu
}

/// A 64-bit gate for `vector`.
fn gate(cpu: &Cpu, vector: u64, selector: u16, kind: u64, dpl: u64, ist: u64) {
    let low = HANDLER | (selector as u64) << 16 | ist << 32 | (0x80 | dpl << 5 | kind) << 40;
    poke64(cpu, IDT + vector * 16, low);
    poke64(cpu, IDT + vector * 16 + 8, 0);
}

fn to_ring3(cpu: &mut Cpu) {
    cpu.cpl = 3;
    cpu.seg[CS].selector = CODE3_LONG;
    cpu.seg[SS].selector = DATA3;
    cpu.update_mode();
}

#[test]
fn interrupt_at_same_privilege_aligns_the_stack_and_pushes_five() {
    let mut cpu = long(&[0xcd, 0x30]);
    gate(&cpu, 0x30, CODE0_LONG, 0xe, 0, 0);
    cpu.regs[RSP] = STACK - 3;
    cpu.set_rflags(0x202);
    step(&mut cpu).unwrap();
    let sp = (STACK - 3) & !15;
    assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (HANDLER, sp - 40));
    let frame: Vec<_> = (0..5).map(|i| peek64(&cpu, sp - 40 + i * 8)).collect();
    assert_eq!(frame, [CODE + 2, CODE0_LONG as u64, 0x202, STACK - 3, DATA0 as u64]);
    assert!(!cpu.system_flags.contains(Rflags::IF), "an interrupt gate clears IF");
}

#[test]
fn interrupt_from_ring_3_switches_to_rsp0_and_null_ss_and_iret_returns() {
    let mut cpu = long(&[0xcd, 0x30]);
    gate(&cpu, 0x30, CODE0_LONG, 0xf, 3, 0);
    poke(&cpu, HANDLER, &[0x48, 0xcf]);
    to_ring3(&mut cpu);
    cpu.set_rflags(0x202);
    step(&mut cpu).unwrap();
    assert_eq!((cpu.cpl, cpu.regs[RSP], cpu.seg[SS].selector), (0, 0x30000 - 40, 0));
    assert_eq!(cpu.seg[CS].selector, CODE0_LONG);
    assert!(cpu.system_flags.contains(Rflags::IF), "a trap gate keeps IF");
    step(&mut cpu).unwrap();
    assert_eq!((cpu.cpl, cpu.regs[RSP], cpu.regs[RIP]), (3, STACK, CODE + 2));
    assert_eq!((cpu.seg[CS].selector, cpu.seg[SS].selector), (CODE3_LONG, DATA3));
    assert!(cpu.mode.is64());
}

#[test]
fn interrupt_through_ist_uses_its_stack_aligned() {
    let mut cpu = long(&[0xcd, 0x30]);
    gate(&cpu, 0x30, CODE0_LONG, 0xe, 0, 1);
    step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RSP], 0x38000 - 40);
}

#[test]
fn gate_that_is_not_right_faults_with_its_index() {
    // (selector, type, dpl, cpl, expected)
    let table = [
        (CODE0_LONG, 0xe, 0, 3, gp(0x182)),
        (CODE0_LONG, 0xc, 3, 0, gp(0x182)),
        (CODE0_LONG, 0x5, 3, 0, gp(0x182)),
        (0, 0xe, 3, 0, gp(0)),
        (CODE0, 0xe, 3, 0, gp(CODE0 as u32)),
        (DATA0, 0xe, 3, 0, gp(DATA0 as u32)),
        (CODE3_LONG, 0xe, 3, 0, gp(CODE3_LONG as u32 & !3)),
        (0x200, 0xe, 3, 0, gp(0x200)),
    ];
    for (selector, kind, dpl, cpl, expected) in table {
        let mut cpu = long(&[0xcd, 0x30]);
        gate(&cpu, 0x30, selector, kind, dpl, 0);
        if cpl == 3 {
            to_ring3(&mut cpu);
        }
        assert_eq!(fault(&mut cpu), expected, "{selector:#x} type {kind:#x} dpl {dpl} cpl {cpl}");
        assert_eq!(cpu.regs[RSP], STACK);
    }
    let mut cpu = long(&[0xcd, 0x30]);
    gate(&cpu, 0x30, CODE0_LONG, 0xe, 0, 0);
    let absent = peek64(&cpu, IDT + 0x300) & !(1 << 47);
    poke64(&cpu, IDT + 0x300, absent);
    assert_eq!(fault(&mut cpu), with(Vector::NP, 0x182));
    cpu.idtr.limit = 0x30e;
    assert_eq!(fault(&mut cpu), gp(0x182));
}

#[test]
fn exception_with_error_code_pushes_it_and_rf() {
    let mut cpu = long(&[]);
    gate(&cpu, 13, CODE0_LONG, 0xe, 0, 0);
    assert_eq!(cpu.deliver_exception(gp(0x1234)), None);
    assert_eq!(peek64(&cpu, cpu.regs[RSP]), 0x1234);
    assert_eq!(peek64(&cpu, cpu.regs[RSP] + 8), CODE);
    assert_ne!(peek64(&cpu, cpu.regs[RSP] + 24) & Rflags::RF.bits(), 0);
}

#[test]
fn page_fault_with_no_gates_is_a_shutdown_that_says_where() {
    let mut cpu = long(&[]);
    cpu.cr3 = 0xabc000;
    let exit = cpu.deliver_exception(Exception::page_fault(2, 0xdead_beef)).unwrap();
    let engine::Exit::Shutdown(text) = exit else { panic!("{exit:?}") };
    for part in ["triple fault", "0xdeadbeef", "0xabc000", "0x1000"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn contributory_fault_on_the_way_becomes_a_double_fault_with_error_code_zero() {
    let mut cpu = long(&[]);
    gate(&cpu, 8, CODE0_LONG, 0xe, 0, 1);
    assert_eq!(cpu.deliver_exception(gp(8)), None);
    assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (HANDLER, 0x38000 - 48));
    assert_eq!(peek64(&cpu, cpu.regs[RSP]), 0);
}

#[test]
fn iretq_form_by_form_checks_what_it_loads() {
    // (CS, RIP, SS, expected): the new RSP is always 0x21000.
    let table = [
        (CODE0_LONG, 0x7000, DATA0, Ok((0, true))),
        (CODE0_LONG, 0x7000, 0, Ok((0, true))),
        (CODE3_LONG, 0x7000, DATA3, Ok((3, true))),
        (CODE3, 0x7000, DATA3, Ok((3, false))),
        (CODE0, 0x7000, DATA0, Ok((0, false))),
        (0, 0x7000, DATA0, Err(gp(0))),
        (CODE3_LONG, 0x7000, 0, Err(gp(0))),
        (CODE3_LONG, 0x7000, 3, Err(gp(0))),
        (CODE3_LONG, 0x7000, DATA0, Err(gp(DATA0 as u32))),
        (CODE3_LONG, 1 << 47, DATA3, Err(gp(0))),
        (CODE3, 1 << 32, DATA3, Err(gp(0))),
        (DATA0, 0x7000, DATA0, Err(gp(DATA0 as u32))),
        (ABSENT, 0x7000, DATA0, Err(with(Vector::NP, ABSENT as u32))),
        (0x1f8, 0x7000, DATA0, Err(gp(0x1f8))),
        (0x208, 0x7000, DATA0, Err(gp(0x208))),
        (0xc, 0x7000, DATA0, Err(gp(0xc))),
    ];
    for (cs, rip, ss, expected) in table {
        let mut cpu = long(&[0x48, 0xcf]);
        // No LDT.
        cpu.ldtr.unusable = true;
        for (i, v) in [rip, cs as u64, 0x202, 0x21000, ss as u64].into_iter().enumerate() {
            poke64(&cpu, STACK + 8 * i as u64, v);
        }
        match expected {
            Ok((cpl, is64)) => {
                step(&mut cpu).unwrap_or_else(|e| panic!("{cs:#x} {rip:#x} {ss:#x}: {e:?}"));
                assert_eq!(
                    (cpu.cpl, cpu.mode.is64(), cpu.regs[RSP], cpu.regs[RIP]),
                    (cpl, is64, 0x21000, rip)
                );
                assert_eq!(cpu.seg[SS].selector, ss);
            }
            Err(e) => {
                assert_eq!(fault(&mut cpu), e, "{cs:#x} {rip:#x} {ss:#x}");
                assert_eq!((cpu.regs[RSP], cpu.regs[RIP], cpu.cpl), (STACK, CODE, 0), "nothing happened");
            }
        }
    }
}

#[test]
fn iret_to_ring_3_keeps_the_base_of_null_fs_and_gs() {
    let mut cpu = long(&[0x48, 0xcf]);
    cpu.seg[GS] = x86::Segment { base: 0x1234_5000, unusable: true, ..Default::default() };
    for (i, v) in [0x7000, CODE3_LONG as u64, 0x202, 0x21000, DATA3 as u64].into_iter().enumerate() {
        poke64(&cpu, STACK + 8 * i as u64, v);
    }
    step(&mut cpu).unwrap();
    assert_eq!(cpu.seg_base[GS], 0x1234_5000);
}

#[test]
fn iret_at_cpl_3_changes_neither_if_nor_iopl() {
    let mut cpu = long(&[0x48, 0xcf]);
    to_ring3(&mut cpu);
    for (i, v) in [0x7000, CODE3_LONG as u64, 0x3ed7, 0x21000, DATA3 as u64].into_iter().enumerate() {
        poke64(&cpu, STACK + 8 * i as u64, v);
    }
    step(&mut cpu).unwrap();
    assert_eq!(cpu.rflags(), 0x0cd7, "but DF, OF and status bits are taken");
}

#[test]
fn syscall_and_sysret_exchange_rip_and_flags() {
    let mut cpu = long(&[0x0f, 0x05]);
    poke(&cpu, HANDLER, &[0x48, 0x0f, 0x07]);
    cpu.efer |= Efer::SCE;
    cpu.sys.star = (CODE0 as u64) << 32 | 0x33u64 << 48;
    cpu.sys.lstar = HANDLER;
    cpu.sys.fmask = 0x200;
    to_ring3(&mut cpu);
    cpu.set_rflags(0x246);
    step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RCX], cpu.regs[11], cpu.cpl), (HANDLER, CODE + 2, 0x246, 0));
    assert_eq!((cpu.seg[CS].selector, cpu.seg[SS].selector, cpu.rflags()), (CODE0, CODE0 + 8, 0x46));
    step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RIP], cpu.cpl, cpu.rflags()), (CODE + 2, 3, 0x246));
    assert_eq!((cpu.seg[CS].selector, cpu.seg[SS].selector), (0x43, 0x3b));
    assert!(cpu.mode.is64());
}

#[test]
fn syscall_without_sce_is_undefined_and_sysret_to_noncanonical_is_gp() {
    let mut cpu = long(&[0x0f, 0x05]);
    assert_eq!(fault(&mut cpu), Exception::ud());
    let mut cpu = long(&[0x48, 0x0f, 0x07]);
    cpu.efer |= Efer::SCE;
    cpu.regs[RCX] = 1 << 47;
    assert_eq!(fault(&mut cpu), gp(0));
    cpu.cpl = 3;
    assert_eq!(fault(&mut cpu), gp(0));
}

#[test]
fn swapgs_exchanges_the_bases_at_cpl_0_only() {
    let mut cpu = long(&[0x0f, 0x01, 0xf8]);
    cpu.seg[GS].base = 0x1111;
    cpu.sys.kernel_gs_base = 0x2222;
    cpu.update_mode();
    step(&mut cpu).unwrap();
    assert_eq!((cpu.seg_base[GS], cpu.sys.kernel_gs_base), (0x2222, 0x1111));
    cpu.regs[RIP] = CODE;
    to_ring3(&mut cpu);
    assert_eq!(fault(&mut cpu), gp(0));
}

#[test]
fn call_gate_in_long_mode_goes_to_ring_0_and_far_return_back() {
    let mut cpu = long(&[0xff, 0x1c, 0x25, 0, 0, 1, 0]);
    poke64(&cpu, GDT + FREE as u64, HANDLER | (CODE0_LONG as u64) << 16 | 0xec << 40);
    poke64(&cpu, GDT + FREE as u64 + 8, 0);
    poke(&cpu, 0x10000, &[0, 0, 0, 0, FREE as u8 | 3, 0]);
    poke(&cpu, HANDLER, &[0x48, 0xcb]);
    to_ring3(&mut cpu);
    step(&mut cpu).unwrap();
    assert_eq!((cpu.cpl, cpu.regs[RIP], cpu.regs[RSP]), (0, HANDLER, 0x30000 - 32));
    step(&mut cpu).unwrap();
    assert_eq!((cpu.cpl, cpu.regs[RIP], cpu.regs[RSP]), (3, CODE + 7, STACK));
}
