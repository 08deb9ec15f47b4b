//! BT, BTS, BTR, BTC, BSF, BSR, TZCNT, LZCNT, POPCNT, CRC32.

use super::atomic;
use super::ea::Ea;
use super::native::NativeWide;
use super::native_bmi;
use super::operand::{self, Kind, Source};
use super::regs::Word;
use crate::cpu::{Cpu, Mode};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use iced_x86::{Instruction, Mnemonic, OpKind};

const CF: u16 = 1 << 8;
const ZF: u16 = 1 << 14;

/// One of the four bit instructions.
trait BitOp: 'static {
    const WRITES: bool;
    fn run<W: Word + NativeWide>(a: W, bit: W, status: u16) -> (W, u16);
}
macro_rules! bit_ops {
    ($($name:ident $method:ident $writes:literal),*) => {$(
        struct $name;
        impl BitOp for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn run<W: Word + NativeWide>(a: W, bit: W, status: u16) -> (W, u16) { a.$method(bit, status) }
        }
    )*};
}
bit_ops!(Bt bt false, Bts bts true, Btr btr true, Btc btc true);

fn bit_register<O: BitOp, W: Word + NativeWide, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let bit = S::load::<W>(cpu, op)?;
    let (r, status) = O::run(W::get(cpu, op.a), bit, cpu.status);
    if O::WRITES {
        W::set(cpu, op.a, r);
    }
    cpu.status = status;
    Ok(())
}

/// A register's offset reaches beyond the operand, a signed number of operands away; an immediate's doesn't (SDM 2A, BT).
fn bit_memory<O: BitOp, W: Word + NativeWide, S: Source, E: Ea, const IMMEDIATE: bool, const LOCK: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Guest<()> {
    let bit = S::load::<W>(cpu, op)?;
    let mut offset = E::offset(cpu, op);
    if !IMMEDIATE {
        let words = bit.signed() >> W::BITS.trailing_zeros();
        offset = offset.wrapping_add((words * W::SIZE as i64) as u64);
    }
    let at = E::linear(cpu, op, offset, W::SIZE as u64, O::WRITES)?;
    if !O::WRITES {
        let a = cpu.read::<W>(at)?;
        cpu.status = O::run(a, bit, cpu.status).1;
        return Ok(());
    }
    if LOCK {
        let status = cpu.status;
        cpu.status = atomic::update(cpu, at, |a: W| O::run(a, bit, status))?;
        return Ok(());
    }
    cpu.modify(at, |cpu, a: W| {
        let (r, status) = O::run(a, bit, cpu.status);
        cpu.status = status;
        r
    })
}

fn select_bit<O: BitOp>(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Exec> {
    use operand::{Imm, Reg};
    let size = operand::size(i, 0);
    let immediate = operand::source(i, 1, op, mode)? == Kind::Imm;
    let lock = O::WRITES && i.has_lock_prefix();
    Some(match operand::destination(i, 0, op, mode)? {
        Kind::Mem(e) => width_wide!(size, W => address!(e, E => match (immediate, lock) {
            (true, true) => bit_memory::<O, W, Imm, E, true, true> as Exec,
            (true, false) => bit_memory::<O, W, Imm, E, true, false>,
            (false, true) => bit_memory::<O, W, Reg, E, false, true>,
            (false, false) => bit_memory::<O, W, Reg, E, false, false>,
        })),
        _ if immediate => width_wide!(size, W => bit_register::<O, W, Imm> as Exec),
        _ => width_wide!(size, W => bit_register::<O, W, Reg> as Exec),
    })
}

fn scan<W: Word + NativeWide, S: Source, const REVERSE: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let b = S::load::<W>(cpu, op)?;
    let a = W::get(cpu, op.a);
    let (r, status) = if REVERSE { a.bsr(b, cpu.status) } else { a.bsf(b, cpu.status) };
    // A zero source leaves even the upper half of a 32-bit destination alone.
    if b != W::of(0) {
        W::set(cpu, op.a, r);
    }
    cpu.status = status;
    Ok(())
}

/// CF: the source is zero. ZF: the result is. The others are undefined: the host's, or cleared.
fn count_zeros<W: Word, S: Source, const LEADING: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = S::load::<W>(cpu, op)?.wide();
    if native_bmi::available() {
        let (n, status) = native_bmi::count_zeros(LEADING, W::SIZE, v, cpu.status);
        W::set(cpu, op.a, W::of(n));
        cpu.status = status;
        return Ok(());
    }
    let n = if LEADING { v.leading_zeros() + W::BITS - 64 } else { v.trailing_zeros().min(W::BITS) };
    W::set(cpu, op.a, W::of(n as u64));
    cpu.status = 0x200 | if v == 0 { CF } else { 0 } | if n == 0 { ZF } else { 0 };
    Ok(())
}

fn popcnt<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = S::load::<W>(cpu, op)?.wide();
    W::set(cpu, op.a, W::of(v.count_ones() as u64));
    cpu.status = 0x200 | if v == 0 { ZF } else { 0 };
    Ok(())
}

/// CRC-32C's table for one byte (polynomial 11EDC6F41H, bits reflected; SDM 2A, CRC32).
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};

fn crc32<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = S::load::<W>(cpu, op)?.wide();
    let crc = v.to_le_bytes()[..W::SIZE]
        .iter()
        .fold(u32::get(cpu, op.a), |crc, b| crc >> 8 ^ CRC32C[(crc as u8 ^ b) as usize]);
    u32::set(cpu, op.a, crc);
    Ok(())
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    macro_rules! counting {
        ($W:ident, $S:ident => $e:expr) => {{
            operand::destination(i, 0, op, mode)?;
            let s = operand::source(i, 1, op, mode)?;
            width_wide!(operand::size(i, 0), $W => register_or_memory!(s, $S => $e))
        }};
    }
    Lowered::next(match i.mnemonic() {
        Mnemonic::Bt => select_bit::<Bt>(i, op, mode)?,
        Mnemonic::Bts => select_bit::<Bts>(i, op, mode)?,
        Mnemonic::Btr => select_bit::<Btr>(i, op, mode)?,
        Mnemonic::Btc => select_bit::<Btc>(i, op, mode)?,
        Mnemonic::Bsf => counting!(W, S => scan::<W, S, false> as Exec),
        Mnemonic::Bsr => counting!(W, S => scan::<W, S, true> as Exec),
        Mnemonic::Tzcnt => counting!(W, S => count_zeros::<W, S, false> as Exec),
        Mnemonic::Lzcnt => counting!(W, S => count_zeros::<W, S, true> as Exec),
        Mnemonic::Popcnt => counting!(W, S => popcnt::<W, S> as Exec),
        Mnemonic::Crc32 => {
            operand::destination(i, 0, op, mode)?;
            let s = operand::source(i, 1, op, mode)?;
            debug_assert!(matches!(i.op_kind(1), OpKind::Register | OpKind::Memory));
            width!(operand::size(i, 1), W => register_or_memory!(s, S => crc32::<W, S> as Exec))
        }
        _ => return None,
    })
}
