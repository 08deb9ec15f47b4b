//! Jumps and calls to other pages, and chains that are to come to an end.

use super::testing::run_to;
use crate::cpu::{Cpu, RAX, RBX, RCX, RIP, RSP};
use crate::placed::Placed;
use crate::remote::pending;
use crate::testing::{CODE, STACK, cpus64, peek, poke};
use address::GuestPhys;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// On the next page: mov eax, imm32; ret.
const FUNCTION: u64 = CODE + 0x1234;
const END: u64 = CODE + 0x0b;

/// 0: call FUNCTION; 5: add rbx, rax; dec ecx; ... back to 0 while not zero.
fn calling() -> Vec<u8> {
    let mut code = vec![0xe8];
    code.extend(((FUNCTION - CODE) as u32 - 5).to_le_bytes());
    code.extend([0x48, 0x01, 0xc3, 0xff, 0xc9, 0x90]);
    // END: jne 0; jmp -2
    code.extend([0x75, 0xf3, 0xeb, 0xfe]);
    code
}

fn function(value: u32) -> Vec<u8> {
    [&[0xb8][..], &value.to_le_bytes(), &[0xc3]].concat()
}

/// Calls it `count` times; what it gave in all.
fn call(cpu: &mut Cpu, count: u64) -> u64 {
    (cpu.regs[RIP], cpu.regs[RSP], cpu.regs[RBX], cpu.regs[RCX]) = (CODE, STACK, 0, count);
    for _ in 0..100_000 {
        if cpu.remote.pending.load(SeqCst) != 0 {
            assert_eq!(cpu.handle_events(), None);
        }
        if cpu.regs[RIP] == END + 2 {
            return cpu.regs[RBX];
        }
        assert_eq!(cpu.run_block(), None);
    }
    panic!("RIP is {:#x}", cpu.regs[RIP]);
}

fn caller() -> Placed {
    let mut cpu = cpus64(1, &calling()).remove(0);
    poke(&cpu, FUNCTION, &function(1));
    cpu.t1.threshold = 2;
    assert_eq!(call(&mut cpu, 100), 100);
    // From now on it goes straight there.
    (cpu.regs[RIP], cpu.regs[RSP], cpu.regs[RBX], cpu.regs[RCX]) = (CODE, STACK, 0, 1000);
    let mut turns = 0;
    while cpu.regs[RIP] != END + 2 {
        assert_eq!(cpu.run_block(), None);
        turns += 1;
    }
    assert!(turns < 10 && cpu.regs[RBX] == 1000, "{turns} returns to the executor");
    cpu
}

#[test]
fn code_on_another_page_is_not_found_once_it_has_changed() {
    let mut cpu = caller();
    for round in 0..50u32 {
        // By a device.
        cpu.shared.memory.write(GuestPhys(FUNCTION), &function(round)).unwrap();
        assert_eq!(call(&mut cpu, 30), 30 * round as u64);
        // By a store of the vCPU's.
        cpu.executing = [u64::MAX; 2];
        cpu.write(FUNCTION + 1, round + 7).unwrap();
        assert_eq!(call(&mut cpu, 30), 30 * (round as u64 + 7));
    }
}

#[test]
fn store_to_another_page_is_seen_by_the_next_call_of_it() {
    // On a third page: dec ecx; test cl, 63; jne 13; mov [FUNCTION + 1], ecx; 13: call; add rbx, rax; test ecx, ecx; jne 0.
    let third = CODE + 0x3000;
    let to = |at: u64, end: u64| (at.wrapping_sub(third + end) as u32).to_le_bytes();
    let code = [
        &[0xff, 0xc9, 0xf6, 0xc1, 0x3f, 0x75, 0x06, 0x89, 0x0d][..],
        &to(FUNCTION + 1, 13),
        &[0xe8],
        &to(FUNCTION, 18),
        &[0x48, 0x01, 0xc3, 0x85, 0xc9, 0x75, 0xe7, 0xeb, 0xfe],
    ];
    let mut cpu = caller();
    poke(&cpu, third, &code.concat());
    (cpu.regs[RIP], cpu.regs[RBX], cpu.regs[RCX]) = (third, 0, 1000);
    run_to(&mut cpu, third + 25);
    let mut value = 1;
    let expected = (0..1000).rev().map(|n| {
        value = if n % 64 == 0 { n } else { value };
        value
    });
    assert_eq!(cpu.regs[RBX], expected.sum::<u64>());
}

#[test]
fn code_evicted_or_mapped_elsewhere_is_not_found() {
    let mut cpu = caller();
    for round in 0..20u32 {
        // What is on the page stays, where it was translated does not.
        for _ in 0..crate::cache::SEGMENTS {
            cpu.pass();
            cpu.shared.code.fill();
            cpu.make_room();
        }
        cpu.shared.memory.write(GuestPhys(FUNCTION), &function(round)).unwrap();
        assert_eq!(call(&mut cpu, 100), 100 * round as u64);
    }
    // Another page at the same address, by page tables at 0x40000 to 0x42000: large pages but for the first.
    let tables = 0x40000;
    for (at, entry) in
        [(tables, tables + 0x1003), (tables + 0x1000, tables + 0x2003), (tables + 0x2000, tables + 0x3003)]
    {
        poke(&cpu, at, &entry.to_le_bytes());
    }
    (0..512u64).for_each(|n| poke(&cpu, tables + 0x3000 + n * 8, &(n << 12 | 3).to_le_bytes()));
    let elsewhere = 0x50000;
    poke(&cpu, elsewhere + FUNCTION % 4096, &function(77));
    cpu.cr3 = tables;
    cpu.cr4 |= x86::Cr4::PAE;
    cpu.cr0 |= x86::Cr0::PG;
    cpu.tlb.flush();
    cpu.update_mode();
    let entry = tables + 0x3000 + (FUNCTION >> 12) * 8;
    for (page, value) in [(FUNCTION & !0xfff, 19), (elsewhere, 77), (FUNCTION & !0xfff, 19), (elsewhere, 77)]
    {
        poke(&cpu, entry, &(page | 3).to_le_bytes());
        cpu.tlb.flush_page(FUNCTION);
        assert_eq!(call(&mut cpu, 100), 100 * value);
    }
}

/// Nothing but calls, or returns: chains end all the same.
#[test]
fn calls_without_end_are_left_when_something_is_pending() {
    // lea rsp, [rsp + 8]; call itself.
    let own = [0x48, 0x8d, 0x64, 0x24, 0x08, 0xe8, 0xf6, 0xff, 0xff, 0xff];
    let indirect = [0x48, 0x8d, 0x64, 0x24, 0x08, 0xff, 0xd0];
    // push rax; ret: a return to where no call was.
    let returns = [0x50, 0xc3];
    for code in [&own[..], &indirect, &returns] {
        let mut cpus = cpus64(1, code);
        let cpu = &mut cpus[0];
        cpu.t1.threshold = 0;
        (cpu.regs[RSP], cpu.regs[RAX]) = (STACK, CODE);
        let remote = cpu.remote.clone();
        let enough = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                while !enough.load(SeqCst) {
                    std::thread::sleep(std::time::Duration::from_millis(3));
                    remote.post(pending::RECHECK);
                }
            });
            let mut left = 0;
            while left < 10 {
                assert_eq!(cpu.run_block(), None);
                left += (cpu.remote.pending.swap(0, SeqCst) != 0) as u32;
            }
            enough.store(true, SeqCst);
        });
        assert!(peek(cpu, STACK - 8, 16) != [0; 16]);
    }
}
