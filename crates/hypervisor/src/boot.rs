//! From the first line of Rust to the control domain's first instruction.

use core::sync::atomic::Ordering;

use address::HostPhys;
use arm::descriptor::stage1;
use spin::Once;

use crate::console::{self, Uart};
use crate::control::{self, CONTROL, Control};
use crate::control_tree::{self, Changes};
use crate::fdt::Fdt;
use crate::per_cpu::{CPUS, PerCpu};
use crate::platform::{self, Platform};
use crate::pool::{POOL_BYTES, Pool};
use crate::problem::{self, Problem};
use crate::regions::{Region, without};
use crate::table::{self, MapError, Table};
use crate::{arch, say, smmu};

/// Where the hypervisor's image lies; the parts follow one another.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub text: Region,
    pub read_only: Region,
    pub data: Region,
}

static POOL: Once<Pool> = Once::new();

/// Starts the control domain that `fdt` describes, or says why not and stops.
pub fn start(fdt: Fdt) -> ! {
    if let Some(uart) = platform::find_uart(fdt) {
        console::set(Uart::new(uart));
    }
    match prepare(fdt) {
        Ok((control, kernel, tree)) => arch::start_kernel(control, &CPUS[0], kernel, tree),
        Err(problem) => {
            say!("{problem}");
            arch::stop()
        }
    }
}

/// A processor that the control domain has started or resumed.
pub fn secondary(cpu: &'static PerCpu) -> ! {
    arch::set_this_cpu(Some(cpu));
    let (entry, argument) = cpu.start.take();
    match CONTROL.get() {
        Some(control) => arch::enter_control(control, cpu, HostPhys(entry), argument),
        None => arch::stop(),
    }
}

/// Everything before the control domain runs: its kernel's entry, and its device tree.
fn prepare(fdt: Fdt) -> Result<(&'static Control, HostPhys, HostPhys), Problem> {
    let platform = Platform::new(fdt, arch::affinity())?;
    let layout = arch::layout();
    let pool_region = Region { start: layout.data.end, end: layout.data.end + POOL_BYTES };
    let own = Region { start: layout.text.start, end: pool_region.end };
    if !platform.memory.iter().any(|m| m.contains(&own)) {
        return Err(Problem::TooLittleMemory("the hypervisor"));
    }
    let misplaced = |m: &Region| m.end > 1 << arch::OWN_BITS || m.overlaps(&own);
    let others = [Some(platform.kernel), platform.ramdisk, Some(source(fdt))];
    if let Some(other) = others.into_iter().flatten().find(misplaced) {
        return Err(Problem::ModuleMisplaced(other));
    }
    // SAFETY: it lies behind the image, within what the image's header claims, and in memory; this is its only use.
    let pool = POOL.call_once(|| Pool::new(pool_region.address(), unsafe { arch::pages(pool_region) }));

    let uart = platform::find_uart(fdt);
    let root =
        own_table(pool, &platform, layout, own, uart).map_err(|_| Problem::TooLittleMemory("tables"))?;
    // SAFETY: it maps the image, the pool, all RAM, the UART and the GIC, each at its own address.
    unsafe { arch::use_stage1(root) };

    arch::prepare_guests(&platform.gic);
    for (n, (cpu, affinity)) in CPUS.iter().zip(&platform.cpus).enumerate() {
        cpu.index.store(n as u32, Ordering::Relaxed);
        cpu.affinity.store(*affinity, Ordering::Relaxed);
        arch::prepare_boot_record(cpu, root, n);
    }
    arch::set_this_cpu(Some(&CPUS[0]));

    let doorbell = platform::find_doorbell(fdt, &platform.memory).ok_or(Problem::NoDoorbell)?;
    let (kernel, tree) = load(fdt, &platform, own, doorbell)?;
    let frames = platform.gic.virtualization.map(|(gich, gicv)| [gich, gicv]);
    let holes = [own, Region { start: doorbell.0, end: doorbell.0 + 4096 }]
        .into_iter()
        .chain(frames.into_iter().flatten())
        .chain(platform.smmus.iter().copied());
    let stage2 =
        control::stage2(pool, arch::stage2_bits(), holes).map_err(|_| Problem::TooLittleMemory("tables"))?;
    let smmus = smmu::start_all(pool, own, &platform.smmus, &stage2);
    let memory = without(&platform.memory, own)?;
    let gic = platform.gic.version;
    let control = CONTROL.call_once(|| Control { memory, doorbell, stage2, pool, smmus, gic });
    say!(
        "control domain on {} processors, GICv{}, {} SMMUs, hypervisor at {own}, doorbell {doorbell}",
        platform.cpus.len(),
        control.gic,
        control.smmus.len()
    );
    Ok((control, kernel, tree))
}

