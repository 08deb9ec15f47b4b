//! BMI1's and BMI2's instructions, LZCNT and TZCNT by the host's own: the flags that the manuals leave undefined are its, too.
//! Processors of AMD keep some and compute others; Intel's clear them.

use std::arch::asm;
use std::sync::OnceLock;

/// An instruction with these registers, between the flags before, which AX holds as `$status`, and those behind, as `$out`.
macro_rules! with_flags {
    ($instruction:literal, $status:ident => $out:ident, $($register:tt)*) => {
        // SAFETY: registers only; who calls has made sure that the host has the instruction.
        unsafe {
            asm!("add al, 0x7f", "sahf", $instruction, "lahf", "seto al", inout("ax") $status => $out,
                $($register)*, options(pure, nomem, nostack))
        }
    };
}

/// Instructions of two operands beside the destination, named as the manual's syntax has them, or one (the second).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Two {
    Andn,
    Bextr,
    Blsi,
    Blsmsk,
    Blsr,
    Bzhi,
}

/// Whether the host has all of these.
pub fn available() -> bool {
    static HAVE: OnceLock<bool> = OnceLock::new();
    *HAVE.get_or_init(|| {
        is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
    })
}

/// Result and flags of an instruction with operands of 64 bits if `wide`, else of 32. The host has it ([`available`]).
#[inline(always)]
pub fn two(which: Two, wide: bool, a: u64, b: u64, status: u16) -> (u64, u16) {
    let (r, out): (u64, u16);
    macro_rules! host {
        ($instruction:literal) => {
            with_flags!($instruction, status => out, a = in(reg) a, b = in(reg) b, r = lateout(reg) r)
        };
    }
    macro_rules! host_of_one {
        ($instruction:literal) => {
            with_flags!($instruction, status => out, b = in(reg) b, r = lateout(reg) r)
        };
    }
    match (which, wide) {
        (Two::Andn, false) => host!("andn {r:e}, {a:e}, {b:e}"),
        (Two::Andn, true) => host!("andn {r}, {a}, {b}"),
        (Two::Bextr, false) => host!("bextr {r:e}, {a:e}, {b:e}"),
        (Two::Bextr, true) => host!("bextr {r}, {a}, {b}"),
        (Two::Bzhi, false) => host!("bzhi {r:e}, {a:e}, {b:e}"),
        (Two::Bzhi, true) => host!("bzhi {r}, {a}, {b}"),
        (Two::Blsi, false) => host_of_one!("blsi {r:e}, {b:e}"),
        (Two::Blsi, true) => host_of_one!("blsi {r}, {b}"),
        (Two::Blsmsk, false) => host_of_one!("blsmsk {r:e}, {b:e}"),
        (Two::Blsmsk, true) => host_of_one!("blsmsk {r}, {b}"),
        (Two::Blsr, false) => host_of_one!("blsr {r:e}, {b:e}"),
        (Two::Blsr, true) => host_of_one!("blsr {r}, {b}"),
    }
    (r, out)
}

/// LZCNT or TZCNT of `size` bytes: result and flags. The host has them ([`available`]).
#[inline(always)]
pub fn count_zeros(leading: bool, size: usize, v: u64, status: u16) -> (u64, u16) {
    // The upper part of a 16-bit result's register stays.
    let mut r = 0u64;
    let out: u16;
    macro_rules! host {
        ($instruction:literal) => {
            with_flags!($instruction, status => out, v = in(reg) v, r = inout(reg) r)
        };
    }
    match (leading, size) {
        (true, 2) => host!("lzcnt {r:x}, {v:x}"),
        (true, 4) => host!("lzcnt {r:e}, {v:e}"),
        (true, _) => host!("lzcnt {r}, {v}"),
        (false, 2) => host!("tzcnt {r:x}, {v:x}"),
        (false, 4) => host!("tzcnt {r:e}, {v:e}"),
        (false, _) => host!("tzcnt {r}, {v}"),
    }
    (r, out)
}
