//! Repeated string instructions: page crossings, overlap, direction, faults in the middle, bounds; and locked accesses.

use crate::cpu::{RAX, RBX, RCX, RDI, RDX, RIP, RSI};
use crate::fault::Fault;
use crate::testing::{self, CODE, DATA, MEMORY};
use x86::Rflags;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 256) as u8).collect()
}

#[test]
fn rep_movs_across_pages_copies_every_byte() {
    let code = [0xf3, 0xa4];
    for (from, to, len) in
        [(DATA + 1, DATA + 0x8003, 0x4567), (DATA, DATA + 0x8000, 3), (DATA + 0xffd, DATA + 0x9ffb, 9)]
    {
        let mut cpu = testing::cpu64(&code);
        let data = pattern(len);
        testing::poke(&cpu, from, &data);
        (cpu.regs[RSI], cpu.regs[RDI], cpu.regs[RCX]) = (from, to, len as u64);
        testing::run(&mut cpu, &code).unwrap();
        assert!(testing::peek(&cpu, to, len) == data);
        assert_eq!(testing::peek(&cpu, to + len as u64, 1), [0]);
        assert_eq!((cpu.regs[RSI], cpu.regs[RDI], cpu.regs[RCX]), (from + len as u64, to + len as u64, 0));
    }
}

#[test]
fn rep_movs_overlapping_upwards_repeats_the_first_bytes() {
    let code = [0xf3, 0xa4];
    let mut cpu = testing::cpu64(&code);
    testing::poke(&cpu, DATA + 0xff0, b"abc");
    (cpu.regs[RSI], cpu.regs[RDI], cpu.regs[RCX]) = (DATA + 0xff0, DATA + 0xff3, 60);
    testing::run(&mut cpu, &code).unwrap();
    assert_eq!(testing::peek(&cpu, DATA + 0xff0, 63), b"abc".repeat(21));
}

#[test]
fn rep_movs_downwards_copies_across_pages() {
    let code = [0xfd, 0xf3, 0x48, 0xa5]; // std; rep movsq
    let mut cpu = testing::cpu64(&code);
    let data = pattern(0x2000);
    // Not aligned, so that elements cross the pages' ends.
    let (from, to) = (DATA + 5, DATA + 0x1003);
    testing::poke(&cpu, from, &data);
    (cpu.regs[RSI], cpu.regs[RDI], cpu.regs[RCX]) = (from + 0x1ff8, to + 0x1ff8, 0x400);
    testing::run(&mut cpu, &code).unwrap();
    assert!(testing::peek(&cpu, to, 0x2000) == data);
    assert_eq!((cpu.regs[RSI], cpu.regs[RDI]), (from - 8, to - 8));
}

#[test]
fn rep_stos_fills_in_both_directions() {
    for (down, start) in [(false, DATA + 0xffe), (true, DATA + 0xffe + 4 * 999)] {
        let code = [if down { 0xfd } else { 0xfc }, 0xf3, 0xab];
        let mut cpu = testing::cpu64(&code);
        (cpu.regs[RAX], cpu.regs[RDI], cpu.regs[RCX]) = (0x1122_3344, start, 1000);
        testing::run(&mut cpu, &code).unwrap();
        assert_eq!(testing::peek(&cpu, DATA + 0xffe, 4000), 0x1122_3344u32.to_le_bytes().repeat(1000));
        assert_eq!(testing::peek(&cpu, DATA + 0xffd, 1), [0]);
        assert_eq!(testing::peek(&cpu, DATA + 0xffe + 4000, 1), [0]);
    }
}

#[test]
fn rep_movs_that_faults_has_done_whole_iterations() {
    let code = [0xf3, 0x48, 0xa5];
    let mut cpu = testing::cpu64(&code);
    // The destination runs out of canonical addresses after three quadwords; those before go nowhere.
    let to = (1u64 << 47) - 24;
    (cpu.regs[RSI], cpu.regs[RDI], cpu.regs[RCX]) = (DATA, to, 10);
    assert_eq!(testing::run(&mut cpu, &code), Err(Fault::NonCanonical));
    assert_eq!(cpu.regs[RIP], CODE);
    assert_eq!((cpu.regs[RSI], cpu.regs[RDI], cpu.regs[RCX]), (DATA + 24, 1 << 47, 7));
}

