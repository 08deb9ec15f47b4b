//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the FS/GS base instructions (SDM 2; SDM 3A 5.8.7, 5.8.8).

use super::operand::canonical;
use crate::cpu::{CS, Cpu, FS, GS, RCX, RDX, RIP, RSP, SS};
use crate::fault::Guest;
use crate::op::Op;
use x86::{Cr4, Efer, Rflags, Segment};

const R11: usize = 11;

/// A flat code segment as the fast calls load it.
fn code(selector: u16, cpl: u8, long: bool) -> Segment {
    let size = if long { 1 << 13 } else { 1 << 14 };
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: 0x809b | size | (cpl as u16) << 5,
        unusable: false,
    }
}
/// A flat stack segment as the fast calls load it.
fn stack(selector: u16, cpl: u8) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attributes: 0xc093 | (cpl as u16) << 5, unusable: false }
}

/// SYSCALL.
pub(super) fn syscall(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if !cpu.efer.contains(Efer::SCE) || !cpu.protected() {
        return cpu.ud();
    }
    let back = cpu.next_rip(op);
    let selector = (cpu.sys.star >> 32) as u16 & 0xfffc;
    let old = cpu.system_flags;
    if cpu.long_mode() {
        let target = if cpu.mode.is64() { cpu.sys.lstar } else { cpu.sys.cstar };
        cpu.regs[RCX] = back;
        cpu.regs[R11] = cpu.rflags() & !Rflags::RF.bits();
        let flags = cpu.rflags() & !(cpu.sys.fmask | Rflags::RF.bits());
        cpu.set_rflags(flags);
        cpu.regs[RIP] = target;
        cpu.seg[CS] = code(selector, 0, true);
    } else {
        // AMD's legacy form (APM 3, SYSCALL).
        cpu.regs[RCX] = back & 0xffff_ffff;
        cpu.system_flags.remove(Rflags::IF | Rflags::RF | Rflags::VM);
        cpu.regs[RIP] = cpu.sys.star & 0xffff_ffff;
        cpu.seg[CS] = code(selector, 0, false);
    }
    if !cpu.system_flags.contains(Rflags::TF) {
        cpu.sys.stepping = false;
    }
    cpu.seg[SS] = stack(selector + 8, 0);
    cpu.cpl = 0;
    cpu.update_mode();
    cpu.after_flags(old);
    Ok(())
}

/// SYSRET; `op.size` 8 returns to 64-bit code, 4 to compatibility mode.
pub(super) fn sysret(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if !cpu.efer.contains(Efer::SCE) || !cpu.protected() {
        return cpu.ud();
    }
    cpu.require_cpl0()?;
    let base = (cpu.sys.star >> 48) as u16;
    let old = cpu.system_flags;
    let long = cpu.long_mode() && op.size == 8;
    let rip = if long { cpu.regs[RCX] } else { cpu.regs[RCX] & 0xffff_ffff };
    if !canonical(rip) {
        return cpu.gp(0);
    }
    let selector = if long { base.wrapping_add(16) } else { base } | 3;
    if cpu.long_mode() {
        let kept = Rflags::from_bits_truncate(0x003c_7fd7);
        let flags = cpu.regs[R11] & kept.bits();
        cpu.set_rflags(flags);
    } else {
        cpu.system_flags.insert(Rflags::IF);
    }
    cpu.seg[CS] = code(selector, 3, long);
    cpu.seg[SS] = stack(base.wrapping_add(8) | 3, 3);
    cpu.cpl = 3;
    cpu.regs[RIP] = rip;
    cpu.update_mode();
    cpu.after_flags(old);
    Ok(())
}

/// SYSENTER.
pub(super) fn sysenter(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    if !cpu.cr0.contains(x86::Cr0::PE) || cpu.sys.sysenter_cs & 0xfffc == 0 {
        return cpu.gp(0);
    }
    let selector = cpu.sys.sysenter_cs as u16 & 0xfffc;
    let long = cpu.long_mode();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.system_flags.remove(Rflags::VM | Rflags::IF | Rflags::RF);
    cpu.seg[CS] = code(selector, 0, long);
    cpu.seg[SS] = stack(selector + 8, 0);
    cpu.cpl = 0;
    cpu.regs[RSP] = cpu.sys.sysenter_esp & mask;
    cpu.regs[RIP] = cpu.sys.sysenter_eip & mask;
    cpu.update_mode();
    Ok(())
}

/// SYSEXIT; `op.size` 8 returns to 64-bit code.
pub(super) fn sysexit(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if !cpu.protected() || cpu.cpl != 0 || cpu.sys.sysenter_cs & 0xfffc == 0 {
        return cpu.gp(0);
    }
    let long = op.size == 8;
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    let (rip, rsp) = (cpu.regs[RDX] & mask, cpu.regs[RCX] & mask);
    if !canonical(rip) || !canonical(rsp) {
        return cpu.gp(0);
    }
    let base = (cpu.sys.sysenter_cs as u16 & 0xfffc).wrapping_add(if long { 32 } else { 16 }) | 3;
    cpu.seg[CS] = code(base, 3, long);
    cpu.seg[SS] = stack(base.wrapping_add(8), 3);
    cpu.cpl = 3;
    cpu.regs[RSP] = rsp;
    cpu.regs[RIP] = rip;
    cpu.update_mode();
    Ok(())
}

/// SWAPGS.
pub(super) fn swapgs(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    let old = std::mem::replace(&mut cpu.seg[GS].base, cpu.sys.kernel_gs_base);
    cpu.sys.kernel_gs_base = old;
    cpu.seg_base[GS] = cpu.seg[GS].base;
    Ok(())
}

fn require_fsgsbase(cpu: &mut Cpu) -> Guest<()> {
    if cpu.cr4.contains(Cr4::FSGSBASE) { Ok(()) } else { cpu.ud() }
}

/// RDFSBASE and RDGSBASE: `op.extra` is the segment, `op.a` the register.
pub(super) fn read_base(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    require_fsgsbase(cpu)?;
    cpu.set_reg(op.a, op.size, cpu.seg[op.extra as usize].base);
    Ok(())
}

/// WRFSBASE and WRGSBASE.
pub(super) fn write_base(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    require_fsgsbase(cpu)?;
    let value = cpu.regs[op.a as usize & 15];
    let value = if op.size == 4 { value & 0xffff_ffff } else { value };
    if !canonical(value) {
        return cpu.gp(0);
    }
    cpu.set_segment_base(op.extra as usize, value);
    Ok(())
}

impl Cpu {
    /// The base of FS or GS, as WRMSR sets it.
    pub(super) fn set_segment_base(&mut self, reg: usize, value: u64) {
        debug_assert!(matches!(reg, FS | GS));
        self.seg[reg].base = value;
        self.seg_base[reg] = if self.mode.is64() { value } else { value & 0xffff_ffff };
    }
}
