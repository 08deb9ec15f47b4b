//! The local APIC (SDM 3A chapter 10): xAPIC and x2APIC.
//!
//! The processor and its chip share one thread; messages from elsewhere come through [`LocalApic::accept`], so an
//! engine keeps the whole behind a lock. Time is the guest's TSC, given with each call that needs it as `now`.
//!
//! - [`registers`]: the register file by offset and by MSR, and what writing each does
//! - [`base`]: IA32_APIC_BASE and the three modes
//! - [`destination`]: whether a message is for this processor
//! - [`timer`]: the timer
//! - [`saved`]: the state as saved and restored

pub mod base;
mod destination;
pub mod lvt;
pub mod registers;
pub mod saved;
mod timer;
mod vectors;

pub use base::Mode;
pub use lvt::{LocalEvent, Source};
pub use registers::Effect;
pub use saved::Saved;
pub use timer::TIMER_KHZ;

use crate::message::DeliveryMode;
use timer::Timer;
use vectors::Vectors;

/// A register access that a processor answers with #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// ESR bits (SDM 3A 10.5.3).
mod esr {
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub const RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// Vectors 0 to 15 are the processor's own; no interrupt may use them.
const FIRST_LEGAL_VECTOR: u8 = 16;
/// SVR bit 8: the APIC is enabled by software.
const SVR_ENABLED: u32 = 1 << 8;

/// One processor's local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    /// The id given at power-on; the xAPIC shows its low 8 bits.
    id: u32,
    /// IA32_APIC_BASE.
    base: u64,
    tpr: u8,
    /// xAPIC only; the x2APIC's LDR follows from the id.
    ldr: u8,
    /// DFR bits 31:28: 1111 flat, 0000 cluster.
    dfr_model: u8,
    svr: u32,
    irr: Vectors,
    isr: Vectors,
    tmr: Vectors,
    /// The highest vector of ISR, 0 for none: looked at with every instruction boundary that could interrupt.
    in_service: u8,
    /// What a read of ESR gives, and what the next write of ESR will make of it.
    esr: u32,
    esr_pending: u32,
    icr_low: u32,
    icr_high: u32,
    lvt: [u32; lvt::COUNT],
    /// Levels of LINT0 and LINT1.
    lint: [bool; 2],
    /// An ExtINT message came in from the bus and waits to be acknowledged.
    external_message: bool,
    timer: Timer,
}

impl LocalApic {
    /// After power-on. `id` is the APIC id, `bootstrap` sets IA32_APIC_BASE.BSP, `tsc_khz` is the frequency of the
    /// counter that `now` is read from.
    pub fn new(id: u32, bootstrap: bool, tsc_khz: u64) -> Self {
        let mut apic = Self {
            id,
            base: base::reset_value(bootstrap),
            tpr: 0,
            ldr: 0,
            dfr_model: 0xf,
            svr: 0xff,
            irr: Vectors::default(),
            isr: Vectors::default(),
            tmr: Vectors::default(),
            in_service: 0,
            esr: 0,
            esr_pending: 0,
            icr_low: 0,
            icr_high: 0,
            lvt: [lvt::MASKED; lvt::COUNT],
            lint: [false; 2],
            external_message: false,
            timer: Timer::new(tsc_khz),
        };
        apic.reset_registers();
        apic
    }

    /// Power-on or RESET# (SDM 3A 10.4.7.1). The LINT pins keep their levels.
    pub fn power_on_reset(&mut self) {
        self.base = base::reset_value(self.is_bootstrap());
        self.reset_registers();
    }

    /// INIT: as power-on, but mode, base address and id stay (SDM 3A 10.4.7.3).
    pub fn init_reset(&mut self) {
        self.reset_registers();
    }

    fn reset_registers(&mut self) {
        self.tpr = 0;
        self.ldr = 0;
        self.dfr_model = 0xf;
        self.svr = 0xff;
        self.irr = Vectors::default();
        self.isr = Vectors::default();
        self.tmr = Vectors::default();
        self.in_service = 0;
        self.esr = 0;
        self.esr_pending = 0;
        self.icr_low = 0;
        self.icr_high = 0;
        self.lvt = [lvt::MASKED; lvt::COUNT];
        self.external_message = false;
        self.timer.reset();
    }

    /// What firmware leaves on the boot processor (virtual wire mode, MP 1.4 3.6.2.2): enabled, 8259s through LINT0,
    /// NMI through LINT1. For boards that start a kernel with no firmware before it.
    pub fn enter_virtual_wire_mode(&mut self) {
        self.svr |= SVR_ENABLED;
        self.lvt[Source::Lint0 as usize] = DeliveryMode::ExtInt.bits() << 8;
        self.lvt[Source::Lint1 as usize] = DeliveryMode::Nmi.bits() << 8;
    }

