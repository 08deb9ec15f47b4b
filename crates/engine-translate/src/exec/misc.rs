//! Flag instructions, hints, fences, cache line flushes, BOUND, random numbers.

use super::ea::{self, Ea};
use super::operand::{self, Kind};
use super::regs::Word;
use crate::cpu::{Cpu, Mode};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use crate::vendor;
use iced_x86::{Instruction, Mnemonic};
use x86::{Exception, Rflags, Vector};

const CF: u16 = 1 << 8;

fn nop(_: &mut Cpu, _: &Op) -> Guest<()> {
    Ok(())
}

fn pause(_: &mut Cpu, _: &Op) -> Guest<()> {
    std::hint::spin_loop();
    Ok(())
}

/// MFENCE and SFENCE; LFENCE orders loads, which the host's own order does.
fn fence(_: &mut Cpu, _: &Op) -> Guest<()> {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(())
}

fn clc(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.status &= !CF;
    Ok(())
}
fn stc(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.status |= CF;
    Ok(())
}
fn cmc(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.status ^= CF;
    Ok(())
}
fn cld(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.system_flags.remove(Rflags::DF);
    Ok(())
}
fn std_(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.system_flags.insert(Rflags::DF);
    Ok(())
}

/// AH is byte 1 of the registers.
const AH: u8 = 1;

fn lahf(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    let flags = (cpu.status >> 8) as u8 & 0xd5 | 2;
    u8::set(cpu, AH, flags);
    Ok(())
}
fn sahf(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.status = ((u8::get(cpu, AH) & 0xd5 | 2) as u16) << 8 | cpu.status & 1;
    Ok(())
}
fn salc(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    let al = if cpu.status & CF != 0 { 0xff } else { 0 };
    u8::set(cpu, 0, al);
    Ok(())
}

/// CLFLUSH and its like fault as a load of a byte would, and otherwise leave no trace.
fn flush_line<E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::read::<u8>(cpu, op)?;
    cpu.host_pointer(at, 1, false)?;
    Ok(())
}

/// The index `op.a` against the pair of bounds in memory, all signed.
fn bound<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let offset = ea::Checked::offset(cpu, op);
    let at = ea::Checked::linear(cpu, op, offset, 2 * W::SIZE as u64, false)?;
    let lower = cpu.read::<W>(at)?.signed();
    let index = W::get(cpu, op.a).signed();
    // An index below the lower bound doesn't read the upper one, but on AMD's processors (measured on Zen 3).
    if vendor::amd() {
        cpu.read::<W>(at.wrapping_add(W::SIZE as u64) & 0xffff_ffff)?;
    }
    if index >= lower && index <= cpu.read::<W>(at.wrapping_add(W::SIZE as u64) & 0xffff_ffff)?.signed() {
        return Ok(());
    }
    cpu.exception(Exception::plain(Vector::BR))
}

/// RDRAND and RDSEED: CF says whether there is a number; the other status flags are cleared.
fn random<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let mut bytes = [0u8; 8];
    let given = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    let ok = given.is_ok_and(|n| n == bytes.len());
    W::set(cpu, op.a, W::of(if ok { u64::from_le_bytes(bytes) } else { 0 }));
    cpu.status = 0x200 | if ok { CF } else { 0 };
    Ok(())
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    use Mnemonic::*;
    Lowered::next(match i.mnemonic() {
        Nop | Reservednop | Endbr32 | Endbr64 | Lfence | Prefetch | Prefetchw | Prefetchwt1 | Prefetchnta
        | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchit0 | Prefetchit1 | Cldemote | Rdsspd | Rdsspq => {
            nop
        }
        Pause => pause,
        Mfence | Sfence => fence,
        Clc => clc,
        Stc => stc,
        Cmc => cmc,
        Cld => cld,
        Std => std_,
        Lahf => lahf,
        Sahf => sahf,
        Salc => salc,
        Clflush | Clflushopt | Clwb => match operand::source(i, 0, op, mode)? {
            Kind::Mem(e) => address!(e, E => flush_line::<E> as Exec),
            _ => return None,
        },
        Bound => {
            let size = operand::size(i, 0);
            operand::destination(i, 0, op, mode)?;
            if size == 2 { bound::<u16> } else { bound::<u32> }
        }
        Rdrand | Rdseed => {
            operand::destination(i, 0, op, mode)?;
            width_wide!(operand::size(i, 0), W => random::<W> as Exec)
        }
        _ => return None,
    })
}
