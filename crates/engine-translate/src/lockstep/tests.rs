//! The mode itself: what is alike passes, what isn't is found, and what can't be compared is left out.

use super::pages::Pages;
use super::*;
use crate::cpu::{RAX, RBX, RCX, RDI, RDX, RIP, RSI};
use crate::placed::Placed;
use crate::testing::{CODE, DATA, MEMORY, STACK, cpu64, peek, poke};
use address::GuestPhys;
use iced_x86::Code;
use memory::{Kind, RegionConfig};
use std::cell::Cell;

thread_local! {
    static SPOILED: Cell<Option<(Code, Code)>> = const { Cell::new(None) };
}

/// A wrong translation: the compiler takes each instruction of the first kind for one of the second.
pub(crate) fn spoil(instructions: &mut [Instruction]) {
    if let Some((from, to)) = SPOILED.get() {
        instructions.iter_mut().filter(|i| i.code() == from).for_each(|i| i.set_code(to));
    }
}

/// A leader about to execute `code`, which is to end with a branch to what is behind it.
fn leader(code: &[u8]) -> Placed {
    // An endless loop behind it, so that nothing runs into what follows.
    let mut cpu = cpu64(&[code, &[0xeb, 0xfe]].concat());
    Lockstep::lead(&mut cpu).unwrap();
    cpu.t1.threshold = 0;
    cpu
}

/// Runs until RIP is behind `code`, or the mode finds a difference.
fn run(cpu: &mut Cpu, code: &[u8]) -> Result<(), String> {
    for _ in 0..100_000 {
        if cpu.regs[RIP] == CODE + code.len() as u64 {
            return Ok(());
        }
        match cpu.run_block() {
            None => {}
            Some(Exit::Failed(why)) => return Err(why),
            Some(other) => return Err(format!("{other:?}")),
        }
    }
    panic!("RIP never became {:#x}; it is {:#x}", CODE + code.len() as u64, cpu.regs[RIP]);
}

fn counts(cpu: &Cpu) -> Counts {
    cpu.lockstep.as_ref().unwrap().counts()
}

/// Ten times: mov [rsi], rax; add rax, rcx; xor [rsi+8], rax; loop.
const PROGRAM: [u8; 19] = [
    0xb1, 0x0a, 0xc6, 0x06, 0x01, 0x48, 0x89, 0x06, 0x48, 0x01, 0xc8, 0x48, 0x31, 0x46, 0x08, 0xff, 0xc9,
    0x75, 0xf2,
];

fn prepare(cpu: &mut Cpu) {
    (cpu.regs[RSI], cpu.regs[RCX], cpu.regs[RAX]) = (DATA + 0xff8, 0, 7);
}

#[test]
fn program_without_differences_is_compared_whole() {
    let mut cpu = leader(&PROGRAM);
    prepare(&mut cpu);
    run(&mut cpu, &PROGRAM).unwrap();
    assert_eq!(cpu.regs[RAX], 7 + 55);
    assert_eq!(counts(&cpu).compared, 2 + 10 * 5);
    let follower = &cpu.lockstep.as_ref().unwrap().follower;
    assert_eq!(follower.regs, cpu.regs);
    assert_eq!(peek(follower, DATA, 0x2000), peek(&cpu, DATA, 0x2000));
}

/// Twenty times: inc rax; test al, 3; jne 2f; add rbx, rax; 2: mov [rsi], rbx; loop.
const BRANCHES: [u8; 17] =
    [0x48, 0xff, 0xc0, 0xa8, 0x03, 0x75, 0x03, 0x48, 0x01, 0xc3, 0x48, 0x89, 0x1e, 0xff, 0xc9, 0x75, 0xef];

#[test]
fn blocks_that_are_translated_together_are_compared() {
    for spoiled in [false, true] {
        SPOILED.set(spoiled.then_some((Code::Mov_rm64_r64, Code::Add_rm64_r64)));
        let mut cpu = leader(&BRANCHES);
        cpu.t1.threshold = 2;
        (cpu.regs[RSI], cpu.regs[RCX]) = (DATA, 20);
        let ran = run(&mut cpu, &BRANCHES);
        if spoiled {
            let why = ran.unwrap_err();
            assert!(why.contains("memory: 0x10000: T1 "), "{why}");
            continue;
        }
        ran.unwrap();
        assert_eq!((cpu.regs[RAX], cpu.regs[RBX]), (20, 4 + 8 + 12 + 16 + 20));
        assert!(counts(&cpu).compared > 50, "{}", counts(&cpu).compared);
    }
}

