//! Arithmetic by the host's own instructions, so that results and flags (undefined ones too) are the processor's.
//!
//! Flags come and go as `status`: AX after `lahf; seto al` (see [`super::flags`]). `add al, 0x7f; sahf` puts them back.

use std::arch::asm;

/// What the host can do with one width. Binary operations give result and flags.
pub trait Native: Copy {
    fn add(self, b: Self) -> (Self, u16);
    fn sub(self, b: Self) -> (Self, u16);
    fn and(self, b: Self) -> (Self, u16);
    fn or(self, b: Self) -> (Self, u16);
    fn xor(self, b: Self) -> (Self, u16);
    fn cmp(self, b: Self) -> u16;
    fn test(self, b: Self) -> u16;
    fn neg(self) -> (Self, u16);
    fn not(self) -> Self;
    fn adc(self, b: Self, status: u16) -> (Self, u16);
    fn sbb(self, b: Self, status: u16) -> (Self, u16);
    fn inc(self, status: u16) -> (Self, u16);
    fn dec(self, status: u16) -> (Self, u16);
    fn shl(self, count: u8, status: u16) -> (Self, u16);
    fn shr(self, count: u8, status: u16) -> (Self, u16);
    fn sar(self, count: u8, status: u16) -> (Self, u16);
    fn rol(self, count: u8, status: u16) -> (Self, u16);
    fn ror(self, count: u8, status: u16) -> (Self, u16);
    fn rcl(self, count: u8, status: u16) -> (Self, u16);
    fn rcr(self, count: u8, status: u16) -> (Self, u16);
    /// Low half, high half. Flags are an input: some processors leave the undefined ones as they were.
    fn mul(self, b: Self, status: u16) -> (Self, Self, u16);
    fn imul(self, b: Self, status: u16) -> (Self, Self, u16);
    /// Quotient and remainder of `high:self`; the caller has made sure that the quotient fits.
    ///
    /// # Safety
    /// The host raises #DE otherwise.
    unsafe fn div(self, high: Self, b: Self, status: u16) -> (Self, Self, u16);
    /// The same, signed.
    ///
    /// # Safety
    /// As for [`Native::div`].
    unsafe fn idiv(self, high: Self, b: Self, status: u16) -> (Self, Self, u16);
}

/// What the host can do with operands of 16, 32 and 64 bits.
pub trait NativeWide: Native {
    fn shld(self, b: Self, count: u8, status: u16) -> (Self, u16);
    fn shrd(self, b: Self, count: u8, status: u16) -> (Self, u16);
    /// Bit `bit`, modulo the width, of `self`: tested only, set, reset, complemented.
    fn bt(self, bit: Self, status: u16) -> (Self, u16);
    fn bts(self, bit: Self, status: u16) -> (Self, u16);
    fn btr(self, bit: Self, status: u16) -> (Self, u16);
    fn btc(self, bit: Self, status: u16) -> (Self, u16);
    /// `self` is the old destination, kept where `b` is zero.
    fn bsf(self, b: Self, status: u16) -> (Self, u16);
    fn bsr(self, b: Self, status: u16) -> (Self, u16);
    /// The two-operand form: truncated product.
    fn imul2(self, b: Self, status: u16) -> (Self, u16);
}

