//! IN, OUT, INS, OUTS (SDM 1 chapter 19; SDM 2).

use crate::cpu::{Cpu, ES, RAX, RCX, RDI, RDX, RIP, RSI};
use crate::fault::Guest;
use crate::op::Op;
use x86::Rflags;

/// Iterations of REP INS and OUTS before pending events are looked at.
const CHUNK: u32 = 64;
/// Where the TSS holds the offset of the I/O permission bitmap.
const BITMAP_OFFSET: u64 = 0x66;

/// IN: port in `op.imm`, or DX where `op.extra` is 1.
pub(super) fn input(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let port = port(cpu, op);
    cpu.check_io(port, op.size)?;
    let value = cpu.io_read(port, op.size);
    cpu.set_reg(RAX as u8, op.size, value);
    Ok(())
}

/// OUT.
pub(super) fn output(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let port = port(cpu, op);
    cpu.check_io(port, op.size)?;
    cpu.io_write(port, op.size, cpu.regs[RAX]);
    Ok(())
}

fn port(cpu: &Cpu, op: &Op) -> u16 {
    if op.extra == 1 { cpu.regs[RDX] as u16 } else { op.imm as u16 }
}

/// INS and OUTS. `op.imm` bit 0: REP, bit 1: OUTS; `op.b` is the address size. Sets RIP: to itself while there is more to do.
pub(super) fn string(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let (rep, out) = (op.imm & 1 != 0, op.imm & 2 != 0);
    let mask = match op.b {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let port = cpu.regs[RDX] as u16;
    let step = if cpu.system_flags.contains(Rflags::DF) { -(op.size as i64) } else { op.size as i64 };
    let rounds = if cpu.single { 1 } else { CHUNK };
    for done in 0..rounds {
        if rep && cpu.regs[RCX] & mask == 0 {
            break;
        }
        let result = if out { outs_once(cpu, op, port, mask) } else { ins_once(cpu, op, port, mask) };
        // What was done before a fault counts.
        result?;
        let index = if out { RSI } else { RDI };
        let next = cpu.regs[index].wrapping_add_signed(step);
        cpu.set_reg(index as u8, op.b, next & mask);
        if !rep {
            cpu.regs[RIP] = cpu.next_rip(op);
            return Ok(());
        }
        let count = cpu.regs[RCX].wrapping_sub(1);
        cpu.set_reg(RCX as u8, op.b, count & mask);
        if done + 1 == rounds || cpu.remote.pending.load(std::sync::atomic::Ordering::Relaxed) != 0 {
            break;
        }
    }
    let over = !rep || cpu.regs[RCX] & mask == 0;
    cpu.regs[RIP] = if over { cpu.next_rip(op) } else { cpu.this_rip(op) };
    Ok(())
}

fn outs_once(cpu: &mut Cpu, op: &Op, port: u16, mask: u64) -> Guest<()> {
    cpu.check_io(port, op.size)?;
    let at = cpu.segment_linear(op.seg as usize, cpu.regs[RSI] & mask, op.size as u64, false)?;
    let value = match op.size {
        1 => cpu.read::<u8>(at)? as u64,
        2 => cpu.read::<u16>(at)? as u64,
        _ => cpu.read::<u32>(at)? as u64,
    };
    cpu.io_write(port, op.size, value);
    Ok(())
}

fn ins_once(cpu: &mut Cpu, op: &Op, port: u16, mask: u64) -> Guest<()> {
    cpu.check_io(port, op.size)?;
    let at = cpu.segment_linear(ES, cpu.regs[RDI] & mask, op.size as u64, true)?;
    // The port must not be read if the store would fault.
    cpu.probe_write(at, op.size as u64)?;
    let value = cpu.io_read(port, op.size);
    match op.size {
        1 => cpu.write(at, value as u8),
        2 => cpu.write(at, value as u16),
        _ => cpu.write(at, value as u32),
    }
}

impl Cpu {
    /// #GP(0) where IOPL and the TSS's bitmap forbid the ports (SDM 1 19.5).
    fn check_io(&mut self, port: u16, size: u8) -> Guest<()> {
        let free = !self.cr0.contains(x86::Cr0::PE) || !self.v86() && self.cpl <= self.system_flags.iopl();
        if !free {
            let limit = self.tr.limit as u64;
            if self.tr.kind() & 8 == 0 || limit < BITMAP_OFFSET + 1 {
                return self.gp(0);
            }
            let bitmap: u16 = self.system_read(self.tr.base.wrapping_add(BITMAP_OFFSET))?;
            let byte = bitmap as u64 + port as u64 / 8;
            // Two bytes are read, so that a multi-byte access needs no second look.
            if byte + 1 > limit {
                return self.gp(0);
            }
            let bits: u16 = self.system_read(self.tr.base.wrapping_add(byte))?;
            let wanted = ((1u32 << size) - 1) << (port & 7);
            if bits as u32 & wanted != 0 {
                return self.gp(0);
            }
        }
        self.watch_io(port, size as u64);
        Ok(())
    }

    fn io_read(&mut self, port: u16, size: u8) -> u64 {
        let mut data = [0xffu8; 4];
        let part = &mut data[..size.clamp(1, 4) as usize];
        self.outside(|bus| bus.io_read(port, part));
        u32::from_le_bytes(data) as u64 & (u64::MAX >> (64 - 8 * size as u32))
    }

    fn io_write(&mut self, port: u16, size: u8, value: u64) {
        let data = (value as u32).to_le_bytes();
        self.outside(|bus| bus.io_write(port, &data[..size.clamp(1, 4) as usize]));
    }
}
