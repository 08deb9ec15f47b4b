//! The local APIC, as its processor and the rest of the machine reach it.

use crate::cpu::Cpu;
use crate::fault::Guest;
use crate::remote::{Remote, Shared, pending};
use address::GuestPhys;
use irqchip::local_apic::{Effect, LocalEvent, Mode, Source};
use irqchip::{DeliveryMode, Ipi, LocalApic, Message};
use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;

/// A vCPU's local APIC.
#[derive(Clone, Debug)]
pub struct Apic(pub LocalApic);

impl Default for Apic {
    /// The boot processor's, with a TSC of 1 GHz.
    fn default() -> Self {
        Self(LocalApic::new(0, true, 1_000_000))
    }
}

impl Deref for Apic {
    type Target = LocalApic;
    fn deref(&self) -> &LocalApic {
        &self.0
    }
}

impl DerefMut for Apic {
    fn deref_mut(&mut self) -> &mut LocalApic {
        &mut self.0
    }
}

impl Remote {
    pub(crate) fn lock_apic(&self) -> MutexGuard<'_, Apic> {
        self.apic.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What an APIC's local source does to its processor.
    fn local_event(&self, event: Option<LocalEvent>) {
        match event {
            Some(LocalEvent::Nmi) => self.post(pending::NMI),
            Some(LocalEvent::Init) => self.post(pending::INIT),
            // There is no system management mode.
            Some(LocalEvent::Smi) | None => {}
        }
    }

    /// The level of the 8259s' INTR, at LINT0.
    pub(crate) fn set_extint(&self, level: bool) {
        let event = self.lock_apic().set_pin(Source::Lint0, level);
        self.local_event(event);
        if level {
            self.post(pending::INTERRUPT);
        }
    }

    /// Hands over a message that is for this processor.
    fn take(&self, delivery: DeliveryMode, vector: u8, level_triggered: bool) {
        match delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if self.lock_apic().accept(vector, level_triggered) {
                    self.post(pending::INTERRUPT);
                }
            }
            DeliveryMode::Nmi => self.post(pending::NMI),
            DeliveryMode::Init => self.post(pending::INIT),
            DeliveryMode::StartUp => {
                self.sipi_vector.store(vector as u32, std::sync::atomic::Ordering::SeqCst);
                self.post(pending::SIPI);
            }
            DeliveryMode::ExtInt => {
                self.lock_apic().accept_external();
                self.post(pending::INTERRUPT);
            }
            DeliveryMode::Smi => {}
        }
    }
}

impl Shared {
    /// Hands a message to the processors that `matches` picks; lowest priority to one of them. No two APICs are locked at once.
    fn route(&self, delivery: DeliveryMode, vector: u8, level: bool, matches: impl Fn(&LocalApic) -> bool) {
        if delivery == DeliveryMode::LowestPriority {
            let best = self
                .all()
                .filter_map(|(_, r)| {
                    let apic = r.lock_apic();
                    (matches(&apic) && apic.is_enabled()).then(|| (apic.arbitration_priority(), r))
                })
                .min_by_key(|(priority, _)| *priority);
            if let Some((_, r)) = best {
                r.take(delivery, vector, level);
            }
            return;
        }
        for (_, r) in self.all() {
            if matches(&r.lock_apic()) {
                r.take(delivery, vector, level);
            }
        }
    }

    pub(crate) fn send_ipi(&self, ipi: &Ipi, sender: u32) {
        self.route(ipi.delivery, ipi.vector, ipi.level_triggered, |apic| apic.takes(ipi, sender));
    }

    pub(crate) fn send_message(&self, message: &Message) {
        if message.level_triggered && !message.assert {
            return;
        }
        self.route(message.delivery, message.vector, message.level_triggered, |apic| {
            apic.matches(message.destination, message.destination_mode)
        });
    }
}

impl Cpu {
    /// Does something to this vCPU's APIC, and sees to what follows: the timer's deadline, interrupts now deliverable.
    pub(crate) fn with_apic<R>(&mut self, f: impl FnOnce(&mut LocalApic, u64) -> R) -> R {
        let now = self.tsc();
        let mut apic = self.remote.lock_apic();
        let r = f(&mut apic, now);
        let deadline = apic.next_deadline();
        let due = apic.pending_interrupt().is_some() || apic.external_interrupt_pending();
        drop(apic);
        let host_now = now.wrapping_sub(self.sys.tsc_offset);
        self.sys.deadline = deadline.map_or(u64::MAX, |d| host_now.saturating_add(d.saturating_sub(now)));
        self.shared.set_deadline(&self.remote, self.sys.deadline);
        if due {
            self.sys.waiting |= pending::INTERRUPT;
            self.recheck();
        }
        r
    }

    /// The APIC's base or mode may have changed.
    pub(super) fn apic_moved(&mut self) {
        let (page, enabled) = self.with_apic(|apic, _| (apic.mmio_base(), apic.mode() != Mode::Disabled));
        self.sys.apic_page = page.unwrap_or(u64::MAX);
        self.sys.apic_enabled = enabled;
        // Pages may have become memory, or stopped being it.
        self.tlb.flush();
    }

    fn apic_effect(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Ipi(ipi) => {
                let shared = self.shared.clone();
                shared.send_ipi(&ipi, self.id);
            }
            Effect::EndOfInterrupt(vector) => {
                self.outside(|bus| bus.end_of_interrupt(vector));
            }
        }
    }

    #[inline]
    pub(crate) fn is_apic_page(&self, address: GuestPhys) -> bool {
        address.0 & !0xfff == self.sys.apic_page
    }

    pub(crate) fn apic_mmio_read(&mut self, offset: u64, out: &mut [u8]) -> Guest<()> {
        self.with_apic(|apic, now| apic.read_mmio(offset as u32, out, now));
        Ok(())
    }

    pub(crate) fn apic_mmio_write(&mut self, offset: u64, data: &[u8]) -> Guest<()> {
        let effect = self.with_apic(|apic, now| apic.write_mmio(offset as u32, data, now));
        self.apic_effect(effect);
        Ok(())
    }

    /// WRMSR to 800H-8FFH.
    pub(super) fn apic_write_msr(&mut self, msr: u32, value: u64) -> Guest<()> {
        match self.with_apic(|apic, now| apic.write_msr(msr, value, now)) {
            Ok(effect) => {
                self.apic_effect(effect);
                Ok(())
            }
            Err(_) => self.gp(0),
        }
    }
}
