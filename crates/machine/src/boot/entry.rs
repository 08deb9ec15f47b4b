//! The boot processor's register file at a kernel's entry.

use super::Error;
use super::layout::Layout;
use x86::segment::Table;
use x86::{Cr0, Cr4, Efer, SegReg, Segment, State};

/// Selectors of Linux's boot protocol (`__BOOT_CS`, `__BOOT_DS`); the others don't care.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
/// Where [`place_gdt`] puts its four descriptors.
const GDT: u64 = 0x500;

/// 2 MiB pages, present and writable (SDM 3A 4.5.4, PS in bit 7).
const LARGE: u64 = 1 << 7 | 0b11;
const TABLE: u64 = 0b11;
/// Identity-mapped for a 64-bit entry, in GiB: whatever a loader placed lies below.
const MAPPED_GIB: u64 = 4;

fn flat(selector: u16, attributes: u16) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attributes, unusable: false }
}

/// 32-bit protected mode, flat segments, paging and interrupts off: entry of Linux's 32-bit protocol, Multiboot and PVH.
pub fn protected(entry: u32) -> State {
    let mut s = State::reset();
    s.gpr = [0; 16];
    s.rip = u64::from(entry);
    s.cr0 = Cr0::PE | Cr0::ET;
    // Present, ring 0, 4 KiB granules, 32 bits; execute/read or read/write, accessed.
    s.seg = [flat(DATA, 0xc093); 6];
    s.seg[SegReg::CS as usize] = flat(CODE, 0xc09b);
    s.gdtr = Table { base: GDT, limit: 4 * 8 - 1 };
    s.idtr = Table::default();
    s
}

/// 64-bit mode over an identity map of the first 4 GiB: Linux's 64-bit protocol.
pub fn long(entry: u64, layout: &mut Layout<'_>) -> Result<State, Error> {
    let mut s = protected(0);
    s.rip = entry;
    s.cr3 = place_identity_map(layout)?;
    s.cr0 |= Cr0::PG;
    s.cr4 = Cr4::PAE;
    s.efer = Efer::LME | Efer::LMA;
    s.seg[SegReg::CS as usize] = flat(CODE, 0xa09b);
    Ok(s)
}

/// The descriptors that the segment registers of [`protected`] and [`long`] were loaded from.
pub fn place_gdt(layout: &mut Layout<'_>, long: bool) -> Result<(), Error> {
    let code: u64 = if long { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
    let table = [0, 0, code, 0x00cf_9300_0000_ffff].map(u64::to_le_bytes).concat();
    layout.place("the descriptor table", GDT, &table, table.len() as u64)
}

fn place_identity_map(layout: &mut Layout<'_>) -> Result<u64, Error> {
    let pages = 2 + MAPPED_GIB;
    let what = "the first page tables";
    let base = layout.lowest(what, pages * 4096, 4096, 0x1000, super::CONVENTIONAL_END)?;
    let mut entries = vec![0u64; (pages * 512) as usize];
    entries[0] = (base + 0x1000) | TABLE;
    for gib in 0..MAPPED_GIB {
        entries[(512 + gib) as usize] = (base + (2 + gib) * 4096) | TABLE;
        for i in 0..512 {
            entries[((2 + gib) * 512 + i) as usize] = gib << 30 | i << 21 | LARGE;
        }
    }
    let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
    layout.place(what, base, &bytes, bytes.len() as u64)?;
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Board;

    #[test]
    fn identity_map_translates_to_itself() {
        let b = Board::new(4 << 20);
        let s = long(0x10_0200, &mut Layout::new(b.platform())).unwrap();
        for at in [0u64, 0x12_3456, 0x7fff_ffff, 0xfee0_0000] {
            let pml4e = b.u64(s.cr3 + (at >> 39 & 511) * 8);
            let pdpte = b.u64((pml4e & !0xfff) + (at >> 30 & 511) * 8);
            let pde = b.u64((pdpte & !0xfff) + (at >> 21 & 511) * 8);
            assert_eq!(pde & 0x83, 0x83);
            assert_eq!((pde & !0x1f_ffff) | at & 0x1f_ffff, at);
        }
    }

    #[test]
    fn descriptors_agree_with_the_segment_registers() {
        let b = Board::new(4 << 20);
        for long_mode in [false, true] {
            let mut l = Layout::new(b.platform());
            place_gdt(&mut l, long_mode).unwrap();
            let s = if long_mode { long(0, &mut l).unwrap() } else { protected(0) };
            for reg in [SegReg::CS, SegReg::SS] {
                let seg = s.seg[reg as usize];
                let high = b.u64(s.gdtr.base + u64::from(seg.selector)) >> 32;
                assert_eq!((high >> 8) as u16 & 0xf0ff, seg.attributes, "{reg:?}");
            }
        }
    }
}
