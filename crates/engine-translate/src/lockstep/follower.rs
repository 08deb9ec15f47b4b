//! The follower's executor: so many instructions and no more.

use super::registers::Registers;
use crate::cpu::{Cpu, RCX, RIP};
use crate::decode::decode;
use crate::fault::Fault;
use crate::op::Flow;

/// An instruction that did not complete.
#[derive(Debug, PartialEq)]
struct Stopped {
    /// Instructions completed before it.
    done: u64,
    fault: Option<Fault>,
    seg: u8,
}

/// Executes as many instructions as the leader has, and expects the leader's fault behind them. A line for each way in
/// which it went otherwise; registers and memory are the caller's to compare.
pub fn follow(cpu: &mut Cpu, count: u64, fault: Option<&(Fault, u8)>, leader: &Registers) -> Vec<String> {
    let ended = execute(cpu, count);
    cpu.remote.pending.store(0, std::sync::atomic::Ordering::SeqCst);
    let told = |s: &Stopped| format!("{:x?} after {} instructions at {:#x}", s.fault, s.done, cpu.regs[RIP]);
    match (ended, fault) {
        (Err(s), _) => {
            vec![format!("      ending: T0 stopped with {}; T1 completed {count}", told(&s))]
        }
        // Not the guest's: the chain ends before an instruction that is to be executed alone.
        (Ok(()), None | Some((Fault::Restart, _))) => {
            repeat_in_part(cpu, leader);
            Vec::new()
        }
        (Ok(()), Some((expected, expected_seg))) => {
            let ended = execute(cpu, 1);
            cpu.remote.pending.store(0, std::sync::atomic::Ordering::SeqCst);
            match ended {
                Err(s)
                    if s.fault.as_ref() == Some(expected)
                        && (s.seg == *expected_seg || *expected != Fault::NonCanonical) =>
                {
                    Vec::new()
                }
                Err(s) => vec![format!(
                    "      ending: T0 {:x?} through segment {}; T1 {expected:x?} through segment {expected_seg}",
                    s.fault, s.seg
                )],
                Ok(()) => {
                    vec![format!("      ending: T0 completed an instruction that in T1 raised {expected:x?}")]
                }
            }
        }
    }
}

/// Executes `count` instructions.
fn execute(cpu: &mut Cpu, count: u64) -> Result<(), Stopped> {
    let mut done = 0;
    while done < count {
        let stopped = |cpu: &mut Cpu, done, seg| Stopped { done, fault: cpu.fault.take(), seg };
        let block = match cpu.find_block() {
            // SAFETY: good until the next `find_block`, which the ops don't call.
            Ok(b) => unsafe { &*b },
            Err(_) => return Err(stopped(cpu, done, 0)),
        };
        cpu.executing = block.pages;
        let part = block.ops.len().min((count - done) as usize);
        let mut restart = false;
        for op in &block.ops[..part] {
            if (op.exec)(cpu, op).is_err() {
                cpu.regs[RIP] = cpu.this_rip(op);
                // A store to the block itself; alone, the instruction reaches for a device.
                restart = cpu.fault == Some(Fault::Restart) && !cpu.single;
                if !restart {
                    cpu.single = false;
                    return Err(stopped(cpu, done, op.seg));
                }
                cpu.fault = None;
                break;
            }
            done += 1;
        }
        cpu.single = restart;
        if let Some(last) = block.ops[..part].last().filter(|op| !restart && op.flow != Flow::EndSet) {
            cpu.regs[RIP] = cpu.next_rip(last);
        }
    }
    Ok(())
}

/// Where the leader stopped amid a repeated string instruction, does as many repetitions as it did.
fn repeat_in_part(cpu: &mut Cpu, leader: &Registers) {
    let at_start = Registers::of(cpu);
    let (ours, theirs) = (at_start.general_register(RCX), leader.general_register(RCX));
    if at_start.rip() != leader.rip() || ours <= theirs {
        return;
    }
    let Ok(bytes) = code_at(cpu) else { return };
    let mode = cpu.mode;
    let first =
        iced_x86::Decoder::with_ip(mode.bits(), &bytes, cpu.regs[RIP], iced_x86::DecoderOptions::NONE)
            .decode();
    if !(first.is_string_instruction() && (first.has_rep_prefix() || first.has_repne_prefix())) {
        return;
    }
    let ops = decode(cpu, &bytes, leader.rip(), 1);
    let Some(op) = ops.first() else { return };
    // Each execution does a bounded part.
    let mut left = ours - theirs;
    while left != 0 {
        cpu.regs[RCX] = left;
        cpu.regs[RIP] = leader.rip();
        if (op.exec)(cpu, op).is_err() || cpu.regs[RCX] == left {
            break;
        }
        left = cpu.regs[RCX];
    }
    cpu.regs[RCX] = theirs;
    cpu.regs[RIP] = leader.rip();
}

/// The bytes at RIP, up to the page's end.
fn code_at(cpu: &mut Cpu) -> Result<Vec<u8>, memory::Error> {
    let linear = cpu.code_linear(cpu.regs[RIP]);
    let Some(physical) = cpu.translate_quietly(linear) else { return Ok(Vec::new()) };
    let len = 15.min(address::PAGE_SIZE - physical % address::PAGE_SIZE);
    let mut bytes = vec![0; len as usize];
    cpu.shared.memory.read(address::GuestPhys(physical), &mut bytes)?;
    Ok(bytes)
}
