//! What the firmware's device tree says about the machine, and the modules that the boot loader has put beside us.

use address::HostPhys;
use arrayvec::ArrayVec;

use crate::fdt::{Fdt, Node, cells, word};
use crate::per_cpu::MAX_CPUS;
use crate::problem::Problem;
use crate::regions::{Region, Regions, without};
use crate::smmu::{self, MAX_SMMUS};

/// The machine.
#[derive(Debug)]
pub struct Platform<'a> {
    /// Less what the firmware says must not even be mapped.
    pub memory: Regions,
    /// Memory that the firmware wants left alone.
    pub reserved: Regions,
    /// MPIDR affinities, the booting processor's first.
    pub cpus: ArrayVec<u64, MAX_CPUS>,
    pub gic: Gic,
    /// Registers of the SMMUs, version 3.
    pub smmus: ArrayVec<Region, MAX_SMMUS>,
    pub kernel: Region,
    pub bootargs: &'a str,
    pub ramdisk: Option<Region>,
}

/// The interrupt controller's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gic {
    /// 2 or 3.
    pub version: u32,
    /// GICD; then of version 3 the redistributors, of version 2 GICC; then what the board has of GICC, GICH and GICV.
    pub frames: ArrayVec<Region, 8>,
    /// GICH, the control of the virtual interface, and GICV, the virtual interface itself, where they are in memory.
    pub virtualization: Option<(Region, Region)>,
}

/// The debug UART: the PL011 that stdout-path names, else the first there is.
pub fn find_uart(fdt: Fdt) -> Option<HostPhys> {
    let chosen = fdt.find("/chosen").and_then(|n| n.text("stdout-path")).and_then(|path| {
        let name = path.split(':').next()?;
        let path = if name.starts_with('/') { name } else { fdt.find("/aliases")?.text(name)? };
        fdt.find(path)
    });
    let is_pl011 = |node: &Node| node.is_compatible("arm,pl011") && node.is_enabled();
    let node = chosen.filter(is_pl011).or_else(|| fdt.nodes().find(is_pl011))?;
    node.reg().next().map(|r| r.address())
}

fn push<const N: usize>(list: &mut ArrayVec<Region, N>, region: Region) -> Result<(), Problem> {
    if region.size() == 0 { Ok(()) } else { list.try_push(region).map_err(|_| Problem::TooManyRegions) }
}

/// Whether a node is a module, and then whether it is the kernel rather than the initrd. GRUB doesn't say which, but gives the kernel alone
/// a command line.
fn module_kind(node: &Node) -> Option<bool> {
    if node.is_compatible("multiboot,kernel") {
        return Some(true);
    }
    let ramdisk = node.is_compatible("multiboot,ramdisk");
    let module = ramdisk || node.is_compatible("multiboot,module");
    module.then(|| !ramdisk && node.property("bootargs").is_some())
}

/// What a module's `reg` says: physical addresses, although /chosen is no bus. How many cells they have is told by the property's length,
/// since QEMU leaves #address-cells and #size-cells out.
fn module(node: &Node) -> Option<Region> {
    let value = node.property("reg")?;
    let (address, size) = (if value.len() == 8 { 1 } else { 2 }, if value.len() < 16 { 1 } else { 2 });
    Region::sized(cells(value, 0, address)?, cells(value, address, size)?)
}

