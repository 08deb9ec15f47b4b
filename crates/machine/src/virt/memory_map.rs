//! Where the virt board's RAM and devices lie in guest-physical space, and their interrupts. As on QEMU's machine of that name, so that
//! what people know of the one holds for the other.

use crate::{Error, Result};
use address::{GuestPhys, PAGE_SIZE};
use engine::{Gic, GicVersion};
use memory::{GuestMemory, Kind, RegionConfig};

pub const GIC_DISTRIBUTOR: u64 = 0x0800_0000;
/// Bytes of the distributor, and of the CPU interface.
pub const GIC_FRAME: u64 = 0x1_0000;
/// GICv2.
pub const GIC_CPU_INTERFACE: u64 = 0x0801_0000;
/// GICv3: the first vCPU's.
pub const GIC_REDISTRIBUTOR: u64 = 0x080a_0000;
/// Bytes a vCPU.
pub const REDISTRIBUTOR_LEN: u64 = 0x2_0000;

pub const UART: u64 = 0x0900_0000;
pub const RTC: u64 = 0x0901_0000;
pub const GPIO: u64 = 0x0903_0000;
pub const VIRTIO: u64 = 0x0a00_0000;
/// Most virtio devices, [`devices::virtio::transport_mmio::LEN`] bytes apart.
pub const VIRTIO_MOST: usize = 32;

/// Start of RAM.
pub const RAM: u64 = 0x4000_0000;
/// Least RAM, in bytes.
pub const LEAST: u64 = 16 << 20;
/// Most RAM, in bytes.
pub const MOST: u64 = 255 << 30;

/// Shared peripheral interrupts, counted from 0.
pub mod spi {
    pub const UART: u32 = 1;
    pub const RTC: u32 = 2;
    pub const GPIO: u32 = 7;
    /// The first virtio device's; the others follow.
    pub const VIRTIO: u32 = 16;
}
/// INTID of SPI 0.
pub const FIRST_SPI: u32 = 32;

/// GPIO pin of the power button.
pub const POWER_BUTTON_PIN: u8 = 3;

/// Most vCPUs: the GICv2 has eight CPU interfaces; of the GICv3's affinities only the lowest level is used.
pub const fn most_vcpus(version: GicVersion) -> u32 {
    match version {
        GicVersion::V2 => 8,
        GicVersion::V3 => 16,
    }
}

/// The interrupt controller's place.
pub const fn gic(version: GicVersion) -> Gic {
    let interface = match version {
        GicVersion::V2 => GIC_CPU_INTERFACE,
        GicVersion::V3 => GIC_REDISTRIBUTOR,
    };
    Gic { version, distributor: GuestPhys(GIC_DISTRIBUTOR), interface: GuestPhys(interface) }
}

/// Refuses an amount of RAM that no such board has.
pub fn check_ram(bytes: u64) -> Result<()> {
    if bytes < LEAST || !bytes.is_multiple_of(PAGE_SIZE) {
        return Err(Error::Config(format!(
            "a virt machine needs at least {} MiB of memory in whole pages of 4 KiB; {bytes} bytes is not that",
            LEAST >> 20
        )));
    }
    if bytes > MOST {
        return Err(Error::Config(format!("a virt machine has at most {} GiB of memory", MOST >> 30)));
    }
    Ok(())
}

/// Allocates the guest's memory, in huge pages where `huge` and the host has them.
pub fn allocate(bytes: u64, huge: bool) -> Result<GuestMemory> {
    let ram = RegionConfig { base: GuestPhys(RAM), len: bytes, kind: Kind::Ram };
    Ok(GuestMemory::with_huge_pages(&[ram], huge)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_amounts_of_memory_are_sentences() {
        for bytes in [0, 4096, LEAST - 4096, LEAST + 1, MOST + 4096, u64::MAX & !4095] {
            assert!(check_ram(bytes).is_err(), "{bytes}");
        }
        check_ram(LEAST).unwrap();
        let memory = allocate(LEAST, false).unwrap();
        memory.check_ram(GuestPhys(RAM), LEAST).unwrap();
        assert!(memory.check_ram(GuestPhys(RAM - 1), 1).is_err());
    }
}
