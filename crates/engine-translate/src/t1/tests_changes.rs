//! What happens while translated code runs: events, and changes of the code, of what it is mapped to, of mappings.

use super::testing::{program, run_to, store_takes_effect};
use super::tests::translating;
use crate::cpu::{RAX, RBX, RCX, RDI, RDX, RIP, RSI, RSP};
use crate::run::Done;
use crate::testing::{CODE, STACK, cpu64, poke};
use address::GuestPhys;

/// Endless loops: a jump to itself, with something before it, of two blocks, through a register (RDX is its address), by
/// returns from calls and without, of a conditional jump with flags kept, over two pages.
const LOOPS: [&[u8]; 8] = [
    &[0xeb, 0xfe],
    &[0x48, 0xff, 0xc0, 0xeb, 0xfb],
    &[0xff, 0xc0, 0xeb, 0, 0xff, 0xc3, 0xeb, 0xf8],
    &[0xff, 0xe2],
    &[0xe8, 2, 0, 0, 0, 0xeb, 0xf9, 0xc3],
    &[0x52, 0xc3],
    &[0x01, 0xc8, 0x71, 0xfc, 0x70, 0xfa],
    &[0xe9, 0xfb, 0xff, 0xff, 0xff],
];

#[test]
fn endless_loop_that_counts_comes_back_in_time() {
    for code in LOOPS {
        let mut cpu = translating(code);
        cpu.regs[RDX] = CODE;
        let mut before = 0;
        let mut long = 0;
        for _ in 0..20 {
            long += (cpu.execute_block() == Ok(Done::Many)) as u32;
            assert!(cpu.retired > before && cpu.retired - before <= 4096, "{code:x?}");
            before = cpu.retired;
        }
        assert!(long > 10, "{code:x?}");
        assert!((CODE..CODE + code.len() as u64).contains(&cpu.regs[RIP]));
    }
}

#[test]
fn pending_event_is_seen_after_the_op_that_caused_it() {
    // inc eax; mov rbx, cr8, which may change nothing; inc eax; a loop around these; with something pending, after the
    // first instruction that is T0's.
    let mut cpu = translating(&[0xff, 0xc0, 0x44, 0x0f, 0x20, 0xc3, 0xff, 0xc0, 0xeb, 0xf6]);
    for _ in 0..3 {
        cpu.recheck();
        cpu.regs[RIP] = CODE;
        let before = cpu.regs[RAX];
        cpu.execute_block().unwrap();
        assert_eq!((cpu.regs[RAX] - before, cpu.regs[RIP]), (1, CODE + 6));
    }
}

