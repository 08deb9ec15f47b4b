//! The register file (SDM 3A tables 10-1 and 10-6): what a guest reads, and what its writes do.

use super::lvt::{self, Source};
use super::timer::Mode as TimerMode;
use super::{FIRST_LEGAL_VECTOR, GeneralProtection, LocalApic, Mode, SVR_ENABLED, esr};
use crate::message::{DeliveryMode, DestinationMode, EVERYONE, Ipi, Shorthand};

/// Register offsets in the xAPIC's page; x2APIC MSRs are 800h + offset / 10h.
pub mod offset {
    pub const ID: u32 = 0x020;
    pub const VERSION: u32 = 0x030;
    pub const TPR: u32 = 0x080;
    pub const APR: u32 = 0x090;
    pub const PPR: u32 = 0x0a0;
    pub const EOI: u32 = 0x0b0;
    pub const RRD: u32 = 0x0c0;
    pub const LDR: u32 = 0x0d0;
    pub const DFR: u32 = 0x0e0;
    pub const SVR: u32 = 0x0f0;
    pub const ISR: u32 = 0x100;
    pub const TMR: u32 = 0x180;
    pub const IRR: u32 = 0x200;
    pub const ESR: u32 = 0x280;
    pub const ICR_LOW: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const INITIAL_COUNT: u32 = 0x380;
    pub const CURRENT_COUNT: u32 = 0x390;
    pub const DIVIDE: u32 = 0x3e0;
    /// x2APIC only.
    pub const SELF_IPI: u32 = 0x3f0;
}

/// The first of the x2APIC's MSRs; they end at 8FFh.
pub const FIRST_MSR: u32 = 0x800;
pub const LAST_MSR: u32 = 0x8ff;

/// Version 14h, highest LVT entry 5, no suppression of EOI broadcasts.
const VERSION: u32 = 0x0005_0014;
/// SVR: vector, software enable, focus checking.
const SVR_WRITABLE: u32 = 0x3ff;
/// ICR's lower half: all but delivery status and reserved bits.
const ICR_WRITABLE: u32 = 0x000c_cfff;
/// Delivery status, which never shows a command pending, and may be written back.
const ICR_STATUS: u32 = 1 << 12;

/// What the engine has to do after a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    None,
    /// Route an interprocessor interrupt (those to the sender itself too, except through the self-IPI register).
    Ipi(Ipi),
    /// Tell the I/O APICs that this vector's service has ended.
    EndOfInterrupt(u8),
}

