//! The device tree of the virt board, made anew for each boot (Devicetree Specification 0.4; Linux's bindings under
//! Documentation/devicetree/bindings/).

use crate::boot::Error;
use crate::boot::arm::Chosen;
use crate::virt::memory_map::{
    GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, GIC_FRAME, GIC_REDISTRIBUTOR, GPIO, POWER_BUTTON_PIN, RAM,
    REDISTRIBUTOR_LEN, RTC, UART, VIRTIO, spi,
};
use devices::arm;
use devices::virtio::transport_mmio;
use engine::{Arch, GicVersion};
use vm_fdt::FdtWriter;

/// What differs from one virt board to another.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    pub arch: Arch,
    pub vcpus: u32,
    pub gic: GicVersion,
    /// From [`RAM`] on.
    pub ram_bytes: u64,
    /// In the slots from 0 on.
    pub virtio_devices: usize,
}

// Phandles.
const GIC: u32 = 1;
const CLOCK: u32 = 2;
const GPIO_CHIP: u32 = 3;

/// First cell of an interrupt (arm,gic.yaml).
const SPI: u32 = 0;
const PPI: u32 = 1;
/// Third cell: level-sensitive, active high.
const LEVEL_HIGH: u32 = 4;
/// PPIs of the architected timers, less 16: secure and non-secure physical, virtual, hypervisor's.
const TIMERS: [u32; 4] = [13, 14, 11, 10];

/// The PrimeCells' clock, which nothing here runs by.
const CLOCK_HZ: u32 = 24_000_000;
/// KEY_POWER of Linux's input event codes.
const KEY_POWER: u32 = 116;

impl From<vm_fdt::Error> for Error {
    fn from(e: vm_fdt::Error) -> Self {
        Error::Unsupported(format!("a device tree that can be written down ({e:?})"))
    }
}

/// The tree as a flattened blob.
pub fn build(board: &Board, chosen: &Chosen<'_>) -> Result<Vec<u8>, Error> {
    let mut t = FdtWriter::new()?;
    let root = t.begin_node("")?;
    t.property_u32("#address-cells", 2)?;
    t.property_u32("#size-cells", 2)?;
    t.property_u32("interrupt-parent", GIC)?;
    t.property_string("compatible", "linux,dummy-virt")?;
    t.property_string("model", "Auberge virt")?;
    write_chosen(&mut t, chosen)?;
    write_aliases(&mut t)?;
    write_memory(&mut t, board)?;
    write_cpus(&mut t, board)?;
    write_gic(&mut t, board)?;
    write_timer(&mut t, board)?;
    write_primecells(&mut t)?;
    write_power_button(&mut t)?;
    write_virtio(&mut t, board)?;
    t.end_node(root)?;
    Ok(t.finish()?)
}

fn node<F>(t: &mut FdtWriter, name: &str, f: F) -> Result<(), Error>
where
    F: FnOnce(&mut FdtWriter) -> Result<(), Error>,
{
    let node = t.begin_node(name)?;
    f(t)?;
    Ok(t.end_node(node)?)
}

fn strings(t: &mut FdtWriter, name: &str, values: &[&str]) -> Result<(), Error> {
    Ok(t.property_string_list(name, values.iter().map(ToString::to_string).collect())?)
}

fn write_chosen(t: &mut FdtWriter, chosen: &Chosen<'_>) -> Result<(), Error> {
    let mut seeds = [0; 72];
    getrandom::fill(&mut seeds).map_err(|e| Error::Unsupported(format!("random numbers ({e})")))?;
    let (kaslr, rng) = seeds.split_at(8);
    node(t, "chosen", |t| {
        t.property_string("bootargs", chosen.command_line)?;
        t.property_string("stdout-path", &format!("/pl011@{UART:x}"))?;
        if let Some(initrd) = &chosen.initrd {
            t.property_u64("linux,initrd-start", initrd.start)?;
            t.property_u64("linux,initrd-end", initrd.end)?;
        }
        t.property("kaslr-seed", kaslr)?;
        Ok(t.property("rng-seed", rng)?)
    })
}

fn write_aliases(t: &mut FdtWriter) -> Result<(), Error> {
    node(t, "aliases", |t| Ok(t.property_string("serial0", &format!("/pl011@{UART:x}"))?))
}

fn write_memory(t: &mut FdtWriter, board: &Board) -> Result<(), Error> {
    node(t, &format!("memory@{RAM:x}"), |t| {
        t.property_string("device_type", "memory")?;
        Ok(t.property_array_u64("reg", &[RAM, board.ram_bytes])?)
    })
}

fn write_cpus(t: &mut FdtWriter, board: &Board) -> Result<(), Error> {
    let compatible = match board.arch {
        Arch::Aarch64 => "arm,armv8",
        _ => "arm,cortex-a15",
    };
    node(t, "cpus", |t| {
        t.property_u32("#address-cells", 1)?;
        t.property_u32("#size-cells", 0)?;
        for id in 0..board.vcpus {
            node(t, &format!("cpu@{id:x}"), |t| {
                t.property_string("device_type", "cpu")?;
                t.property_string("compatible", compatible)?;
                t.property_string("enable-method", "psci")?;
                Ok(t.property_u32("reg", id)?)
            })?;
        }
        Ok(())
    })?;
    node(t, "psci", |t| {
        strings(t, "compatible", &["arm,psci-1.0", "arm,psci-0.2"])?;
        Ok(t.property_string("method", "hvc")?)
    })
}