#[test]
fn wrong_register_is_found_in_its_block() {
    SPOILED.set(Some((Code::Add_rm64_r64, Code::Sub_rm64_r64)));
    let mut cpu = leader(&PROGRAM);
    prepare(&mut cpu);
    let why = run(&mut cpu, &PROGRAM).unwrap_err();
    for part in [
        "T0 and T1 differ after 0 instructions",
        "in the block at linear 0x1000, guest-physical 0x1000, 0 instructions into its chain:",
        "0x1008  4801c8",
        "add rax,rcx",
        "         rax: T1 0xfffffffffffffffd, T0 0x11, at the start 0x7",
        "rflags",
        "rsi 0x0000000000010ff8",
        "--engine translate:lockstep",
    ] {
        assert!(why.contains(part), "no {part:?} in: {why}");
    }
}

#[test]
fn wrong_store_is_found_after_a_chain_that_was_right() {
    let mut cpu = leader(&PROGRAM);
    prepare(&mut cpu);
    run(&mut cpu, &PROGRAM).unwrap();
    let alike = counts(&cpu).compared;
    // Elsewhere: what is translated stays as it is.
    let wrong = [0x48, 0x31, 0x46, 0x08, 0xeb, 0];
    cpu.shared.memory.load(GuestPhys(CODE), &wrong).unwrap();
    SPOILED.set(Some((Code::Xor_rm64_r64, Code::Sub_rm64_r64)));
    cpu.regs[RIP] = CODE;
    cpu.regs[RAX] = 4;
    let why = run(&mut cpu, &wrong).unwrap_err();
    assert!(why.contains(&format!("differ after {alike} instructions")), "{why}");
    assert!(why.contains("memory: 0x11000: T1 "), "{why}");
    assert!(why.contains("rflags: T1 "), "{why}");
}

#[test]
fn missing_and_stray_stores_are_found_at_once() {
    for (from, to) in [
        // A compare stores nothing; a subtraction does.
        (Code::Sub_rm64_r64, Code::Cmp_rm64_r64),
        (Code::Cmp_rm64_r64, Code::Sub_rm64_r64),
    ] {
        SPOILED.set(Some((from, to)));
        let byte = if from == Code::Sub_rm64_r64 { 0x29 } else { 0x39 };
        // mov [rsi], rax; sub or cmp [rsi], rcx
        let code = [0x48, 0x89, 0x06, 0x48, byte, 0x0e, 0xeb, 0];
        let mut cpu = leader(&code);
        (cpu.regs[RSI], cpu.regs[RAX], cpu.regs[RCX]) = (DATA, 5, 2);
        let why = run(&mut cpu, &code).unwrap_err();
        assert!(why.contains("memory: 0x10000: T1 "), "{why}");
    }
}

#[test]
fn instructions_that_ask_the_world_are_not_compared() {
    // rdtsc; mov [rsi], eax; cpuid; rdrand ecx; in al, 0x70; mov [rsi+4], ecx; jmp +0
    let code = [0x0f, 0x31, 0x89, 0x06, 0x0f, 0xa2, 0x0f, 0xc7, 0xf1, 0xe4, 0x70, 0x89, 0x4e, 0x04, 0xeb, 0];
    let mut cpu = leader(&code);
    cpu.regs[RSI] = DATA;
    run(&mut cpu, &code).unwrap();
    assert!(peek(&cpu, DATA, 4) != [0; 4]);
    assert_eq!((counts(&cpu).compared, cpu.retired), (3, 7));
}

#[test]
fn instruction_across_two_pages_that_asks_the_world_is_not_compared() {
    // jmp to 0x1fff; rdtsc there; mov [rsi], eax; jmp +0
    let code =
        [[0xe9, 0xfa, 0x0f, 0, 0].as_slice(), &[0; 0xffa], &[0x0f, 0x31, 0x89, 0x06, 0xeb, 0]].concat();
    let mut cpu = leader(&code);
    cpu.regs[RSI] = DATA;
    run(&mut cpu, &code).unwrap();
    assert_eq!((counts(&cpu).compared, cpu.retired), (3, 4));
}

#[test]
fn access_to_a_device_ends_the_chain_and_its_value_reaches_the_follower() {
    // mov ebx, 1; mov rax, [rdi]; mov [rsi], rax; mov [rdi], rax; add rax, rbx; jmp +0
    let code =
        [0xbb, 1, 0, 0, 0, 0x48, 0x8b, 0x07, 0x48, 0x89, 0x06, 0x48, 0x89, 0x07, 0x48, 0x01, 0xd8, 0xeb, 0];
    let mut cpu = leader(&code);
    (cpu.regs[RSI], cpu.regs[RDI]) = (DATA, MEMORY + 0x1000);
    run(&mut cpu, &code).unwrap();
    // No board: ones.
    assert_eq!((cpu.regs[RAX], peek(&cpu, DATA, 8)), (0, vec![0xff; 8]));
    assert_eq!((counts(&cpu).compared, cpu.retired), (4, 6));
}

