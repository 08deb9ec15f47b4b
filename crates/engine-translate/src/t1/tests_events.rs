//! Exceptions delivered within a chain, instructions across two pages, CMPXCHG16B.

use super::testing::{fault, program, run_to};
use super::tests::{same, translating};
use super::tests_groups::identity_paging;
use crate::cpu::{Cpu, RAX, RBX, RCX, RDI, RIP, RSI};
use crate::fault::Fault;
use crate::placed::Placed;
use crate::testing::{CODE, DATA, cpu64, cpus64, poke};
use address::GuestPhys;
use engine::Exit;
use std::sync::atomic::Ordering::SeqCst;
use x86::segment::Table;

const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const HANDLER: u64 = 0x7000;

/// A vCPU that stays in translated code, exceptions or not, with a handler for #UD: it skips UD2 and counts in RBX.
fn delivering(code: &[u8]) -> Placed {
    let mut cpu = cpu64(code);
    for (n, descriptor) in [0x00af_9a00_0000_ffffu64, 0x00cf_9200_0000_ffff].into_iter().enumerate() {
        poke(&cpu, GDT + 8 + n as u64 * 8, &descriptor.to_le_bytes());
    }
    poke(&cpu, IDT + 6 * 16, &(HANDLER | 8 << 16 | 0x8e << 40).to_le_bytes());
    // add qword ptr [rsp], 2; inc rbx; iretq
    poke(&cpu, HANDLER, &[0x48, 0x83, 0x04, 0x24, 2, 0x48, 0xff, 0xc3, 0x48, 0xcf]);
    cpu.gdtr = Table { base: GDT, limit: 0x17 };
    cpu.idtr = Table { base: IDT, limit: 0x7ff };
    (cpu.t1.threshold, cpu.t1.delivers) = (0, true);
    cpu
}

#[test]
fn exceptions_of_a_chain_are_delivered_without_leaving_it() {
    // ud2; dec ecx; jne -6; jmp -2
    let mut cpu = delivering(&[0x0f, 0x0b, 0xff, 0xc9, 0x75, 0xfa, 0xeb, 0xfe]);
    cpu.regs[RCX] = 1000;
    let mut runs = 0;
    while cpu.regs[RIP] != CODE + 6 {
        assert_eq!(cpu.run_block(), None);
        runs += 1;
    }
    assert_eq!((cpu.regs[RBX], cpu.regs[RCX]), (1000, 0));
    assert!(runs < 50, "{runs} returns to the executor");
}

#[test]
fn exception_of_a_chain_that_nothing_handles_is_a_shutdown() {
    let mut cpu = delivering(&[0x90, 0x0f, 0x0b]);
    cpu.idtr.limit = 0;
    let exit = (0..10).find_map(|_| cpu.run_block());
    assert!(matches!(exit, Some(Exit::Shutdown(_))), "{exit:?}");
    assert_eq!(cpu.regs[RIP], CODE + 1);
}

/// jmp to the page's end; add eax, 1 over the end; dec ecx; jne to the beginning; jmp -2.
const ACROSS: [&[u8]; 2] = [&[0xeb, 0x0c], &[0x81, 0xc0, 1, 0, 0, 0, 0xff, 0xc9, 0x75, 0xe8, 0xeb, 0xfe]];

fn run_across(cpu: &mut Cpu) -> u64 {
    if cpu.remote.pending.load(SeqCst) != 0 {
        assert_eq!(cpu.handle_events(), None);
    }
    (cpu.regs[RIP], cpu.regs[RAX], cpu.regs[RCX]) = (0x1ff0, 0, 100);
    run_to(cpu, 0x2008);
    cpu.regs[RAX]
}

/// With some executions in T0 first, the second page is known when the instruction is translated, and jumps go straight there.
const THRESHOLDS: [u32; 2] = [0, 3];