#[test]
fn rep_of_a_huge_count_returns_after_bounded_work() {
    for code in [&[0xf3, 0xaa][..], &[0xf3, 0xac], &[0xf2, 0xae], &[0xf3, 0xa6]] {
        let mut cpu = testing::cpu64(code);
        // SCASB and CMPSB find nothing to stop at.
        (cpu.regs[RCX], cpu.regs[RAX]) = (u64::MAX, if code[0] == 0xf2 { 0xaa } else { 0 });
        (cpu.regs[RSI], cpu.regs[RDI]) = (DATA, DATA);
        testing::step(&mut cpu).unwrap();
        assert_eq!(cpu.regs[RIP], CODE);
        let done = u64::MAX - cpu.regs[RCX];
        assert!(done > 0 && done <= 16 * 4096, "{done}");
    }
}

#[test]
fn rep_to_where_there_is_no_memory_is_bounded_too() {
    let code = [0xf3, 0xaa];
    let mut cpu = testing::cpu64(&code);
    (cpu.regs[RCX], cpu.regs[RDI]) = (1 << 40, MEMORY + 0x1000);
    testing::step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RIP], CODE);
    assert!((1 << 40) - cpu.regs[RCX] <= 1024);
}

#[test]
fn rep_movs_over_itself_restarts_and_finishes() {
    // rep stosb over the instruction itself and what follows: the rest of the block is stale.
    let code = [0xf3, 0xaa, 0x90, 0x90];
    let mut cpu = testing::cpu64(&code);
    (cpu.regs[RAX], cpu.regs[RCX], cpu.regs[RDI]) = (0x90, 16, CODE - 8);
    for _ in 0..20 {
        if cpu.regs[RIP] >= CODE + 4 {
            break;
        }
        assert!(cpu.run_block().is_none());
    }
    assert_eq!(cpu.regs[RCX], 0);
    assert_eq!(testing::peek(&cpu, CODE - 8, 16), [0x90; 16]);
}

#[test]
fn repeated_comparisons_stop_where_they_differ() {
    let code = [0xf3, 0xa6]; // repe cmpsb
    let mut cpu = testing::cpu64(&code);
    testing::poke(&cpu, DATA + 0xff8, b"hello, world");
    testing::poke(&cpu, DATA + 0x3ff0, b"hello, wOrld");
    (cpu.regs[RSI], cpu.regs[RDI], cpu.regs[RCX]) = (DATA + 0xff8, DATA + 0x3ff0, 12);
    testing::run(&mut cpu, &code).unwrap();
    assert_eq!((cpu.regs[RCX], cpu.rflags() & 0x41), (3, 0));
    assert_eq!(cpu.regs[RSI], DATA + 0xff8 + 9);
    let code = [0xf2, 0xae]; // repne scasb
    let mut cpu = testing::cpu64(&code);
    testing::poke(&cpu, DATA, b"strlen\0");
    (cpu.regs[RDI], cpu.regs[RCX], cpu.regs[RAX]) = (DATA, u64::MAX, 0);
    testing::run(&mut cpu, &code).unwrap();
    assert_eq!(!cpu.regs[RCX] - 1, 6);
}

#[test]
fn count_of_zero_touches_nothing() {
    for code in [[0xf3, 0xa4], [0xf3, 0xaa], [0xf2, 0xae]] {
        let mut cpu = testing::cpu64(&code);
        (cpu.regs[RSI], cpu.regs[RDI]) = (1 << 60, 1 << 60);
        let before = cpu.rflags();
        testing::run(&mut cpu, &code).unwrap();
        assert_eq!((cpu.rflags(), cpu.regs[RDI]), (before, 1 << 60));
    }
}

#[test]
fn strings_16_wrap_their_offsets() {
    let code = [0xf3, 0xaa];
    let mut cpu = testing::cpu16(&code);
    cpu.seg[0].base = DATA;
    cpu.update_mode();
    (cpu.regs[RAX], cpu.regs[RCX], cpu.regs[RDI]) = (0x55, 0xffff_0004, 0xabcd_fffe);
    testing::run(&mut cpu, &code).unwrap();
    assert_eq!(testing::peek(&cpu, DATA + 0xfffe, 3), [0x55, 0x55, 0]);
    assert_eq!(testing::peek(&cpu, DATA, 3), [0x55, 0x55, 0]);
    assert_eq!((cpu.regs[RCX], cpu.regs[RDI]), (0xffff_0000, 0xabcd_0002));
}

