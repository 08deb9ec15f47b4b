//! The multiple APIC description table (ACPI 6.5, 5.2.12).

use super::acpi::{HEADER_LEN, table};
use super::io_apic_id;
use crate::pc::io_map::{TIMER_PIN, irq};
use crate::pc::memory_map::{IOAPIC, LOCAL_APIC};
use acpi_tables::sdt::Sdt;

/// PCAT_COMPAT: there is an 8259 pair too.
const PCAT_COMPAT: u32 = 1;

// Interrupt controller structure types (table 5.21).
const LOCAL_APIC_ENTRY: u8 = 0;
const IO_APIC_ENTRY: u8 = 1;
const SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;

/// MPS INTI flags: as the bus has it; active high and level-triggered.
const CONFORMING: u16 = 0;
const HIGH_LEVEL: u16 = 0b11_01;

/// The table for processors with APIC ids 0 to `vcpus - 1`.
pub(super) fn madt(vcpus: u32) -> Sdt {
    let mut body = Vec::new();
    body.extend((LOCAL_APIC as u32).to_le_bytes());
    body.extend(PCAT_COMPAT.to_le_bytes());
    for id in 0..vcpus.min(255) as u8 {
        body.extend([LOCAL_APIC_ENTRY, 8, id, id, 1, 0, 0, 0]);
    }
    body.extend([IO_APIC_ENTRY, 12, io_apic_id(vcpus), 0]);
    body.extend((IOAPIC as u32).to_le_bytes());
    body.extend(0u32.to_le_bytes());
    for (source, pin, flags) in [(irq::TIMER, TIMER_PIN, CONFORMING), (irq::SCI, irq::SCI, HIGH_LEVEL)] {
        body.extend([SOURCE_OVERRIDE, 10, 0, source]);
        body.extend(u32::from(pin).to_le_bytes());
        body.extend(flags.to_le_bytes());
    }
    // NMI comes to LINT1 of all of them.
    body.extend([LOCAL_APIC_NMI, 6, 0xff, 0, 0, 1]);
    let mut t = table(b"APIC", HEADER_LEN, 4);
    t.append_slice(&body);
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madt_has_an_entry_for_each_processor() {
        let t = madt(3);
        let mut rest = &t.as_slice()[44..];
        let mut kinds = Vec::new();
        while let [kind, len, ..] = *rest {
            kinds.push(kind);
            rest = &rest[usize::from(len)..];
        }
        assert_eq!(kinds, [0, 0, 0, 1, 2, 2, 4]);
        assert_eq!(t.as_slice()[44 + 16..44 + 24], [0, 8, 2, 2, 1, 0, 0, 0]);
    }
}
