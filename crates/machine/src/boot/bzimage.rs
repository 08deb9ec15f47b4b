//! Linux bzImage: the x86 boot protocol, 32- and 64-bit entries (Linux, Documentation/arch/x86/boot.rst).

use super::fields::{Record, u16_at, u32_at, u64_at};
use super::layout::Layout;
use super::{CONVENTIONAL_END, Error, Files, Platform, entry};
use crate::pc::memory_map::{EBDA, EXTENDED, MemoryMap, PCI_HOLE};
use x86::State;
use x86::state::gpr::RSI;

/// Offsets in the setup header, which are the same in the image and in `boot_params`.
mod field {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const SYSSIZE: usize = 0x1f4;
    pub const HEADER_LEN: usize = 0x201;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const KERNEL_ALIGNMENT: usize = 0x230;
    pub const RELOCATABLE_KERNEL: usize = 0x234;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    /// Past the last field the header may ever have in `boot_params`.
    pub const END: usize = 0x290;
}

/// Offsets in `boot_params` outside the header.
mod params {
    pub const EXT_MEM_K: usize = 0x002;
    pub const ACPI_RSDP_ADDR: usize = 0x070;
    pub const ALT_MEM_K: usize = 0x1e0;
    pub const E820_ENTRIES: usize = 0x1e8;
    pub const E820_TABLE: usize = 0x2d0;
    pub const LEN: usize = 4096;
}

const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
/// Distance of the 64-bit entry from the 32-bit one.
const ENTRY_64: u64 = 0x200;
/// Where a kernel that is not `LOADED_HIGH` lies.
const LOW_KERNEL: u64 = 0x1_0000;
/// An old kernel's own limits, for headers that don't say.
const OLD_INITRD_ADDR_MAX: u32 = 0x37ff_ffff;
const OLD_CMDLINE_SIZE: u32 = 255;
/// Longest command line placed, whatever the kernel says it takes.
const CMDLINE_MOST: usize = 0xf000;

/// Whether the image has the setup header's signature.
pub fn is(kernel: &[u8]) -> bool {
    kernel.get(field::MAGIC..field::MAGIC + 4) == Some(b"HdrS")
}

/// The setup header's fields that matter here.
#[derive(Debug)]
struct Header {
    version: u16,
    /// File offset of the protected-mode part.
    payload: usize,
    high: bool,
    code32_start: u64,
    initrd_addr_max: u32,
    alignment: u64,
    relocatable: bool,
    entry_64: bool,
    cmdline_size: usize,
    pref_address: u64,
    /// Bytes of memory from the load address on that the kernel uses before it has looked at the memory map.
    init_size: u64,
}