/// Flags are an output only.
macro_rules! fresh {
    ($class:ident, $m:literal, $($name:ident $mnemonic:literal),*) => {$(
        #[inline(always)]
        fn $name(self, b: Self) -> (Self, u16) {
            let mut r = self;
            let status: u16;
            // SAFETY: registers only.
            unsafe {
                asm!(concat!($mnemonic, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout($class) r, b = in($class) b, out("ax") status, options(pure, nomem, nostack));
            }
            (r, status)
        }
    )*};
}
/// Flags only.
macro_rules! compare {
    ($class:ident, $m:literal, $($name:ident $mnemonic:literal),*) => {$(
        #[inline(always)]
        fn $name(self, b: Self) -> u16 {
            let status: u16;
            // SAFETY: registers only.
            unsafe {
                asm!(concat!($mnemonic, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = in($class) self, b = in($class) b, out("ax") status, options(pure, nomem, nostack));
            }
            status
        }
    )*};
}
/// CF is an input.
macro_rules! carry {
    ($class:ident, $m:literal, $($name:ident $mnemonic:literal),*) => {$(
        #[inline(always)]
        fn $name(self, b: Self, status: u16) -> (Self, u16) {
            let mut r = self;
            let out: u16;
            // SAFETY: registers only.
            unsafe {
                asm!("bt eax, 8", concat!($mnemonic, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout($class) r, b = in($class) b, inout("ax") status => out, options(pure, nomem, nostack));
            }
            (r, out)
        }
    )*};
}
macro_rules! carry_unary {
    ($class:ident, $m:literal, $($name:ident $mnemonic:literal),*) => {$(
        #[inline(always)]
        fn $name(self, status: u16) -> (Self, u16) {
            let mut r = self;
            let out: u16;
            // SAFETY: registers only.
            unsafe {
                asm!("bt eax, 8", concat!($mnemonic, " {a", $m, "}"), "lahf", "seto al",
                    a = inout($class) r, inout("ax") status => out, options(pure, nomem, nostack));
            }
            (r, out)
        }
    )*};
}
/// All flags are inputs; the count is in CL.
macro_rules! shift {
    ($class:ident, $m:literal, $($name:ident $mnemonic:literal),*) => {$(
        #[inline(always)]
        fn $name(self, count: u8, status: u16) -> (Self, u16) {
            let mut r = self;
            let out: u16;
            // SAFETY: registers only.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($mnemonic, " {a", $m, "}, cl"), "lahf", "seto al",
                    a = inout($class) r, in("cl") count, inout("ax") status => out, options(pure, nomem, nostack));
            }
            (r, out)
        }
    )*};
}
macro_rules! double_shift {
    ($m:literal, $($name:ident $mnemonic:literal),*) => {$(
        #[inline(always)]
        fn $name(self, b: Self, count: u8, status: u16) -> (Self, u16) {
            let mut r = self;
            let out: u16;
            // SAFETY: registers only.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($mnemonic, " {a", $m, "}, {b", $m, "}, cl"), "lahf", "seto al",
                    a = inout(reg) r, b = in(reg) b, in("cl") count, inout("ax") status => out,
                    options(pure, nomem, nostack));
            }
            (r, out)
        }
    )*};
}
/// All flags are inputs.
macro_rules! kept {
    ($m:literal, $($name:ident $mnemonic:literal),*) => {$(
        #[inline(always)]
        fn $name(self, b: Self, status: u16) -> (Self, u16) {
            let mut r = self;
            let out: u16;
            // SAFETY: registers only.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($mnemonic, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout(reg) r, b = in(reg) b, inout("ax") status => out, options(pure, nomem, nostack));
            }
            (r, out)
        }
    )*};
}
macro_rules! common {
    ($class:ident, $m:literal) => {
        fresh!($class, $m, add "add", sub "sub", and "and", or "or", xor "xor");
        compare!($class, $m, cmp "cmp", test "test");
        carry!($class, $m, adc "adc", sbb "sbb");
        carry_unary!($class, $m, inc "inc", dec "dec");
        shift!($class, $m, shl "shl", shr "shr", sar "sar", rol "rol", ror "ror", rcl "rcl", rcr "rcr");
        #[inline(always)]
        fn neg(self) -> (Self, u16) {
            (0 as Self).sub(self)
        }
        #[inline(always)]
        fn not(self) -> Self {
            !self
        }
    };
}
/// Multiplication and division with the accumulator `$low` and its extension `$high`.
macro_rules! wide {
    ($t:ty, $m:literal, $low:tt, $high:tt) => {
        impl Native for $t {
            common!(reg, $m);
            multiply!($m, $low, $high, mul "mul", imul "imul");
            divide!($m, $low, $high, div "div", idiv "idiv");
        }
        impl NativeWide for $t {
            double_shift!($m, shld "shld", shrd "shrd");
            kept!($m, bt "bt", bts "bts", btr "btr", btc "btc", bsf "bsf", bsr "bsr", imul2 "imul");
        }
    };
}
macro_rules! multiply {
    ($m:literal, $low:tt, $high:tt, $($name:ident $mnemonic:literal),*) => {$(
        #[inline(always)]
        fn $name(self, b: Self, status: u16) -> (Self, Self, u16) {
            let (product, high, out): (u64, Self, u64);
            // SAFETY: registers only.
            unsafe {
                asm!("add al, 0x7f", "sahf", "mov rax, {a}", concat!($mnemonic, " {b", $m, "}"),
                    concat!("mov {a", $m, "}, ", $low), "lahf", "seto al",
                    a = inout(reg) self as u64 => product, b = in(reg) b, inout("rax") status as u64 => out,
                    out($high) high, options(pure, nomem, nostack));
            }
            (product as Self, high, out as u16)
        }
    )*};
}
macro_rules! divide {
    ($m:literal, $low:tt, $high:tt, $($name:ident $mnemonic:literal),*) => {$(
        #[inline(always)]
        unsafe fn $name(self, high: Self, b: Self, status: u16) -> (Self, Self, u16) {
            let (quotient, remainder, out): (u64, Self, u64);
            // SAFETY: registers only; the caller has made sure of no #DE.
            unsafe {
                asm!("add al, 0x7f", "sahf", "mov rax, {a}", concat!($mnemonic, " {b", $m, "}"),
                    "mov {a}, rax", "lahf", "seto al",
                    a = inout(reg) self as u64 => quotient, b = in(reg) b, inout("rax") status as u64 => out,
                    inout($high) high => remainder, options(pure, nomem, nostack));
            }
            (quotient as Self, remainder, out as u16)
        }
    )*};
}
wide!(u16, ":x", "ax", "dx");
wide!(u32, ":e", "eax", "edx");
wide!(u64, ":r", "rax", "rdx");

