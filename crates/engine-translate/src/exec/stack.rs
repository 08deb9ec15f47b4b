//! PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE, and the stack accesses that others use.

use super::ea::Ea;
use super::operand::{self, Kind, Source};
use super::regs::Word;
use crate::cpu::{Cpu, Mode, RBP, RSP, SS};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use crate::vendor;
use iced_x86::{Instruction, Mnemonic};
use x86::{Cr0, Cr4, Rflags};

impl Cpu {
    /// Linear address of `len` bytes at stack offset `sp`.
    #[inline(always)]
    fn stack_linear<const MODE64: bool>(&mut self, sp: u64, len: u64, write: bool) -> Guest<u64> {
        if MODE64 {
            return Ok(sp);
        }
        self.segment_linear(SS, sp & self.mode.stack_mask(), len, write)
    }

    /// Sets the stack pointer, as wide as the stack is.
    #[inline(always)]
    pub(crate) fn set_sp<const MODE64: bool>(&mut self, sp: u64) {
        if MODE64 {
            self.regs[RSP] = sp;
        } else {
            self.set_masked(RSP, self.mode.stack_mask(), sp);
        }
    }

    /// Pushes a value; RSP changes only if the store succeeded.
    #[inline(always)]
    pub(crate) fn push<W: Word, const MODE64: bool>(&mut self, v: W) -> Guest<()> {
        let sp = self.regs[RSP].wrapping_sub(W::SIZE as u64);
        let at = self.stack_linear::<MODE64>(sp, W::SIZE as u64, true)?;
        self.write(at, v)?;
        self.set_sp::<MODE64>(sp);
        Ok(())
    }

    /// The value `above` bytes above the stack pointer.
    #[inline(always)]
    pub(crate) fn peek_stack<W: Word, const MODE64: bool>(&mut self, above: u64) -> Guest<W> {
        let sp = self.regs[RSP].wrapping_add(above);
        let at = self.stack_linear::<MODE64>(sp, W::SIZE as u64, false)?;
        self.read(at)
    }

    /// Pops a value.
    #[inline(always)]
    pub(crate) fn pop<W: Word, const MODE64: bool>(&mut self) -> Guest<W> {
        let v = self.peek_stack::<W, MODE64>(0)?;
        self.set_sp::<MODE64>(self.regs[RSP].wrapping_add(W::SIZE as u64));
        Ok(v)
    }

    /// Pushes the low `size` bytes (2, 4 or 8) of a value, in any mode.
    pub fn push_sized(&mut self, v: u64, size: u8) -> Guest<()> {
        match (self.mode.is64(), size) {
            (true, 2) => self.push::<u16, true>(v as u16),
            (true, 4) => self.push::<u32, true>(v as u32),
            (true, _) => self.push::<u64, true>(v),
            (false, 2) => self.push::<u16, false>(v as u16),
            (false, 4) => self.push::<u32, false>(v as u32),
            (false, _) => self.push::<u64, false>(v),
        }
    }

    /// The `size` bytes (2, 4 or 8) that lie `above` bytes above the stack pointer, zero-extended, in any mode.
    pub fn peek_sized(&mut self, above: u64, size: u8) -> Guest<u64> {
        Ok(match (self.mode.is64(), size) {
            (true, 2) => self.peek_stack::<u16, true>(above)? as u64,
            (true, 4) => self.peek_stack::<u32, true>(above)? as u64,
            (true, _) => self.peek_stack::<u64, true>(above)?,
            (false, 2) => self.peek_stack::<u16, false>(above)? as u64,
            (false, 4) => self.peek_stack::<u32, false>(above)? as u64,
            (false, _) => self.peek_stack::<u64, false>(above)?,
        })
    }

    /// Adds to the stack pointer, in any mode.
    pub fn release_stack(&mut self, bytes: u64) {
        let sp = self.regs[RSP].wrapping_add(bytes);
        self.set_masked(RSP, self.mode.stack_mask(), sp);
    }
}

fn push<W: Word, S: Source, const MODE64: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = S::load::<W>(cpu, op)?;
    cpu.push::<W, MODE64>(v)
}

fn pop_register<W: Word, const MODE64: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = cpu.pop::<W, MODE64>()?;
    W::set(cpu, op.a, v);
    Ok(())
}

/// An address based on RSP uses its value after the pop (SDM 2B, POP).
fn pop_memory<W: Word, E: Ea, const MODE64: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let before = cpu.regs[RSP];
    let v = cpu.pop::<W, MODE64>()?;
    let stored = match E::write::<W>(cpu, op) {
        Ok(at) => cpu.write(at, v),
        Err(e) => Err(e),
    };
    if stored.is_err() {
        cpu.regs[RSP] = before;
    }
    stored
}

