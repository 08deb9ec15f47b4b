//! The ACPI tables' roots and places (ACPI 6.5, 5.2.5 RSDP, 5.2.7 RSDT, 5.2.8 XSDT, 5.2.10 FACS).

use super::{dsdt, fadt, madt, seal};
use crate::Result;
use crate::pc::memory_map::{EBDA, FIRMWARE};
use acpi_tables::sdt::Sdt;
use address::GuestPhys;
use memory::GuestMemory;

pub(super) const OEM: [u8; 6] = *b"AUBRGE";
pub(super) const OEM_TABLE: [u8; 8] = *b"AUBERGPC";
pub(super) const HEADER_LEN: u32 = 36;

/// The root pointer lies at the start of the area that operating systems search.
pub const RSDP: u64 = FIRMWARE;
/// The FACS is written by the operating system, so it lies in the extended BIOS data area.
pub const FACS: u64 = EBDA + 0x40;

const TABLES: u64 = FIRMWARE + 0x40;

/// A table without a body yet.
pub(super) fn table(signature: &[u8; 4], len: u32, revision: u8) -> Sdt {
    Sdt::new(*signature, len, revision, OEM, OEM_TABLE, 1)
}

/// Writes the tables; gives the RSDP's address.
pub(super) fn install(memory: &GuestMemory, vcpus: u32) -> Result<u64> {
    let mut next = TABLES;
    let mut put = |bytes: &[u8]| -> Result<u64> {
        let at = next;
        memory.load(GuestPhys(at), bytes)?;
        next = (at + bytes.len() as u64).next_multiple_of(16);
        Ok(at)
    };
    let dsdt = put(dsdt::dsdt().as_slice())?;
    let tables = [put(fadt::fadt(dsdt, FACS).as_slice())?, put(madt::madt(vcpus).as_slice())?];

    let mut rsdt = table(b"RSDT", HEADER_LEN, 1);
    let mut xsdt = table(b"XSDT", HEADER_LEN, 1);
    for t in tables {
        rsdt.append_slice(&(t as u32).to_le_bytes());
        xsdt.append_slice(&t.to_le_bytes());
    }
    let (rsdt, xsdt) = (put(rsdt.as_slice())?, put(xsdt.as_slice())?);
    memory.load(GuestPhys(RSDP), &rsdp(rsdt as u32, xsdt))?;
    memory.load(GuestPhys(FACS), &facs())?;
    Ok(RSDP)
}

fn rsdp(rsdt: u32, xsdt: u64) -> [u8; 36] {
    let mut r = [0; 36];
    r[0..8].copy_from_slice(b"RSD PTR ");
    r[9..15].copy_from_slice(&OEM);
    r[15] = 2;
    r[16..20].copy_from_slice(&rsdt.to_le_bytes());
    r[20..24].copy_from_slice(&36u32.to_le_bytes());
    r[24..32].copy_from_slice(&xsdt.to_le_bytes());
    seal(&mut r[..20], 8);
    seal(&mut r, 32);
    r
}

fn facs() -> [u8; 64] {
    let mut f = [0; 64];
    f[0..4].copy_from_slice(b"FACS");
    f[4..8].copy_from_slice(&64u32.to_le_bytes());
    f[32] = 2;
    f
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pc::memory_map::MemoryMap;

    fn read(m: &GuestMemory, at: u64, len: usize) -> Vec<u8> {
        let mut b = vec![0; len];
        m.read(GuestPhys(at), &mut b).unwrap();
        b
    }
    fn sums_to_zero(b: &[u8]) -> bool {
        b.iter().fold(0u8, |a, &b| a.wrapping_add(b)) == 0
    }
    fn table_at(m: &GuestMemory, at: u64) -> Vec<u8> {
        let len = m.read_u32(GuestPhys(at + 4)).unwrap();
        let t = read(m, at, len as usize);
        assert!(sums_to_zero(&t), "{:?}", String::from_utf8_lossy(&t[..4]));
        t
    }

    #[test]
    fn every_table_is_reached_from_the_root_with_right_checksums() {
        let m = MemoryMap::new(4 << 20).unwrap().allocate().unwrap();
        let root = install(&m, 255).unwrap();
        let r = read(&m, root, 36);
        assert!(r.starts_with(b"RSD PTR ") && sums_to_zero(&r[..20]) && sums_to_zero(&r));
        let rsdt = table_at(&m, u64::from(u32::from_le_bytes(r[16..20].try_into().unwrap())));
        let xsdt = table_at(&m, u64::from_le_bytes(r[24..32].try_into().unwrap()));
        let from_rsdt: Vec<_> =
            rsdt[36..].chunks(4).map(|c| u64::from(u32::from_le_bytes(c.try_into().unwrap()))).collect();
        let from_xsdt: Vec<_> =
            xsdt[36..].chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(from_rsdt, from_xsdt);
        let tables: Vec<_> = from_xsdt.iter().map(|&at| table_at(&m, at)).collect();
        assert!(tables[0].starts_with(b"FACP") && tables[1].starts_with(b"APIC"));
        let fadt = &tables[0];
        let dsdt = u64::from(u32::from_le_bytes(fadt[40..44].try_into().unwrap()));
        assert!(table_at(&m, dsdt).starts_with(b"DSDT"));
        let facs = u64::from(u32::from_le_bytes(fadt[36..40].try_into().unwrap()));
        assert_eq!((facs % 64, &read(&m, facs, 4)[..]), (0, &b"FACS"[..]));
        m.write_u32(GuestPhys(facs + 12), 1).expect("the waking vector is the guest's to write");
    }
}
