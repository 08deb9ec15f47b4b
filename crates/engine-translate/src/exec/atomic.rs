//! Locked accesses: XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B, and what LOCK makes of others.
//!
//! Guest memory is shared with other vCPUs' threads; the host's own locked instructions make these atomic. Accesses that no
//! single host instruction should make (across a cache line, to a device) are serialised by
//! [`crate::remote::Shared::split_lock`]: atomic towards each other, not towards accesses to parts of them. Across a
//! cache line a host kernel may slow a thread down to a hundred locked instructions a second, or kill it with SIGBUS.

use super::ea::Ea;
use super::operand::{self, Kind};
use super::regs::Word;
use crate::cpu::{Cpu, Mode, RAX, RBX, RCX, RDX};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use address::GuestPhys;
use iced_x86::{Instruction, Mnemonic};
use std::arch::asm;

/// Host-atomic operations on memory of any alignment.
pub trait Locked: Sized {
    /// Stores `new` where `*p == old`. The value found.
    ///
    /// # Safety
    /// `p` is valid for a read and a write.
    unsafe fn compare_exchange(p: *mut Self, old: Self, new: Self) -> Self;
    /// Stores `new`. The value found.
    ///
    /// # Safety
    /// As for [`Locked::compare_exchange`].
    unsafe fn exchange(p: *mut Self, new: Self) -> Self;
}

macro_rules! locked {
    ($t:ty, $class:ident, $m:literal, $a:tt) => {
        impl Locked for $t {
            #[inline(always)]
            unsafe fn compare_exchange(p: *mut Self, old: Self, new: Self) -> Self {
                let found;
                // SAFETY: the caller's pointer; the flags are clobbered as asm! assumes.
                unsafe {
                    asm!(concat!("lock cmpxchg [{p}], {new", $m, "}"), p = in(reg) p, new = in($class) new,
                        inout($a) old => found, options(nostack));
                }
                found
            }
            #[inline(always)]
            unsafe fn exchange(p: *mut Self, mut new: Self) -> Self {
                // SAFETY: the caller's pointer.
                unsafe {
                    asm!(concat!("xchg [{p}], {new", $m, "}"), p = in(reg) p, new = inout($class) new,
                        options(nostack, preserves_flags));
                }
                new
            }
        }
    };
}
locked!(u8, reg_byte, "", "al");
locked!(u16, reg, ":x", "ax");
locked!(u32, reg, ":e", "eax");
locked!(u64, reg, ":r", "rax");

const CACHE_LINE: u64 = 64;

/// The host address for a locked access, and the physical one if the store is to be noted; `None` where it has to go the slow way.
#[inline(always)]
fn pointer<W: Word>(cpu: &mut Cpu, linear: u64) -> Guest<Option<(*mut W, Option<GuestPhys>)>> {
    if linear % CACHE_LINE > CACHE_LINE - W::SIZE as u64 {
        return Ok(None);
    }
    Ok(cpu.host_pointer(linear, W::SIZE as u64, true)?.map(|(p, note)| (p.cast(), note)))
}

/// Replaces a value in memory by the first part of what `f` makes of it, in one atomic step; gives `f`'s second part. `f` may
/// run several times.
pub fn update<W: Word, R>(cpu: &mut Cpu, linear: u64, f: impl Fn(W) -> (W, R)) -> Guest<R> {
    let Some((p, note)) = pointer::<W>(cpu, linear)? else {
        return split(cpu, linear, f);
    };
    // SAFETY: `pointer` gave memory valid for a locked access of this size; nothing touched the TLB since.
    let r = unsafe {
        let mut old = p.read_unaligned();
        loop {
            let (new, r) = f(old);
            let found = W::compare_exchange(p, old, new);
            if found == old {
                break r;
            }
            old = found;
        }
    };
    if let Some(physical) = note {
        cpu.note_write(physical, W::SIZE as u64);
    }
    Ok(r)
}

