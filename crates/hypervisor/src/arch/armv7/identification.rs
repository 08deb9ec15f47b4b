//! What a guest sees in identification registers that only ARMv7 has in this way: the processor's.

use super::world::read_vfp;

/// Those of ARMv8: none.
pub fn read(_crm: u32, _op2: u32, _v2: bool) -> u64 {
    0
}

/// What VMRS of this register gives.
pub fn floating_point(register: u32) -> Option<u64> {
    match register {
        0 => Some(read_vfp!("fpsid")),
        6 => Some(read_vfp!("mvfr1")),
        7 => Some(read_vfp!("mvfr0")),
        _ => None,
    }
}
