//! Before there are tables of our own: a map of everything as device memory but the image.
//!
//! Caches and MMU are off: no atomics here that exclude others, which such memory may not have.

use core::arch::global_asm;

use arm::control::{MAIR, hcr, sctlr};
use arm::descriptor::{TABLE, VALID, level_shift, stage1};

use super::{Frame, STACK, layout, set_this_cpu};
use crate::pool::POOL_BYTES;
use crate::regions::Region;

global_asm!(
    include_str!("start.s"),
    include_str!("guest.s"),
    stack = const STACK,
    rw = const hcr::RW,
    mair = const MAIR,
    sctlr = const sctlr::EL2_RES1 | sctlr::M | sctlr::C | sctlr::I | sctlr::SA,
    frame = const size_of::<Frame>(),
);

/// A root, two tables of 512 GiB and one of 1 GiB.
#[repr(C, align(4096))]
struct Early([[u64; 512]; 4]);
static mut EARLY: Early = Early([[0; 512]; 4]);

/// The first map: the image and the pool behind it as normal memory in blocks of 2 MiB, the first 512 GiB and those around the image
/// otherwise as a device; gives its root. An image that crosses 1 GiB is not what a loader does with a few MiB; the entries are cut off there, and the
/// first access beyond stops.
#[unsafe(no_mangle)]
extern "C" fn early_tables(image: u64) -> u64 {
    // SAFETY: one processor runs, and this is the only use of it until the walks start.
    let Early([root, first, own, blocks]) = unsafe { &mut *core::ptr::addr_of_mut!(EARLY) };
    let entry = |table: &[u64; 512]| table.as_ptr() as u64 | TABLE | VALID;
    let (top, giga) = ((image >> level_shift(0)) as usize & 511, image >> level_shift(1));
    let normal = Region { start: image & !0x1f_ffff, end: layout().data.end + POOL_BYTES };
    for n in 0..512u64 {
        let device = |address: u64| address | stage1::DEVICE | VALID;
        first[n as usize] = device(n << level_shift(1));
        own[n as usize] = device((top as u64) << level_shift(0) | n << level_shift(1));
        let address = giga << level_shift(1) | n << level_shift(2);
        let inside = address >= normal.start && address < normal.end;
        blocks[n as usize] = if inside { address | stage1::NORMAL | VALID } else { device(address) };
    }
    own[giga as usize & 511] = entry(blocks);
    root[0] = entry(first);
    root[top] = entry(own);
    set_this_cpu(None);
    root.as_ptr() as u64
}