fn pusha<W: Word>(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    let before = cpu.regs[RSP];
    for r in 0..8u8 {
        let v = if r as usize == RSP { W::of(before) } else { W::get(cpu, r) };
        if cpu.push::<W, false>(v).is_err() {
            // What was stored lies below the stack pointer.
            cpu.regs[RSP] = before;
            return Err(crate::fault::Raised);
        }
    }
    Ok(())
}

fn popa<W: Word>(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    let mut values = [W::of(0); 8];
    for (n, v) in values.iter_mut().enumerate() {
        *v = cpu.peek_stack::<W, false>(n as u64 * W::SIZE as u64)?;
    }
    cpu.set_sp::<false>(cpu.regs[RSP].wrapping_add(8 * W::SIZE as u64));
    for (n, v) in values.into_iter().enumerate().filter(|(n, _)| *n != 7 - RSP) {
        W::set(cpu, 7 - n as u8, v);
    }
    Ok(())
}

/// PUSHF, PUSHFD, PUSHFQ (SDM 2B).
fn pushf(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    // VM and RF are never pushed.
    let mut image = cpu.rflags() & !(Rflags::VM | Rflags::RF).bits();
    if cpu.v86() && cpu.system_flags.iopl() < 3 {
        if !cpu.cr4.contains(Cr4::VME) || op.size != 2 {
            return cpu.gp(0);
        }
        let vif = cpu.system_flags.contains(Rflags::VIF);
        image = image & !Rflags::IF.bits() | Rflags::IOPL.bits() | (vif as u64) << 9;
    }
    cpu.push_sized(image, op.size)
}

/// POPF, POPFD, POPFQ (SDM 2B, table 4-21).
fn popf(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let value = Rflags::from_bits_truncate(cpu.peek_sized(0, op.size)?);
    let iopl = cpu.system_flags.iopl();
    let mut writable = Rflags::STATUS | Rflags::TF | Rflags::DF | Rflags::NT;
    if op.size != 2 {
        writable |= Rflags::AC | Rflags::ID;
    }
    let mut set = value;
    if cpu.v86() {
        if iopl == 3 {
            writable |= Rflags::IF;
        } else if !cpu.cr4.contains(Cr4::VME) || op.size != 2 {
            return cpu.gp(0);
        } else {
            let pending = value.contains(Rflags::IF) && cpu.system_flags.contains(Rflags::VIP);
            if pending || value.contains(Rflags::TF) {
                return cpu.gp(0);
            }
            set.set(Rflags::VIF, value.contains(Rflags::IF));
            writable |= Rflags::VIF;
        }
    } else if !cpu.cr0.contains(Cr0::PE) || cpu.cpl == 0 {
        writable |= Rflags::IF | Rflags::IOPL;
    } else if cpu.cpl <= iopl {
        writable |= Rflags::IF;
    }
    // RF is cleared by every size that reaches it.
    let cleared = if op.size == 2 { Rflags::empty() } else { Rflags::RF };
    let old = Rflags::from_bits_truncate(cpu.rflags());
    let new = old & !writable & !cleared | set & writable;
    cpu.release_stack(op.size as u64);
    cpu.set_rflags(new.bits());
    let changed = old ^ new;
    if changed.contains(Rflags::AC) {
        cpu.update_tlb_select();
    }
    if changed.intersects(Rflags::TF | Rflags::VIF) || changed.contains(Rflags::IF) && cpu.sys.waiting != 0 {
        cpu.recheck();
    }
    Ok(())
}

