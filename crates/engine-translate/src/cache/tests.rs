use super::*;
use crate::cpu::{Cpu, RAX, RBX, RCX, RDI, RDX, RIP, RSI, RSP};
use crate::placed::Placed;
use crate::testing::{CODE, DATA, STACK, cpu64, cpus64, peek, poke};
use address::GuestPhys;
use std::sync::atomic::AtomicU32;

/// A vCPU whose blocks are translated before they run, and come back after a while.
fn translating(code: &[u8]) -> Placed {
    let mut cpu = cpu64(code);
    (cpu.t1.threshold, cpu.t1.counting) = (0, true);
    cpu
}

/// Two whose blocks come back after a while.
fn counting(code: &[u8]) -> Vec<Placed> {
    let mut cpus = cpus64(2, code);
    cpus.iter_mut().for_each(|cpu| cpu.t1.counting = true);
    cpus
}

/// One turn of the executor, as `run_loop` makes it.
fn turn(cpu: &mut Cpu) {
    if cpu.remote.pending.load(SeqCst) != 0 {
        assert_eq!(cpu.handle_events(), None);
    }
    assert_eq!(cpu.run_block(), None);
}

fn run_to(cpu: &mut Cpu, end: u64) {
    for _ in 0..10_000_000 {
        if cpu.regs[RIP] == end {
            return;
        }
        turn(cpu);
    }
    panic!("RIP never became {end:#x}; it is {:#x}", cpu.regs[RIP]);
}

/// Goes on in the next segment.
fn next_segment(cpu: &mut Cpu) {
    cpu.pass();
    cpu.shared.code.fill();
    cpu.make_room();
}

#[test]
fn code_without_end_stays_in_bounds_and_is_right() {
    let mut cpu = translating(&[]);
    let shared = cpu.shared.clone();
    // Every address its own block, which nothing follows: mov eax, imm32; ret
    let block = [0xb8, 1, 2, 3, 4, 0xc3];
    poke(&cpu, STACK, &CODE.to_le_bytes());
    for round in 0..12 {
        for n in 0..0x2000 {
            let at = 0x40000 + n * 8;
            if round == 0 {
                poke(&cpu, at, &block);
            }
            (cpu.regs[RIP], cpu.regs[RSP], cpu.regs[RAX]) = (at, STACK, 0);
            turn(&mut cpu);
            assert_eq!((cpu.regs[RAX], cpu.regs[RIP]), (0x0403_0201, CODE));
            if n % 0x100 == 0 {
                if round % 2 == 1 {
                    // Old blocks are out of date as well.
                    shared.memory.write(GuestPhys(at + 8), &block).unwrap();
                }
                let (used, bound) = shared.code.size();
                assert!(used <= bound + (128 << 10) && bound <= MIN_SIZE, "{used} {bound}");
            }
        }
    }
    assert!(shared.code.number() > 2 * SEGMENTS as u64, "{}", shared.code.number());
}

#[test]
fn guest_that_rewrites_its_code_for_ever_stays_in_bounds() {
    // mov [rdi], ecx (the immediate below); mov eax, imm32; dec ecx; jne: a new block each time round
    let code = [0x89, 0x0f, 0xeb, 0, 0xb8, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf3, 0xeb, 0xfe];
    let mut cpu = translating(&code);
    (cpu.regs[RDI], cpu.regs[RCX]) = (CODE + 5, 30_000);
    run_to(&mut cpu, CODE + 13);
    assert_eq!(cpu.regs[RAX], 1);
    let (used, bound) = cpu.shared.code.size();
    assert!(used <= bound, "{used} {bound}");
    assert!(cpu.shared.code.number() > SEGMENTS as u64, "{}", cpu.shared.code.number());
}

#[test]
fn translation_by_one_vcpu_is_used_by_the_others() {
    let mut cpus = counting(&[0xff, 0xc0, 0xeb, 0xfc]);
    cpus[0].t1.threshold = 0;
    turn(&mut cpus[0]);
    // The other one would never have translated it.
    cpus[1].t1.threshold = u32::MAX - 1;
    turn(&mut cpus[1]);
    assert!(cpus[1].retired > 100, "{}", cpus[1].retired);
    let key = (CODE, cpus[0].mode.0);
    assert!(cpus[0].shared.code.find(key).is_some());
}

