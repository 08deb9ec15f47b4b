//! The local APIC's state as engines save and restore it.

use super::lvt::{self, Source};
use super::registers::offset;
use super::timer::Mode as TimerMode;
use super::{GeneralProtection, LocalApic, SVR_ENABLED};

/// Registers a state holds.
pub const REGISTERS: usize = 64;

/// The whole state of a local APIC but its id and the levels of its pins, which come from the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// IA32_APIC_BASE.
    pub base: u64,
    /// The registers by slot: offset / 10h (SDM 3A table 10-1). The current count is the one at the time of saving. In
    /// x2APIC mode the slots of ID, LDR and ICR hold that mode's values.
    pub registers: [u32; REGISTERS],
    /// IA32_TSC_DEADLINE.
    pub tsc_deadline: u64,
    /// Errors noted since ESR was last written.
    pub pending_errors: u32,
}

impl LocalApic {
    /// The state at `now`.
    pub fn save(&mut self, now: u64) -> Saved {
        self.timer_expired(now);
        let mut registers = [0; REGISTERS];
        for (slot, register) in registers.iter_mut().enumerate() {
            *register = self.register((slot as u32) << 4, now).unwrap_or(0);
        }
        Saved {
            base: self.base(),
            registers,
            tsc_deadline: self.timer.deadline(),
            pending_errors: self.esr_pending,
        }
    }

    /// Puts a state back; the timer goes on at `now` from where it was. The id stays this APIC's own. Bits that no
    /// APIC can hold are dropped; a base address register that no processor can hold is refused.
    pub fn restore(&mut self, saved: &Saved, now: u64) -> Result<(), GeneralProtection> {
        self.restore_base(saved.base)?;
        self.reset_registers();
        let register = |offset: u32| saved.registers[(offset >> 4) as usize];
        self.tpr = register(offset::TPR) as u8;
        self.ldr = (register(offset::LDR) >> 24) as u8;
        self.dfr_model = (register(offset::DFR) >> 28) as u8;
        self.svr = register(offset::SVR) & 0x3ff;
        for index in 0..8 {
            let at = index as u32 * 0x10;
            // No vector below 16 is ever pending or in service.
            let legal = if index == 0 { 0xffff_0000 } else { u32::MAX };
            self.isr.set_register(index, register(offset::ISR + at) & legal);
            self.tmr.set_register(index, register(offset::TMR + at) & legal);
            self.irr.set_register(index, register(offset::IRR + at) & legal);
        }
        self.in_service = self.isr.highest().unwrap_or(0);
        self.esr = register(offset::ESR) & 0xff;
        self.esr_pending = saved.pending_errors & 0xff;
        self.icr_low = register(offset::ICR_LOW);
        self.icr_high = register(offset::ICR_HIGH);
        for (index, entry) in self.lvt.iter_mut().enumerate() {
            let value = register(offset::LVT_TIMER + index as u32 * 0x10);
            let remote_irr = if lvt::WRITABLE[index] & value & lvt::LEVEL != 0 { lvt::REMOTE_IRR } else { 0 };
            *entry = value & (lvt::WRITABLE[index] | remote_irr);
            if self.svr & SVR_ENABLED == 0 {
                *entry |= lvt::MASKED;
            }
        }
        self.timer.set_mode(TimerMode::of_lvt(self.lvt[Source::Timer as usize]), now);
        self.timer.restore(
            register(offset::INITIAL_COUNT),
            register(offset::CURRENT_COUNT),
            register(offset::DIVIDE),
            now,
        );
        self.timer.set_deadline(saved.tsc_deadline);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local_apic::{Effect, Mode};

    /// An APIC with something in every register.
    fn busy(x2apic: bool) -> LocalApic {
        let mut apic = LocalApic::new(5, true, 1_000_000);
        for (at, value) in [
            (offset::SVR, 0x1ef),
            (offset::LDR, 0x2000_0000),
            (offset::DFR, 0x0fff_ffff),
            (offset::TPR, 0x21),
            (offset::ICR_HIGH, 0x0300_0000),
            (offset::DIVIDE, 0xb),
            (offset::LVT_TIMER, 0x2_00ec),
            (offset::LVT_LINT0, 0x0_8700),
            (offset::LVT_ERROR, 0xfe),
            (offset::INITIAL_COUNT, 1000),
        ] {
            assert_eq!(apic.write(at, value, 500), Effect::None);
        }
        if x2apic {
            apic.set_base(apic.base() | 1 << 10, 40).unwrap();
        }
        apic.accept(0x81, true);
        apic.acknowledge();
        apic.accept(0x42, false);
        apic.accept(3, false);
        apic
    }

    #[test]
    fn restore_of_a_saved_state_gives_the_same_apic() {
        for x2apic in [false, true] {
            let mut apic = busy(x2apic);
            let saved = apic.save(700);
            let mut copy = LocalApic::new(5, true, 1_000_000);
            copy.restore(&saved, 700).unwrap();
            assert_eq!(copy.mode(), if x2apic { Mode::X2Apic } else { Mode::XApic });
            assert_eq!(copy.save(700), saved);
            assert_eq!((copy.next_deadline(), apic.next_deadline()), (Some(1500), Some(1500)));
            assert_eq!(copy.pending_interrupt(), apic.pending_interrupt());
            assert_eq!(copy.end_of_interrupt(), Some(0x81));
        }
    }

    #[test]
    fn restore_with_all_ones_gives_a_legal_apic() {
        let mut apic = LocalApic::new(0, true, 1_000_000);
        let saved = Saved {
            base: 0xfee0_0900,
            registers: [u32::MAX; REGISTERS],
            tsc_deadline: 9,
            pending_errors: u32::MAX,
        };
        apic.restore(&saved, 0).unwrap();
        let again = apic.save(0);
        assert_eq!(again.registers[(offset::IRR >> 4) as usize], 0xffff_0000);
        assert_eq!(again.registers[(offset::SVR >> 4) as usize], 0x3ff);
        assert_eq!(again.registers[(offset::LVT_ERROR >> 4) as usize], 0x1_00ff);
    }

    #[test]
    fn restore_with_impossible_base_is_refused() {
        let mut apic = LocalApic::new(0, true, 1_000_000);
        let saved = Saved { base: 0xfee0_0400, ..apic.save(0) };
        assert_eq!(apic.restore(&saved, 0), Err(GeneralProtection));
    }
}
