//! MOVS, STOS, LODS, CMPS, SCAS, with and without REP.
//!
//! One execution does a bounded part of a repetition and leaves RIP at the instruction until the count is used up. What was
//! done is in RCX, RSI and RDI after every step, so that a fault or an interrupt finds whole iterations.

use super::ea::address_mask;
use super::regs::Word;
use crate::cpu::{Cpu, ES, Mode, RAX, RCX, RDI, RIP, RSI};
use crate::decode::{Lowered, segment};
use crate::fault::{Guest, Raised};
use crate::op::{Exec, Op};
use crate::vendor;
use address::PAGE_SIZE;
use iced_x86::{Instruction, Mnemonic, OpKind};
use std::arch::asm;
use x86::Rflags;

/// Page chunks, and single elements, that one execution does at most.
const CHUNKS: u32 = 16;
const ELEMENTS: u32 = 1024;

/// What an instruction does with one element, and with many that lie within a page.
trait StringOp: 'static {
    const READS_SI: bool;
    const READS_DI: bool;
    const WRITES_DI: bool;
    fn element<W: Word>(cpu: &mut Cpu, si: u64, di: u64) -> Guest<()>;
    /// Does `n` elements going up (or down) from the host addresses.
    ///
    /// # Safety
    /// `n` elements from each address the instruction uses, in the direction given, are valid.
    unsafe fn many<W: Word>(cpu: &mut Cpu, si: *const W, di: *mut W, n: usize, down: bool);
}

struct Movs;
impl StringOp for Movs {
    const READS_SI: bool = true;
    const READS_DI: bool = false;
    const WRITES_DI: bool = true;
    #[inline(always)]
    fn element<W: Word>(cpu: &mut Cpu, si: u64, di: u64) -> Guest<()> {
        let v = cpu.read::<W>(si)?;
        cpu.write(di, v)
    }
    #[inline(always)]
    unsafe fn many<W: Word>(_: &mut Cpu, si: *const W, di: *mut W, n: usize, down: bool) {
        if n < 8 {
            let step = if down { -1 } else { 1 };
            for k in 0..n as isize {
                // SAFETY: the caller's ranges. One element after the other, as the instruction does where they overlap.
                unsafe {
                    di.wrapping_offset(k * step)
                        .write_unaligned(si.wrapping_offset(k * step).read_unaligned())
                };
            }
            return;
        }
        macro_rules! host {
            ($instruction:literal) => {
                // SAFETY: the caller's ranges; the direction flag is cleared again.
                unsafe {
                    if down {
                        asm!("std", concat!("rep ", $instruction), "cld",
                            inout("rcx") n => _, inout("rsi") si => _, inout("rdi") di => _, options(nostack));
                    } else {
                        asm!(concat!("rep ", $instruction), inout("rcx") n => _, inout("rsi") si => _,
                            inout("rdi") di => _, options(nostack, preserves_flags));
                    }
                }
            };
        }
        match W::SIZE {
            1 => host!("movsb"),
            2 => host!("movsw"),
            4 => host!("movsd"),
            _ => host!("movsq"),
        }
    }
}

struct Stos;
impl StringOp for Stos {
    const READS_SI: bool = false;
    const READS_DI: bool = false;
    const WRITES_DI: bool = true;
    #[inline(always)]
    fn element<W: Word>(cpu: &mut Cpu, _: u64, di: u64) -> Guest<()> {
        let v = W::get(cpu, RAX as u8);
        cpu.write(di, v)
    }
    #[inline(always)]
    unsafe fn many<W: Word>(cpu: &mut Cpu, _: *const W, di: *mut W, n: usize, down: bool) {
        let v = W::get(cpu, RAX as u8);
        let first = if down { di.wrapping_sub(n.saturating_sub(1)) } else { di };
        if n < 8 {
            for k in 0..n {
                // SAFETY: the caller's range.
                unsafe { first.wrapping_add(k).write_unaligned(v) };
            }
            return;
        }
        macro_rules! host {
            ($instruction:literal) => {
                // SAFETY: the caller's range.
                unsafe {
                    asm!(concat!("rep ", $instruction), inout("rcx") n => _, in("rax") v.wide(),
                        inout("rdi") first => _, options(nostack, preserves_flags));
                }
            };
        }
        match W::SIZE {
            1 => host!("stosb"),
            2 => host!("stosw"),
            4 => host!("stosd"),
            _ => host!("stosq"),
        }
    }
}