#[test]
fn link_to_an_evicted_block_is_led_back() {
    // Y: add ebx, eax; jmp Z (another page). X, 64 bytes behind: mov al, 1; jmp Y
    let mut code = vec![0x01, 0xc3, 0xe9, 0xf9, 0x0f, 0, 0];
    code.resize(64, 0x90);
    code.extend([0xb0, 1, 0xeb, 0xbc]);
    let mut cpu = translating(&code);
    poke(&cpu, CODE + 0x1000, &[0xeb, 0xfe]);
    let z = CODE + 0x1000;
    let mut expected = 0;
    let mut go = |cpu: &mut Cpu, from: u64| {
        cpu.regs[RIP] = from;
        for _ in 0..20 {
            if cpu.regs[RIP] == z {
                break;
            }
            turn(cpu);
        }
        expected += 1;
        assert_eq!((cpu.regs[RIP], cpu.regs[RBX]), (z, expected));
    };
    cpu.regs[RAX] = 1;
    go(&mut cpu, CODE);
    for _ in 0..3 * SEGMENTS {
        next_segment(&mut cpu);
        // X, newer than Y, is led to it; Y goes first.
        for _ in 0..4 {
            go(&mut cpu, CODE + 64);
        }
    }
}

#[test]
fn segment_is_kept_while_a_vcpu_has_not_passed() {
    let mut cpus = counting(&[0xff, 0xc0, 0xeb, 0xfc]);
    let shared = cpus[0].shared.clone();
    let (first, other) = cpus.split_at_mut(1);
    let (cpu, other) = (&mut first[0], &mut other[0]);
    turn(other);
    turn(cpu);
    for _ in 0..SEGMENTS - 1 {
        next_segment(cpu);
    }
    let leaving = || lock(&shared.code.writer).segments.iter().filter(|s| s.state != State::Live).count();
    assert_eq!(leaving(), 1);
    cpu.pass();
    shared.code.tidy();
    assert!(
        lock(&shared.code.writer).segments.iter().all(|s| s.state != State::Free),
        "the other one may use it"
    );
    assert!(other.remote.pending.load(SeqCst) != 0, "it was told to pass");
    turn(other);
    assert!(lock(&shared.code.writer).segments.iter().any(|s| s.state == State::Free));
    other.park();
    for _ in 0..2 * SEGMENTS {
        next_segment(cpu);
    }
    turn(other);
    assert!(other.regs[RAX] > 1);
}

#[test]
fn vcpu_that_is_gone_holds_nothing() {
    let mut cpus = counting(&[0xeb, 0xfe]);
    turn(&mut cpus[1]);
    cpus.truncate(1);
    for _ in 0..2 * SEGMENTS {
        next_segment(&mut cpus[0]);
    }
}

/// Two vCPUs in threads; one makes code without end, so that the other's is evicted while it is executed.
#[test]
fn code_is_evicted_under_a_vcpu_that_executes_it() {
    // Four pieces on two pages, in a ring of direct, cross-page and indirect jumps; rbx counts rounds.
    let mut code = vec![0x48, 0xff, 0xc3, 0xeb, 0x3b];
    code.resize(64, 0x90);
    // add rdx, rbx; jmp to the next page
    code.extend([0x48, 0x01, 0xda, 0xe9, 0xb8, 0x0f, 0, 0]);
    code.resize(0x1000, 0x90);
    // xor rdx, rcx; call +0; pop rax; dec rcx; je +2; jmp rsi; hlt
    code.extend([0x48, 0x31, 0xca, 0xe8, 0, 0, 0, 0, 0x58, 0x48, 0xff, 0xc9, 0x74, 2, 0xff, 0xe6, 0xf4]);
    // Enough for the maker to fill all segments meanwhile.
    const ROUNDS: u64 = 30_000_000;
    let end = CODE + 0x1000 + 17;
    let mut cpus = cpus64(2, &code);
    let shared = cpus[0].shared.clone();
    let (mut maker, mut user) = (cpus.remove(0), cpus.remove(0));
    let done = AtomicBool::new(false);
    let turns = AtomicU32::new(0);
    std::thread::scope(|s| {
        s.spawn(|| {
            user.t1.threshold = 2;
            (user.regs[RCX], user.regs[RSI]) = (ROUNDS, CODE);
            user.remote.enter();
            run_to(&mut user, end);
            user.remote.leave();
            user.park();
            done.store(true, SeqCst);
        });
        s.spawn(|| {
            maker.t1.threshold = 0;
            maker.remote.enter();
            poke(&maker, STACK, &CODE.to_le_bytes());
            for n in 0..0x2000 {
                poke(&maker, 0x40000 + n * 8, &[0xb8, 1, 2, 3, 4, 0xc3]);
            }
            while !done.load(SeqCst) {
                for n in 0..0x2000 {
                    (maker.regs[RIP], maker.regs[RSP], maker.regs[RAX]) = (0x40000 + n * 8, STACK, 0);
                    turn(&mut maker);
                    assert_eq!(maker.regs[RAX], 0x0403_0201);
                }
                turns.fetch_add(1, SeqCst);
            }
            maker.remote.leave();
            maker.park();
        });
    });
    let (mut sum, mut round) = (0u64, 0u64);
    for rcx in (1..=ROUNDS).rev() {
        round += 1;
        sum = sum.wrapping_add(round) ^ rcx;
    }
    assert_eq!((user.regs[RBX], user.regs[RDX]), (ROUNDS, sum));
    assert!(shared.code.number() > SEGMENTS as u64, "{} {turns:?}", shared.code.number());
}

