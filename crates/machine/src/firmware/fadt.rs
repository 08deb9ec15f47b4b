//! The fixed ACPI description table (ACPI 6.5, 5.2.9), at revision 4.

use super::acpi::table;
use crate::pc::io_map::{GPE0, PM_TIMER, PM1A_CONTROL, PM1A_EVENT, RESET_CONTROL, RESET_VALUE, irq};
use acpi_tables::sdt::Sdt;
use devices::legacy::{pm, rtc};

const LEN: u32 = 244;

/// Flags (table 5.10). The power button is a fixed one (bit 4 clear), there is no sleep button (bit 5).
mod flag {
    pub const WBINVD: u32 = 1 << 0;
    pub const PROC_C1: u32 = 1 << 2;
    pub const SLP_BUTTON: u32 = 1 << 5;
    /// The RTC's alarm is no fixed wake event: there is no sleep to wake from.
    pub const FIX_RTC: u32 = 1 << 6;
    /// The PM timer has 32 bits.
    pub const TMR_VAL_EXT: u32 = 1 << 8;
    pub const RESET_REG_SUP: u32 = 1 << 10;
}

/// IAPC_BOOT_ARCH (table 5.11).
mod boot_arch {
    pub const LEGACY_DEVICES: u16 = 1 << 0;
    pub const I8042: u16 = 1 << 1;
    pub const NO_VGA: u16 = 1 << 2;
}

/// Offsets.
mod at {
    pub const FIRMWARE_CTRL: usize = 36;
    pub const DSDT: usize = 40;
    pub const SCI_INT: usize = 46;
    pub const SMI_CMD: usize = 48;
    pub const ACPI_ENABLE: usize = 52;
    pub const ACPI_DISABLE: usize = 53;
    pub const PM1A_EVT_BLK: usize = 56;
    pub const PM1A_CNT_BLK: usize = 64;
    pub const PM_TMR_BLK: usize = 76;
    pub const GPE0_BLK: usize = 80;
    pub const PM1_EVT_LEN: usize = 88;
    pub const PM1_CNT_LEN: usize = 89;
    pub const PM_TMR_LEN: usize = 91;
    pub const GPE0_BLK_LEN: usize = 92;
    /// Worst-case latencies in microseconds; beyond 100 and 1000 means there is no C2 and C3.
    pub const P_LVL2_LAT: usize = 96;
    pub const P_LVL3_LAT: usize = 98;
    pub const CENTURY: usize = 108;
    pub const IAPC_BOOT_ARCH: usize = 109;
    pub const FLAGS: usize = 112;
    pub const RESET_REG: usize = 116;
    pub const RESET_VALUE: usize = 128;
    pub const X_DSDT: usize = 140;
    pub const X_PM1A_EVT_BLK: usize = 148;
    pub const X_PM1A_CNT_BLK: usize = 172;
    pub const X_PM_TMR_BLK: usize = 208;
    pub const X_GPE0_BLK: usize = 220;
}

/// A port as a generic address structure (5.2.3.2).
fn port(address: u16, bits: u8) -> [u8; 12] {
    let access = match bits {
        8 => 1,
        16 => 2,
        _ => 3,
    };
    let [low, high] = address.to_le_bytes();
    [1, bits, 0, access, low, high, 0, 0, 0, 0, 0, 0]
}

/// The table.
pub(super) fn fadt(dsdt: u64, facs: u64) -> Sdt {
    let mut t = table(b"FACP", LEN, 4);
    t.write_u32(at::FIRMWARE_CTRL, facs as u32);
    t.write_u32(at::DSDT, dsdt as u32);
    t.write_u16(at::SCI_INT, u16::from(irq::SCI));
    t.write_u32(at::SMI_CMD, u32::from(pm::SMI_COMMAND_PORT));
    t.write_u8(at::ACPI_ENABLE, pm::ACPI_ENABLE);
    t.write_u8(at::ACPI_DISABLE, pm::ACPI_DISABLE);
    t.write_u32(at::PM1A_EVT_BLK, u32::from(PM1A_EVENT));
    t.write_u32(at::PM1A_CNT_BLK, u32::from(PM1A_CONTROL));
    t.write_u32(at::PM_TMR_BLK, u32::from(PM_TIMER));
    t.write_u32(at::GPE0_BLK, u32::from(GPE0));
    t.write_u8(at::PM1_EVT_LEN, pm::PM1_EVENT_LEN);
    t.write_u8(at::PM1_CNT_LEN, pm::PM1_CONTROL_LEN);
    t.write_u8(at::PM_TMR_LEN, pm::PM_TIMER_LEN);
    t.write_u8(at::GPE0_BLK_LEN, pm::GPE0_LEN);
    t.write_u16(at::P_LVL2_LAT, 0xfff);
    t.write_u16(at::P_LVL3_LAT, 0xfff);
    t.write_u8(at::CENTURY, rtc::CENTURY);
    t.write_u16(at::IAPC_BOOT_ARCH, boot_arch::LEGACY_DEVICES | boot_arch::I8042 | boot_arch::NO_VGA);
    let flags = flag::WBINVD
        | flag::PROC_C1
        | flag::SLP_BUTTON
        | flag::FIX_RTC
        | flag::TMR_VAL_EXT
        | flag::RESET_REG_SUP;
    t.write_u32(at::FLAGS, flags);
    t.write_bytes(at::RESET_REG, &port(RESET_CONTROL, 8));
    t.write_u8(at::RESET_VALUE, RESET_VALUE);
    t.write_u64(at::X_DSDT, dsdt);
    t.write_bytes(at::X_PM1A_EVT_BLK, &port(PM1A_EVENT, 32));
    t.write_bytes(at::X_PM1A_CNT_BLK, &port(PM1A_CONTROL, 16));
    t.write_bytes(at::X_PM_TMR_BLK, &port(PM_TIMER, 32));
    t.write_bytes(at::X_GPE0_BLK, &port(GPE0, 32));
    t
}
