//! INT n, INT3, INTO, INT1 (SDM 2).

use super::deliver::{Event, Origin};
use crate::cpu::{Cpu, RIP};
use crate::fault::Guest;
use crate::op::Op;
use x86::{Exception, Rflags, Vector};

/// INT n, vector `op.imm`; INT3 with `op.extra` 1, which virtual-8086 mode doesn't stop.
pub(super) fn int(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let vector = op.imm as u8;
    let (rip, rflags) = (cpu.next_rip(op), cpu.rflags());
    let mut event = Event { vector, origin: Origin::Software, error: None, rip, rflags };
    let r = if cpu.v86() && op.extra == 0 { super::v86::int(cpu, &mut event) } else { cpu.deliver(event) };
    cpu.after_transfer(op, r)
}

/// INTO: vector 4 if OF is set.
pub(super) fn into(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if cpu.rflags() & Rflags::OF.bits() == 0 {
        cpu.regs[RIP] = cpu.next_rip(op);
        return Ok(());
    }
    int(cpu, op)
}

/// INT1: a #DB that no gate's DPL stops.
pub(super) fn int1(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let (rip, rflags) = (cpu.next_rip(op), cpu.rflags());
    let r =
        cpu.deliver(Event { vector: Vector::DB as u8, origin: Origin::Outside, error: None, rip, rflags });
    cpu.after_transfer(op, r)
}

/// UD0, UD1, UD2 and all that doesn't exist.
pub(super) fn undefined(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.exception(Exception::ud())
}

impl Cpu {
    /// After an instruction that entered a handler or another task. A fault after a task switch belongs to the new task: its RIP stays.
    pub(super) fn after_transfer(&mut self, op: &Op, r: Guest<()>) -> Guest<()> {
        // The handler's first instruction is not single-stepped.
        self.sys.stepping = false;
        if std::mem::take(&mut self.sys.switched) && r.is_err() {
            self.regs[RIP] = self.regs[RIP].wrapping_sub(op.offset as u64);
        }
        r
    }
}