impl Header {
    fn parse(kernel: &[u8]) -> Result<Self, Error> {
        let have = kernel.len() as u64;
        let cut = |what, need: usize| Error::Truncated { what, need: need as u64, have };
        let malformed = |why: String| Error::Malformed { format: "bzImage", why };
        let short = || cut("the setup header", field::END);
        let u8_at = |offset: usize| kernel.get(offset).copied().ok_or_else(short);
        let u16_at = |offset| u16_at(kernel, offset).ok_or_else(short);
        let u32_at = |offset| u32_at(kernel, offset).ok_or_else(short);

        let version = u16_at(field::VERSION)?;
        if version < 0x200 {
            return Err(Error::Unsupported(format!(
                "boot protocol 2.00 or newer; this kernel speaks {}.{:02}",
                version >> 8,
                version & 0xff
            )));
        }
        let since = |v| version >= v;
        let sectors = match u8_at(field::SETUP_SECTS)? {
            0 => 4,
            n => usize::from(n),
        };
        let payload = (sectors + 1) * 512;
        let paragraphs = match since(0x204) {
            true => u32_at(field::SYSSIZE)?,
            false => u32::from(u16_at(field::SYSSIZE)?),
        };
        // The size is rounded up to paragraphs, and not every file is padded to it.
        let need = payload + (paragraphs as usize).saturating_mul(16).max(16);
        if kernel.len() + 15 < need {
            return Err(cut("the kernel", need));
        }
        let alignment = match since(0x205) {
            true => u64::from(u32_at(field::KERNEL_ALIGNMENT)?),
            false => 4096,
        };
        let relocatable = since(0x205) && u8_at(field::RELOCATABLE_KERNEL)? != 0;
        if relocatable && !alignment.is_power_of_two() {
            return Err(malformed(format!("the alignment {alignment:#x} is no power of two")));
        }
        let code32_start = u64::from(u32_at(field::CODE32_START)?);
        let (pref_address, init_size) = match since(0x20a) {
            true => {
                (u64_at(kernel, field::PREF_ADDRESS).ok_or_else(short)?, u64::from(u32_at(field::INIT_SIZE)?))
            }
            false => (code32_start, 0),
        };
        Ok(Self {
            version,
            payload,
            high: u8_at(field::LOADFLAGS)? & LOADED_HIGH != 0,
            code32_start,
            initrd_addr_max: match since(0x203) {
                true => u32_at(field::INITRD_ADDR_MAX)?,
                false => OLD_INITRD_ADDR_MAX,
            },
            alignment,
            relocatable,
            entry_64: since(0x20c) && u16_at(field::XLOADFLAGS)? & XLF_KERNEL_64 != 0,
            cmdline_size: match since(0x206) {
                true => u32_at(field::CMDLINE_SIZE)? as usize,
                false => OLD_CMDLINE_SIZE as usize,
            },
            pref_address,
            init_size,
        })
    }
}

/// Loads the kernel, its initrd and command line, and `boot_params`.
pub fn load(platform: Platform<'_>, files: Files<'_>) -> Result<State, Error> {
    let header = Header::parse(files.kernel)?;
    let layout = &mut Layout::new(platform);
    let image = &files.kernel[header.payload..];
    let len = header.init_size.max(image.len() as u64);

    let base = place_kernel(layout, &header, image, len)?;
    entry::place_gdt(layout, header.entry_64)?;
    let mut state = match header.entry_64 {
        true => entry::long(base + ENTRY_64, layout)?,
        false => entry::protected(base as u32),
    };
    let most = header.cmdline_size.min(CMDLINE_MOST);
    let command_line = super::checked_command_line(files.command_line, most)?;
    let command_line = layout.place_string("the command line", command_line)?;
    let (initrd, initrd_len) = place_initrd(layout, &header, &files)?;

    let mut p = Record::new(params::LEN);
    let end = field::MAGIC + usize::from(files.kernel[field::HEADER_LEN]);
    let end = end.min(field::END).min(files.kernel.len());
    p.set(field::SETUP_SECTS, &files.kernel[field::SETUP_SECTS..end]);
    // A loader without a number of its own.
    p.u8(field::TYPE_OF_LOADER, 0xff);
    p.u32(field::CODE32_START, base as u32);
    p.u32(field::RAMDISK_IMAGE, initrd as u32).u32(field::RAMDISK_SIZE, initrd_len as u32);
    p.u32(field::CMD_LINE_PTR, command_line as u32);
    p.u64(params::ACPI_RSDP_ADDR, platform.rsdp);
    place_memory_map(&mut p, platform.map);
    state.gpr[RSI] = layout.place_low("the boot parameters", p.bytes())?;
    log::info!(
        "bzImage, boot protocol {}.{:02}: kernel at {base:#x}, initrd at {initrd:#x} ({initrd_len} bytes), entry {:#x}",
        header.version >> 8,
        header.version & 0xff,
        state.rip
    );
    Ok(state)
}

fn place_kernel(layout: &mut Layout<'_>, header: &Header, image: &[u8], len: u64) -> Result<u64, Error> {
    let what = "the kernel";
    if !header.high {
        layout.place(what, LOW_KERNEL, image, image.len() as u64)?;
        return Ok(LOW_KERNEL);
    }
    let wanted = if header.relocatable { header.pref_address } else { header.code32_start };
    // The 32-bit entry and the fields for it hold 32 bits.
    let base = match layout.is_ram(wanted, len) && wanted + len <= PCI_HOLE {
        false if header.relocatable => {
            layout.lowest(what, len, header.alignment, EXTENDED.max(header.alignment), PCI_HOLE)?
        }
        _ => wanted,
    };
    layout.claim(what, base, len)?;
    layout.memory().write(address::GuestPhys(base), image)?;
    Ok(base)
}