/// The rare rest: atomic towards other accesses that come here.
#[cold]
fn split<W: Word, R>(cpu: &mut Cpu, linear: u64, f: impl Fn(W) -> (W, R)) -> Guest<R> {
    with_split_lock(cpu, |cpu| {
        cpu.probe_write(linear, W::SIZE as u64)?;
        let old = cpu.read::<W>(linear)?;
        let (new, r) = f(old);
        cpu.write(linear, new)?;
        Ok(r)
    })
}

fn with_split_lock<R>(cpu: &mut Cpu, f: impl FnOnce(&mut Cpu) -> Guest<R>) -> Guest<R> {
    let shared = cpu.shared.clone();
    let guard = loop {
        match shared.split_lock.try_lock() {
            Ok(guard) => break guard,
            Err(std::sync::TryLockError::Poisoned(e)) => break e.into_inner(),
            // Its holder may be waiting for this vCPU to drop its TLB.
            Err(std::sync::TryLockError::WouldBlock) => {
                cpu.service_flush();
                std::thread::yield_now();
            }
        }
    };
    let r = f(cpu);
    drop(guard);
    r
}

fn xchg_registers<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let (a, b) = (W::get(cpu, op.a), W::get(cpu, op.b));
    W::set(cpu, op.a, b);
    W::set(cpu, op.b, a);
    Ok(())
}

fn xchg_memory<W: Word, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::write::<W>(cpu, op)?;
    let new = W::get(cpu, op.b);
    let old = match pointer::<W>(cpu, at)? {
        Some((p, note)) => {
            // SAFETY: `pointer` gave memory valid for a locked access of this size.
            let old = unsafe { W::exchange(p, new) };
            if let Some(physical) = note {
                cpu.note_write(physical, W::SIZE as u64);
            }
            old
        }
        None => split(cpu, at, |old| (new, old))?,
    };
    W::set(cpu, op.b, old);
    Ok(())
}

fn xadd_registers<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let (a, b) = (W::get(cpu, op.a), W::get(cpu, op.b));
    let (sum, status) = a.add(b);
    W::set(cpu, op.b, a);
    W::set(cpu, op.a, sum);
    cpu.status = status;
    Ok(())
}

/// Locked or not: the stronger of the two.
fn xadd_memory<W: Word, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::write::<W>(cpu, op)?;
    let b = W::get(cpu, op.b);
    let (old, status) = update(cpu, at, |a: W| {
        let (sum, status) = a.add(b);
        (sum, (a, status))
    })?;
    W::set(cpu, op.b, old);
    cpu.status = status;
    Ok(())
}

fn cmpxchg_registers<W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let (accumulator, a) = (W::get(cpu, RAX as u8), W::get(cpu, op.a));
    cpu.status = accumulator.cmp(a);
    if accumulator == a {
        let b = W::get(cpu, op.b);
        W::set(cpu, op.a, b);
    } else {
        W::set(cpu, RAX as u8, a);
    }
    Ok(())
}

fn cmpxchg_memory<W: Word, E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::write::<W>(cpu, op)?;
    let (accumulator, new) = (W::get(cpu, RAX as u8), W::get(cpu, op.b));
    let found = match pointer::<W>(cpu, at)? {
        Some((p, note)) => {
            // SAFETY: `pointer` gave memory valid for a locked access of this size.
            let found = unsafe { W::compare_exchange(p, accumulator, new) };
            if let Some(physical) = note {
                cpu.note_write(physical, W::SIZE as u64);
            }
            found
        }
        None => split(cpu, at, |old| (if old == accumulator { new } else { old }, old))?,
    };
    cpu.status = accumulator.cmp(found);
    if found != accumulator {
        W::set(cpu, RAX as u8, found);
    }
    Ok(())
}

/// ZF alone.
fn set_zf(cpu: &mut Cpu, equal: bool) {
    cpu.status = cpu.status & !0x4000 | (equal as u16) << 14;
}