struct Lods;
impl StringOp for Lods {
    const READS_SI: bool = true;
    const READS_DI: bool = false;
    const WRITES_DI: bool = false;
    #[inline(always)]
    fn element<W: Word>(cpu: &mut Cpu, si: u64, _: u64) -> Guest<()> {
        let v = cpu.read::<W>(si)?;
        W::set(cpu, RAX as u8, v);
        Ok(())
    }
    #[inline(always)]
    unsafe fn many<W: Word>(cpu: &mut Cpu, si: *const W, _: *mut W, n: usize, down: bool) {
        let last = if down { si.wrapping_sub(n - 1) } else { si.wrapping_add(n - 1) };
        // SAFETY: the caller's range.
        W::set(cpu, RAX as u8, unsafe { last.read_unaligned() });
    }
}

/// Offsets of the next elements, and how to step them.
struct Walk {
    mask: u64,
    /// Bytes from one element to the next.
    step: u64,
}

impl Walk {
    #[inline(always)]
    fn new<W: Word>(cpu: &Cpu, op: &Op) -> Self {
        let down = cpu.system_flags.contains(Rflags::DF);
        let size = W::SIZE as u64;
        Self { mask: address_mask(op.size), step: if down { size.wrapping_neg() } else { size } }
    }
    #[inline(always)]
    fn down(&self) -> bool {
        (self.step as i64) < 0
    }
    /// Linear address of the source element.
    #[inline(always)]
    fn si<W: Word>(&self, cpu: &mut Cpu, op: &Op) -> Guest<u64> {
        let offset = cpu.regs[RSI] & self.mask;
        cpu.segment_linear(op.seg as usize, offset, W::SIZE as u64, false)
    }
    /// Linear address of the destination element, always in ES.
    #[inline(always)]
    fn di<W: Word>(&self, cpu: &mut Cpu, write: bool) -> Guest<u64> {
        let offset = cpu.regs[RDI] & self.mask;
        cpu.segment_linear(ES, offset, W::SIZE as u64, write)
    }
    /// Moves a pointer on by `n` elements.
    #[inline(always)]
    fn advance(&self, cpu: &mut Cpu, r: usize, n: u64) {
        let v = cpu.regs[r].wrapping_add(self.step.wrapping_mul(n));
        cpu.set_masked(r, self.mask, v);
    }
    /// How many elements from register `r` on lie within one page and in the offsets' range.
    #[inline(always)]
    fn room<W: Word>(&self, cpu: &Cpu, r: usize, linear: u64) -> u64 {
        let (size, offset) = (W::SIZE as u64, cpu.regs[r] & self.mask);
        let in_page = linear & (PAGE_SIZE - 1);
        if self.down() {
            // The first element may not reach into the next page.
            if in_page + size > PAGE_SIZE { 0 } else { in_page.min(offset) / size + 1 }
        } else {
            let range = (self.mask - offset).saturating_add(1);
            (PAGE_SIZE - in_page).min(range) / size
        }
    }
}

/// One element.
fn once<O: StringOp, W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let walk = Walk::new::<W>(cpu, op);
    one::<O, W>(cpu, op, &walk)
}

#[inline(always)]
fn one<O: StringOp, W: Word>(cpu: &mut Cpu, op: &Op, walk: &Walk) -> Guest<()> {
    let si = if O::READS_SI { walk.si::<W>(cpu, op)? } else { 0 };
    let di = if O::READS_DI || O::WRITES_DI {
        match walk.di::<W>(cpu, O::WRITES_DI) {
            Ok(di) => di,
            Err(raised) => {
                // The source is read first: its fault counts.
                let fault = cpu.fault.take();
                if O::READS_SI {
                    cpu.read::<W>(si)?;
                }
                cpu.fault = fault;
                return Err(raised);
            }
        }
    } else {
        0
    };
    O::element::<W>(cpu, si, di)?;
    if O::READS_SI {
        walk.advance(cpu, RSI, 1);
    }
    if O::READS_DI || O::WRITES_DI {
        walk.advance(cpu, RDI, 1);
    }
    Ok(())
}

/// With TF every iteration traps (SDM 3A 17.3.1.4).
fn one_at_a_time(cpu: &Cpu) -> bool {
    cpu.single && cpu.system_flags.contains(Rflags::TF)
}

/// Ends one execution of a repeated instruction.
#[inline(always)]
fn leave(cpu: &mut Cpu, op: &Op, finished: bool) -> Guest<()> {
    cpu.regs[RIP] = if finished { cpu.next_rip(op) } else { cpu.this_rip(op) };
    Ok(())
}