    /// The APIC id (the whole of it; the xAPIC's register shows 8 bits).
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// SVR bit 8, and not disabled by IA32_APIC_BASE: takes interrupts with vectors.
    pub fn is_enabled(&self) -> bool {
        self.mode() != Mode::Disabled && self.svr & SVR_ENABLED != 0
    }

    // --- Interrupts in and out -------------------------------------------------------------------------------------

    /// Takes a fixed or lowest-priority interrupt addressed to this processor. Whether it newly became pending: false
    /// where it met one pending already, was illegal, or the APIC is disabled.
    pub fn accept(&mut self, vector: u8, level_triggered: bool) -> bool {
        if !self.is_enabled() {
            return false;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.raise_error(esr::RECEIVED_ILLEGAL_VECTOR);
            return false;
        }
        self.tmr.set(vector, level_triggered);
        self.irr.insert(vector)
    }

    /// Takes an ExtINT message from the bus: the next acknowledge goes to the 8259s.
    pub fn accept_external(&mut self) {
        self.external_message = self.mode() != Mode::Disabled;
    }

    /// The vector of the highest pending interrupt, if its priority is above the processor's (PPR). Cheap enough for
    /// every instruction boundary.
    pub fn pending_interrupt(&self) -> Option<u8> {
        if self.mode() == Mode::Disabled {
            return None;
        }
        self.irr.highest().filter(|vector| vector & 0xf0 > self.ppr() & 0xf0)
    }

    /// Whether the 8259s' interrupt request reaches the processor: the engine asks the board for the vector when it
    /// delivers it. By LINT0 as ExtINT, by a message, or directly where the APIC is disabled by IA32_APIC_BASE.
    pub fn external_interrupt_pending(&self) -> bool {
        if self.mode() == Mode::Disabled {
            return self.lint[0];
        }
        let entry = self.lvt[Source::Lint0 as usize];
        self.external_message
            || self.lint[0] && entry & lvt::MASKED == 0 && lvt::delivery(entry) == Some(DeliveryMode::ExtInt)
    }

    /// The processor takes an external interrupt from the board: the message that announced it is spent.
    pub fn acknowledge_external(&mut self) {
        self.external_message = false;
    }

    /// The processor takes the pending interrupt: it moves from IRR to ISR. The spurious vector, with nothing moved,
    /// where none is pending any more (SDM 3A 10.9).
    pub fn acknowledge(&mut self) -> u8 {
        let Some(vector) = self.pending_interrupt() else { return self.svr as u8 };
        self.irr.remove(vector);
        self.isr.insert(vector);
        self.in_service = vector;
        vector
    }

