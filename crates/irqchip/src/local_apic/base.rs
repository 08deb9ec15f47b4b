//! IA32_APIC_BASE (MSR 1Bh) and the modes it chooses (SDM 3A 10.4.4, 10.12.1, 10.12.5).

use super::{GeneralProtection, LocalApic};

const BSP: u64 = 1 << 8;
/// EXTD: x2APIC mode.
const EXTENDED: u64 = 1 << 10;
/// EN.
const ENABLED: u64 = 1 << 11;
const ADDRESS: u64 = !0xfff;
const DEFAULT_ADDRESS: u64 = 0xfee0_0000;

/// How the registers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all; the LINT pins are INTR and NMI.
    Disabled,
    /// By memory at [`LocalApic::mmio_base`].
    XApic,
    /// By MSRs 800h to 8FFh.
    X2Apic,
}

pub(super) const fn reset_value(bootstrap: bool) -> u64 {
    DEFAULT_ADDRESS | ENABLED | if bootstrap { BSP } else { 0 }
}

impl LocalApic {
    /// IA32_APIC_BASE.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE. Reserved bits (those above `physical_address_bits` among them) and transitions that
    /// figure 10-27 doesn't have are #GP(0): into x2APIC mode only from xAPIC mode, out of it only to disabled.
    /// Disabling loses all state.
    pub fn set_base(&mut self, value: u64, physical_address_bits: u8) -> Result<(), GeneralProtection> {
        let above = u64::MAX.checked_shl(u32::from(physical_address_bits)).unwrap_or(0);
        if value & (above | 0x2ff) != 0 {
            return Err(GeneralProtection);
        }
        let new = mode_of(value).ok_or(GeneralProtection)?;
        match (self.mode(), new) {
            (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic) => return Err(GeneralProtection),
            (Mode::XApic | Mode::X2Apic, Mode::Disabled) => self.reset_registers(),
            // The interrupt command's destination has another form there.
            (Mode::XApic, Mode::X2Apic) => self.icr_high = 0,
            _ => {}
        }
        self.base = value;
        Ok(())
    }

    /// How the registers are reached now.
    pub const fn mode(&self) -> Mode {
        match (self.base & ENABLED != 0, self.base & EXTENDED != 0) {
            (false, _) => Mode::Disabled,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
        }
    }

    /// Guest-physical address of the 4 KiB register page, `None` unless in xAPIC mode.
    pub fn mmio_base(&self) -> Option<u64> {
        (self.mode() == Mode::XApic).then_some(self.base & ADDRESS)
    }

    /// IA32_APIC_BASE.BSP.
    pub const fn is_bootstrap(&self) -> bool {
        self.base & BSP != 0
    }

    /// Puts a saved value back; one that no processor holds is refused.
    pub(super) fn restore_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        mode_of(value).filter(|_| value & 0x2ff == 0).ok_or(GeneralProtection)?;
        self.base = value;
        Ok(())
    }
}

const fn mode_of(base: u64) -> Option<Mode> {
    match (base & ENABLED != 0, base & EXTENDED != 0) {
        (false, false) => Some(Mode::Disabled),
        (false, true) => None,
        (true, false) => Some(Mode::XApic),
        (true, true) => Some(Mode::X2Apic),
    }
}