/// Places the initrd, as high as the kernel allows; gives address and length.
fn place_initrd(layout: &mut Layout<'_>, header: &Header, files: &Files<'_>) -> Result<(u64, u64), Error> {
    let bytes = files.initrd();
    if bytes.is_empty() {
        return Ok((0, 0));
    }
    let what = "the initrd";
    let ceiling = (u64::from(header.initrd_addr_max) + 1).min(PCI_HOLE);
    let at = layout.highest(what, bytes.len() as u64, 4096, EXTENDED, ceiling)?;
    layout.place(what, at, &bytes, bytes.len() as u64)?;
    Ok((at, bytes.len() as u64))
}

fn place_memory_map(p: &mut Record, map: &MemoryMap) {
    let extended = (map.extended_end() - EXTENDED) >> 10;
    p.set(params::EXT_MEM_K, &(extended.min(0xfc00) as u16).to_le_bytes());
    p.u32(params::ALT_MEM_K, extended as u32);
    p.u8(params::E820_ENTRIES, map.ranges().len() as u8);
    for (i, r) in map.ranges().iter().enumerate() {
        let at = params::E820_TABLE + i * 20;
        p.u64(at, r.base).u64(at + 8, r.len).u32(at + 16, r.kind as u32);
    }
}

// Everything placed low has to fit there beside a low kernel.
const _: () = assert!(EBDA < CONVENTIONAL_END && LOW_KERNEL < EBDA);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::ModuleBytes;
    use crate::boot::testing::{Board, bzimage, files};
    use x86::{Cr0, Efer};

    fn set(kernel: &mut [u8], at: usize, bytes: &[u8]) {
        kernel[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn kernel_with_initrd_and_command_line_is_described_in_boot_params() {
        let b = Board::new(64 << 20);
        let kernel = bzimage(b"KERNEL");
        let modules = [
            ModuleBytes { bytes: b"07070one", command_line: "" },
            ModuleBytes { bytes: b"two", command_line: "" },
        ];
        let f = Files { modules: &modules, command_line: "console=ttyS0", ..files(&kernel) };
        let s = load(b.platform(), f).unwrap();
        assert_eq!(s.rip, 0x10_0200);
        assert!(s.cr0.contains(Cr0::PG) && s.efer.contains(Efer::LMA));
        assert_eq!(b.read(0x10_0000, 6), b"KERNEL");
        let p = s.gpr[RSI];
        assert_eq!(b.read(p + 0x202, 4), b"HdrS");
        assert_eq!(b.read(p + 0x210, 1), [0xff]);
        assert_eq!(b.string(u64::from(b.u32(p + 0x228))), "console=ttyS0");
        let (at, len) = (b.u32(p + 0x218), b.u32(p + 0x21c));
        assert_eq!(b.read(u64::from(at), len as usize), b"07070onetwo");
        assert_eq!(at, (64 << 20) - 4096);
        assert_eq!(b.u64(p + 0x70), 0xe_0000);
        assert_eq!(b.read(p + 0x1e8, 1), [4]);
        assert_eq!((b.u64(p + 0x2d0), b.u64(p + 0x2d8), b.u32(p + 0x2e0)), (0, EBDA, 1));
    }

    #[test]
    fn kernel_without_64_bit_entry_gets_the_32_bit_one() {
        let b = Board::new(64 << 20);
        let mut kernel = bzimage(b"K");
        set(&mut kernel, 0x236, &[0]);
        let s = load(b.platform(), files(&kernel)).unwrap();
        assert_eq!((s.rip, s.cr0.contains(Cr0::PG)), (0x10_0000, false));
        assert_eq!(b.u32(s.gpr[RSI] + 0x214), 0x10_0000);
    }

    #[test]
    fn relocatable_kernel_in_small_memory_is_moved_down() {
        let b = Board::new(8 << 20);
        let mut kernel = bzimage(b"K");
        set(&mut kernel, 0x258, &0x100_0000u64.to_le_bytes());
        set(&mut kernel, 0x230, &0x20_0000u32.to_le_bytes());
        let s = load(b.platform(), files(&kernel)).unwrap();
        assert_eq!(s.rip, 0x20_0200);
        set(&mut kernel, 0x234, &[0]);
        set(&mut kernel, 0x214, &0x100_0000u32.to_le_bytes());
        assert!(matches!(load(b.platform(), files(&kernel)), Err(Error::NotRam { .. })));
    }

    #[test]
    fn initrd_above_its_limit_or_larger_than_memory_is_refused() {
        let b = Board::new(8 << 20);
        let mut kernel = bzimage(b"K");
        let big = vec![0; 7 << 20];
        let modules = [ModuleBytes { bytes: &big, command_line: "" }];
        let f = Files { modules: &modules, ..files(&kernel) };
        let e = load(b.platform(), f).unwrap_err().to_string();
        assert!(e.contains("no room for the initrd") && e.contains("more memory"), "{e}");
        set(&mut kernel, 0x22c, &0x1f_ffffu32.to_le_bytes());
        let modules = [ModuleBytes { bytes: b"0707", command_line: "" }];
        let s = load(b.platform(), Files { modules: &modules, ..files(&kernel) }).unwrap();
        assert_eq!(b.u32(s.gpr[RSI] + 0x218), 0x1f_f000);
    }

    #[test]
    fn command_line_too_long_or_with_nul_is_refused() {
        let b = Board::new(8 << 20);
        let kernel = bzimage(b"K");
        let (long, longest) = ("x".repeat(2048), "x".repeat(2047));
        let with = |command_line| load(b.platform(), Files { command_line, ..files(&kernel) });
        assert_eq!(with(&long), Err(Error::CommandLineTooLong { len: 2048, most: 2047 }));
        assert!(with(&longest).is_ok());
        assert_eq!(with("a\0b"), Err(Error::CommandLineNul));
        let mut greedy = bzimage(b"K");
        set(&mut greedy, 0x238, &u32::MAX.to_le_bytes());
        let huge = "x".repeat(1 << 20);
        let f = Files { command_line: &huge, ..files(&greedy) };
        assert!(matches!(load(b.platform(), f), Err(Error::CommandLineTooLong { .. })));
    }

    #[test]
    fn image_cut_at_any_length_is_an_error() {
        let b = Board::new(8 << 20);
        let kernel = bzimage(&[0x90; 100]);
        for len in 0x206..kernel.len() - 15 {
            let e = load(b.platform(), files(&kernel[..len])).unwrap_err();
            assert!(matches!(e, Error::Truncated { .. }), "{len}: {e}");
        }
        load(b.platform(), files(&kernel)).unwrap();
    }

    #[test]
    fn hostile_header_fields_are_errors_or_harmless() {
        let b = Board::new(8 << 20);
        let kernel = bzimage(&[0x90; 100]);
        // Every byte of the header set to each of a few values: no panic, nothing outside RAM (which would panic).
        for at in 0x1f1..0x290 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut k = kernel.clone();
                k[at] = value;
                let _ = load(b.platform(), files(&k));
            }
        }
        for (at, bytes) in [(0x260, [0xff; 4]), (0x258, [0xff; 4]), (0x25c, [0xff; 4]), (0x1f4, [0xff; 4])] {
            let mut k = kernel.clone();
            set(&mut k, at, &bytes);
            match load(b.platform(), files(&k)) {
                Ok(s) => assert!(s.rip < 8 << 20),
                Err(e) => assert!(matches!(e, Error::NoRoom { .. } | Error::Truncated { .. }), "{e}"),
            }
        }
    }
}
