//! Booting Linux on a virt board: the kernel, the initrd and the device tree placed, and the first processor's registers at its entry.

use super::layout::Layout;
use super::{Error, Files, arm64_image, compressed, zimage};
use engine::Arch;
use engine::state::ArmState;
use memory::GuestMemory;
use std::ops::Range;

/// Longest command line placed: COMMAND_LINE_SIZE of 64-bit Linux; 32-bit Linux reads 1023 bytes of it.
const CMDLINE_MOST: usize = 2047;
/// A device tree is at most so large (arm64's booting.rst).
const TREE_MOST: u64 = 2 << 20;
/// The device tree lies so near to the beginning of RAM, and a 32-bit kernel's initrd too: old kernels reach no farther, and 32-bit ones map no
/// more from the start.
const NEAR: u64 = 512 << 20;
/// A 64-bit kernel and its initrd lie in one window of so many bytes.
const WINDOW: u64 = 32 << 30;

/// PSTATE at a 64-bit kernel's entry: EL1h, and D, A, I, F masked.
pub const PSTATE_EL1H: u64 = 0x3c5;
/// CPSR at a 32-bit kernel's entry: Supervisor mode, ARM state, and A, I, F masked.
pub const CPSR_SVC: u64 = 0x1d3;
/// The machine type of a board that a device tree describes, in R1.
const MACHINE_FROM_TREE: u64 = 0xffff_ffff;

/// What the loader knows of the board.
#[derive(Clone, Debug)]
pub struct ArmPlatform<'a> {
    pub arch: Arch,
    pub memory: &'a GuestMemory,
    /// All of it, from a multiple of 2 MiB on.
    pub ram: Range<u64>,
}

/// What the device tree's `/chosen` says of a boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen<'a> {
    pub command_line: &'a str,
    /// Guest-physical addresses.
    pub initrd: Option<Range<u64>>,
}

/// What processors a kernel is for; `limit` bounds its unpacked size.
pub fn arch_of(kernel: &[u8], limit: u64) -> Result<Arch, Error> {
    match compressed::unpack(kernel, limit)? {
        k if arm64_image::is(&k) => Ok(Arch::Aarch64),
        k if zimage::is(&k) => Ok(Arch::Armv7),
        _ => Err(Error::NotAnArmKernel),
    }
}

fn name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86 => "PC",
        Arch::Armv7 => "32-bit ARM",
        Arch::Aarch64 => "64-bit ARM",
    }
}

/// Loads the kernel, its initrd and the device tree that `tree` makes; gives the boot processor's registers.
pub fn load(
    platform: &ArmPlatform<'_>,
    files: Files<'_>,
    tree: impl FnOnce(&Chosen<'_>) -> Result<Vec<u8>, Error>,
) -> Result<ArmState, Error> {
    let ram = platform.ram.clone();
    let ram_len = ram.end.saturating_sub(ram.start);
    let kernel = compressed::unpack(files.kernel, ram_len)?;
    let is = arch_of(&kernel, ram_len)?;
    if is != platform.arch {
        return Err(Error::WrongArch { is: name(is), wanted: name(platform.arch) });
    }
    files.modules.iter().for_each(|m| super::warn_of_odd_initrd(m.bytes));
    let command_line = super::checked_command_line(files.command_line, CMDLINE_MOST)?;

    let mut layout = Layout::over(platform.memory, Some(ram.clone()));
    let near = ram.start.saturating_add(NEAR);
    let (entry, floor, initrd_ceiling) = match is {
        Arch::Aarch64 => {
            let entry = arm64_image::place(&mut layout, &kernel, ram.start)?;
            (entry, ram.start, ram.start.saturating_add(WINDOW))
        }
        _ => {
            let entry = zimage::place(&mut layout, &kernel, ram.start, ram_len)?;
            (entry, ram.start + zimage::unpacked_end(ram_len), near)
        }
    };
    let initrd = place_initrd(&mut layout, &files.initrd(), floor, initrd_ceiling)?;
    let tree = tree(&Chosen { command_line, initrd: initrd.clone() })?;
    let what = "the device tree";
    let len = tree.len() as u64;
    if len > TREE_MOST {
        return Err(Error::NoRoom { what: what.to_string(), len, ceiling: TREE_MOST });
    }
    let at = layout.highest(what, len, 0x1000, floor, near)?;
    layout.place(what, at, &tree, len)?;
    log::info!(
        "{} kernel at {entry:#x}, initrd at {:#x} ({} bytes), device tree at {at:#x}",
        name(is),
        initrd.as_ref().map_or(0, |r| r.start),
        initrd.as_ref().map_or(0, |r| r.end - r.start),
    );
    Ok(match is {
        Arch::Aarch64 => entered_64(entry, at),
        _ => entered_32(entry, at),
    })
}

/// Gives where it lies.
fn place_initrd(
    layout: &mut Layout<'_>,
    bytes: &[u8],
    floor: u64,
    ceiling: u64,
) -> Result<Option<Range<u64>>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (what, len) = ("the initrd", bytes.len() as u64);
    let at = layout.highest(what, len, 0x1000, floor, ceiling)?;
    layout.place(what, at, bytes, len)?;
    Ok(Some(at..at + len))
}

/// Registers at a 64-bit kernel's entry: X0 the device tree, X1 to X3 0.
fn entered_64(entry: u64, tree: u64) -> ArmState {
    let mut s = ArmState { pc: entry, pstate: PSTATE_EL1H, ..ArmState::default() };
    s.x[0] = tree;
    s
}

/// Registers at a 32-bit kernel's entry: R0 0, R1 no machine type, R2 the device tree.
fn entered_32(entry: u64, tree: u64) -> ArmState {
    let mut s = ArmState { pc: entry, pstate: CPSR_SVC, ..ArmState::default() };
    s.x[1] = MACHINE_FROM_TREE;
    s.x[2] = tree;
    s
}

/// Registers of a processor that waits for PSCI's CPU_ON, which says where it begins.
pub fn waiting(arch: Arch) -> ArmState {
    let pstate = if arch == Arch::Aarch64 { PSTATE_EL1H } else { CPSR_SVC };
    ArmState { pstate, off: true, ..ArmState::default() }
}

#[cfg(test)]
#[path = "arm_tests.rs"]
mod tests;