#[test]
fn trap_flag_stops_after_each_iteration() {
    let code = [0xf3, 0xaa];
    let mut cpu = testing::cpu64(&code);
    cpu.system_flags.insert(Rflags::TF);
    (cpu.regs[RCX], cpu.regs[RDI]) = (3, DATA);
    for left in [2, 1] {
        testing::step(&mut cpu).unwrap();
        assert_eq!((cpu.regs[RCX], cpu.regs[RIP]), (left, CODE));
    }
    testing::step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RCX], cpu.regs[RIP]), (0, CODE + 2));
}

#[test]
fn locked_accesses_across_pages_and_cache_lines_work() {
    // lock xadd [rdi], rax; xchg [rdi], rbx; lock cmpxchg [rdi], rcx; lock inc qword [rdi]
    let code = [
        0xf0, 0x48, 0x0f, 0xc1, 0x07, 0x48, 0x87, 0x1f, 0xf0, 0x48, 0x0f, 0xb1, 0x0f, 0xf0, 0x48, 0xff, 0x07,
    ];
    for at in [DATA + 0xffd, DATA + 0x3a, DATA + 0x40] {
        let mut cpu = testing::cpu64(&code);
        testing::poke(&cpu, at, &5u64.to_le_bytes());
        (cpu.regs[RDI], cpu.regs[RAX], cpu.regs[RBX], cpu.regs[RCX]) = (at, 7, 5, 0x100);
        testing::run(&mut cpu, &code).unwrap();
        // 5 + 7 = 12, RAX = 5; RBX = 12, memory 5; equal to RAX, so 0x100; 0x101.
        assert_eq!((cpu.regs[RAX], cpu.regs[RBX]), (5, 12));
        assert_eq!(testing::peek(&cpu, at, 8), 0x101u64.to_le_bytes());
    }
}

#[test]
fn cmpxchg8b_and_16b_exchange_when_equal() {
    let code = [0x0f, 0xc7, 0x0f, 0xf0, 0x48, 0x0f, 0xc7, 0x4f, 0x10];
    let mut cpu = testing::cpu64(&code);
    testing::poke(&cpu, DATA, &0x1111_2222_3333_4444u64.to_le_bytes());
    testing::poke(&cpu, DATA + 16, &(9u128 << 64 | 8).to_le_bytes());
    cpu.regs[RDI] = DATA;
    testing::step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RDX], cpu.regs[RAX], cpu.rflags() & 0x40), (0x1111_2222, 0x3333_4444, 0));
    (cpu.regs[RDX], cpu.regs[RAX], cpu.regs[RCX], cpu.regs[RBX]) = (9, 8, 7, 6);
    testing::step(&mut cpu).unwrap();
    assert_eq!(cpu.rflags() & 0x40, 0x40);
    assert_eq!(testing::peek(&cpu, DATA + 16, 16), (7u128 << 64 | 6).to_le_bytes());
}

#[test]
fn locked_increments_of_two_vcpus_lose_nothing() {
    // lock inc dword [rdi]; dec rcx; jne
    let code = [0xf0, 0xff, 0x07, 0x48, 0xff, 0xc9, 0x75, 0xf8];
    let mut first = testing::cpu64(&code);
    let remote = std::sync::Arc::new(crate::remote::Remote::new(Default::default()));
    let mut second = crate::cpu::Cpu::new(1, first.shared.clone(), remote);
    second.efer = first.efer;
    (second.cr0, second.seg, second.regs) = (first.cr0, first.seg, first.regs);
    second.update_mode();
    std::thread::scope(|scope| {
        for cpu in [&mut first, &mut second] {
            (cpu.regs[RDI], cpu.regs[RCX]) = (DATA, 100_000);
            scope.spawn(move || {
                while cpu.regs[RIP] != CODE + 8 {
                    assert!(cpu.run_block().is_none());
                }
            });
        }
    });
    assert_eq!(testing::peek(&first, DATA, 4), 200_000u32.to_le_bytes());
}
