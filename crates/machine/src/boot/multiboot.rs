//! Multiboot 1 kernels, ELF or by the header's own addresses (Multiboot Specification 0.6.96, sections 3.1 to 3.3).

use super::elf_image::{self, ElfImage};
use super::fields::{Record, u32_at};
use super::layout::Layout;
use super::{CONVENTIONAL_END, Error, Files, Platform, entry};
use crate::pc::memory_map::{EXTENDED, PCI_HOLE};
use x86::State;
use x86::state::gpr::{RAX, RBX};

/// The header lies in this many first bytes, at a 4-byte boundary.
const SEARCHED: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u32 = 0x2bad_b002;

/// Flags of the header. Of bits 0 to 15 a loader has to know every one that is set.
mod flag {
    pub const PAGE_ALIGN: u32 = 1 << 0;
    pub const MEMORY_INFO: u32 = 1 << 1;
    pub const VIDEO_MODE: u32 = 1 << 2;
    pub const REQUIRED: u32 = 0xffff;
    pub const ADDRESSES: u32 = 1 << 16;
}

/// Flags of the information structure.
mod info_flag {
    pub const MEMORY: u32 = 1 << 0;
    pub const COMMAND_LINE: u32 = 1 << 2;
    pub const MODULES: u32 = 1 << 3;
    pub const MEMORY_MAP: u32 = 1 << 6;
    pub const LOADER_NAME: u32 = 1 << 9;
}

const COMMAND_LINE_MOST: usize = 0x8000;

/// The header: where it is in the file, and its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    offset: usize,
    flags: u32,
}

/// The first header whose checksum holds.
pub fn find(kernel: &[u8]) -> Option<Header> {
    (0..SEARCHED.min(kernel.len())).step_by(4).find_map(|offset| {
        let [magic, flags, checksum] = [0, 4, 8].map(|o| u32_at(kernel, offset + o));
        let flags = flags?;
        let sum = magic?.wrapping_add(flags).wrapping_add(checksum?);
        let ok = offset + 12 <= SEARCHED && magic? == HEADER_MAGIC && sum == 0;
        ok.then_some(Header { offset, flags })
    })
}

/// Loads the kernel, its modules and the information structure.
pub fn load(platform: Platform<'_>, files: Files<'_>, header: Header) -> Result<State, Error> {
    let unknown = header.flags & flag::REQUIRED & !(flag::PAGE_ALIGN | flag::MEMORY_INFO | flag::VIDEO_MODE);
    if unknown != 0 {
        return Err(Error::Unsupported(format!("Multiboot features of the header's flags {unknown:#x}")));
    }
    if header.flags & flag::VIDEO_MODE != 0 {
        log::warn!("the Multiboot kernel asks for a video mode; this machine has no display");
    }
    let layout = &mut Layout::new(platform);
    let entry = match header.flags & flag::ADDRESSES != 0 {
        true => place_by_addresses(layout, files.kernel, header)?,
        false => place_elf(layout, files.kernel)?,
    };
    let modules_floor = layout.end_above(EXTENDED);
    entry::place_gdt(layout, false)?;

    let mut modules = Record::new(files.modules.len() * 16);
    for (i, m) in files.modules.iter().enumerate() {
        let len = m.bytes.len() as u64;
        let at = layout.lowest("a module", len, 4096, modules_floor, PCI_HOLE)?;
        layout.place("a module", at, m.bytes, len)?;
        let string = layout.place_string("a module's string", m.command_line)?;
        modules.u32(i * 16, at as u32).u32(i * 16 + 4, (at + len) as u32).u32(i * 16 + 8, string as u32);
    }
    let modules_at = layout.place_low("the module list", modules.bytes())?;

    // The kernel's own name first, as the first word of a shell's command is.
    let line = super::checked_command_line(files.command_line, COMMAND_LINE_MOST)?;
    let line = format!("{} {line}", files.kernel_name.replace('\0', ""));
    let command_line = layout.place_string("the command line", line.trim_end())?;
    let name = layout.place_string("the loader's name", "Auberge")?;

    let ranges = platform.map.ranges();
    let mut map = Record::new(ranges.len() * 24);
    for (i, r) in ranges.iter().enumerate() {
        // An entry's size does not count its own field.
        map.u32(i * 24, 20).u64(i * 24 + 4, r.base).u64(i * 24 + 12, r.len).u32(i * 24 + 20, r.kind as u32);
    }
    let map_at = layout.place_low("the memory map", map.bytes())?;

    let mut flags =
        info_flag::MEMORY | info_flag::COMMAND_LINE | info_flag::MEMORY_MAP | info_flag::LOADER_NAME;
    if !files.modules.is_empty() {
        flags |= info_flag::MODULES;
    }
    let extended = platform.map.extended_end() - EXTENDED;
    let mut info = Record::new(116);
    info.u32(0, flags).u32(4, (CONVENTIONAL_END >> 10) as u32).u32(8, (extended >> 10) as u32);
    info.u32(16, command_line as u32).u32(20, files.modules.len() as u32).u32(24, modules_at as u32);
    info.u32(44, map.bytes().len() as u32).u32(48, map_at as u32).u32(64, name as u32);
    let info_at = layout.place_low("the Multiboot information", info.bytes())?;

    let mut state = entry::protected(entry);
    state.gpr[RAX] = u64::from(LOADER_MAGIC);
    state.gpr[RBX] = info_at;
    log::info!("Multiboot kernel, entry at {entry:#x}, {} modules", files.modules.len());
    Ok(state)
}