fn across(threshold: u32) -> Placed {
    // It is told of others' stores.
    let mut cpu = cpus64(1, &[]).remove(0);
    cpu.t1.threshold = threshold;
    poke(&cpu, 0x1ff0, ACROSS[0]);
    poke(&cpu, 0x1ffe, ACROSS[1]);
    cpu
}

#[test]
fn instruction_across_two_pages_is_translated_and_follows_changes_of_both() {
    for threshold in THRESHOLDS {
        let mut cpu = across(threshold);
        assert_eq!(run_across(&mut cpu), 100);
        cpu.regs[RIP] = 0x1ffe;
        let block = cpu.find_block().unwrap();
        // SAFETY: good until the next `find_block`.
        assert!(unsafe { &*block }.translation.code().is_some());
        cpu.shared.memory.write(GuestPhys(0x2000), &[3]).unwrap();
        assert_eq!(run_across(&mut cpu), 300);
        // sub eax, 3
        cpu.shared.memory.write(GuestPhys(0x1fff), &[0xe8]).unwrap();
        assert_eq!(run_across(&mut cpu) as u32, -300i32 as u32);
    }
}

#[test]
fn instruction_across_two_pages_follows_the_second_ones_move() {
    for threshold in THRESHOLDS {
        let mut cpu = across(threshold);
        let table = identity_paging(&mut cpu);
        let second = [&[7], &ACROSS[1][3..]].concat();
        poke(&cpu, 0x8000, &second);
        for (page, sum) in [(2u64, 100), (8, 700), (2, 100), (8, 700)] {
            poke(&cpu, table + 2 * 8, &(page << 12 | 3).to_le_bytes());
            cpu.flush_page(0x2000);
            assert_eq!(run_across(&mut cpu), sum);
        }
    }
}

#[test]
fn alias_of_a_page_goes_on_into_its_own_next_page() {
    for threshold in THRESHOLDS {
        // The first page at two addresses, with another second page each.
        let mut cpu = across(threshold);
        let table = identity_paging(&mut cpu);
        let second = [&[7], &ACROSS[1][3..]].concat();
        poke(&cpu, 0x8000, &second);
        for (linear, physical) in [(0x11u64, 1u64), (0x12, 8)] {
            poke(&cpu, table + linear * 8, &(physical << 12 | 3).to_le_bytes());
        }
        for _ in 0..3 {
            assert_eq!(run_across(&mut cpu), 100);
            (cpu.regs[RIP], cpu.regs[RAX], cpu.regs[RCX]) = (0x11ff0, 0, 100);
            run_to(&mut cpu, 0x12008);
            assert_eq!(cpu.regs[RAX], 700);
        }
    }
}

#[test]
fn compare_and_exchange_of_two_registers_is_the_interpreters() {
    let code = program!(
        t1_cx16 t1_cx16_end,
        "mov r8d, 50",
        "2: mov rax, [rsi]",
        "mov rdx, [rsi + 8]",
        "lea rbx, [rax + 3]",
        "lea rcx, [rdx + 5]",
        "stc",
        "lock cmpxchg16b [rsi]",
        "adc r9, rax",
        "cmp r9, r8",
        "cmpxchg16b gs:[rsi + r12]",
        "setz r10b",
        "setc r11b",
        "adc r9, rdx",
        "lock cmpxchg8b [rdi]",
        "adc r9, rax",
        "cmpxchg8b [rdi]",
        "setz r13b",
        "adc r9, r13",
        "dec r8d",
        "jne 2b",
    );
    let cpu = same(code, |cpu| {
        (cpu.regs[RSI], cpu.regs[RDI], cpu.regs[12]) = (DATA, DATA + 0x40, 0x20);
        poke(cpu, DATA + 0x20, &[0x5a; 0x40]);
    });
    assert_ne!(cpu.regs[9], 0);
    // lock cmpxchg16b [rsi + 8]
    let mut cpu = translating(&[0xf0, 0x48, 0x0f, 0xc7, 0x4e, 8]);
    cpu.regs[RSI] = DATA;
    assert_eq!(fault(&mut cpu), Some(Fault::Exception(x86::Exception::gp(0))));
}