fn write_gic(t: &mut FdtWriter, board: &Board) -> Result<(), Error> {
    node(t, &format!("interrupt-controller@{GIC_DISTRIBUTOR:x}"), |t| {
        let reg = match board.gic {
            GicVersion::V2 => {
                t.property_string("compatible", "arm,cortex-a15-gic")?;
                [GIC_DISTRIBUTOR, GIC_FRAME, GIC_CPU_INTERFACE, GIC_FRAME]
            }
            GicVersion::V3 => {
                t.property_string("compatible", "arm,gic-v3")?;
                let len = REDISTRIBUTOR_LEN * u64::from(board.vcpus);
                [GIC_DISTRIBUTOR, GIC_FRAME, GIC_REDISTRIBUTOR, len]
            }
        };
        t.property_array_u64("reg", &reg)?;
        t.property_null("interrupt-controller")?;
        t.property_u32("#interrupt-cells", 3)?;
        t.property_u32("#address-cells", 0)?;
        Ok(t.property_phandle(GIC)?)
    })
}

fn write_timer(t: &mut FdtWriter, board: &Board) -> Result<(), Error> {
    // A GICv2's PPIs carry the set of processors that they go to.
    let processors = match board.gic {
        GicVersion::V2 => ((1 << board.vcpus.min(8)) - 1) << 8,
        GicVersion::V3 => 0,
    };
    let cells: Vec<u32> = TIMERS.iter().flat_map(|&ppi| [PPI, ppi, processors | LEVEL_HIGH]).collect();
    node(t, "timer", |t| {
        match board.arch {
            Arch::Aarch64 => strings(t, "compatible", &["arm,armv8-timer", "arm,armv7-timer"])?,
            _ => t.property_string("compatible", "arm,armv7-timer")?,
        }
        t.property_array_u32("interrupts", &cells)?;
        Ok(t.property_null("always-on")?)
    })
}

fn write_primecells(t: &mut FdtWriter) -> Result<(), Error> {
    node(t, "apb-pclk", |t| {
        t.property_string("compatible", "fixed-clock")?;
        t.property_u32("#clock-cells", 0)?;
        t.property_u32("clock-frequency", CLOCK_HZ)?;
        t.property_string("clock-output-names", "clk24mhz")?;
        Ok(t.property_phandle(CLOCK)?)
    })?;
    primecell(t, "pl011", UART, spi::UART, &["uartclk", "apb_pclk"], |_| Ok(()))?;
    primecell(t, "pl031", RTC, spi::RTC, &["apb_pclk"], |_| Ok(()))?;
    primecell(t, "pl061", GPIO, spi::GPIO, &["apb_pclk"], |t| {
        t.property_null("gpio-controller")?;
        t.property_u32("#gpio-cells", 2)?;
        t.property_null("interrupt-controller")?;
        t.property_u32("#interrupt-cells", 2)?;
        t.property_u32("#address-cells", 0)?;
        Ok(t.property_phandle(GPIO_CHIP)?)
    })
}

fn primecell(
    t: &mut FdtWriter,
    name: &str,
    base: u64,
    number: u32,
    clocks: &[&str],
    more: impl FnOnce(&mut FdtWriter) -> Result<(), Error>,
) -> Result<(), Error> {
    node(t, &format!("{name}@{base:x}"), |t| {
        strings(t, "compatible", &[&format!("arm,{name}"), "arm,primecell"])?;
        t.property_array_u64("reg", &[base, arm::LEN])?;
        t.property_array_u32("interrupts", &[SPI, number, LEVEL_HIGH])?;
        t.property_array_u32("clocks", &vec![CLOCK; clocks.len()])?;
        strings(t, "clock-names", clocks)?;
        more(t)
    })
}

fn write_power_button(t: &mut FdtWriter) -> Result<(), Error> {
    node(t, "gpio-keys", |t| {
        t.property_string("compatible", "gpio-keys")?;
        node(t, "poweroff", |t| {
            // Active high.
            t.property_array_u32("gpios", &[GPIO_CHIP, POWER_BUTTON_PIN.into(), 0])?;
            t.property_u32("linux,code", KEY_POWER)?;
            Ok(t.property_string("label", "GPIO Key Poweroff")?)
        })
    })
}

fn write_virtio(t: &mut FdtWriter, board: &Board) -> Result<(), Error> {
    for slot in 0..board.virtio_devices {
        let base = VIRTIO + slot as u64 * transport_mmio::LEN;
        node(t, &format!("virtio_mmio@{base:x}"), |t| {
            t.property_string("compatible", "virtio,mmio")?;
            t.property_array_u64("reg", &[base, transport_mmio::LEN])?;
            t.property_array_u32("interrupts", &[SPI, spi::VIRTIO + slot as u32, LEVEL_HIGH])?;
            Ok(t.property_null("dma-coherent")?)
        })?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "device_tree_tests.rs"]
mod tests;
