//! What a guest sees in the identification registers of AArch32: the processor's, less what guests don't have (DDI 0406C B4.1, B7; of
//! ARMv8 the Arm ARM, D23.2).

use irqchip::gic::Version;

use crate::arch;
use crate::vm::Vm;

/// A number without these fields of four bits.
pub fn without(value: u64, fields: &[u32]) -> u64 {
    fields.iter().fold(value, |value, field| value & !(0xf << field))
}

macro_rules! by_number {
    ($crm:ident $op2:ident: $($c:literal $o:literal,)*) => {
        match ($crm, $op2) { $(($c, $o) => read_register!(id $c $o),)* _ => 0 }
    };
}

/// The register CRn 0 with this CRm and op2: ID_*, MVFR*, and of ARMv8 ID_AA64*. `None`: it isn't one.
pub fn read(crm: u32, op2: u32, vm: &Vm) -> Option<u64> {
    let v2 = vm.gic.lock().version() == Version::V2;
    // What isn't named, and what came later, is not there.
    let value = by_number! { crm op2:
        1 0, 1 1, 1 2, 1 4, 1 5, 1 6, 1 7, 2 0, 2 1, 2 2, 2 3, 2 4, 2 5, 2 6, 2 7, 3 0, 3 1, 3 2, 3 4,
    };
    Some(match (crm, op2) {
        // ID_PFR0: ThumbEE.
        (1, 0) => without(value, &[12]),
        // ID_PFR1: virtualization, and the GIC's system registers.
        (1, 1) => without(value, if v2 { &[12, 28] } else { &[12] }),
        // ID_DFR0: performance monitors, trace.
        (1, 2) => without(value, &[24, 28, 12, 16, 20]),
        (1..=3, _) => value,
        (4..=7, _) => arch::identification::read(crm, op2, v2),
        _ => return None,
    })
}
