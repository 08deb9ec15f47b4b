//! The BIOS data area at 400h and the extended one, as far as operating systems read them without calling a BIOS.

use crate::Result;
use crate::pc::io_map::{COM1, RESET_CONTROL, RESET_VALUE};
use crate::pc::memory_map::EBDA;
use address::GuestPhys;
use memory::GuestMemory;

/// COM1's first port.
const SERIAL_PORTS: u64 = 0x400;
/// Segment of the extended BIOS data area.
const EBDA_SEGMENT: u64 = 0x40e;
/// Equipment word: bits 11:9 number of serial ports, bit 1 coprocessor.
const EQUIPMENT: u64 = 0x410;
/// KiB of conventional memory, the extended BIOS data area not counted.
const BASE_MEMORY: u64 = 0x413;
/// Where a processor starts at RESET# in real mode's own address space.
const RESET_VECTOR: u64 = 0xf_fff0;

pub(super) fn install(memory: &GuestMemory) -> Result<()> {
    memory.write_u16(GuestPhys(SERIAL_PORTS), COM1)?;
    memory.write_u16(GuestPhys(EBDA_SEGMENT), (EBDA >> 4) as u16)?;
    memory.write_u16(GuestPhys(EQUIPMENT), 1 << 9 | 1 << 1)?;
    memory.write_u16(GuestPhys(BASE_MEMORY), (EBDA >> 10) as u16)?;
    // The extended area begins with its own size in KiB.
    memory.write_u8(GuestPhys(EBDA), 1)?;
    memory.load(GuestPhys(RESET_VECTOR), &reset_stub())?;
    Ok(())
}

/// A guest that jumps to the reset vector means to reset the machine: there is no BIOS to go through, so pull RESET#.
fn reset_stub() -> [u8; 10] {
    let [low, high] = RESET_CONTROL.to_le_bytes();
    // mov dx, CF9h; mov al, 6; out dx, al; cli; hlt; jmp to the hlt
    [0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xfa, 0xf4, 0xeb, 0xfd]
}
