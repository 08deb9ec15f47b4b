//! Operands of one, two, four and eight bytes, and the registers that hold them.

use super::atomic::Locked;
use super::native::Native;
use crate::cpu::Cpu;
use crate::mem::Scalar;
use iced_x86::Register;

/// An integer operand.
pub trait Word: Scalar + Native + Locked + Eq {
    const BITS: u32;
    /// Register `r` as [`crate::op::Op`] names it: a byte offset for 8-bit operands, a number for wider ones.
    fn get(cpu: &Cpu, r: u8) -> Self;
    /// 32-bit writes clear the upper half; shorter ones leave it (SDM 1 3.4.1.1).
    fn set(cpu: &mut Cpu, r: u8, v: Self);
    /// The low bits of `v`.
    fn of(v: u64) -> Self;
    /// Zero-extended.
    fn wide(self) -> u64;
    /// Sign-extended.
    fn signed(self) -> i64;
}

macro_rules! word {
    ($t:ty, $signed:ty, |$r:ident| $offset:expr, $stored:ty) => {
        impl Word for $t {
            const BITS: u32 = <$t>::BITS;
            #[inline(always)]
            fn get(cpu: &Cpu, $r: u8) -> Self {
                debug_assert!($offset + size_of::<$t>() <= size_of_val(&cpu.regs));
                // SAFETY: operands are filled in at decode time only: numbers below 16, byte offsets below 128.
                unsafe { cpu.regs.as_ptr().cast::<u8>().add($offset).cast::<$t>().read() }
            }
            #[inline(always)]
            fn set(cpu: &mut Cpu, $r: u8, v: Self) {
                debug_assert!($offset + size_of::<$stored>() <= size_of_val(&cpu.regs));
                // SAFETY: as in `get`.
                unsafe {
                    cpu.regs.as_mut_ptr().cast::<u8>().add($offset).cast::<$stored>().write(v as $stored)
                }
            }
            #[inline(always)]
            fn of(v: u64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn wide(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn signed(self) -> i64 {
                self as $signed as i64
            }
        }
    };
}
word!(u8, i8, |r| r as usize, u8);
word!(u16, i16, |r| r as usize * 8, u16);
word!(u32, i32, |r| r as usize * 8, u64);
word!(u64, i64, |r| r as usize * 8, u64);

impl Cpu {
    /// A whole register, as addresses use it: 0 to 15, [`crate::cpu::ZERO`] or [`crate::cpu::RIP`].
    #[inline(always)]
    pub(crate) fn address_register(&self, r: u8) -> u64 {
        debug_assert!((r as usize) < self.regs.len());
        // SAFETY: bases and indices are filled in at decode time only, with 0 to 17.
        unsafe { *self.regs.get_unchecked(r as usize) }
    }

    /// Replaces the bits of a register that `mask` (of 16, 32 or 64 bits) selects; 32-bit writes clear the upper half.
    #[inline(always)]
    pub(crate) fn set_masked(&mut self, r: usize, mask: u64, value: u64) {
        let kept = if mask == 0xffff { self.regs[r] & !0xffff } else { 0 };
        self.regs[r] = kept | value & mask;
    }
}

/// How an [`crate::op::Op`] names a general register.
pub fn index(r: Register) -> u8 {
    let number = r.full_register().number() as u8;
    match r {
        Register::AH | Register::CH | Register::DH | Register::BH => number * 8 + 1,
        _ if r.is_gpr8() => number * 8,
        _ => number,
    }
}