fn enter(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let (size, frame, level) = (op.size as u64, op.imm & 0xffff, op.extra & 31);
    let mask = cpu.mode.stack_mask();
    let before = cpu.regs[RSP];
    let sp = |n: u64| before.wrapping_sub(size * n) & mask;
    let store = |cpu: &mut Cpu, n: u64, v: u64| -> Guest<()> {
        let at = cpu.segment_linear(SS, sp(n), size, true)?;
        match size {
            2 => cpu.write(at, v as u16),
            4 => cpu.write(at, v as u32),
            _ => cpu.write(at, v),
        }
    };
    store(cpu, 1, cpu.regs[RBP])?;
    // With 32 bits on a stack of 16, AMD's processors keep the upper half of ESP (measured on Zen 3), Intel's clear it.
    let above = if vendor::amd() { before & !mask & 0xffff_ffff } else { 0 };
    let frame_pointer = above | sp(1);
    for n in 1..level as u64 {
        // The outer frames' pointers, copied from below the old frame pointer.
        let offset = cpu.regs[RBP].wrapping_sub(size * n) & mask;
        let at = cpu.segment_linear(SS, offset, size, false)?;
        let v = match size {
            2 => cpu.read::<u16>(at)? as u64,
            4 => cpu.read::<u32>(at)? as u64,
            _ => cpu.read::<u64>(at)?,
        };
        store(cpu, n + 1, v)?;
    }
    let mut pushed = 1;
    if level > 0 {
        pushed = level as u64 + 1;
        store(cpu, pushed, frame_pointer)?;
    }
    // The new top of the stack has to be writable, or the next push would have to fault here.
    let top = sp(pushed).wrapping_sub(frame) & mask;
    // AMD's processors check it as a push, with its alignment (measured on Zen 3).
    let probed = if vendor::amd() { size } else { 1 };
    let at = cpu.segment_linear(SS, top, probed, true)?;
    cpu.probe_write(at, probed)?;
    match size {
        2 => u16::set(cpu, RBP as u8, frame_pointer as u16),
        4 => u32::set(cpu, RBP as u8, frame_pointer as u32),
        _ => cpu.regs[RBP] = frame_pointer,
    }
    cpu.set_masked(RSP, mask, top);
    Ok(())
}

fn leave<W: Word, const MODE64: bool>(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    let frame = cpu.regs[RBP];
    let at = cpu.stack_linear::<MODE64>(frame, W::SIZE as u64, false)?;
    let v = cpu.read::<W>(at)?;
    cpu.set_sp::<MODE64>(frame.wrapping_add(W::SIZE as u64));
    W::set(cpu, RBP as u8, v);
    Ok(())
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    use Mnemonic::*;
    let long = mode.is64();
    // Bytes that the instruction moves the stack pointer by: its operand size, for PUSH, POP, PUSHF and POPF.
    let size = i.stack_pointer_increment().unsigned_abs() as u8;
    match i.mnemonic() {
        Push => {
            let s = operand::source(i, 0, op, mode)?;
            if !matches!(s, Kind::Mem(_)) {
                op.seg = SS as u8;
            }
            Lowered::next(if long {
                match size {
                    2 => any_source!(s, S => push::<u16, S, true> as Exec),
                    _ => any_source!(s, S => push::<u64, S, true> as Exec),
                }
            } else {
                match size {
                    2 => any_source!(s, S => push::<u16, S, false> as Exec),
                    _ => any_source!(s, S => push::<u32, S, false> as Exec),
                }
            })
        }
        Pop => {
            let to = operand::destination(i, 0, op, mode)?;
            if !matches!(to, Kind::Mem(_)) {
                op.seg = SS as u8;
            }
            Lowered::next(match (to, long, size) {
                (Kind::Mem(e), true, 2) => address!(e, E => pop_memory::<u16, E, true> as Exec),
                (Kind::Mem(e), true, _) => address!(e, E => pop_memory::<u64, E, true> as Exec),
                (Kind::Mem(e), false, 2) => address!(e, E => pop_memory::<u16, E, false> as Exec),
                (Kind::Mem(e), false, _) => address!(e, E => pop_memory::<u32, E, false> as Exec),
                (_, true, 2) => pop_register::<u16, true>,
                (_, true, _) => pop_register::<u64, true>,
                (_, false, 2) => pop_register::<u16, false>,
                (_, false, _) => pop_register::<u32, false>,
            })
        }
        Pusha => Lowered::next(pusha::<u16>),
        Pushad => Lowered::next(pusha::<u32>),
        Popa => Lowered::next(popa::<u16>),
        Popad => Lowered::next(popa::<u32>),
        Pushf | Pushfd | Pushfq => {
            (op.size, op.seg) = (size, SS as u8);
            Lowered::next(pushf)
        }
        Popf | Popfd | Popfq => {
            (op.size, op.seg) = (size, SS as u8);
            Lowered::end(popf)
        }
        Enter => {
            op.seg = SS as u8;
            op.imm = i.immediate16() as u64;
            op.extra = i.immediate8_2nd() as u32;
            op.size = match i.code() {
                iced_x86::Code::Enterw_imm16_imm8 => 2,
                iced_x86::Code::Enterd_imm16_imm8 => 4,
                _ => 8,
            };
            Lowered::next(enter)
        }
        Leave => {
            op.seg = SS as u8;
            Lowered::next(match (i.code(), long) {
                (iced_x86::Code::Leavew, true) => leave::<u16, true>,
                (iced_x86::Code::Leavew, false) => leave::<u16, false>,
                (iced_x86::Code::Leaved, _) => leave::<u32, false>,
                _ => leave::<u64, true>,
            })
        }
        _ => None,
    }
}