fn repeat<O: StringOp, W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let walk = Walk::new::<W>(cpu, op);
    let single = one_at_a_time(cpu);
    let (mut chunks, mut elements) = (0, 0);
    loop {
        let count = cpu.regs[RCX] & walk.mask;
        if count == 0 {
            return leave(cpu, op, true);
        }
        if chunks >= CHUNKS || elements >= ELEMENTS {
            return leave(cpu, op, false);
        }
        let done = if single { 0 } else { chunk::<O, W>(cpu, op, &walk, count)? };
        if done == 0 {
            one::<O, W>(cpu, op, &walk)?;
            elements += 1;
        }
        chunks += (done > 0) as u32;
        let left = count - done.max(1);
        cpu.set_masked(RCX, walk.mask, left);
        if single {
            return leave(cpu, op, left == 0);
        }
    }
}

/// As many elements as the host can do at once: within a page, in plain memory. Zero if none; RCX is the caller's.
fn chunk<O: StringOp, W: Word>(cpu: &mut Cpu, op: &Op, walk: &Walk, count: u64) -> Guest<u64> {
    if cpu.alignment_check {
        return Ok(0);
    }
    let mut n = count;
    let (mut si, mut di) = (0, 0);
    if O::READS_SI {
        si = walk.si::<W>(cpu, op)?;
        n = n.min(walk.room::<W>(cpu, RSI, si));
    }
    if O::WRITES_DI {
        let Ok(at) = walk.di::<W>(cpu, true) else {
            cpu.fault = None;
            return Ok(0);
        };
        di = at;
        n = n.min(walk.room::<W>(cpu, RDI, di));
    }
    if n == 0 {
        return Ok(0);
    }
    let len = n * W::SIZE as u64;
    // The lowest byte's offset from the first element.
    let below = if walk.down() { len - W::SIZE as u64 } else { 0 };
    let mask = walk.mask;
    let in_segment = |cpu: &Cpu, r: usize, seg: usize, write: bool| {
        cpu.mode.is64() || cpu.segment_allows(seg, (cpu.regs[r] & mask) - below, len, write)
    };
    let (mut from, mut to) = (std::ptr::null_mut(), std::ptr::null_mut());
    let mut note = None;
    if O::READS_SI {
        if !in_segment(cpu, RSI, op.seg as usize, false) {
            return Ok(0);
        }
        if below != 0 {
            // A fault is at the first element, not at the lowest.
            cpu.host_pointer(si, W::SIZE as u64, false)?;
        }
        match cpu.host_pointer(si - below, len, false)? {
            Some((p, _)) => from = p.wrapping_add(below as usize),
            None => return Ok(0),
        }
    }
    if O::WRITES_DI {
        if !in_segment(cpu, RDI, ES, true) {
            return Ok(0);
        }
        if below != 0 {
            cpu.host_pointer(di, W::SIZE as u64, true)?;
        }
        match cpu.host_pointer(di - below, len, true)? {
            Some((p, n)) => (to, note) = (p.wrapping_add(below as usize), n),
            None => return Ok(0),
        }
    }
    // SAFETY: `host_pointer` gave memory valid for all `n` elements; looking up the destination leaves the source mapped.
    unsafe { O::many::<W>(cpu, from.cast(), to.cast(), n as usize, walk.down()) };
    if let Some(physical) = note {
        cpu.note_write(physical, len);
    }
    if O::READS_SI {
        walk.advance(cpu, RSI, n);
    }
    if O::WRITES_DI {
        walk.advance(cpu, RDI, n);
    }
    Ok(n)
}

/// CMPS and SCAS: what to compare, and whether through RSI.
trait Comparison: 'static {
    const SI: bool;
    /// Compares up to `n` elements, at least one, while ZF is as `EQUAL` says; what is left of `n`, and the flags of the
    /// last comparison.
    ///
    /// # Safety
    /// `n` elements from each address the instruction uses, in the direction given, are valid.
    unsafe fn many<W: Word, const EQUAL: bool>(
        a: u64,
        si: *const W,
        di: *const W,
        n: u64,
        down: bool,
    ) -> (u64, u16);
}

