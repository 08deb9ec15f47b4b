//! What a guest sees in AArch64's identification registers: the processor's, less what guests don't have.

use crate::identification::without;

/// The register op0 3, op1 0, CRn 0 with this CRm, from 4, and op2 (Arm ARM D23.2). `v2`: of a guest with a GICv2.
pub fn read(crm: u32, op2: u32, v2: bool) -> u64 {
    match (crm, op2) {
        // ID_AA64PFR0_EL1: EL2, EL3, the GIC's system registers, SVE, MPAM, AMU, RME.
        (4, 0) => {
            let value = without(read_register!("id_aa64pfr0_el1"), &[8, 12, 32, 40, 44, 52]);
            if v2 { without(value, &[24]) } else { value }
        }
        // ID_AA64PFR1_EL1: memory tags, MPAM's minor version, SME, RNDR's trap, NMIs.
        (4, 1) => without(read_register!("id_aa64pfr1_el1"), &[8, 16, 24, 28, 36]),
        // ID_AA64DFR0_EL1: version of the debug architecture, one break- and one watchpoint; no monitors, no trace.
        (5, 0) => 6,
        // ID_AA64ISAR0_EL1 to ISAR2.
        (6, 0) => read_register!("id_aa64isar0_el1"),
        (6, 1) => without(read_register!("id_aa64isar1_el1"), &[60]),
        (6, 2) => read_register!("s3_0_c0_c6_2"),
        // ID_AA64MMFR0_EL1: enhanced counters, fine-grained traps.
        (7, 0) => without(read_register!("id_aa64mmfr0_el1"), &[56, 60]),
        // ID_AA64MMFR1_EL1: VHE, HCRX.
        (7, 1) => without(read_register!("id_aa64mmfr1_el1"), &[8, 40]),
        // ID_AA64MMFR2_EL1: nested virtualization.
        (7, 2) => without(read_register!("id_aa64mmfr2_el1"), &[24]),
        // What came later is not there.
        _ => 0,
    }
}

/// What VMRS of this register gives a 32-bit guest.
pub fn floating_point(register: u32) -> Option<u64> {
    Some(match register {
        // FPSID: it has none of the old fields.
        0 => 0x4103_4070,
        5 => read_register!("mvfr2_el1"),
        6 => read_register!("mvfr1_el1"),
        7 => read_register!("mvfr0_el1"),
        _ => return None,
    })
}
