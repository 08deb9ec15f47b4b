//! CLI, STI, HLT, STAC, CLAC.

use crate::cpu::Cpu;
use crate::fault::Guest;
use crate::op::Op;
use x86::state::Activity;
use x86::{Cr0, Cr4, Exception, Rflags};

/// CLI (SDM 2; table of PVI and VME cases).
pub(super) fn cli(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    if cpu.cpl <= cpu.system_flags.iopl() {
        cpu.system_flags.remove(Rflags::IF);
        return Ok(());
    }
    if virtual_interrupts(cpu) {
        cpu.system_flags.remove(Rflags::VIF);
        return Ok(());
    }
    cpu.gp(0)
}

/// STI: interrupts come after the next instruction.
pub(super) fn sti(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    if cpu.cpl <= cpu.system_flags.iopl() {
        if !cpu.system_flags.contains(Rflags::IF) {
            cpu.system_flags.insert(Rflags::IF);
            cpu.interrupt_shadow = true;
            if cpu.sys.waiting != 0 {
                cpu.recheck();
            }
        }
        return Ok(());
    }
    if virtual_interrupts(cpu) {
        if cpu.system_flags.contains(Rflags::VIP) {
            return cpu.gp(0);
        }
        cpu.system_flags.insert(Rflags::VIF);
        return Ok(());
    }
    cpu.gp(0)
}

/// Whether CLI and STI act on VIF instead: VME in virtual-8086 mode, PVI at CPL 3.
fn virtual_interrupts(cpu: &Cpu) -> bool {
    let bit = if cpu.v86() { Cr4::VME } else { Cr4::PVI };
    cpu.cpl == 3 && cpu.cr0.contains(Cr0::PE) && cpu.cr4.contains(bit)
}

/// HLT: the event check puts the thread to sleep.
pub(super) fn hlt(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    cpu.sys.activity = Activity::Halted;
    cpu.interrupt_shadow = false;
    cpu.recheck();
    Ok(())
}

/// STAC (`op.imm` 1) and CLAC (0).
pub(super) fn set_ac(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if cpu.cpl != 0 || !cpu.cr4.contains(Cr4::SMAP) {
        return cpu.exception(Exception::ud());
    }
    cpu.system_flags.set(Rflags::AC, op.imm != 0);
    cpu.select_tlb(if op.imm != 0 { crate::tlb::SUPERVISOR_ANY } else { crate::tlb::SUPERVISOR });
    Ok(())
}