fn cmpxchg8b<E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let at = E::write::<u64>(cpu, op)?;
    let pair = |cpu: &Cpu, high: usize, low: usize| cpu.regs[high] << 32 | cpu.regs[low] & 0xffff_ffff;
    let (old, new) = (pair(cpu, RDX, RAX), pair(cpu, RCX, RBX));
    let found = update(cpu, at, |v: u64| (if v == old { new } else { v }, v))?;
    set_zf(cpu, found == old);
    if found != old {
        cpu.regs[RAX] = found & 0xffff_ffff;
        cpu.regs[RDX] = found >> 32;
    }
    Ok(())
}

fn cmpxchg16b<E: Ea>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let offset = E::offset(cpu, op);
    let at = E::linear(cpu, op, offset, 16, true)?;
    if at & 15 != 0 {
        return cpu.gp(0);
    }
    let pair = |cpu: &Cpu, high: usize, low: usize| (cpu.regs[high] as u128) << 64 | cpu.regs[low] as u128;
    let (old, new) = (pair(cpu, RDX, RAX), pair(cpu, RCX, RBX));
    let found = match cpu.host_pointer(at, 16, true)? {
        Some((p, note)) => {
            // SAFETY: valid for the access, aligned; whoever gives a guest CMPXCHG16B in CPUID runs on a host that has it.
            let found = unsafe { compare_exchange_16(p.cast(), old, new) };
            if let Some(physical) = note {
                cpu.note_write(physical, 16);
            }
            found
        }
        None => with_split_lock(cpu, |cpu| {
            cpu.probe_write(at, 16)?;
            let found = cpu.read::<u128>(at)?;
            cpu.write(at, if found == old { new } else { found })?;
            Ok(found)
        })?,
    };
    set_zf(cpu, found == old);
    if found != old {
        cpu.regs[RAX] = found as u64;
        cpu.regs[RDX] = (found >> 64) as u64;
    }
    Ok(())
}

/// LOCK CMPXCHG16B: the value found.
///
/// # Safety
/// `p` is valid for reads and writes and aligned to 16 bytes.
unsafe fn compare_exchange_16(p: *mut u128, old: u128, new: u128) -> u128 {
    let (low, high): (u64, u64);
    // SAFETY: the caller's pointer. RBX, which asm! may not name, is swapped in and out.
    unsafe {
        asm!("xchg rbx, {b}", "lock cmpxchg16b [rdi]", "xchg rbx, {b}",
            b = inout(reg) new as u64 => _, in("rcx") (new >> 64) as u64, in("rdi") p,
            inout("rax") old as u64 => low, inout("rdx") (old >> 64) as u64 => high, options(nostack));
    }
    (high as u128) << 64 | low as u128
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    macro_rules! pair {
        ($registers:ident, $memory:ident) => {{
            let size = operand::size(i, 0);
            operand::source(i, 1, op, mode)?;
            match operand::destination(i, 0, op, mode)? {
                Kind::Mem(e) => width!(size, W => address!(e, E => $memory::<W, E> as Exec)),
                _ => width!(size, W => $registers::<W> as Exec),
            }
        }};
    }
    Lowered::next(match i.mnemonic() {
        Mnemonic::Xchg if i.op_kind(1) == iced_x86::OpKind::Memory => {
            let size = operand::size(i, 0);
            operand::source(i, 0, op, mode)?;
            match operand::destination(i, 1, op, mode)? {
                Kind::Mem(e) => width!(size, W => address!(e, E => xchg_memory::<W, E> as Exec)),
                _ => return None,
            }
        }
        Mnemonic::Xchg => pair!(xchg_registers, xchg_memory),
        Mnemonic::Xadd => pair!(xadd_registers, xadd_memory),
        Mnemonic::Cmpxchg => pair!(cmpxchg_registers, cmpxchg_memory),
        Mnemonic::Cmpxchg8b => match operand::destination(i, 0, op, mode)? {
            Kind::Mem(e) => address!(e, E => cmpxchg8b::<E> as Exec),
            _ => return None,
        },
        Mnemonic::Cmpxchg16b => match operand::destination(i, 0, op, mode)? {
            Kind::Mem(e) => address!(e, E => cmpxchg16b::<E> as Exec),
            _ => return None,
        },
        _ => return None,
    })
}