/// Where the firmware's tree is.
fn source(fdt: Fdt) -> Region {
    let start = fdt.bytes.as_ptr() as u64;
    Region { start, end: start + fdt.bytes.len() as u64 }
}

/// EL2's own stage 1: RAM, our image by what is in it, and the devices that we use.
fn own_table(
    pool: &Pool,
    platform: &Platform,
    layout: Layout,
    own: Region,
    uart: Option<HostPhys>,
) -> table::Result<HostPhys> {
    const DATA: u64 = stage1::NORMAL | stage1::EXECUTE_NEVER;
    let table = Table::new(pool, arch::OWN_BITS).ok_or(MapError::NoMemory)?;
    let map = |region: Region, attributes| {
        let pages = region.pages();
        table.map(pool, pages.start, pages.address(), pages.size(), attributes)
    };
    map(layout.text, stage1::NORMAL | stage1::READ_ONLY)?;
    map(layout.read_only, DATA | stage1::READ_ONLY)?;
    map(Region { start: layout.data.start, end: own.end }, DATA)?;
    for region in without(&platform.memory, own).map_err(|_| MapError::NoMemory)? {
        // Whole pages only: what isn't one is not usable memory.
        let end = region.end.min(1 << arch::OWN_BITS) & !0xfff;
        let whole = Region { start: region.start.next_multiple_of(4096), end };
        if whole.start < whole.end {
            map(whole, DATA)?;
        }
    }
    let uart = uart.map(|u| Region { start: u.0, end: u.0 + 4096 });
    for device in uart.into_iter().chain(platform.gic.frames.iter().chain(&platform.smmus).copied()) {
        match map(device, stage1::DEVICE) {
            // Frames of one page, or a tree that names one twice.
            Ok(()) | Err(MapError::Mapped) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(table.root)
}

/// Puts the kernel and the control domain's device tree where they go.
fn load(
    fdt: Fdt,
    platform: &Platform,
    own: Region,
    doorbell: HostPhys,
) -> problem::Result<(HostPhys, HostPhys)> {
    // SAFETY: the module is in RAM (`Platform::new`) and not in ours; nothing else runs.
    let file = unsafe { arch::bytes(platform.kernel) };
    let image = arch::kernel_image(file)?;
    let changes = Changes { bootargs: platform.bootargs, ramdisk: platform.ramdisk, own, doorbell };
    let room = control_tree::room(fdt, &changes) as u64;
    let to = control::placement(platform, own, source(fdt), image, room)?;
    // SAFETY: `placement` chose RAM that is neither ours, nor a module's, nor the firmware's: its tree's, or reserved.
    let length =
        control_tree::write(fdt, &changes, unsafe { arch::bytes_mut(to.tree) }).ok_or(Problem::Tree)?;
    arch::clean(Region { start: to.tree.start, end: to.tree.start + length as u64 });
    if to.file.0 != platform.kernel.start {
        let target = Region { start: to.file.0, end: to.file.0 + file.len() as u64 };
        // SAFETY: as above: it is within the kernel's place; source and target don't overlap.
        unsafe { arch::bytes_mut(target) }.copy_from_slice(file);
        arch::clean(target);
    }
    Ok((to.file, to.tree.address()))
}
