//! What a guest sees in the identification registers: the processor's, less what guests don't have.

use irqchip::gic::Version;

use crate::vm::Vm;

/// A field of four bits, made 0.
const fn without(value: u64, fields: &[u32]) -> u64 {
    let mut value = value;
    let mut n = 0;
    while n < fields.len() {
        value &= !(0xf << fields[n]);
        n += 1;
    }
    value
}

/// The register op0 3, op1 0, CRn 0 with this CRm and op2 (Arm ARM D23.2). `None`: it isn't one.
pub fn read(crm: u32, op2: u32, vm: &Vm) -> Option<u64> {
    let v2 = vm.gic.lock().version() == Version::V2;
    Some(match (crm, op2) {
        (1, 0) => read_register!("id_pfr0_el1"),
        // ID_PFR1_EL1: virtualization, and the GIC's system registers.
        (1, 1) => without(read_register!("id_pfr1_el1"), if v2 { &[12, 28] } else { &[12] }),
        // ID_DFR0_EL1: performance monitors, trace.
        (1, 2) => without(read_register!("id_dfr0_el1"), &[24, 28, 12, 16, 20]),
        (1, 4) => read_register!("id_mmfr0_el1"),
        (1, 5) => read_register!("id_mmfr1_el1"),
        (1, 6) => read_register!("id_mmfr2_el1"),
        (1, 7) => read_register!("id_mmfr3_el1"),
        (2, 0) => read_register!("id_isar0_el1"),
        (2, 1) => read_register!("id_isar1_el1"),
        (2, 2) => read_register!("id_isar2_el1"),
        (2, 3) => read_register!("id_isar3_el1"),
        (2, 4) => read_register!("id_isar4_el1"),
        (2, 5) => read_register!("id_isar5_el1"),
        (2, 6) => read_register!("id_mmfr4_el1"),
        (2, 7) => read_register!("s3_0_c0_c2_7"),
        (3, 0) => read_register!("mvfr0_el1"),
        (3, 1) => read_register!("mvfr1_el1"),
        (3, 2) => read_register!("mvfr2_el1"),
        (3, 4) => read_register!("s3_0_c0_c3_4"),
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
        (1..=7, _) => 0,
        _ => return None,
    })
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
