//! BMI1, BMI2 and ADX: three-operand integer instructions (SDM 2, ANDN to SHRX; ADCX, ADOX).
//!
//! Those that set flags are the host's own instructions where it has them ([`native_bmi`]), for the undefined flags; else,
//! and the others, they are computed portably.

use super::native_bmi::{self, Two};
use super::operand::{self, Source};
use super::regs::Word;
use crate::cpu::{Cpu, Mode, RDX};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use iced_x86::{Instruction, Mnemonic};

const CF: u16 = 1 << 8;
const PF: u16 = 1 << 10;
const AF: u16 = 1 << 12;
const OF: u16 = 1;

/// SF and ZF of a result, CF as given, OF clear. AF and PF are undefined: cleared, as on Intel's processors.
fn logic_flags<W: Word>(r: W, carry: bool) -> u16 {
    r.test(r) & !(PF | AF) | if carry { CF } else { 0 }
}

/// The host's own instruction.
#[inline(always)]
fn host<W: Word>(which: Two, a: W, b: W, status: u16) -> (W, u16) {
    let (r, status) = native_bmi::two(which, W::SIZE == 8, a.wide(), b.wide(), status);
    (W::of(r), status)
}

/// A function of two operands: first and second as the manual's syntax without the destination has them.
trait Three: 'static {
    /// Result and flags.
    fn run<W: Word>(first: W, second: W, status: u16) -> (W, u16);
}
macro_rules! three {
    ($($name:ident |$a:ident, $b:ident, $s:ident| $e:expr;)*) => {$(
        struct $name;
        impl Three for $name {
            #[inline(always)]
            fn run<W: Word>($a: W, $b: W, $s: u16) -> (W, u16) { $e }
        }
    )*};
}
/// The same, by the host's own instruction where it has it.
macro_rules! hosted {
    ($($name:ident |$a:ident, $b:ident| $e:expr;)*) => {$(
        struct $name;
        impl Three for $name {
            #[inline(always)]
            fn run<W: Word>($a: W, $b: W, status: u16) -> (W, u16) {
                if native_bmi::available() { host(Two::$name, $a, $b, status) } else { $e }
            }
        }
    )*};
}
hosted! {
    Andn |a, b| {
        let r = W::of(!a.wide() & b.wide());
        (r, logic_flags(r, false))
    };
    // A field of the first: start in the second's bits 7:0, length in 15:8.
    Bextr |a, control| {
        let (start, length) = (control.wide() as u8 as u32, (control.wide() >> 8) as u8 as u32);
        let shifted = a.wide().checked_shr(start).unwrap_or(0);
        let r = W::of(shifted & low_bits(length));
        // SF is undefined; Intel's processors clear it.
        (r, logic_flags(r, false) & !(1 << 15))
    };
    Blsi |_a, b| {
        let r = W::of(b.wide().wrapping_neg() & b.wide());
        (r, logic_flags(r, b != W::of(0)))
    };
    Blsmsk |_a, b| {
        let r = W::of(b.wide().wrapping_sub(1) ^ b.wide());
        (r, logic_flags(r, b == W::of(0)))
    };
    Blsr |_a, b| {
        let r = W::of(b.wide().wrapping_sub(1) & b.wide());
        (r, logic_flags(r, b == W::of(0)))
    };
    Bzhi |a, index| {
        let n = index.wide() as u8 as u32;
        let r = W::of(a.wide() & low_bits(n));
        (r, logic_flags(r, n >= W::BITS))
    };
}
three! {
    Pdep |a, mask, s| (W::of(deposit(a.wide(), mask.wide())), s);
    Pext |a, mask, s| (W::of(extract(a.wide(), mask.wide())), s);
    Sarx |a, count, s| (W::of((a.signed() >> shift_count::<W>(count)) as u64), s);
    Shlx |a, count, s| (W::of(a.wide() << shift_count::<W>(count)), s);
    Shrx |a, count, s| (W::of(a.wide() >> shift_count::<W>(count)), s);
}

fn shift_count<W: Word>(count: W) -> u64 {
    count.wide() & (W::BITS as u64 - 1)
}

/// A mask of the `n` lowest bits, `n` of any size.
fn low_bits(n: u32) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

/// The low bits of `v`, spread to the places of `mask`.
fn deposit(mut v: u64, mut mask: u64) -> u64 {
    let mut r = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if v & 1 != 0 {
            r |= lowest;
        }
        v >>= 1;
        mask ^= lowest;
    }
    r
}