impl Native for u8 {
    common!(reg_byte, "");
    fn mul(self, b: u8, status: u16) -> (u8, u8, u16) {
        let (product, out): (u64, u16);
        // SAFETY: registers only.
        unsafe {
            asm!("add al, 0x7f", "sahf", "mov eax, {p:e}", "mul {b}", "mov {p:e}, eax", "lahf", "seto al",
                p = inout(reg) self as u64 => product, b = in(reg_byte) b, inout("ax") status => out,
                options(pure, nomem, nostack));
        }
        (product as u8, (product >> 8) as u8, out)
    }
    fn imul(self, b: u8, status: u16) -> (u8, u8, u16) {
        let (product, out): (u64, u16);
        // SAFETY: registers only.
        unsafe {
            asm!("add al, 0x7f", "sahf", "mov eax, {p:e}", "imul {b}", "mov {p:e}, eax", "lahf", "seto al",
                p = inout(reg) self as u64 => product, b = in(reg_byte) b, inout("ax") status => out,
                options(pure, nomem, nostack));
        }
        (product as u8, (product >> 8) as u8, out)
    }
    unsafe fn div(self, high: u8, b: u8, status: u16) -> (u8, u8, u16) {
        let (result, out): (u64, u16);
        // SAFETY: registers only; the caller has made sure of no #DE.
        unsafe {
            asm!("add al, 0x7f", "sahf", "mov eax, {p:e}", "div {b}", "mov {p:e}, eax", "lahf", "seto al",
                p = inout(reg) self as u64 | (high as u64) << 8 => result, b = in(reg_byte) b,
                inout("ax") status => out, options(pure, nomem, nostack));
        }
        (result as u8, (result >> 8) as u8, out)
    }
    unsafe fn idiv(self, high: u8, b: u8, status: u16) -> (u8, u8, u16) {
        let (result, out): (u64, u16);
        // SAFETY: registers only; the caller has made sure of no #DE.
        unsafe {
            asm!("add al, 0x7f", "sahf", "mov eax, {p:e}", "idiv {b}", "mov {p:e}, eax", "lahf", "seto al",
                p = inout(reg) self as u64 | (high as u64) << 8 => result, b = in(reg_byte) b,
                inout("ax") status => out, options(pure, nomem, nostack));
        }
        (result as u8, (result >> 8) as u8, out)
    }
}