/// The host's own instruction of a [`Comparison`].
macro_rules! host_comparison {
    ($n:ident, $si:ident, $di:ident, $a:ident, $down:ident, $rep:literal, $instruction:literal) => {{
        let (left, flags): (u64, u64);
        // SAFETY: the caller's ranges; the direction flag is cleared again.
        unsafe {
            if $down {
                asm!("std", concat!($rep, " ", $instruction), "cld", "lahf", "seto al",
                    inout("rcx") $n => left, inout("rsi") $si => _, inout("rdi") $di => _, inout("rax") $a => flags,
                    options(nostack, readonly));
            } else {
                asm!(concat!($rep, " ", $instruction), "lahf", "seto al",
                    inout("rcx") $n => left, inout("rsi") $si => _, inout("rdi") $di => _, inout("rax") $a => flags,
                    options(nostack, readonly));
            }
        }
        (left, flags as u16)
    }};
}

macro_rules! host_comparisons {
    ($b:literal, $w:literal, $d:literal, $q:literal) => {
        unsafe fn many<W: Word, const EQUAL: bool>(
            a: u64,
            si: *const W,
            di: *const W,
            n: u64,
            down: bool,
        ) -> (u64, u16) {
            match (W::SIZE, EQUAL) {
                (1, true) => host_comparison!(n, si, di, a, down, "repe", $b),
                (2, true) => host_comparison!(n, si, di, a, down, "repe", $w),
                (4, true) => host_comparison!(n, si, di, a, down, "repe", $d),
                (_, true) => host_comparison!(n, si, di, a, down, "repe", $q),
                (1, false) => host_comparison!(n, si, di, a, down, "repne", $b),
                (2, false) => host_comparison!(n, si, di, a, down, "repne", $w),
                (4, false) => host_comparison!(n, si, di, a, down, "repne", $d),
                (_, false) => host_comparison!(n, si, di, a, down, "repne", $q),
            }
        }
    };
}
struct Cmps;
impl Comparison for Cmps {
    const SI: bool = true;
    host_comparisons!("cmpsb", "cmpsw", "cmpsd", "cmpsq");
}
struct Scas;
impl Comparison for Scas {
    const SI: bool = false;
    host_comparisons!("scasb", "scasw", "scasd", "scasq");
}

#[inline(always)]
fn compare_one<C: Comparison, W: Word>(cpu: &mut Cpu, op: &Op, walk: &Walk) -> Guest<()> {
    // Where both fault, the destination does first.
    let di = walk.di::<W>(cpu, false)?;
    let b = cpu.read::<W>(di)?;
    let a = if C::SI {
        let si = walk.si::<W>(cpu, op)?;
        cpu.read::<W>(si)?
    } else {
        W::get(cpu, RAX as u8)
    };
    cpu.status = a.cmp(b);
    if C::SI {
        walk.advance(cpu, RSI, 1);
    }
    walk.advance(cpu, RDI, 1);
    Ok(())
}

fn compare<C: Comparison, W: Word>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let walk = Walk::new::<W>(cpu, op);
    compare_one::<C, W>(cpu, op, &walk)
}

/// As many elements as the host can compare at once, as in [`chunk`]; how many it did, with the flags of the last in the
/// vCPU. Raises nothing: what doesn't go is done one by one.
fn compare_chunk<C: Comparison, W: Word, const EQUAL: bool>(
    cpu: &mut Cpu,
    op: &Op,
    walk: &Walk,
    count: u64,
) -> Guest<u64> {
    if cpu.alignment_check || cpu.sys.watching {
        return Ok(0);
    }
    let mut n = count;
    let di = walk.di::<W>(cpu, false)?;
    n = n.min(walk.room::<W>(cpu, RDI, di));
    let mut si = 0;
    if C::SI {
        si = walk.si::<W>(cpu, op)?;
        n = n.min(walk.room::<W>(cpu, RSI, si));
    }
    if n == 0 {
        return Ok(0);
    }
    let len = n * W::SIZE as u64;
    let below = if walk.down() { len - W::SIZE as u64 } else { 0 };
    let in_segment = |cpu: &Cpu, r: usize, seg: usize| {
        cpu.mode.is64() || cpu.segment_allows(seg, (cpu.regs[r] & walk.mask) - below, len, false)
    };
    if !in_segment(cpu, RDI, ES) || C::SI && !in_segment(cpu, RSI, op.seg as usize) {
        return Ok(0);
    }
    let Some((to, _)) = cpu.host_pointer(di - below, len, false)? else { return Ok(0) };
    let mut from = std::ptr::null_mut();
    if C::SI {
        let Some((p, _)) = cpu.host_pointer(si - below, len, false)? else { return Ok(0) };
        from = p.wrapping_add(below as usize);
    }
    let to = to.wrapping_add(below as usize);
    let a = W::get(cpu, RAX as u8).wide();
    // SAFETY: `host_pointer` gave memory valid for all `n` elements; looking up the second leaves the first mapped.
    let (left, flags) = unsafe { C::many::<W, EQUAL>(a, from.cast(), to.cast(), n, walk.down()) };
    cpu.status = flags;
    let done = n - left;
    if C::SI {
        walk.advance(cpu, RSI, done);
    }
    walk.advance(cpu, RDI, done);
    Ok(done)
}

