//! The control domain's SVE registers: their upper parts, which a guest's use of V0 to V31 would clear. Guests have no SVE.

use core::arch::asm;

/// Bytes of an SVE register, at most: 2048 bits (Arm ARM B1.2.2).
pub const MAX_BYTES: usize = 256;

/// Z0 to Z31, P0 to P15 and FFR, of the length that ZCR_EL2 gives EL2.
#[repr(C, align(16))]
pub struct State {
    z: [u8; 32 * MAX_BYTES],
    p: [u8; 17 * (MAX_BYTES / 8)],
    ffr_kept: bool,
}

impl State {
    pub const fn new() -> Self {
        Self { z: [0; 32 * MAX_BYTES], p: [0; 17 * (MAX_BYTES / 8)], ffr_kept: false }
    }
}

macro_rules! each {
    ($op:literal, $z:expr, $p:expr) => {
        // SAFETY: accesses 32 registers of at most MAX_BYTES at `z`, 16 of an eighth of that at `p`: both have the room.
        unsafe {
            asm!(
                ".arch_extension sve",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                concat!($op, " z\\n, [{z}, #\\n, mul vl]"),
                ".endr",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                concat!($op, " p\\n, [{p}, #\\n, mul vl]"),
                ".endr",
                z = in(reg) $z, p = in(reg) $p, options(nostack, preserves_flags),
            )
        }
    };
}

/// Saves them. Only with SVE, which CPTR_EL2 must not trap now.
pub fn save(s: &mut State) {
    each!("str", s.z.as_mut_ptr(), s.p.as_mut_ptr());
    let ffr = s.p[16 * (MAX_BYTES / 8)..].as_mut_ptr();
    // SAFETY: P0 was saved; the place has room for one predicate register.
    unsafe {
        asm!(".arch_extension sve", "rdffr p0.b", "str p0, [{}]", in(reg) ffr, options(nostack, preserves_flags))
    };
    s.ffr_kept = true;
}

/// Loads what was saved.
pub fn load(s: &State) {
    if !s.ffr_kept {
        return;
    }
    let ffr = s.p[16 * (MAX_BYTES / 8)..].as_ptr();
    // SAFETY: P0 is loaded below.
    unsafe {
        asm!(".arch_extension sve", "ldr p0, [{}]", "wrffr p0.b", in(reg) ffr, options(nostack, preserves_flags))
    };
    each!("ldr", s.z.as_ptr(), s.p.as_ptr());
}