impl LocalApic {
    /// Reads the register at `offset` (a multiple of 10h below 400h) of the xAPIC's page. Reserved ones read as 0 and are
    /// noted in ESR.
    pub fn read(&mut self, offset: u32, now: u64) -> u32 {
        match self.register(offset, now) {
            Some(value) => value,
            None => {
                self.raise_error(esr::ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// A load from the xAPIC's page. Only whole, aligned registers are defined; bytes that aren't read as 0.
    pub fn read_mmio(&mut self, offset: u32, data: &mut [u8], now: u64) {
        let bytes = if offset & 0xf < 4 { self.read(offset & 0xff0, now).to_le_bytes() } else { [0; 4] };
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get((offset & 0xf) as usize + index).copied().unwrap_or(0);
        }
    }

    /// A store to the xAPIC's page. Anything but 32 bits on a register's boundary is undefined, and ignored.
    pub fn write_mmio(&mut self, offset: u32, data: &[u8], now: u64) -> Effect {
        match <[u8; 4]>::try_from(data) {
            Ok(bytes) if offset & 0xf == 0 => self.write(offset & 0xff0, u32::from_le_bytes(bytes), now),
            _ => Effect::None,
        }
    }

    /// RDMSR of `msr`, 800h to 8FFh.
    pub fn read_msr(&mut self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        let offset = self.x2apic_offset(msr)?;
        match offset {
            offset::EOI | offset::SELF_IPI => Err(GeneralProtection),
            offset::ICR_LOW => Ok(u64::from(self.icr_high) << 32 | u64::from(self.icr_low)),
            _ => self.register(offset, now).map(u64::from).ok_or(GeneralProtection),
        }
    }

    /// WRMSR of `msr`, 800h to 8FFh.
    pub fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Result<Effect, GeneralProtection> {
        let offset = self.x2apic_offset(msr)?;
        let low = value as u32;
        if offset == offset::ICR_LOW {
            if low & !(ICR_WRITABLE | ICR_STATUS) != 0 {
                return Err(GeneralProtection);
            }
            self.icr_high = (value >> 32) as u32;
            return Ok(self.write(offset, low, now));
        }
        let writable = match offset {
            offset::TPR | offset::SELF_IPI => 0xff,
            offset::EOI | offset::ESR => 0,
            offset::SVR => SVR_WRITABLE,
            offset::LVT_TIMER..=offset::LVT_ERROR => {
                lvt::WRITABLE[(offset - offset::LVT_TIMER) as usize >> 4] | lvt::READ_ONLY
            }
            offset::INITIAL_COUNT => u32::MAX,
            offset::DIVIDE => 0b1011,
            _ => return Err(GeneralProtection),
        };
        if value >> 32 != 0 || low & !writable != 0 {
            return Err(GeneralProtection);
        }
        if offset == offset::SELF_IPI {
            self.send_self(low as u8);
            return Ok(Effect::None);
        }
        Ok(self.write(offset, low, now))
    }

    /// The offset that an MSR stands for. Not all registers of the xAPIC have one (SDM 3A table 10-6).
    fn x2apic_offset(&self, msr: u32) -> Result<u32, GeneralProtection> {
        if self.mode() != Mode::X2Apic || !(FIRST_MSR..=FIRST_MSR + 0x3f).contains(&msr) {
            return Err(GeneralProtection);
        }
        match (msr - FIRST_MSR) << 4 {
            offset::APR | offset::RRD | offset::DFR | offset::ICR_HIGH => Err(GeneralProtection),
            offset => Ok(offset),
        }
    }

    /// The register at `offset`; `None` for a reserved one.
    pub(super) fn register(&mut self, offset: u32, now: u64) -> Option<u32> {
        let x2apic = self.mode() == Mode::X2Apic;
        Some(match offset {
            offset::ID if x2apic => self.id,
            offset::ID => self.id << 24,
            offset::VERSION => VERSION,
            offset::TPR => u32::from(self.tpr),
            offset::APR => u32::from(self.arbitration_priority()),
            offset::PPR => u32::from(self.ppr()),
            offset::EOI | offset::RRD => 0,
            offset::LDR if x2apic => self.x2apic_ldr(),
            offset::LDR => u32::from(self.ldr) << 24,
            offset::DFR => u32::from(self.dfr_model) << 28 | 0x0fff_ffff,
            offset::SVR => self.svr,
            0x100..=0x170 if offset & 0xf == 0 => self.isr.register((offset - offset::ISR) as usize >> 4),
            0x180..=0x1f0 if offset & 0xf == 0 => self.tmr.register((offset - offset::TMR) as usize >> 4),
            0x200..=0x270 if offset & 0xf == 0 => self.irr.register((offset - offset::IRR) as usize >> 4),
            offset::ESR => self.esr,
            offset::ICR_LOW => self.icr_low,
            offset::ICR_HIGH => self.icr_high,
            0x320..=0x370 if offset & 0xf == 0 => self.lvt[(offset - offset::LVT_TIMER) as usize >> 4],
            offset::INITIAL_COUNT => self.timer.initial_count(),
            offset::CURRENT_COUNT => self.timer.current_count(now),
            offset::DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    /// Writes the register at `offset` (a multiple of 10h below 400h) of the xAPIC's page. Read-only registers ignore it,
    /// reserved ones note it in ESR. Afterwards [`LocalApic::next_deadline`] may be another.
    pub fn write(&mut self, offset: u32, value: u32, now: u64) -> Effect {
        match offset {
            offset::TPR => self.tpr = value as u8,
            offset::EOI => return self.end_of_interrupt().map_or(Effect::None, Effect::EndOfInterrupt),
            offset::LDR => self.ldr = (value >> 24) as u8,
            offset::DFR => self.dfr_model = (value >> 28) as u8,
            offset::SVR => self.write_svr(value),
            offset::ESR => self.esr = core::mem::take(&mut self.esr_pending),
            offset::ICR_LOW => return self.write_icr(value),
            offset::ICR_HIGH => self.icr_high = value & 0xff00_0000,
            0x320..=0x370 if offset & 0xf == 0 => {
                self.write_lvt((offset - offset::LVT_TIMER) as usize >> 4, value, now);
            }
            offset::INITIAL_COUNT => {
                self.timer_expired(now);
                self.timer.set_initial_count(value, now);
            }
            offset::DIVIDE => {
                self.timer_expired(now);
                self.timer.set_divide(value, now);
            }
            _ => {
                if self.register(offset, now).is_none() {
                    self.raise_error(esr::ILLEGAL_REGISTER);
                }
            }
        }
        Effect::None
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & SVR_WRITABLE;
        if self.svr & SVR_ENABLED == 0 {
            // Software disable sets every mask (SDM 3A 10.4.7.2).
            for entry in &mut self.lvt {
                *entry |= lvt::MASKED;
            }
        }
    }

    fn write_lvt(&mut self, index: usize, value: u32, now: u64) {
        // What fired before this write still goes by the old entry.
        self.timer_expired(now);
        let Some(entry) = self.lvt.get_mut(index) else { return };
        let mut new = value & lvt::WRITABLE[index] | *entry & lvt::REMOTE_IRR;
        if self.svr & SVR_ENABLED == 0 {
            new |= lvt::MASKED;
        }
        if new & lvt::LEVEL == 0 {
            new &= !lvt::REMOTE_IRR;
        }
        *entry = new;
        if index == Source::Timer as usize {
            self.timer.set_mode(TimerMode::of_lvt(new), now);
        } else if index == Source::Lint0 as usize {
            self.sample_level_pin(Source::Lint0);
        } else if index == Source::Lint1 as usize {
            self.sample_level_pin(Source::Lint1);
        }
    }

    fn write_icr(&mut self, value: u32) -> Effect {
        self.icr_low = value & ICR_WRITABLE;
        let destination = match (self.mode(), self.icr_high >> 24) {
            (Mode::X2Apic, _) => self.icr_high,
            (_, 0xff) => EVERYONE,
            (_, destination) => destination,
        };
        let Some(ipi) = Ipi::from_icr(self.icr_low, destination) else { return Effect::None };
        let has_vector = matches!(ipi.delivery, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if has_vector && ipi.vector < FIRST_LEGAL_VECTOR {
            self.raise_error(esr::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        Effect::Ipi(ipi)
    }

    /// The x2APIC's self-IPI register (SDM 3A 10.12.11): an edge, to itself.
    fn send_self(&mut self, vector: u8) {
        if vector < FIRST_LEGAL_VECTOR {
            self.raise_error(esr::SEND_ILLEGAL_VECTOR);
            return;
        }
        self.icr_low = u32::from(vector) | 1 << 18;
        self.accept(vector, false);
    }

    /// Whether this APIC, as the target, takes `ipi` sent by the APIC with id `sender`.
    pub fn takes(&self, ipi: &Ipi, sender: u32) -> bool {
        match ipi.shorthand {
            Shorthand::None => self.matches(ipi.destination, ipi.destination_mode),
            Shorthand::ToSelf => self.id == sender,
            Shorthand::AllIncludingSelf => self.matches(EVERYONE, DestinationMode::Physical),
            Shorthand::AllExcludingSelf => {
                self.id != sender && self.matches(EVERYONE, DestinationMode::Physical)
            }
        }
    }
}