/// Goes on while the count lasts and ZF is as REPE or REPNE wants it.
fn repeat_compare<C: Comparison, W: Word, const EQUAL: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let walk = Walk::new::<W>(cpu, op);
    let single = one_at_a_time(cpu);
    let (before, amd) = (cpu.status, vendor::amd());
    let (mut chunks, mut elements) = (0, 0);
    while chunks < CHUNKS && elements < ELEMENTS {
        let count = cpu.regs[RCX] & walk.mask;
        if count == 0 {
            return leave(cpu, op, true);
        }
        let done = if single { Ok(0) } else { compare_chunk::<C, W, EQUAL>(cpu, op, &walk, count) };
        let mut done = done.unwrap_or_else(|Raised| {
            cpu.fault = None;
            0
        });
        chunks += (done > 0) as u32;
        if done == 0 {
            if compare_one::<C, W>(cpu, op, &walk).is_err() {
                // The flags are those before the instruction (SDM 2B 4.3, "REP"); AMD's processors leave those of the last
                // comparison made (measured on Zen 3).
                if !amd {
                    cpu.status = before;
                }
                return Err(Raised);
            }
            done = 1;
            elements += 1;
        }
        cpu.set_masked(RCX, walk.mask, count - done);
        let zf = cpu.status & 1 << 14 != 0;
        if count == done || zf != EQUAL {
            return leave(cpu, op, true);
        }
        if single {
            return leave(cpu, op, false);
        }
    }
    // So that a fault in a later part finds them, too.
    if !amd {
        cpu.status = before;
    }
    leave(cpu, op, false)
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, _: Mode) -> Option<Lowered> {
    use Mnemonic::*;
    let string = (0..i.op_count()).find_map(|n| match i.op_kind(n) {
        OpKind::MemorySegSI | OpKind::MemoryESDI => Some(2),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(4),
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(8),
        _ => None,
    });
    op.size = string?;
    if (0..i.op_count())
        .any(|n| matches!(i.op_kind(n), OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI))
    {
        op.seg = segment(i.memory_segment());
    }
    let (repe, repne) = (i.has_rep_prefix() || i.has_repe_prefix(), i.has_repne_prefix());
    macro_rules! moving {
        ($O:ident, $size:expr) => {
            if repe || repne {
                Lowered::set(width!($size, W => repeat::<$O, W> as Exec))
            } else {
                Lowered::next(width!($size, W => once::<$O, W> as Exec))
            }
        };
    }
    macro_rules! comparing {
        ($C:ident, $size:expr) => {
            if repne {
                Lowered::set(width!($size, W => repeat_compare::<$C, W, false> as Exec))
            } else if repe {
                Lowered::set(width!($size, W => repeat_compare::<$C, W, true> as Exec))
            } else {
                Lowered::next(width!($size, W => compare::<$C, W> as Exec))
            }
        };
    }
    match i.mnemonic() {
        Movsb => moving!(Movs, 1),
        Movsw => moving!(Movs, 2),
        Movsd => moving!(Movs, 4),
        Movsq => moving!(Movs, 8),
        Stosb => moving!(Stos, 1),
        Stosw => moving!(Stos, 2),
        Stosd => moving!(Stos, 4),
        Stosq => moving!(Stos, 8),
        Lodsb => moving!(Lods, 1),
        Lodsw => moving!(Lods, 2),
        Lodsd => moving!(Lods, 4),
        Lodsq => moving!(Lods, 8),
        Cmpsb => comparing!(Cmps, 1),
        Cmpsw => comparing!(Cmps, 2),
        Cmpsd => comparing!(Cmps, 4),
        Cmpsq => comparing!(Cmps, 8),
        Scasb => comparing!(Scas, 1),
        Scasw => comparing!(Scas, 2),
        Scasd => comparing!(Scas, 4),
        Scasq => comparing!(Scas, 8),
        _ => None,
    }
}
