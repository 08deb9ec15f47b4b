//! The chipset's own functions, as an operating system expects to find them: the i440FX host bridge, the PIIX3 ISA
//! bridge with its interrupt routing, the PIIX4 power management function.
//!
//! Sources: 82441FX (PMC), 82371SB (PIIX3) and 82371AB (PIIX4) datasheets.

use super::config_space::reg;
use super::{Address, ConfigSpace, Error, Identity, IntxRouter, PciBus, PciFunction};
use std::sync::{Arc, Mutex};

const INTEL: u16 = 0x8086;
/// PIRQRC\[A:D\] of the ISA bridge.
const PIRQRC: u8 = 0x60;

/// Where the functions sit.
pub const HOST_BRIDGE: Address = Address::new(0, 0);
pub const ISA_BRIDGE: Address = Address::new(1, 0);
pub const POWER_MANAGEMENT: Address = Address::new(1, 3);

/// The 82441FX at 00:00.0. Its PAM and DRAM registers hold what is written and do nothing: memory is as the board laid
/// it out.
struct HostBridge(ConfigSpace);

/// The PIIX3 ISA bridge at 00:01.0.
struct IsaBridge {
    config: ConfigSpace,
    router: Arc<IntxRouter>,
}

/// The PIIX4 power management function at 00:01.3. The board decides where its ports are; the base can't be moved.
struct PowerManagement(ConfigSpace);

fn host_bridge() -> ConfigSpace {
    let mut c = ConfigSpace::new(Identity {
        vendor: INTEL,
        device: 0x1237,
        revision: 2,
        class: 0x06_00_00,
        ..Identity::default()
    });
    // PMCCFG to SMRAM: PAM registers at 59h-5Fh, DRB 60h-67h, SMRAM 72h.
    c.allow(0x50, &[0xff; 0x23]);
    c
}

fn isa_bridge() -> ConfigSpace {
    let mut c = ConfigSpace::new(Identity {
        vendor: INTEL,
        device: 0x7000,
        class: 0x06_01_00,
        ..Identity::default()
    });
    // More functions follow.
    c.set_u8(reg::HEADER_TYPE, 0x80);
    // IORT, XBCS, then from 69h on top of memory, MBIRQ and so on: kept, without effect.
    c.allow(0x4c, &[0xff; 4]);
    c.allow(0x69, &[0xff; 2]);
    c
}

fn power_management(base: u16) -> ConfigSpace {
    let mut c = ConfigSpace::new(Identity {
        vendor: INTEL,
        device: 0x7113,
        revision: 3,
        class: 0x06_80_00,
        ..Identity::default()
    });
    // PMBA with its I/O indicator, and PMREGMISC.PMIOSE: decoding is on.
    c.set_u32(0x40, u32::from(base) | 1);
    c.set_u8(0x80, 1);
    c.set_u8(reg::INTERRUPT_PIN, 1);
    c.set_u8(reg::INTERRUPT_LINE, 9);
    c
}

impl PciFunction for HostBridge {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }
    fn reset(&mut self) {
        self.0 = host_bridge();
    }
}

impl PciFunction for IsaBridge {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        self.config.set_u32(PIRQRC, u32::from_le_bytes(self.router.route()));
        self.config.read(offset, data);
    }
    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.config.write(offset, data);
        for (at, &byte) in (offset..=255).zip(data) {
            if (PIRQRC..PIRQRC + 4).contains(&at) {
                self.router.set_route(usize::from(at - PIRQRC), byte);
            }
        }
    }
    fn reset(&mut self) {
        self.config = isa_bridge();
    }
}

impl PciFunction for PowerManagement {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }
    fn reset(&mut self) {
        let base = self.0.u16(0x40) & !1;
        self.0 = power_management(base);
    }
}

/// Plugs the chipset's functions in. `pm_base` is the first of the 64 ports of ACPI power management.
pub fn add_chipset(bus: &mut PciBus, pm_base: u16) -> Result<(), Error> {
    let router = bus.router().clone();
    bus.add(HOST_BRIDGE, None, Arc::new(Mutex::new(HostBridge(host_bridge()))))?;
    bus.add(ISA_BRIDGE, None, Arc::new(Mutex::new(IsaBridge { config: isa_bridge(), router })))?;
    bus.add(POWER_MANAGEMENT, None, Arc::new(Mutex::new(PowerManagement(power_management(pm_base)))))
}