#[test]
fn code_that_changes_itself_is_alike() {
    // mov byte [rip+1], 7; mov al, 1; mov rdx, rax; jmp +0
    let code = [0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1, 0x48, 0x89, 0xc2, 0xeb, 0];
    let mut cpu = leader(&code);
    for _ in 0..3 {
        cpu.regs[RIP] = CODE;
        run(&mut cpu, &code).unwrap();
        assert_eq!(cpu.regs[RDX] & 0xff, 7);
        cpu.shared.memory.write(GuestPhys(CODE + 8), &[1]).unwrap();
    }
}

#[test]
fn repetition_that_stops_at_its_own_code_is_alike() {
    // rep movsb up to and into the instruction's own granules; jmp +0
    let code = [0xf3, 0xa4, 0xeb, 0];
    let mut cpu = leader(&code);
    poke(&cpu, CODE - 0x100, &[0x90; 0x100]);
    poke(&cpu, DATA, &[0x90; 0x200]);
    poke(&cpu, DATA + 0x100, &code);
    (cpu.regs[RSI], cpu.regs[RDI], cpu.regs[RCX]) = (DATA, CODE - 0x100, 0x104);
    run(&mut cpu, &code).unwrap();
    assert_eq!((cpu.regs[RCX], cpu.regs[RDI]), (0, CODE + 4));
}

#[test]
fn faults_are_compared() {
    // div rcx
    let code = [0x48, 0xf7, 0xf1];
    let mut cpu = leader(&code);
    cpu.idtr.limit = 0;
    let why = run(&mut cpu, &code).unwrap_err();
    assert!(why.starts_with("Shutdown"), "{why}");
    // T1 divides by what isn't zero.
    SPOILED.set(Some((Code::Div_rm64, Code::Mul_rm64)));
    let mut cpu = leader(&code);
    cpu.idtr.limit = 0;
    let why = run(&mut cpu, &code).unwrap_err();
    assert!(why.contains("ending: T0 stopped with") && why.contains("vector: DE"), "{why}");
}

#[test]
fn difference_while_a_device_writes_is_let_pass() {
    SPOILED.set(Some((Code::Add_rm64_r64, Code::Sub_rm64_r64)));
    let code = [0x48, 0x01, 0xc8, 0xeb, 0];
    let mut cpu = leader(&code);
    (cpu.regs[RAX], cpu.regs[RCX]) = (5, 2);
    let memory = cpu.shared.memory.clone();
    let mut lockstep = cpu.lockstep.take().unwrap();
    let ran = lockstep.chain(&mut cpu, |cpu| {
        memory.write(GuestPhys(DATA), &[1, 2, 3]).unwrap();
        cpu.execute_block().unwrap();
        Ran::On
    });
    assert!(matches!(ran, Ran::On));
    assert_eq!(lockstep.counts().passed, 1);
    cpu.lockstep = Some(lockstep);
    SPOILED.set(None);
    (cpu.regs[RIP], cpu.regs[RAX]) = (CODE, 5);
    cpu.shared.memory.load(GuestPhys(CODE), &code).unwrap();
    run(&mut cpu, &code).unwrap();
    assert_eq!(peek(&cpu.lockstep.as_ref().unwrap().follower, DATA, 3), [1, 2, 3]);
}

#[test]
fn pages_written_once_are_watched_until_all_are_forgotten() {
    // mov [rsi], al; add rsi, rdx; dec ecx; jne; jmp +0
    let code = [0x88, 0x06, 0x48, 0x01, 0xd6, 0xff, 0xc9, 0x75, 0xf7, 0xeb, 0];
    let mut cpu = leader(&code);
    (cpu.regs[RSI], cpu.regs[RAX], cpu.regs[RDX]) = (STACK + 0x1000, 1, 0x1000);
    cpu.regs[RCX] = MANY_PAGES as u64 + 3;
    run(&mut cpu, &code).unwrap();
    let pages = &cpu.lockstep.as_ref().unwrap().pages;
    assert!(pages.count() <= MANY_PAGES, "{}", pages.count());
    assert_eq!(peek(&cpu.lockstep.as_ref().unwrap().follower, STACK + 0x1000, 1), [1]);
}