fn place_elf(layout: &mut Layout<'_>, kernel: &[u8]) -> Result<u32, Error> {
    if !elf_image::is(kernel) {
        return Err(Error::Malformed {
            format: "Multiboot",
            why: "it gives no load addresses (bit 16 of the flags), and the file is no ELF".to_string(),
        });
    }
    let image = ElfImage::parse(kernel)?;
    image.place(layout)?;
    u32::try_from(image.physical_entry()).map_err(|_| Error::Malformed {
        format: "Multiboot",
        why: format!("the entry {:#x} lies above 4 GiB", image.physical_entry()),
    })
}

/// The "a.out kludge": one piece of the file, at the header's addresses.
fn place_by_addresses(layout: &mut Layout<'_>, kernel: &[u8], header: Header) -> Result<u32, Error> {
    let have = kernel.len() as u64;
    let need = header.offset as u64 + 32;
    let cut = Error::Truncated { what: "the Multiboot header", need, have };
    let [Some(header_addr), Some(load), Some(load_end), Some(bss_end), Some(entry)] =
        [12, 16, 20, 24, 28].map(|o| u32_at(kernel, header.offset + o))
    else {
        return Err(cut);
    };
    let malformed = |why: &str| Error::Malformed { format: "Multiboot", why: why.to_string() };
    let before = header_addr.checked_sub(load).ok_or_else(|| malformed("it lies below the load address"))?;
    let start = header.offset.checked_sub(before as usize);
    let start = start.ok_or_else(|| malformed("the load address lies before the start of the file"))?;
    let len = match load_end {
        0 => kernel.len() - start,
        end => end.checked_sub(load).ok_or_else(|| malformed("the load end lies below the load address"))?
            as usize,
    };
    let Some(data) = kernel.get(start..).and_then(|k| k.get(..len)) else {
        return Err(Error::Truncated {
            what: "the kernel",
            need: (start as u64).saturating_add(len as u64),
            have,
        });
    };
    let in_memory = match bss_end {
        0 => len as u64,
        end => u64::from(
            end.checked_sub(load).ok_or_else(|| malformed("the end of bss lies below the load address"))?,
        ),
    };
    if in_memory < len as u64 {
        return Err(malformed("the end of bss lies before the end of what is loaded"));
    }
    if in_memory == 0 {
        return Err(malformed("there is nothing to load"));
    }
    layout.place("the kernel", u64::from(load), data, in_memory)?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::{Board, Piece, elf, files, multiboot_header};
    use crate::boot::{self, ModuleBytes};
    use x86::Cr0;

    /// A kernel of 64 bytes at 1 MiB, its header first, with 4 KiB of bss.
    fn kludge(addresses: [u32; 5]) -> Vec<u8> {
        let mut k = multiboot_header(flag::ADDRESSES | flag::PAGE_ALIGN | flag::MEMORY_INFO, Some(addresses));
        k.resize(60, 0x90);
        k.extend(b"END!");
        k
    }
    const GOOD: [u32; 5] = [0x10_0000, 0x10_0000, 0, 0x10_1000, 0x10_0020];

    #[test]
    fn kernel_by_addresses_gets_information_modules_and_map() {
        let b = Board::new(16 << 20);
        let modules = [
            ModuleBytes { bytes: b"first", command_line: "a.mod x=1" },
            ModuleBytes { bytes: b"second", command_line: "b.mod" },
        ];
        let kernel = kludge(GOOD);
        let f = Files { kernel_name: "hello.elf", modules: &modules, command_line: "a b", ..files(&kernel) };
        let s = boot::load(b.platform(), f).unwrap();
        assert_eq!((s.rip, s.gpr[RAX]), (0x10_0020, 0x2bad_b002));
        assert!(s.cr0.contains(Cr0::PE) && !s.cr0.contains(Cr0::PG));
        assert_eq!(b.read(0x10_003c, 5), b"END!\0");
        let i = s.gpr[RBX];
        assert_eq!((b.u32(i), b.u32(i + 4), b.u32(i + 8)), (0x24d, 640, 15 << 10));
        assert_eq!(b.string(u64::from(b.u32(i + 16))), "hello.elf a b");
        let m = u64::from(b.u32(i + 24));
        assert_eq!((b.u32(i + 20), b.u32(m), b.u32(m + 4)), (2, 0x10_1000, 0x10_1005));
        assert_eq!((b.u32(m + 16), b.u32(m + 20)), (0x10_2000, 0x10_2006));
        assert_eq!(b.read(0x10_2000, 6), b"second");
        assert_eq!(b.string(u64::from(b.u32(m + 8))), "a.mod x=1");
        let map = u64::from(b.u32(i + 48));
        assert_eq!((b.u32(i + 44), b.u32(map)), (96, 20));
        assert_eq!((b.u64(map + 76), b.u64(map + 84), b.u32(map + 92)), (0x10_0000, 15 << 20, 1));
    }

    #[test]
    fn elf_entry_given_as_virtual_is_made_physical() {
        let b = Board::new(16 << 20);
        let mut data = multiboot_header(0, None);
        data.resize(64, 0);
        let piece = Piece { vaddr: 0xc010_0000, ..Piece::new(0x10_0000, &data) };
        let s = boot::load(b.platform(), files(&elf(0xc010_0010, &[piece], None))).unwrap();
        assert_eq!(s.rip, 0x10_0010);
        let piece = Piece::new(0x10_0000, &data);
        let e = boot::load(b.platform(), files(&elf(1 << 40, &[piece], None))).unwrap_err();
        assert!(matches!(e, Error::Malformed { .. }));
    }

    #[test]
    fn hostile_addresses_are_refused() {
        let b = Board::new(4 << 20);
        let load = |a: [u32; 5]| boot::load(b.platform(), files(&kludge(a)));
        load(GOOD).unwrap();
        let [h, l, _, bss, e] = GOOD;
        for bad in [
            [l - 1, l, 0, bss, e],      // header below the load address
            [l + 0x1000, l, 0, bss, e], // load address before the file's start
            [h, l, l - 1, bss, e],      // load end below the load address
            [h, l, l + 65, bss, e],     // more than the file has
            [h, l, u32::MAX, bss, e],
            [h, l, 0, l - 1, e],    // bss ends below the load address
            [h, l, 0, l + 1, e],    // bss ends within what is loaded
            [h, l, 0, u32::MAX, e], // bss ends beyond memory
            [0xffff_ff00, 0xffff_ff00, 0, 0, e],
            [0xb_8000, 0xb_8000, 0, 0, e],
            [0, 0, 0, 0, e],
            [h, l, l, l, e], // nothing at all
        ] {
            assert!(load(bad).is_err(), "{bad:x?}");
        }
        // An entry outside the kernel is the kernel's own affair: it faults there.
        load([h, l, 0, bss, u32::MAX]).unwrap();
    }

    #[test]
    fn required_feature_unknown_is_refused_but_video_is_only_missed() {
        let b = Board::new(4 << 20);
        let with = |flags| {
            let mut k = multiboot_header(flags | flag::ADDRESSES, Some(GOOD));
            k.resize(64, 0);
            boot::load(b.platform(), files(&k))
        };
        assert!(matches!(with(1 << 3), Err(Error::Unsupported(_))));
        assert!(with(flag::VIDEO_MODE).is_ok());
        assert!(with(1 << 17).is_ok(), "bits from 16 on are optional");
    }

    #[test]
    fn header_is_found_at_the_last_place_and_no_further() {
        let h = multiboot_header(0, None);
        let at = |offset: usize| {
            let mut k = vec![0; offset];
            k.extend(&h);
            find(&k)
        };
        assert_eq!(at(8192 - 12), Some(Header { offset: 8180, flags: 0 }));
        assert_eq!(at(8192 - 8), None);
        assert_eq!(at(2), None);
        assert_eq!(find(&h[..11]), None);
    }

    #[test]
    fn image_cut_or_bent_anywhere_is_no_panic() {
        let b = Board::new(4 << 20);
        let kernel = kludge([0x10_0000, 0x10_0000, 0x10_0040, 0x10_1000, 0x10_0020]);
        for len in 0..kernel.len() {
            assert!(boot::load(b.platform(), files(&kernel[..len])).is_err(), "{len}");
        }
        for at in 0..32 {
            for value in 0..=255 {
                let mut k = kernel.clone();
                k[at] = value;
                let _ = boot::load(b.platform(), files(&k));
            }
        }
    }

    #[test]
    fn modules_beyond_memory_are_refused() {
        let b = Board::new(4 << 20);
        let big = vec![1; 2 << 20];
        let m = ModuleBytes { bytes: &big, command_line: "" };
        let kernel = kludge(GOOD);
        let f = Files { modules: &[m, m], ..files(&kernel) };
        assert!(matches!(boot::load(b.platform(), f), Err(Error::NoRoom { .. })));
    }
}
