//! What virtual-8086 mode does with interrupts (SDM 3A 20.3; table 20-2).

use super::deliver::{Event, Origin};
use super::stack::Stack;
use crate::cpu::{Cpu, RSP};
use crate::fault::Guest;
use x86::{Cr4, Rflags};

/// Where the TSS holds the offset of the I/O bitmap; the redirection bitmap is the 32 bytes below that.
const BITMAP_OFFSET: u64 = 0x66;

/// INT n.
pub(super) fn int(cpu: &mut Cpu, event: &mut Event) -> Guest<()> {
    let iopl3 = cpu.system_flags.iopl() == 3;
    if cpu.cr4.contains(Cr4::VME) && !redirected(cpu, event.vector)? {
        // Straight to the program's own handler, as in real mode. Below IOPL 3, VIF stands in for IF.
        if !iopl3 {
            let vif = event.rflags & Rflags::VIF.bits() != 0;
            event.rflags = event.rflags & !Rflags::IF.bits() | Rflags::IOPL.bits() | (vif as u64) << 9;
        }
        return cpu.deliver_real(*event);
    }
    if !iopl3 {
        return cpu.gp(0);
    }
    event.origin = Origin::Software;
    cpu.deliver(*event)
}

/// Whether the TSS's bitmap sends a vector to the protected-mode handler.
fn redirected(cpu: &mut Cpu, vector: u8) -> Guest<bool> {
    let limit = cpu.tr.limit as u64;
    if cpu.tr.kind() & 8 == 0 || limit < BITMAP_OFFSET + 1 {
        return cpu.gp(0);
    }
    let io: u16 = cpu.system_read(cpu.tr.base.wrapping_add(BITMAP_OFFSET))?;
    let at = (io as u64).wrapping_sub(32).wrapping_add(vector as u64 / 8);
    if at > limit {
        return cpu.gp(0);
    }
    let byte: u8 = cpu.system_read(cpu.tr.base.wrapping_add(at))?;
    Ok(byte >> (vector & 7) & 1 != 0)
}

/// IRET below IOPL 3: only with VME and 16 bits, and IF goes to VIF.
pub(super) fn iret(cpu: &mut Cpu, size: u8) -> Guest<()> {
    if !cpu.cr4.contains(Cr4::VME) || size != 2 {
        return cpu.gp(0);
    }
    let mut stack = Stack::current(cpu);
    let rip = stack.pop(cpu, 2)?;
    let selector = stack.pop(cpu, 2)? as u16;
    let flags = stack.pop(cpu, 2)?;
    let enable = flags & Rflags::IF.bits() != 0;
    if enable && cpu.system_flags.contains(Rflags::VIP) || flags & Rflags::TF.bits() != 0 {
        return cpu.gp(0);
    }
    cpu.regs[RSP] = stack.new_rsp(cpu.regs[RSP]);
    cpu.merge_rflags(flags, Rflags::STATUS | Rflags::DF | Rflags::NT | Rflags::TF);
    cpu.system_flags.set(Rflags::VIF, enable);
    cpu.enter_real_code(selector, rip);
    Ok(())
}