fn two_memories() -> (Arc<GuestMemory>, Arc<GuestMemory>, Pages) {
    let config = RegionConfig { base: GuestPhys(0), len: 0x10000, kind: Kind::Ram };
    let new = || GuestMemory::new(&[config]).unwrap();
    let (a, b) = (Arc::new(new()), Arc::new(new()));
    let pages = Pages::new(a.clone(), b.clone(), new());
    (a, b, pages)
}

#[test]
fn accessed_and_dirty_bits_may_differ_where_they_were_set_and_nowhere_else() {
    let (a, b, mut pages) = two_memories();
    a.write_u64(GuestPhys(0x1008), 0x5027).unwrap();
    b.write_u64(GuestPhys(0x1008), 0x5067).unwrap();
    let mut lines = Vec::new();
    pages.gather([&mut Journal::default(), &mut Journal::default()], true);
    assert_eq!(pages.compare([&[], &[0x1010]], &mut lines), 0);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.clear();
    assert_eq!(pages.compare([&[], &[0x1008]], &mut lines), 1);
    assert_eq!((lines.len(), b.read_u64(GuestPhys(0x1008)).unwrap()), (0, 0x5027));
    // Another bit is a difference.
    b.write_u64(GuestPhys(0x1008), 0x5023).unwrap();
    assert_eq!(pages.compare([&[0x1008], &[]], &mut lines), 0);
    assert_eq!(lines.len(), 1, "{lines:?}");
    // The second of two entries of 32 bits.
    lines.clear();
    b.write_u64(GuestPhys(0x1008), 0x20_0000_5027).unwrap();
    assert_eq!(pages.compare([&[0x1008], &[]], &mut lines), 0);
    assert_eq!(pages.compare([&[0x100c], &[]], &mut lines), 1);
}

#[test]
fn pages_are_undone_and_taken_over() {
    let (a, b, mut pages) = two_memories();
    a.write(GuestPhys(0x2ffe), &[1, 2, 3, 4]).unwrap();
    pages.gather([&mut Journal::default(), &mut Journal::default()], true);
    pages.take_over();
    assert_eq!(b.read_u32(GuestPhys(0x2ffe)).unwrap(), 0x0403_0201);
    a.write_u8(GuestPhys(0x2fff), 9).unwrap();
    b.write_u8(GuestPhys(0x5000), 9).unwrap();
    pages.undo();
    assert_eq!(a.read_u32(GuestPhys(0x2ffe)).unwrap(), 0x0403_0201);
    assert_eq!(b.read_u8(GuestPhys(0x5000)).unwrap(), 0);
    pages.forget();
    assert_eq!(pages.count(), 0);
}

#[test]
fn memory_written_before_the_mode_began_is_taken_over() {
    let config = RegionConfig { base: GuestPhys(0x4000), len: 0x10000, kind: Kind::Rom };
    let new = || GuestMemory::new(&[config]).unwrap();
    let (a, b) = (Arc::new(new()), Arc::new(new()));
    a.load(GuestPhys(0x9123), b"firmware").unwrap();
    Pages::new(a, b.clone(), new()).take_over();
    let mut bytes = [0; 8];
    b.read(GuestPhys(0x9123), &mut bytes).unwrap();
    assert_eq!(&bytes, b"firmware");
}

#[test]
fn journal_that_overflows_leaves_it_to_the_dirty_log() {
    let mut journal = Journal::default();
    let mut pages = 0;
    for n in 0..5000 {
        journal.written(0, n << 12, 1, GuestPhys(n << 12));
    }
    assert!(!journal.drain(|_| pages += 1));
    assert_eq!(pages, 4096);
    assert!(!journal.drain(|_| pages += 1));
    assert_eq!(pages, 4096, "each once");
}

#[test]
fn store_through_an_entry_of_another_address_space_is_seen_again() {
    let mut cpu = leader(&PROGRAM);
    prepare(&mut cpu);
    // A program's store, noted; then another address space.
    cpu.cpl = 3;
    cpu.tlb.switch(0, true);
    cpu.update_mode();
    cpu.write(DATA, 1u64).unwrap();
    cpu.tlb.switch(1, true);
    cpu.update_mode();
    journal::forget(&mut cpu);
    cpu.tlb.switch(0, true);
    cpu.update_mode();
    cpu.write(DATA, 2u64).unwrap();
    let mut seen = Vec::new();
    cpu.journal.as_mut().unwrap().drain(|at| seen.push(at.0));
    assert_eq!(seen, [DATA]);
}
