//! Debug registers, breakpoints, single step (SDM 3B chapter 17).
//!
//! While a breakpoint is enabled, instructions run one by one, and data accesses all take the slow path, where they are compared.

use crate::cpu::{Cpu, RIP};
use crate::fault::Guest;
use crate::op::Op;
use x86::{Cr4, Exception, Vector};

/// Payload of a #DB that is a fault: its handler returns to the instruction itself. Beside DR6's bits.
pub(super) const FAULT: u64 = 1 << 63;
/// DR6: general detect, single step, task switch.
const BD: u64 = 1 << 13;
const BS: u64 = 1 << 14;
pub(super) const BT: u64 = 1 << 15;
const DR6_FIXED: u64 = 0xffff_0ff0;
const DR6_WRITABLE: u64 = 0xe00f;
const DR7_FIXED: u64 = 0x400;
const DR7_WRITABLE: u64 = 0xffff_23ff;
const DR7_GD: u64 = 1 << 13;
/// Indices into [`Cpu::dr`].
const DR6: usize = 4;
const DR7: usize = 5;

/// DR7's R/W field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Execute,
    Write,
    Io,
    ReadWrite,
}

/// The number of a debug register as [`Cpu::dr`] is indexed: DR4 and DR5 are aliases unless CR4.DE forbids.
fn index(cpu: &mut Cpu, number: u8) -> Guest<usize> {
    match number {
        0..=3 => Ok(number as usize),
        4 | 5 if cpu.cr4.contains(Cr4::DE) => cpu.ud(),
        4 | 6 => Ok(DR6),
        5 | 7 => Ok(DR7),
        _ => cpu.ud(),
    }
}

fn check(cpu: &mut Cpu, number: u8) -> Guest<usize> {
    let index = index(cpu, number)?;
    cpu.require_cpl0()?;
    if cpu.dr[DR7] & DR7_GD != 0 {
        return cpu.exception(Exception { vector: Vector::DB, error_code: 0, payload: BD | FAULT });
    }
    Ok(index)
}

/// MOV from DR `op.b` to register `op.a`.
pub(super) fn read_dr(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let i = check(cpu, op.b)?;
    cpu.set_reg(op.a, op.size, cpu.dr[i]);
    Ok(())
}

/// MOV to DR `op.a` from register `op.b`.
pub(super) fn write_dr(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let i = check(cpu, op.a)?;
    let value = cpu.regs[op.b as usize & 15];
    let value = if op.size == 4 { value & 0xffff_ffff } else { value };
    if i >= DR6 && value >> 32 != 0 {
        return cpu.gp(0);
    }
    cpu.dr[i] = match i {
        DR6 => value & DR6_WRITABLE | DR6_FIXED,
        DR7 => value & DR7_WRITABLE | DR7_FIXED,
        _ => value,
    };
    cpu.debug_registers_changed();
    Ok(())
}

impl Cpu {
    /// Whether any breakpoint is enabled in DR7.
    pub(super) fn breakpoints_enabled(&self) -> bool {
        self.dr[DR7] & 0xff != 0
    }

    /// After DR0 to DR7 changed.
    pub(super) fn debug_registers_changed(&mut self) {
        let watching = (0..4)
            .any(|i| self.condition(i).is_some_and(|c| matches!(c, Condition::Write | Condition::ReadWrite)));
        if watching && !self.sys.watching {
            // No entry may let an access past the comparison.
            self.tlb.flush();
        }
        self.sys.watching = watching;
        if self.breakpoints_enabled() {
            self.recheck();
        }
    }

    /// What breakpoint `i` waits for; `None` if it isn't enabled.
    fn condition(&self, i: usize) -> Option<Condition> {
        let dr7 = self.dr[DR7];
        if dr7 >> (2 * i) & 3 == 0 {
            return None;
        }
        match dr7 >> (16 + 4 * i) & 3 {
            0 => Some(Condition::Execute),
            1 => Some(Condition::Write),
            2 if self.cr4.contains(Cr4::DE) => Some(Condition::Io),
            2 => None,
            _ => Some(Condition::ReadWrite),
        }
    }

    /// Bits of the breakpoints that `len` bytes at `address` meet.
    fn hits(&self, address: u64, len: u64, matches: impl Fn(Condition) -> bool) -> u64 {
        let mut hit = 0;
        for i in 0..4 {
            if self.condition(i).is_some_and(&matches) {
                let size = [1, 2, 8, 4][(self.dr[DR7] >> (18 + 4 * i) & 3) as usize];
                let start = self.dr[i] & !(size - 1);
                if address < start.wrapping_add(size) && start < address.wrapping_add(len) {
                    hit |= 1 << i;
                }
            }
        }
        hit
    }

    /// Compares a data access with the breakpoints; a hit traps after the instruction.
    pub(crate) fn watch(&mut self, linear: u64, len: u64, write: bool) {
        let hit = self.hits(linear, len, |c| c == Condition::ReadWrite || write && c == Condition::Write);
        self.note_hit(hit);
    }
    /// Compares an I/O access.
    pub(super) fn watch_io(&mut self, port: u16, len: u64) {
        if self.breakpoints_enabled() {
            let hit = self.hits(port as u64, len, |c| c == Condition::Io);
            self.note_hit(hit);
        }
    }
    fn note_hit(&mut self, hit: u64) {
        if hit != 0 {
            self.sys.pending_debug |= hit;
            self.recheck();
        }
    }

    /// Bits of the instruction breakpoints at RIP.
    pub(super) fn instruction_breakpoints(&self) -> u64 {
        let linear = self.code_linear(self.regs[RIP]);
        self.hits(linear, 1, |c| c == Condition::Execute)
    }

    /// #DB is being delivered: DR6 tells why, general detect is off.
    pub(super) fn note_debug_status(&mut self, payload: u64) {
        self.dr[DR6] |= payload & DR6_WRITABLE;
        self.dr[DR7] &= !DR7_GD;
    }

    /// After the one instruction of `single`.
    pub(crate) fn after_single(&mut self) {
        if std::mem::take(&mut self.sys.stepping) {
            self.sys.pending_debug |= BS;
        }
        // What made it single may last: single step, breakpoints, events held up by the shadow.
        self.recheck();
    }
}
