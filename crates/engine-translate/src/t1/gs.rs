//! The host's GS base: the soft TLB's table that translated code looks at. Nothing else in the process uses GS.

use std::arch::asm;
use std::cell::Cell;
use std::io;
use std::sync::OnceLock;

thread_local! {
    /// This thread's GS base, as far as it was set here.
    static BASE: Cell<u64> = const { Cell::new(0) };
}

/// AT_HWCAP2 and the bit in it that says that RDGSBASE and its like are enabled (Linux, `asm/hwcap2.h`).
const AT_HWCAP2: u64 = 26;
const FSGSBASE: u64 = 1 << 1;

unsafe extern "C" {
    safe fn getauxval(kind: u64) -> u64;
}

/// Whether the instruction may be used.
fn instruction() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| getauxval(AT_HWCAP2) & FSGSBASE != 0)
}

/// Makes an address this thread's GS base.
#[inline]
pub fn set_base(address: u64) {
    BASE.with(|base| {
        if base.get() != address {
            base.set(address);
            if instruction() {
                // SAFETY: the kernel allows the instruction, and nothing but translated code uses GS.
                unsafe { asm!("wrgsbase {}", in(reg) address, options(nostack, preserves_flags)) };
            } else {
                by_system_call(address);
            }
        }
    });
}

/// For a thread that sets its GS itself: the base isn't known any more.
pub fn forget_base() {
    BASE.set(0);
}

/// Finds out if the base can be set at all.
pub fn try_base() -> io::Result<()> {
    if instruction() || by_system_call(BASE.get()) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the host doesn't let the GS base be set"))
    }
}

/// The same on kernels that keep the instruction to themselves. False if they don't do it either.
#[cold]
fn by_system_call(address: u64) -> bool {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_SET_GS: u64 = 0x1001;
    let result: u64;
    // SAFETY: the call changes GS's base only, which nothing but translated code uses.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_SET_GS, in("rsi") address,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_word() -> u64 {
        let v;
        // SAFETY: the tests set the base to a value of their own.
        unsafe { asm!("mov {}, gs:[0]", out(reg) v, options(readonly, nostack, preserves_flags)) };
        v
    }

    #[test]
    fn base_is_what_was_set_either_way() {
        let (a, b) = (11u64, 22u64);
        for _ in 0..2 {
            set_base(&raw const a as u64);
            assert_eq!(first_word(), 11);
            set_base(&raw const b as u64);
            assert_eq!(first_word(), 22);
        }
        assert!(by_system_call(&raw const a as u64));
        assert_eq!(first_word(), 11);
        assert!(by_system_call(&raw const b as u64));
    }
}