/// The bits of `v` at the places of `mask`, gathered.
fn extract(v: u64, mut mask: u64) -> u64 {
    let mut r = 0;
    let mut place = 1u64;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if v & lowest != 0 {
            r |= place;
        }
        place = place.wrapping_shl(1);
        mask ^= lowest;
    }
    r
}

/// The first operand is register `op.extra`, the second register `op.b` or memory.
fn first_register<O: Three, W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let second = S::load::<W>(cpu, op)?;
    let (r, status) = O::run(W::get(cpu, op.extra as u8), second, cpu.status);
    W::set(cpu, op.a, r);
    cpu.status = status;
    Ok(())
}

/// The first operand is register `op.b` or memory, the second register `op.extra`.
fn second_register<O: Three, W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let first = S::load::<W>(cpu, op)?;
    let (r, status) = O::run(first, W::get(cpu, op.extra as u8), cpu.status);
    W::set(cpu, op.a, r);
    cpu.status = status;
    Ok(())
}

fn rorx<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let v = S::load::<W>(cpu, op)?.wide();
    let n = op.imm as u32 & (W::BITS - 1);
    let r = if n == 0 { v } else { v >> n | v << (W::BITS - n) };
    W::set(cpu, op.a, W::of(r));
    Ok(())
}

/// High half to `op.a`, low half to `op.extra`; where they are the same register the high half stays.
fn mulx<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let b = S::load::<W>(cpu, op)?;
    let product = b.wide() as u128 * W::get(cpu, RDX as u8).wide() as u128;
    W::set(cpu, op.extra as u8, W::of(product as u64));
    W::set(cpu, op.a, W::of((product >> W::BITS) as u64));
    Ok(())
}

/// ADCX (through CF) and ADOX (through OF).
fn add_carry<W: Word, S: Source, const FLAG: u16>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let b = S::load::<W>(cpu, op)?.wide() as u128;
    let sum = W::get(cpu, op.a).wide() as u128 + b + (cpu.status & FLAG != 0) as u128;
    W::set(cpu, op.a, W::of(sum as u64));
    cpu.status = cpu.status & !FLAG | if sum >> W::BITS != 0 { FLAG } else { 0 };
    Ok(())
}

/// The handlers of this file.
pub fn select(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Lowered> {
    let size = operand::size(i, 0);
    macro_rules! handler {
        // Source operand `$n`, and register operand `$other` in `op.extra`.
        ($n:literal, $other:literal, $W:ident, $S:ident => $e:expr) => {{
            op.extra = i.op_register($other).number() as u32;
            handler!($n, $W, $S => $e)
        }};
        ($n:literal, $W:ident, $S:ident => $e:expr) => {{
            operand::destination(i, 0, op, mode)?;
            let s = operand::source(i, $n, op, mode)?;
            width_vex!(size, $W => register_or_memory!(s, $S => $e as Exec))
        }};
    }
    Lowered::next(match i.mnemonic() {
        Mnemonic::Andn => handler!(2, 1, W, S => first_register::<Andn, W, S>),
        Mnemonic::Pdep => handler!(2, 1, W, S => first_register::<Pdep, W, S>),
        Mnemonic::Pext => handler!(2, 1, W, S => first_register::<Pext, W, S>),
        Mnemonic::Blsi => handler!(1, W, S => first_register::<Blsi, W, S>),
        Mnemonic::Blsmsk => handler!(1, W, S => first_register::<Blsmsk, W, S>),
        Mnemonic::Blsr => handler!(1, W, S => first_register::<Blsr, W, S>),
        Mnemonic::Bextr if i.op_kind(2) == iced_x86::OpKind::Register => {
            handler!(1, 2, W, S => second_register::<Bextr, W, S>)
        }
        Mnemonic::Bzhi => handler!(1, 2, W, S => second_register::<Bzhi, W, S>),
        Mnemonic::Sarx => handler!(1, 2, W, S => second_register::<Sarx, W, S>),
        Mnemonic::Shlx => handler!(1, 2, W, S => second_register::<Shlx, W, S>),
        Mnemonic::Shrx => handler!(1, 2, W, S => second_register::<Shrx, W, S>),
        Mnemonic::Mulx => handler!(2, 1, W, S => mulx::<W, S>),
        Mnemonic::Rorx => {
            op.imm = i.immediate(2);
            handler!(1, W, S => rorx::<W, S>)
        }
        Mnemonic::Adcx => handler!(1, W, S => add_carry::<W, S, CF>),
        Mnemonic::Adox => handler!(1, W, S => add_carry::<W, S, OF>),
        _ => return None,
    })
}