    /// End of interrupt: the highest in service is done. Gives the vector to broadcast to the I/O APICs where it was
    /// level-triggered.
    pub fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        self.isr.remove(vector);
        self.in_service = self.isr.highest().unwrap_or(0);
        if !self.tmr.contains(vector) {
            return None;
        }
        for pin in [Source::Lint0, Source::Lint1] {
            let entry = &mut self.lvt[pin as usize];
            if *entry & lvt::REMOTE_IRR != 0 && *entry as u8 == vector {
                *entry &= !lvt::REMOTE_IRR;
                self.sample_level_pin(pin);
            }
        }
        Some(vector)
    }

    // --- Priorities ------------------------------------------------------------------------------------------------

    /// Task priority register.
    pub const fn tpr(&self) -> u8 {
        self.tpr
    }

    /// Processor priority register (SDM 3A 10.8.3.1).
    pub const fn ppr(&self) -> u8 {
        if self.tpr >> 4 >= self.in_service >> 4 { self.tpr } else { self.in_service & 0xf0 }
    }

    /// CR8: bits 7:4 of TPR.
    pub const fn cr8(&self) -> u64 {
        (self.tpr >> 4) as u64
    }

    /// MOV to CR8. Reserved bits, 63:4, are #GP(0).
    pub fn set_cr8(&mut self, value: u64) -> Result<(), GeneralProtection> {
        if value > 15 {
            return Err(GeneralProtection);
        }
        self.tpr = (value as u8) << 4;
        Ok(())
    }

    /// What lowest-priority delivery compares: of the processors a message addresses, the enabled one with the
    /// smallest value takes it (arbitration priority, SDM 3A 10.6.2.4).
    pub fn arbitration_priority(&self) -> u8 {
        let requested = self.irr.highest().unwrap_or(0) & 0xf0;
        self.ppr().max(requested)
    }

    // --- Local sources ---------------------------------------------------------------------------------------------

    /// Sets the level of pin `Lint0` or `Lint1`. Gives what the engine has to do to the processor besides looking for
    /// pending interrupts. Other sources have no pin and are ignored.
    pub fn set_pin(&mut self, pin: Source, high: bool) -> Option<LocalEvent> {
        let index = match pin {
            Source::Lint0 => 0,
            Source::Lint1 => 1,
            _ => return None,
        };
        let rose = high && !self.lint[index];
        self.lint[index] = high;
        if self.mode() == Mode::Disabled {
            // The pins are then the processor's own INTR (looked at by level) and NMI.
            return (rose && index == 1).then_some(LocalEvent::Nmi);
        }
        let entry = self.lvt[pin as usize];
        let fixed = lvt::delivery(entry) == Some(DeliveryMode::Fixed);
        if fixed && entry & lvt::LEVEL != 0 {
            self.sample_level_pin(pin);
            None
        } else if rose {
            self.raise(pin)
        } else {
            None
        }
    }

    /// A fixed, level-triggered pin interrupts while it is high and the last interrupt was ended.
    fn sample_level_pin(&mut self, pin: Source) {
        let high = self.lint[usize::from(pin == Source::Lint1)];
        let entry = self.lvt[pin as usize];
        let level = entry & lvt::LEVEL != 0 && lvt::delivery(entry) == Some(DeliveryMode::Fixed);
        if high && level && entry & (lvt::MASKED | lvt::REMOTE_IRR) == 0 && self.is_enabled() {
            self.lvt[pin as usize] |= lvt::REMOTE_IRR;
            self.accept(entry as u8, true);
        }
    }

    /// A local source fires once: does what its LVT entry says.
    pub fn raise(&mut self, source: Source) -> Option<LocalEvent> {
        let entry = self.lvt[source as usize];
        if self.mode() == Mode::Disabled || entry & lvt::MASKED != 0 {
            return None;
        }
        match lvt::delivery(entry) {
            Some(DeliveryMode::Fixed) => {
                // An illegal vector in the error entry itself must not report itself without end.
                if source != Source::Error || entry as u8 >= FIRST_LEGAL_VECTOR {
                    self.accept(entry as u8, false);
                }
                None
            }
            Some(DeliveryMode::Nmi) => Some(LocalEvent::Nmi),
            Some(DeliveryMode::Smi) => Some(LocalEvent::Smi),
            Some(DeliveryMode::Init) => Some(LocalEvent::Init),
            _ => None,
        }
    }

    /// Notes an error for ESR and fires the error entry.
    fn raise_error(&mut self, bit: u32) {
        let new = self.esr_pending & bit == 0;
        self.esr_pending |= bit;
        if new {
            self.raise(Source::Error);
        }
    }

    // --- Timer -----------------------------------------------------------------------------------------------------

    /// The TSC value at which [`LocalApic::timer_expired`] has something to do; `None` when stopped or masked. Ask again
    /// after every register write.
    pub fn next_deadline(&self) -> Option<u64> {
        let masked = self.lvt[Source::Timer as usize] & lvt::MASKED != 0;
        self.timer.next().filter(|_| !masked && self.mode() != Mode::Disabled)
    }

    /// Fires the timer if its time has come: the interrupt becomes pending, a periodic timer goes on. Periods missed
    /// count as one. Whether it fired; does nothing, and says so, when called early.
    pub fn timer_expired(&mut self, now: u64) -> bool {
        let fired = self.timer.expire(now);
        if fired {
            self.raise(Source::Timer);
        }
        fired
    }

    /// IA32_TSC_DEADLINE (MSR 6E0h), read: 0 once it has passed.
    pub fn tsc_deadline(&mut self, now: u64) -> u64 {
        self.timer_expired(now);
        self.timer.deadline()
    }

    /// IA32_TSC_DEADLINE, written: 0 disarms, a time that has passed fires at once. Ignored unless the timer's LVT entry
    /// chooses the mode.
    pub fn set_tsc_deadline(&mut self, deadline: u64, now: u64) {
        self.timer_expired(now);
        self.timer.set_deadline(deadline);
        self.timer_expired(now);
    }

    /// The guest wrote its TSC, which thereby moved by `delta` ticks: the count-down goes on undisturbed, while a TSC
    /// deadline now comes sooner or later.
    pub fn tsc_moved(&mut self, delta: i64) {
        self.timer.tsc_moved(delta);
    }
}

#[cfg(test)]
mod tests;
