//! What a guest sees in the identification registers: the processor's, less what guests don't have (DDI 0406C B4.1, B7).

use core::arch::asm;

use crate::vm::Vm;

/// A field of four bits, made 0.
const fn without(value: u32, fields: &[u32]) -> u32 {
    let mut value = value;
    let mut n = 0;
    while n < fields.len() {
        value &= !(0xf << fields[n]);
        n += 1;
    }
    value
}

/// The register opc1 0, CRn 0 with this CRm and opc2. `None`: it isn't one.
pub fn read(crm: u32, op2: u32, _vm: &Vm) -> Option<u64> {
    let value = match (crm, op2) {
        // ID_PFR0: ThumbEE.
        (1, 0) => without(read_register!("0" c0 c1 "0"), &[12]),
        // ID_PFR1: virtualization, the GIC's system registers.
        (1, 1) => without(read_register!("0" c0 c1 "1"), &[12, 28]),
        // ID_DFR0: performance monitors, trace.
        (1, 2) => without(read_register!("0" c0 c1 "2"), &[24, 28, 12, 16, 20]),
        (1, 4) => read_register!("0" c0 c1 "4"),
        (1, 5) => read_register!("0" c0 c1 "5"),
        (1, 6) => read_register!("0" c0 c1 "6"),
        (1, 7) => read_register!("0" c0 c1 "7"),
        (2, 0) => read_register!("0" c0 c2 "0"),
        (2, 1) => read_register!("0" c0 c2 "1"),
        (2, 2) => read_register!("0" c0 c2 "2"),
        (2, 3) => read_register!("0" c0 c2 "3"),
        (2, 4) => read_register!("0" c0 c2 "4"),
        (2, 5) => read_register!("0" c0 c2 "5"),
        // ID_AFR0, and what came later.
        (1..=7, _) => 0,
        _ => return None,
    };
    Some(value.into())
}

/// What VMRS of this register gives.
pub fn floating_point(register: u32) -> Option<u64> {
    let value: u32;
    // SAFETY: these only read; HCPTR doesn't trap them.
    unsafe {
        match register {
            0 => asm!(".fpu neon", "vmrs {v}, fpsid", v = out(reg) value, options(nomem, nostack)),
            6 => asm!(".fpu neon", "vmrs {v}, mvfr1", v = out(reg) value, options(nomem, nostack)),
            7 => asm!(".fpu neon", "vmrs {v}, mvfr0", v = out(reg) value, options(nomem, nostack)),
            _ => return None,
        }
    }
    Some(value.into())
}