/// One vCPU patches what the other executes, as the manual wants it (SDM 3A 9.1.3): store, tell, serialise, execute.
#[test]
fn code_modified_by_another_vcpu_is_executed_as_modified() {
    const ROUNDS: u64 = 3000;
    // 0: mov eax, [rdi]; cmp eax, r8d; je 0b (3 bytes behind); mov r8d, eax; xor eax, eax; cpuid; jmp 1f
    // 1, on the same page: mov eax, imm32; mov [rdi + 64], eax; jmp 0b
    let mut code =
        vec![0x8b, 0x07, 0x44, 0x39, 0xc0, 0x74, 0xf9, 0x41, 0x89, 0xc0, 0x31, 0xc0, 0x0f, 0xa2, 0xeb, 0x2e];
    code.resize(62, 0x90);
    code.extend([0xb8, 0, 0, 0, 0, 0x89, 0x47, 0x40, 0xeb, 0xb8]);
    // On another page: mov [rsi], ecx (the immediate); mov [rdi], ecx; 2: cmp [rdi + 64], ecx; jne 2b; dec ecx; jne; hlt
    let mut patcher =
        vec![0x89, 0x0e, 0x89, 0x0f, 0x39, 0x4f, 0x40, 0x75, 0xfb, 0xff, 0xc9, 0x75, 0xf3, 0xf4];
    code.resize(0x1000, 0x90);
    code.append(&mut patcher);
    let mut cpus = cpus64(2, &code);
    let (mut executor, mut patcher) = (cpus.remove(0), cpus.remove(0));
    let (done, told) = (AtomicBool::new(false), executor.remote.clone());
    for cpu in [&mut executor, &mut patcher] {
        cpu.t1.threshold = 3;
        (cpu.regs[RDI], cpu.regs[RSI]) = (DATA, CODE + 63);
    }
    std::thread::scope(|s| {
        s.spawn(|| {
            executor.remote.enter();
            while !done.load(SeqCst) {
                turn(&mut executor);
            }
            executor.remote.leave();
        });
        s.spawn(|| {
            patcher.remote.enter();
            (patcher.regs[RIP], patcher.regs[RCX]) = (CODE + 0x1000, ROUNDS);
            let start = std::time::Instant::now();
            while patcher.regs[RIP] != CODE + 0x1000 + 14 {
                turn(&mut patcher);
                if start.elapsed().as_secs() > 60 {
                    break;
                }
            }
            done.store(true, SeqCst);
            told.post(crate::remote::pending::RECHECK);
            patcher.remote.leave();
        });
    });
    let shown = u32::from_le_bytes(peek(&executor, DATA + 64, 4).try_into().unwrap());
    assert_eq!((patcher.regs[RCX], shown), (0, 1), "an old instruction was executed");
}

#[test]
fn sizes_are_kept_within_reason() {
    for size in [0, 1, MIN_SIZE, 100_000_000, usize::MAX] {
        let (used, bound) = CodeCache::new(size).size();
        assert!(
            used == 0 && bound >= MIN_SIZE - SEGMENTS * 4096 && bound <= MAX_SIZE.min(size.max(MIN_SIZE))
        );
    }
}

#[test]
fn translated_block_of_an_older_segment_keeps_the_stubs_it_calls() {
    // addss xmm0, [rsi], across pages, which T0's handler does in a stub; jmp to an endless loop
    let mut code = vec![0xf3, 0x0f, 0x58, 0x06, 0xeb, 0x3a];
    code.resize(64, 0x90);
    code.extend([0xeb, 0xfe]);
    let mut cpu = translating(&code);
    cpu.cr4 = x86::Cr4::OSFXSR | x86::Cr4::OSXMMEXCPT;
    poke(&cpu, DATA + 0xffe, &1f32.to_le_bytes());
    cpu.regs[RSI] = DATA + 0xffe;
    let mut expected = 0.0;
    for round in 0..6 * SEGMENTS {
        // Interpreted in one segment, translated in the next, executed in others.
        cpu.t1.threshold = if round % 4 == 0 { 1000 } else { 0 };
        for _ in 0..2 {
            cpu.regs[RIP] = CODE;
            run_to(&mut cpu, CODE + 64);
            expected += 1.0;
            assert_eq!(f32::from_bits(cpu.vector.xmm(0) as u32), expected);
        }
        next_segment(&mut cpu);
    }
}
