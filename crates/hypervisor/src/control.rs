//! The control domain: where its kernel goes, what is its memory and what isn't.

use address::HostPhys;
use arm::descriptor::stage2::{NORMAL, READ, WRITE};
use arrayvec::ArrayVec;
use spin::Once;

use crate::arch;
use crate::image::{self, Image};
use crate::platform::Platform;
use crate::pool::Pool;
use crate::problem::{self, Problem};
use crate::regions::{Region, Regions, place, without};
use crate::smmu::Smmus;
use crate::table::{self, MapError, Table};

/// The control domain as it runs.
pub struct Control {
    /// Its RAM: all there is, less ours.
    pub memory: Regions,
    pub doorbell: HostPhys,
    pub stage2: Table,
    /// The hypervisor's pages.
    pub pool: &'static Pool,
    pub smmus: Smmus,
    /// GIC version, 2 or 3.
    pub gic: u32,
}

/// The control domain, once it has been set up.
pub static CONTROL: Once<Control> = Once::new();

impl Control {
    /// Whether `size` bytes from `address` on are its RAM.
    pub fn owns(&self, address: HostPhys, size: u64) -> bool {
        Region::sized(address.0, size).is_some_and(|r| self.memory.iter().any(|m| m.contains(&r)))
    }
}

/// Where things go before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What the kernel uses; around where its file is, if that is a good place.
    pub kernel: Region,
    /// Where its file is to be, which is where it is entered.
    pub file: HostPhys,
    pub tree: Region,
}

/// Decides where the kernel and a tree of `tree` bytes go; the firmware's tree, in `source`, stays as it is.
pub fn placement(
    platform: &Platform,
    own: Region,
    source: Region,
    image: Image,
    tree: u64,
) -> problem::Result<Placement> {
    let memory =
        without(&without(&platform.memory, own)?, Region { start: 1 << arch::OWN_BITS, end: u64::MAX })?;
    let modules = [Some(platform.kernel), platform.ramdisk];
    for module in modules.iter().flatten() {
        if module.overlaps(&own) || module.overlaps(&source) {
            return Err(Problem::ModuleMisplaced(*module));
        }
    }
    let mut taken: ArrayVec<Region, 72> = platform.reserved.iter().copied().collect();
    taken.extend([Some(own), Some(source), platform.ramdisk].into_iter().flatten());
    // An Image can stay where it is at its start; a zImage, which moves itself, anywhere in its 128 MiB.
    let file = platform.kernel.start;
    let start = (file & !(image.align - 1)) + image.text_offset;
    let in_place = Region::sized(start, image.size).filter(|r| {
        (start == file || image.file_offset != 0)
            && memory.iter().any(|m| m.contains(r))
            && !taken.iter().any(|t| t.overlaps(r))
    });
    taken.push(platform.kernel);
    let (kernel, file) = in_place
        .map(|kernel| (kernel, file))
        .or_else(|| {
            let kernel = place(&memory, &taken, image.size, image.align, image.text_offset)?;
            Some((kernel, kernel.start + image.file_offset))
        })
        .ok_or(Problem::TooLittleMemory("the kernel"))?;
    taken.push(kernel);
    // To a zImage's kernel, memory begins where it is.
    let known = if image.file_offset == 0 {
        memory
    } else {
        if let Some(low) = platform.ramdisk.filter(|r| r.start < kernel.start) {
            return Err(Problem::RamdiskBelowKernel(low));
        }
        without(&memory, Region { start: 0, end: kernel.start })?
    };
    let tree =
        place(&known, &taken, tree, image::ALIGN, 0).ok_or(Problem::TooLittleMemory("the device tree"))?;
    Ok(Placement { kernel, file: HostPhys(file), tree })
}

/// The control domain's stage 2: everything at its own address, but for `holes`. All of it is normal memory there, so that stage 1, which
/// says what is a device, decides.
pub fn stage2(pool: &Pool, bits: u32, holes: impl Iterator<Item = Region>) -> table::Result<Table> {
    let table = Table::new(pool, bits).ok_or(MapError::NoMemory)?;
    table.map(pool, 0, HostPhys(0), 1 << bits, NORMAL | READ | WRITE)?;
    for hole in holes {
        table.unmap(pool, hole.pages().start, hole.pages().size())?;
    }
    Ok(table)
}
