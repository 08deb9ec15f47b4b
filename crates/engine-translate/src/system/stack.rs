//! A stack that a control transfer pushes to or pops from before it becomes, or stays, the current one.

use super::operand::canonical;
use crate::cpu::{Cpu, RSP, SS};
use crate::fault::Guest;
use x86::{Exception, Segment, Vector};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    base: u64,
    /// The segment whose limit is checked; `None` in 64-bit mode.
    segment: Option<Segment>,
    /// Width of the stack pointer.
    mask: u64,
    pub sp: u64,
    /// Privilege of the accesses, as a TLB.
    select: u8,
    /// Error code of #SS.
    code: u32,
}

impl Stack {
    /// The current stack of `cpu`.
    pub fn current(cpu: &Cpu) -> Self {
        let segment = (!cpu.mode.is64()).then_some(cpu.seg[SS]);
        let base = if cpu.mode.is64() { 0 } else { cpu.seg[SS].base };
        Self {
            base,
            segment,
            mask: cpu.mode.stack_mask(),
            sp: cpu.regs[RSP],
            select: cpu.tlb_select,
            code: cpu.sys.external,
        }
    }
    /// Another 16- or 32-bit stack, used with privilege `cpl`. A fault names the selector (SDM 3A 6.13, #SS).
    pub fn inner(cpu: &Cpu, segment: Segment, sp: u64, cpl: u8) -> Self {
        let mask = if segment.big() { 0xffff_ffff } else { 0xffff };
        let code = cpu.selector_code(segment.selector);
        Self { base: segment.base, segment: Some(segment), mask, sp, select: select_for(cpu, cpl), code }
    }
    /// A 64-bit stack.
    pub fn long(cpu: &Cpu, sp: u64, cpl: u8) -> Self {
        Self {
            base: 0,
            segment: None,
            mask: u64::MAX,
            sp,
            select: select_for(cpu, cpl),
            code: cpu.sys.external,
        }
    }
    /// The value of RSP after the transfer: the stack pointer's width is written, the rest of RSP stays.
    pub fn new_rsp(&self, old: u64) -> u64 {
        match self.mask {
            0xffff => old & !0xffff | self.sp & 0xffff,
            0xffff_ffff => self.sp & 0xffff_ffff,
            _ => self.sp,
        }
    }

    fn linear(&self, cpu: &mut Cpu, sp: u64, size: u64, write: bool) -> Guest<u64> {
        let offset = sp & self.mask;
        let linear = self.base.wrapping_add(offset);
        let ok = match &self.segment {
            Some(s) => {
                let usable = !s.unusable && (!write || s.readable_or_writable());
                usable && super::operand::in_limit(s, offset, size)
            }
            None => canonical(linear) && canonical(linear.wrapping_add(size - 1)),
        };
        if !ok {
            return cpu.exception(Exception::with_code(Vector::SS, self.code));
        }
        let linear = if self.segment.is_some() { linear & 0xffff_ffff } else { linear };
        // Only the program's own accesses: while CPL is 3, on a stack of CPL 3.
        if self.select == crate::tlb::USER {
            cpu.check_alignment(linear, size)?;
        }
        Ok(linear)
    }

    /// Pushes `size` (2, 4, 8) bytes.
    pub fn push(&mut self, cpu: &mut Cpu, size: u8, value: u64) -> Guest<()> {
        let sp = self.sp.wrapping_sub(size as u64);
        let at = self.linear(cpu, sp, size as u64, true)?;
        match size {
            2 => cpu.write_as(at, value as u16, self.select)?,
            4 => cpu.write_as(at, value as u32, self.select)?,
            _ => cpu.write_as(at, value, self.select)?,
        }
        self.sp = sp;
        Ok(())
    }
    /// Pushes a segment register with a 32-bit operand size: four bytes of stack, two written.
    pub fn push_selector(&mut self, cpu: &mut Cpu, selector: u16) -> Guest<()> {
        let sp = self.sp.wrapping_sub(4);
        let at = self.linear(cpu, sp, 2, true)?;
        cpu.write_as(at, selector, self.select)?;
        self.sp = sp;
        Ok(())
    }
    /// Reads `size` bytes `offset` bytes above the top.
    pub fn peek(&self, cpu: &mut Cpu, offset: u64, size: u8) -> Guest<u64> {
        let at = self.linear(cpu, self.sp.wrapping_add(offset), size as u64, false)?;
        Ok(match size {
            2 => cpu.read_as::<u16>(at, self.select)? as u64,
            4 => cpu.read_as::<u32>(at, self.select)? as u64,
            _ => cpu.read_as(at, self.select)?,
        })
    }
    /// Pops `size` bytes.
    pub fn pop(&mut self, cpu: &mut Cpu, size: u8) -> Guest<u64> {
        let v = self.peek(cpu, 0, size)?;
        self.sp = self.sp.wrapping_add(size as u64);
        Ok(v)
    }
}

/// The TLB of accesses with privilege `cpl`.
fn select_for(cpu: &Cpu, cpl: u8) -> u8 {
    if cpl == 3 { crate::tlb::USER } else { cpu.system_select() }
}