#[test]
fn endless_loop_ends_soon_after_something_is_posted() {
    for (n, code) in LOOPS.iter().enumerate() {
        let mut cpu = translating(code);
        cpu.t1.counting = false;
        cpu.regs[RDX] = CODE;
        let remote = cpu.remote.clone();
        let started = std::sync::atomic::AtomicBool::new(false);
        let posted = std::thread::scope(|s| {
            let poster = s.spawn(|| {
                while !started.load(std::sync::atomic::Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                std::thread::sleep(std::time::Duration::from_millis(3));
                remote.post(crate::remote::pending::KICK);
                std::time::Instant::now()
            });
            for _ in 0..4 {
                // The first ones come back to be led to each other.
                started.store(true, std::sync::atomic::Ordering::SeqCst);
                cpu.execute_block().unwrap();
                if cpu.remote.pending.load(std::sync::atomic::Ordering::SeqCst) != 0 {
                    break;
                }
            }
            poster.join().unwrap()
        });
        assert!(posted.elapsed() < std::time::Duration::from_millis(200), "loop {n}");
        assert!((CODE..CODE + 0x40).contains(&cpu.regs[RIP]));
    }
}

#[test]
fn store_to_the_running_block_takes_effect() {
    // mov byte [rip+1], 7; mov al, 1; jmp +0
    store_takes_effect(translating(&[0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1, 0xeb, 0]));
}

#[test]
fn store_to_a_linked_block_takes_effect() {
    let code = program!(
        t1_patch t1_patch_end,
        "2: mov [rdi], cl",
        "jmp 3f",
        ".skip 60, 0x90",
        "3: mov al, 0",
        "add ebx, eax",
        "dec ecx",
        "jne 2b",
    );
    let mut whole = code.to_vec();
    whole.extend([0xeb, 0xfe]);
    let mut cpu = translating(&whole);
    (cpu.regs[RCX], cpu.regs[RDI]) = (50, CODE + 65);
    assert_eq!(code[64], 0xb0);
    run_to(&mut cpu, CODE + code.len() as u64);
    assert_eq!(cpu.regs[RBX], 50 * 51 / 2);
}

#[test]
fn store_to_a_linked_block_takes_effect_on_a_page_that_is_data_too() {
    let code = program!(
        t1_both t1_both_end,
        "2: mov edx, 300",
        "4: mov [rsi], edx",
        "dec edx",
        "jne 4b",
        "mov [rdi], cl",
        "jmp 3f",
        ".skip 100, 0x90",
        "3: mov al, 0",
        "add ebx, eax",
        "dec ecx",
        "jne 2b",
    );
    let at = code.iter().rposition(|b| *b == 0xb0).unwrap() as u64;
    let mut whole = code.to_vec();
    whole.extend([0xeb, 0xfe]);
    let mut cpu = translating(&whole);
    (cpu.regs[RCX], cpu.regs[RDI], cpu.regs[RSI]) = (50, CODE + at + 1, CODE + 0x800);
    run_to(&mut cpu, CODE + code.len() as u64);
    assert_eq!(cpu.regs[RBX], 50 * 51 / 2);
    let generation =
        cpu.shared.memory.regions()[0].page(1).generation().load(std::sync::atomic::Ordering::SeqCst);
    assert!(generation > 100, "the page's code was never given up: {generation}");
}

#[test]
fn write_by_a_device_to_a_linked_block_takes_effect() {
    // jmp +0; mov al, 1; jmp -6
    let mut cpu = translating(&[0xeb, 0, 0xb0, 1, 0xeb, 0xfa]);
    for n in 1..100u8 {
        cpu.shared.memory.write(GuestPhys(CODE + 3), &[n]).unwrap();
        cpu.execute_block().unwrap();
        cpu.execute_block().unwrap();
        cpu.execute_block().unwrap();
        assert_eq!(cpu.regs[RAX], n as u64);
    }
}

#[test]
fn code_on_another_page_that_changed_is_not_jumped_to() {
    // call rdx; jmp -4 / there: mov al, 1; ret
    let mut cpu = translating(&[0xff, 0xd2, 0xeb, 0xfc]);
    cpu.regs[RDX] = CODE + 0x1000;
    poke(&cpu, CODE + 0x1000, &[0xb0, 1, 0xc3]);
    for n in 1..60u8 {
        cpu.shared.memory.write(GuestPhys(CODE + 0x1001), &[n]).unwrap();
        for _ in 0..3 {
            cpu.execute_block().unwrap();
        }
        assert_eq!(cpu.regs[RAX], n as u64);
    }
}

#[test]
fn alias_of_a_page_runs_relative_to_itself() {
    // Without paging an address and the one 4 GiB above it are the same memory.
    let code = program!(
        t1_alias t1_alias_end,
        "2: call 3f", "3: pop rax", "lea rbx, [rip + 2b]", "mov ecx, [rip + 2b]", "jmp 4f", "4: nop");
    let mut whole = code.to_vec();
    whole.extend([0xeb, 0xfe]);
    let mut cpu = translating(&whole);
    for round in 0..6 {
        let base = CODE + ((round & 1) << 32);
        cpu.regs[RIP] = base;
        run_to(&mut cpu, base + code.len() as u64);
        assert_eq!((cpu.regs[RAX], cpu.regs[RBX]), (base + 5, base));
        assert_eq!(cpu.regs[RCX] as u32, 0xe8, "the call itself");
    }
}

#[test]
fn changed_address_mapping_is_not_jumped_past() {
    // ret, to an address whose code was found before the mapping changed
    let mut cpu = translating(&[0xc3]);
    poke(&cpu, CODE + 0x1000, &[0xb0, 1, 0xeb, 0xfe]);
    poke(&cpu, STACK, &(CODE + 0x1000).to_le_bytes());
    for _ in 0..4 {
        (cpu.regs[RIP], cpu.regs[RSP]) = (CODE, STACK);
        cpu.execute_block().unwrap();
        cpu.execute_block().unwrap();
    }
    let before = cpu.jump_guard();
    cpu.tlb.forget_jumps();
    assert_ne!(cpu.jump_guard(), before);
    (cpu.regs[RIP], cpu.regs[RSP], cpu.regs[RAX]) = (CODE, STACK, 0);
    cpu.execute_block().unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RAX]), (CODE + 0x1000, 0), "it came back to ask");
}

#[test]
fn without_translation_nothing_is_translated() {
    let mut cpu = cpu64(&[0xeb, 0xfe]);
    cpu.t1.threshold = u32::MAX;
    for _ in 0..100 {
        assert_eq!(cpu.execute_block(), Ok(Done::Block));
    }
    assert_eq!(cpu.t1.enter, 0);
}
