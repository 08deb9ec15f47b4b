//! Before there are tables of our own: a map of everything as device memory but the image.
//!
//! Caches and MMU are off: no atomics here that exclude others, which such memory may not have.

use core::arch::global_asm;

use arm::control::{MAIR, hsctlr, mode};
use arm::descriptor::{TABLE, VALID, level_shift, stage1};

use super::{Frame, STACK, layout, set_this_cpu};
use crate::pool::POOL_BYTES;
use crate::regions::Region;

global_asm!(
    include_str!("start.s"),
    include_str!("guest.s"),
    stack = const STACK,
    hyp = const mode::HYP,
    mair = const MAIR,
    htcr = const super::translation_control(),
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