impl<'a> Platform<'a> {
    /// Reads it; `boot_cpu` is the affinity of the processor that asks.
    pub fn new(fdt: Fdt<'a>, boot_cpu: u64) -> Result<Self, Problem> {
        let (mut memory, mut reserved, mut hidden) = (Regions::new(), Regions::new(), Regions::new());
        let (mut cpus, mut smmus) = (ArrayVec::new(), ArrayVec::new());
        let (mut gic, mut kernel, mut ramdisk, mut bootargs) = (None, None, None, "");
        let mut has_psci = false;
        fdt.reserved().try_for_each(|region| push(&mut reserved, region))?;
        for node in fdt.nodes() {
            if node.text("device_type") == Some("memory") && node.is_enabled() {
                node.reg().try_for_each(|region| push(&mut memory, region))?;
            } else if node.parent() == "reserved-memory" {
                let no_map = node.property("no-map").is_some();
                let list = if no_map { &mut hidden } else { &mut reserved };
                node.reg().try_for_each(|region| push(list, region.pages()))?;
            } else if node.parent() == "cpus" && node.text("device_type") == Some("cpu") {
                if let Some((affinity, _)) = node.bus_reg().next() {
                    cpus.try_push(affinity).map_err(|_| Problem::TooManyCpus)?;
                }
            } else if gic.is_none() && node.property("interrupt-controller").is_some() {
                gic = Gic::new(&node)?;
            } else if smmu::is_one(&node) {
                let mut registers = node.reg().take(1).filter_map(|r| Region::sized(r.start, smmu::FRAME));
                registers.try_for_each(|region| push(&mut smmus, region))?;
            } else if let Some(is_kernel) = module_kind(&node) {
                if is_kernel {
                    kernel = module(&node);
                    bootargs = node.text("bootargs").unwrap_or("");
                } else {
                    ramdisk = module(&node);
                }
            } else if ["arm,psci-1.0", "arm,psci-0.2"].iter().any(|c| node.is_compatible(c)) {
                has_psci = node.text("method") == Some("smc");
            }
        }
        if memory.is_empty() {
            return Err(Problem::NoMemory);
        }
        for region in hidden {
            memory = without(&memory, region)?;
        }
        let gic = gic.ok_or(Problem::NoGic)?;
        match cpus.iter().position(|c| *c == boot_cpu) {
            Some(place) => cpus.swap(0, place),
            None => return Err(Problem::NoCpus),
        }
        if !has_psci && cpus.len() > 1 {
            return Err(Problem::NoPsci);
        }
        let kernel = kernel.ok_or(Problem::NoKernel)?;
        for module in [Some(kernel), ramdisk].into_iter().flatten() {
            if !memory.iter().any(|m| m.contains(&module)) {
                return Err(Problem::ModuleMisplaced(module));
            }
        }
        Ok(Self { memory, reserved, cpus, gic, smmus, kernel, bootargs, ramdisk })
    }
}

impl Gic {
    fn new(node: &Node) -> Result<Option<Self>, Problem> {
        let v2 = ["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a7-gic"];
        let version = match () {
            _ if v2.iter().any(|c| node.is_compatible(c)) => 2,
            _ if node.is_compatible("arm,gic-v3") => 3,
            _ => return Ok(None),
        };
        let mut frames = ArrayVec::new();
        node.reg().take(8).try_for_each(|region| push(&mut frames, region))?;
        // Of version 2: GICD, GICC, GICH, GICV. Of version 3: GICD, the redistributor regions, GICC, GICH, GICV.
        let regions = node.property("#redistributor-regions").and_then(|v| word(v, 0)).unwrap_or(1);
        let gich = if version == 2 { 2 } else { 2 + (regions as usize).min(8) };
        let virtualization = frames.get(gich).copied().zip(frames.get(gich + 1).copied());
        if frames.len() < 2 {
            return Err(Problem::NoGic);
        }
        if version == 2 && virtualization.is_none() {
            return Err(Problem::GicWithoutVirtualization);
        }
        Ok(Some(Self { version, frames, virtualization }))
    }
}

/// A page of physical space below 4 GiB that nothing in the tree has: neither memory, nor a node's registers, nor a bus's window.
pub fn find_doorbell(fdt: Fdt, memory: &[Region]) -> Option<HostPhys> {
    const STEP: u64 = 64 << 10;
    let mut page = Region { start: 0xffff_0000, end: 0xffff_1000 };
    // Each round steps below something that is in the way, so there are no more rounds than things.
    for _ in 0..4096 {
        let in_the_way = fdt
            .nodes()
            .find_map(|node| {
                let registers = node.bus_reg().filter_map(|(a, size)| Region::sized(a, size));
                let mut all = node.reg().chain(registers).chain(node.windows());
                all.find(|r| r.overlaps(&page))
            })
            .or_else(|| memory.iter().find(|r| r.overlaps(&page)).copied());
        let Some(region) = in_the_way else { return Some(page.address()) };
        let start = (region.start & !(STEP - 1)).checked_sub(STEP)?;
        page = Region { start, end: start + 4096 };
    }
    None
}
