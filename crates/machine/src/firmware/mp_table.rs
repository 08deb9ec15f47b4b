//! The MP configuration table, for operating systems without ACPI (Intel MultiProcessor Specification 1.4, chapter 4).

use super::{io_apic_id, seal};
use crate::Result;
use crate::pc::io_map::{PIRQ_PIN, TIMER_PIN, irq};
use crate::pc::memory_map::{IOAPIC, LOCAL_APIC};
use address::GuestPhys;
use devices::pci::{IntxRouter, Pin};
use memory::GuestMemory;

/// The floating pointer structure: in the BIOS area that operating systems search.
const POINTER: u64 = 0xf_0000;
const TABLE: u64 = POINTER + 16;
const HEADER_LEN: usize = 44;

// Entry types (table 4-3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

// Interrupt types (table 4-10).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;
/// As the bus has it; active high and level; active low and level.
const CONFORMING: u16 = 0;
const HIGH_LEVEL: u16 = 0b11_01;
const LOW_LEVEL: u16 = 0b11_11;
/// To every local APIC.
const ALL: u8 = 0xff;
const ENABLED: u8 = 1;
const BOOTSTRAP: u8 = 2;
/// What the local APICs' and the I/O APIC's version registers say.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x20;
/// PCI slots with interrupts.
const SLOTS: u8 = 32;

pub(super) fn install(memory: &GuestMemory, vcpus: u32) -> Result<()> {
    memory.load(GuestPhys(TABLE), &table(vcpus))?;
    let mut pointer = [0u8; 16];
    pointer[0..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(TABLE as u32).to_le_bytes());
    pointer[8] = 1;
    pointer[9] = 4;
    seal(&mut pointer, 10);
    Ok(memory.load(GuestPhys(POINTER), &pointer)?)
}

fn table(vcpus: u32) -> Vec<u8> {
    let io_apic = io_apic_id(vcpus);
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for id in 0..vcpus.min(255) as u8 {
        let flags = ENABLED | if id == 0 { BOOTSTRAP } else { 0 };
        // Signature: family 6; features: FPU, CX8 and APIC.
        let mut e = vec![PROCESSOR, id, LOCAL_APIC_VERSION, flags, 0, 6, 0, 0];
        e.extend((1u32 << 9 | 1 << 8 | 1).to_le_bytes());
        e.resize(20, 0);
        entries.push(e);
    }
    for (id, kind) in [(PCI_BUS, b"PCI   "), (ISA_BUS, b"ISA   ")] {
        entries.push([&[BUS, id][..], kind].concat());
    }
    let address = (IOAPIC as u32).to_le_bytes();
    entries.push([&[IO_APIC, io_apic, IO_APIC_VERSION, 1][..], &address].concat());

    let mut interrupt = |entry: u8, kind: u8, flags: u16, bus: u8, source: u8, apic: u8, pin: u8| {
        let [low, high] = flags.to_le_bytes();
        entries.push(vec![entry, kind, low, high, bus, source, apic, pin]);
    };
    for number in (0..16).filter(|&n| n != 2) {
        let (pin, flags) = match number {
            irq::TIMER => (TIMER_PIN, CONFORMING),
            irq::SCI => (irq::SCI, HIGH_LEVEL),
            n => (n, CONFORMING),
        };
        interrupt(IO_INTERRUPT, INT, flags, ISA_BUS, number, io_apic, pin);
    }
    for slot in 0..SLOTS {
        let pin = PIRQ_PIN + IntxRouter::pirq(slot, Pin::A) as u8;
        interrupt(IO_INTERRUPT, INT, LOW_LEVEL, PCI_BUS, slot << 2, io_apic, pin);
    }
    interrupt(LOCAL_INTERRUPT, EXT_INT, CONFORMING, ISA_BUS, 0, ALL, 0);
    interrupt(LOCAL_INTERRUPT, NMI, CONFORMING, ISA_BUS, 0, ALL, 1);

    let count = entries.len() as u16;
    let mut t = vec![0; HEADER_LEN];
    entries.iter().for_each(|e| t.extend(e));
    let len = t.len() as u16;
    t[0..4].copy_from_slice(b"PCMP");
    t[4..6].copy_from_slice(&len.to_le_bytes());
    t[6] = 4;
    t[8..16].copy_from_slice(b"AUBERGE ");
    t[16..28].copy_from_slice(b"PC          ");
    t[34..36].copy_from_slice(&count.to_le_bytes());
    t[36..40].copy_from_slice(&(LOCAL_APIC as u32).to_le_bytes());
    seal(&mut t, 7);
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_counts_its_entries_and_sums_to_zero() {
        let t = table(255);
        assert_eq!(t.iter().fold(0u8, |a, &b| a.wrapping_add(b)), 0);
        assert_eq!(usize::from(u16::from_le_bytes([t[4], t[5]])), t.len());
        let (mut rest, mut count) = (&t[HEADER_LEN..], 0);
        while let [kind, ..] = *rest {
            rest = &rest[if kind == PROCESSOR { 20 } else { 8 }..];
            count += 1;
        }
        assert_eq!(u16::from_le_bytes([t[34], t[35]]), count);
        assert!(TABLE + (t.len() as u64) < 0xf_fff0, "clear of the reset vector");
    }
}
