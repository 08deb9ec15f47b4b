//! A board without devices, for the loaders' tests.

use super::Platform;
use super::layout::Layout;
use crate::pc::memory_map::MemoryMap;
use address::GuestPhys;
use memory::{GuestMemory, Kind, RegionConfig};

pub struct Board {
    map: MemoryMap,
    pub memory: GuestMemory,
}

impl Board {
    pub fn new(bytes: u64) -> Self {
        let map = MemoryMap::new(bytes).unwrap();
        let memory = map.allocate().unwrap();
        Self { map, memory }
    }
    pub fn platform(&self) -> Platform<'_> {
        Platform { memory: &self.memory, map: &self.map, rsdp: 0xe_0000 }
    }
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.memory.read(GuestPhys(at), &mut out).unwrap();
        out
    }
    pub fn u32(&self, at: u64) -> u32 {
        self.memory.read_u32(GuestPhys(at)).unwrap()
    }
    pub fn u64(&self, at: u64) -> u64 {
        self.memory.read_u64(GuestPhys(at)).unwrap()
    }
    pub fn string(&self, at: u64) -> String {
        let bytes = (at..).map(|a| self.memory.read_u8(GuestPhys(a)).unwrap()).take_while(|&b| b != 0);
        String::from_utf8(bytes.collect()).unwrap()
    }
}

/// A virt board's RAM, for the ARM loaders.
pub struct ArmBoard {
    pub ram: u64,
    pub memory: GuestMemory,
}

impl ArmBoard {
    pub fn new(len: u64) -> Self {
        let ram = 0x4000_0000;
        let region = RegionConfig { base: GuestPhys(ram), len, kind: Kind::Ram };
        Self { ram, memory: GuestMemory::new(&[region]).unwrap() }
    }
    pub fn layout(&self) -> Layout<'_> {
        Layout::over(&self.memory, Some(self.ram..self.ram + self.memory.ram_len()))
    }
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.memory.read(GuestPhys(at), &mut out).unwrap();
        out
    }
}

/// A 64-bit ARM Image of `payload` that needs 64 KiB at the beginning of RAM.
pub fn image64(payload: &[u8]) -> Vec<u8> {
    let mut k = vec![0u8; 64];
    k[16..24].copy_from_slice(&0x1_0000u64.to_le_bytes());
    k[24] = 0xa;
    k[56..60].copy_from_slice(b"ARM\x64");
    k.extend(payload);
    k
}

/// A zImage of `payload`.
pub fn zimage(payload: &[u8]) -> Vec<u8> {
    let mut k = vec![0u8; 0x30];
    k[0x24..0x28].copy_from_slice(&0x016f_2818u32.to_le_bytes());
    k[0x2c..0x30].copy_from_slice(&(0x30 + payload.len() as u32).to_le_bytes());
    k.extend(payload);
    k
}

/// Files with one kernel and no more.
pub fn files(kernel: &[u8]) -> super::Files<'_> {
    super::Files { kernel_name: "kernel", kernel, modules: &[], command_line: "" }
}

/// A load segment of [`elf`].
#[derive(Clone, Debug)]
pub struct Piece {
    pub vaddr: u64,
    pub paddr: u64,
    pub data: Vec<u8>,
    pub mem_size: u64,
}

impl Piece {
    pub fn new(paddr: u64, data: &[u8]) -> Self {
        Self { vaddr: paddr, paddr, data: data.to_vec(), mem_size: data.len() as u64 }
    }
}

/// A 64-bit ELF file of these segments, with a PVH note where `pvh` is given.
pub fn elf(entry: u64, pieces: &[Piece], pvh: Option<u32>) -> Vec<u8> {
    let count = pieces.len() + usize::from(pvh.is_some());
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend([2u16, 62].map(u16::to_le_bytes).concat());
    out.extend(1u32.to_le_bytes());
    out.extend([entry, 64, 0].map(u64::to_le_bytes).concat());
    out.extend(0u32.to_le_bytes());
    out.extend([64u16, 56, count as u16, 64, 0, 0].map(u16::to_le_bytes).concat());
    let note: Vec<u8> = pvh.map_or(vec![], |entry| {
        let mut n = [4u32, 4, 18].map(u32::to_le_bytes).concat();
        n.extend(b"Xen\0");
        n.extend(entry.to_le_bytes());
        n
    });
    let mut offset = (64 + count * 56) as u64;
    let mut header = |kind: u32, vaddr: u64, paddr: u64, len: usize, mem: u64| {
        out.extend([kind, 7].map(u32::to_le_bytes).concat());
        out.extend([offset, vaddr, paddr, len as u64, mem, 4].map(u64::to_le_bytes).concat());
        offset += len as u64;
    };
    for p in pieces {
        header(1, p.vaddr, p.paddr, p.data.len(), p.mem_size);
    }
    if pvh.is_some() {
        header(4, 0, 0, note.len(), note.len() as u64);
    }
    pieces.iter().for_each(|p| out.extend(&p.data));
    out.extend(note);
    out
}

/// A bzImage of boot protocol 2.15 with one setup sector, a relocatable 64-bit kernel of `payload` that wants to lie
/// at 1 MiB and needs 64 KiB there.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut k = vec![0u8; 1024];
    let mut set = |at: usize, bytes: &[u8]| k[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x1f1, &[1]);
    set(0x1f4, &(payload.len().div_ceil(16) as u32).to_le_bytes());
    set(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    set(0x202, b"HdrS");
    set(0x206, &0x20fu16.to_le_bytes());
    set(0x211, &[1]);
    set(0x214, &0x10_0000u32.to_le_bytes());
    set(0x22c, &0x7fff_ffffu32.to_le_bytes());
    set(0x230, &0x1000u32.to_le_bytes());
    set(0x234, &[1, 12, 1, 0]);
    set(0x238, &2047u32.to_le_bytes());
    set(0x258, &0x10_0000u64.to_le_bytes());
    set(0x260, &0x1_0000u32.to_le_bytes());
    k.extend(payload);
    k.resize(k.len().next_multiple_of(16), 0);
    k
}

/// A Multiboot header with these flags and, where given, the five addresses.
pub fn multiboot_header(flags: u32, addresses: Option<[u32; 5]>) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let mut words = vec![magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags)];
    words.extend(addresses.into_iter().flatten());
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}
