//! System registers, by name or by encoding (`s3_4_c1_c1_0`: what assemblers know of newer ones depends on target features).

/// Reads a register.
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: registers that are read here have no side effects, and exist at EL2 (or were seen to, in an ID register).
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// Writes a register: unsafe, as what that means depends on the register.
macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack))
    }};
}
