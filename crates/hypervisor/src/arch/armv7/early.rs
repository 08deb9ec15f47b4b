//! Before there are tables of our own: a map of everything as device memory but the image, and the sentence for the wrong mode.
//!
//! Caches and MMU are off: no atomics here that exclude others, which such memory may not have.

use core::arch::global_asm;
use core::fmt::Write;

use address::HostPhys;
use arm::control::{MAIR, hsctlr, mode, tcr};
use arm::descriptor::{TABLE, VALID, level_shift, stage1};

use super::{Frame, STACK, layout, set_this_cpu};
use crate::console::Uart;
use crate::fdt::firmware_tree;
use crate::platform;
use crate::pool::POOL_BYTES;
use crate::problem::Problem;
use crate::regions::Region;

global_asm!(
    include_str!("start.s"),
    stack = const STACK,
    hyp = const mode::HYP,
    mair = const MAIR,
    // T0SZ is 0: 32 bits, which start at level 1.
    htcr = const tcr::TCR_EL2_RES1 | tcr::WALKS,
    hsctlr = const hsctlr::RES1 | hsctlr::M | hsctlr::C | hsctlr::I,
    frame = const size_of::<Frame>(),
);

/// A root, of which four entries are used, and a table of 1 GiB.
#[repr(C, align(4096))]
struct Early([[u64; 512]; 2]);
static mut EARLY: Early = Early([[0; 512]; 2]);

/// The first map: the image and the pool behind it as normal memory in blocks of 2 MiB, the rest as a device; gives its root. An image
/// that crosses 1 GiB is not what a loader does with a few MiB; the entries are cut off there, and the first access beyond stops.
#[unsafe(no_mangle)]
extern "C" fn early_tables(image: u32) -> u32 {
    // SAFETY: one processor runs, and this is the only use of it until the walks start.
    let Early([root, blocks]) = unsafe { &mut *core::ptr::addr_of_mut!(EARLY) };
    let giga = u64::from(image) >> level_shift(1);
    let normal = Region { start: u64::from(image) & !0x1f_ffff, end: layout().data.end + POOL_BYTES };
    for n in 0..4 {
        root[n as usize] = n << level_shift(1) | stage1::DEVICE | VALID;
    }
    for n in 0..512u64 {
        let address = giga << level_shift(1) | n << level_shift(2);
        let inside = address >= normal.start && address < normal.end;
        blocks[n as usize] = address | VALID | if inside { stage1::NORMAL } else { stage1::DEVICE };
    }
    root[giga as usize & 3] = blocks.as_ptr() as u64 | TABLE | VALID;
    set_this_cpu(None);
    root.as_ptr() as u32
}

/// Started in another mode than Hyp mode: says so, if the device tree and its UART can be read, and stops.
#[unsafe(no_mangle)]
extern "C" fn wrong_mode(tree: u32, mode: u32) -> ! {
    // SAFETY: the boot protocol says that R2 is the device tree's address; nothing changes it.
    let tree = unsafe { firmware_tree(HostPhys(tree.into())) };
    if let Some(uart) = tree.and_then(platform::find_uart) {
        let _ = writeln!(Uart::new(uart), "auberge: {}", Problem::WrongMode(mode));
    }
    super::stop()
}

#[unsafe(no_mangle)]
extern "C" fn start(tree: u32) -> ! {
    // SAFETY: the boot protocol says that R2 is the device tree's address; it stays as it is until the control domain runs.
    match unsafe { firmware_tree(HostPhys(tree.into())) } {
        Some(fdt) => crate::boot::start(fdt),
        None => super::stop(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn secondary(cpu: &'static crate::per_cpu::PerCpu) -> ! {
    crate::boot::secondary(cpu)
}
