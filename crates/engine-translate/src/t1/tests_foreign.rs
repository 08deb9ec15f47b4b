//! Code that somebody else changes while a vCPU executes it.

use crate::cpu::{Cpu, RAX, RIP};
use crate::placed::Placed;
use crate::remote::pending;
use crate::testing::{cpus64, poke};
use address::GuestPhys;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

/// mov eax, version: its operand begins a page, so that it is stored in one piece. Then jmp -2.
const PATCHED: u64 = 0x3000;
const VERSIONS: u32 = 20_000;

fn executor_and(count: u32) -> Vec<Placed> {
    let mut cpus = cpus64(count, &[]);
    poke(&cpus[0], PATCHED - 1, &[0xb8, 0, 0, 0, 0, 0xeb, 0xfe]);
    // The executor stays in T0: it decodes more often so.
    cpus.iter_mut().for_each(|cpu| cpu.t1.threshold = u32::MAX);
    cpus
}

/// Executes it again and again until the writer has ended; nothing older may be met than what was published before.
fn execute(cpu: &mut Cpu, published: &AtomicU32, seen: &AtomicU32, ended: &AtomicBool) {
    cpu.remote.enter();
    while !ended.load(SeqCst) {
        let before = published.load(SeqCst);
        if cpu.remote.pending.swap(0, SeqCst) & pending::FLUSH != 0 {
            cpu.service_flush();
        }
        cpu.regs[RIP] = PATCHED - 1;
        assert_eq!(cpu.run_block(), None);
        let got = cpu.regs[RAX] as u32;
        // Whoever waits for this one would wait for ever.
        seen.store(if got < before { u32::MAX } else { got }, SeqCst);
        assert!(got >= before, "version {before} was published, {got} was executed");
        std::thread::yield_now();
    }
    cpu.remote.leave();
}

/// Waits until a version, or the one before, was executed: the next store then meets the executor decoding, or about to.
fn lead_by_one(version: u32, seen: &AtomicU32, mut meanwhile: impl FnMut()) {
    meanwhile();
    while seen.load(SeqCst) < version - version % 2 {
        meanwhile();
        std::thread::yield_now();
    }
}

#[test]
fn stores_of_another_processor_are_executed_once_they_are_published() {
    let mut cpus = executor_and(2);
    let [executor, writer] = &mut cpus[..] else { unreachable!() };
    let (published, seen, ended) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| execute(executor, &published, &seen, &ended));
        s.spawn(|| {
            writer.remote.enter();
            for version in 1..VERSIONS {
                writer.write(PATCHED, version).unwrap();
                published.store(version, SeqCst);
                let next = || writer.service_flush();
                lead_by_one(version, &seen, next);
            }
            writer.remote.leave();
            ended.store(true, SeqCst);
        });
    });
}

#[test]
fn writes_of_a_device_are_executed_once_they_are_published_and_end_chains() {
    let mut cpus = executor_and(1);
    let memory = cpus[0].shared.memory.clone();
    let remote = cpus[0].remote.clone();
    let (published, seen, ended) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| execute(&mut cpus[0], &published, &seen, &ended));
        s.spawn(|| {
            for version in 1..VERSIONS {
                memory.write_u32(GuestPhys(PATCHED), version).unwrap();
                published.store(version, SeqCst);
                lead_by_one(version, &seen, || ());
            }
            ended.store(true, SeqCst);
        });
    });
    cpus[0].regs[RIP] = PATCHED - 1;
    assert_eq!(cpus[0].run_block(), None);
    remote.pending.store(0, SeqCst);
    memory.write_u32(GuestPhys(0x8000), 1).unwrap();
    assert_eq!(remote.pending.load(SeqCst), 0, "nothing was decoded there");
    memory.write_u32(GuestPhys(PATCHED), 1).unwrap();
    assert_eq!(remote.pending.load(SeqCst), pending::CODE);
}
