//! ELF kernels with the PVH entry note (Xen, docs/misc/pvh.pandoc; public/arch-x86/hvm/start_info.h).

use super::elf_image::ElfImage;
use super::fields::{Record, u32_at};
use super::layout::Layout;
use super::{Error, Files, Platform, entry};
use crate::pc::memory_map::{EXTENDED, PCI_HOLE};
use x86::State;
use x86::state::gpr::RBX;

/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit physical address of the entry.
const PHYS32_ENTRY: u64 = 18;
/// `XEN_HVM_START_MAGIC_VALUE`.
const START_MAGIC: u32 = 0x336e_c578;
/// Longest command line placed.
const COMMAND_LINE_MOST: usize = 0x8000;

/// The PVH entry point, where the file has one.
pub fn entry_point(image: &ElfImage<'_>) -> Option<u32> {
    u32_at(image.note(b"Xen", PHYS32_ENTRY)?, 0)
}

/// Loads the kernel, its modules and its start info.
pub fn load(
    platform: Platform<'_>,
    files: Files<'_>,
    image: &ElfImage<'_>,
    entry: u32,
) -> Result<State, Error> {
    let layout = &mut Layout::new(platform);
    image.place(layout)?;
    entry::place_gdt(layout, false)?;

    let mut modules = Vec::new();
    for m in files.modules {
        let len = m.bytes.len() as u64;
        let at = layout.highest("the initrd", len, 4096, EXTENDED, PCI_HOLE)?;
        layout.place("the initrd", at, m.bytes, len)?;
        let string = layout.place_string("a module's string", m.command_line)?;
        modules.extend([at, len, string, 0].map(u64::to_le_bytes).concat());
    }
    let modules_at = layout.place_low("the module list", &modules)?;
    let line = super::checked_command_line(files.command_line, COMMAND_LINE_MOST)?;
    let command_line = layout.place_string("the command line", line)?;

    let ranges = platform.map.ranges();
    let mut map = Record::new(ranges.len() * 24);
    for (i, r) in ranges.iter().enumerate() {
        map.u64(i * 24, r.base).u64(i * 24 + 8, r.len).u32(i * 24 + 16, r.kind as u32);
    }
    let map_at = layout.place_low("the memory map", map.bytes())?;

    let mut info = Record::new(56);
    info.u32(0, START_MAGIC).u32(4, 1).u32(8, 0).u32(12, files.modules.len() as u32);
    info.u64(16, modules_at).u64(24, command_line).u64(32, platform.rsdp);
    info.u64(40, map_at).u32(48, ranges.len() as u32);
    let info_at = layout.place_low("the start info", info.bytes())?;

    let mut state = entry::protected(entry);
    state.gpr[RBX] = info_at;
    log::info!("ELF kernel with a PVH entry at {entry:#x}, {} modules", files.modules.len());
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::{Board, Piece, elf, files};
    use crate::boot::{self, ModuleBytes};

    #[test]
    fn kernel_and_modules_are_described_in_start_info() {
        let b = Board::new(16 << 20);
        let mut data = Piece::new(0x20_0000, b"DATA");
        data.mem_size = 0x3000;
        b.memory.fill(address::GuestPhys(0x20_0000), 0x3000, 0xaa).unwrap();
        let kernel = elf(0xffff_ffff_8010_0000, &[Piece::new(0x10_0000, b"CODE"), data], Some(0x10_0002));
        let modules = [ModuleBytes { bytes: b"0707-initrd", command_line: "mod a" }];
        let f = Files { modules: &modules, command_line: "hello", ..files(&kernel) };
        let s = boot::load(b.platform(), f).unwrap();
        assert_eq!(s.rip, 0x10_0002);
        assert_eq!(b.read(0x10_0000, 4), b"CODE");
        assert_eq!(b.read(0x20_0000, 5), b"DATA\0");
        assert_eq!(b.read(0x20_2fff, 2), b"\0\0");
        let i = s.gpr[RBX];
        assert_eq!((b.u32(i), b.u32(i + 4), b.u32(i + 12)), (START_MAGIC, 1, 1));
        assert_eq!(b.string(b.u64(i + 24)), "hello");
        assert_eq!(b.u64(i + 32), 0xe_0000);
        let m = b.u64(i + 16);
        assert_eq!(b.read(b.u64(m), b.u64(m + 8) as usize), b"0707-initrd");
        assert_eq!(b.string(b.u64(m + 16)), "mod a");
        let (map, entries) = (b.u64(i + 40), b.u32(i + 48));
        assert_eq!(entries, 4);
        assert_eq!((b.u64(map + 72), b.u64(map + 80), b.u32(map + 88)), (0x10_0000, 15 << 20, 1));
    }

    #[test]
    fn elf_without_the_note_is_not_a_kernel() {
        let b = Board::new(16 << 20);
        let kernel = elf(0x10_0000, &[Piece::new(0x10_0000, b"CODE")], None);
        let e = boot::load(b.platform(), files(&kernel)).unwrap_err();
        assert!(e.to_string().contains("PVH"), "{e}");
    }

    #[test]
    fn segments_outside_memory_overlapping_or_huge_are_refused() {
        let b = Board::new(16 << 20);
        let try_pieces = |pieces: &[Piece]| {
            boot::load(b.platform(), files(&elf(0x10_0000, pieces, Some(0x10_0000)))).unwrap_err()
        };
        let at = |paddr| Piece::new(paddr, b"CODE");
        for paddr in [16 << 20, 0xff_fffe, 0xb_8000, 0xe_0000, 0xffff_fffe, u64::MAX - 1] {
            assert!(matches!(try_pieces(&[at(paddr)]), Error::NotRam { .. }), "{paddr:#x}");
        }
        assert!(matches!(try_pieces(&[at(0x10_0000), at(0x10_0003)]), Error::Overlap { .. }));
        assert!(matches!(try_pieces(&[at(0x400)]), Error::Overlap { .. }));
        for mem_size in [u64::MAX, 1 << 40, 16 << 20] {
            assert!(matches!(try_pieces(&[Piece { mem_size, ..at(0x10_0000) }]), Error::NotRam { .. }));
        }
        assert!(matches!(try_pieces(&[Piece { mem_size: 1, ..at(0x10_0000) }]), Error::Malformed { .. }));
        assert!(matches!(try_pieces(&[]), Error::Malformed { .. }));
        let many: Vec<_> = (0..300).map(|i| at(0x10_0000 + i * 16)).collect();
        assert!(matches!(try_pieces(&many), Error::Malformed { .. }));
    }

    #[test]
    fn image_cut_or_bent_anywhere_is_no_panic() {
        let b = Board::new(4 << 20);
        let kernel = elf(0x10_0000, &[Piece::new(0x10_0000, b"CODE")], Some(0x10_0000));
        for len in 0..kernel.len() {
            assert!(boot::load(b.platform(), files(&kernel[..len])).is_err(), "{len}");
        }
        for at in 0..kernel.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut k = kernel.clone();
                k[at] = value;
                let _ = boot::load(b.platform(), files(&k));
            }
        }
    }
}
