//! What the fuzz targets share: a little guest memory that a hostile driver has written, and a loader's board.

use std::sync::{Arc, LazyLock};

use address::GuestPhys;
use engine::Arch;
use machine::boot::arm::ArmPlatform;
use machine::boot::{self, Files, ModuleBytes, Platform};
use machine::pc::memory_map::MemoryMap;
use machine::virt;
use memory::virtqueue::{Layout, Options};
use memory::{GuestMemory, Kind, RegionConfig};

/// Bytes of guest memory that hold the queues: small, so that random addresses often hit.
const QUEUE_MEMORY: u64 = 64 << 10;
/// Bytes of the board's memory that kernels are loaded into.
const BOARD_MEMORY: u64 = 64 << 20;

/// A hostile driver's work: where it says the rings lie, what it negotiated, and memory as it left it.
pub struct Driver<'a> {
    pub layout: Layout,
    pub options: Options,
    pub memory: Arc<GuestMemory>,
    /// Words that it writes into memory while the device is at work: address and value.
    pub later: &'a [u8],
}

impl<'a> Driver<'a> {
    /// Reads the driver off the fuzzer's bytes; none when they are too few.
    pub fn new(data: &'a [u8]) -> Option<Driver<'a>> {
        static MEMORY: LazyLock<Arc<GuestMemory>> = LazyLock::new(|| {
            let config = RegionConfig { base: GuestPhys(0), len: QUEUE_MEMORY, kind: Kind::Ram };
            Arc::new(GuestMemory::new(&[config]).expect("64 KiB of memory"))
        });
        let (head, rest) = data.split_at_checked(12)?;
        let at = |index: usize| u64::from(u16::from_le_bytes([head[index], head[index + 1]]));
        // Mostly legal rings, or nothing beyond their checks would ever be reached; half of them at the beginning of
        // memory, where the fuzzer's bytes lie.
        let layout = match head[0] {
            0..=7 => Layout {
                size: at(2) as u16,
                descriptors: GuestPhys(at(4)),
                available: GuestPhys(at(6)),
                used: GuestPhys(at(8)),
            },
            bits @ 8..=127 => Layout {
                size: 1 << (bits % 9),
                descriptors: GuestPhys(at(4) & !15),
                available: GuestPhys(at(6) & !1),
                used: GuestPhys(at(8) & !3),
            },
            _ => Layout {
                size: 4,
                descriptors: GuestPhys(0),
                available: GuestPhys(0x40),
                used: GuestPhys(0x8000),
            },
        };
        let options = Options {
            indirect: head[1] & 1 != 0,
            event_idx: head[1] & 2 != 0,
            max_bytes: 1 << (head[10] % 33),
        };
        let (later, contents) = rest.split_at(usize::from(head[11]).min(rest.len()) & !3);
        MEMORY.fill(GuestPhys(0), QUEUE_MEMORY, 0).ok()?;
        let contents = &contents[..contents.len().min(QUEUE_MEMORY as usize)];
        MEMORY.load(GuestPhys(0), contents).ok()?;
        if head[0] >= 128 {
            tidy(&MEMORY, contents).ok()?;
        }
        Some(Driver { layout, options, memory: MEMORY.clone(), later })
    }

    /// Writes the next of the words that change while the device works; false when there is none left.
    pub fn meddle(&mut self) -> bool {
        let Some((word, rest)) = self.later.split_first_chunk::<4>() else { return false };
        self.later = rest;
        let address = GuestPhys(u64::from(u16::from_le_bytes([word[0], word[1]])));
        // An address at the very end leaves no room for two bytes.
        let _ = self.memory.write(address, &word[2..]);
        true
    }
}

/// Makes four chains available in rings at the beginning of memory, with descriptors that mostly lie in memory: what
/// a device checks of the requests themselves comes only after all that is right.
fn tidy(memory: &GuestMemory, contents: &[u8]) -> memory::Result<()> {
    for index in 0..4 {
        let descriptor = |offset| GuestPhys(index * 16 + offset);
        let byte =
            |offset: u64| u64::from(contents.get((index * 16 + offset) as usize).copied().unwrap_or(0));
        // Address, length, flags (next, write, indirect), next.
        memory.write_u64(descriptor(0), byte(0) << 4 | byte(1) << 15)?;
        memory.write_u32(descriptor(8), (byte(8) | (byte(9) & 0x83) << 8) as u32)?;
        memory.write_u16(descriptor(12), (byte(12) & 7) as u16)?;
        memory.write_u16(descriptor(14), (byte(14) & 3) as u16)?;
        memory.write_u16(GuestPhys(0x44 + index * 2), index as u16)?;
    }
    memory.write_u32(GuestPhys(0x40), 4 << 16)
}

/// Loads `kernel`, whatever it is, with a command line and an initrd.
pub fn load(kernel: &[u8]) {
    static BOARD: LazyLock<(MemoryMap, GuestMemory)> = LazyLock::new(|| {
        let map = MemoryMap::new(BOARD_MEMORY).expect("a memory map");
        let memory = map.allocate().expect("64 MiB of memory");
        (map, memory)
    });
    let (map, memory) = &*BOARD;
    let modules = [ModuleBytes { bytes: b"070701 an initrd", command_line: "initrd" }];
    let files = Files { kernel_name: "kernel", kernel, modules: &modules, command_line: "console=ttyS0" };
    // Whether it is a kernel is the loader's to say; that it says so is what is tested.
    let _ = boot::load(Platform { memory, map, rsdp: 0xe_0000 }, files);
}

/// Loads `kernel` on a virt board, as 64-bit and as 32-bit processors would have it.
pub fn load_on_arm(kernel: &[u8]) {
    static MEMORY: LazyLock<GuestMemory> =
        LazyLock::new(|| virt::memory_map::allocate(BOARD_MEMORY).expect("64 MiB of memory"));
    let modules = [ModuleBytes { bytes: b"070701 an initrd", command_line: "" }];
    let files = Files { kernel_name: "kernel", kernel, modules: &modules, command_line: "console=ttyAMA0" };
    let base = virt::memory_map::RAM;
    for arch in [Arch::Aarch64, Arch::Armv7] {
        let platform = ArmPlatform { arch, memory: &MEMORY, ram: base..base + BOARD_MEMORY };
        let _ = boot::arm::load(&platform, files, |_| Ok(vec![0; 4096]));
    }
}
