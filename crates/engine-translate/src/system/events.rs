//! What happens between two instructions: kicks, start-up messages, debug traps, NMIs, interrupts, sleep
//! (SDM 3A 6.9 gives the order).

use super::debug;
use super::time::host_tsc;
use crate::cpu::{CS, Cpu, RDX, RIP};
use crate::remote::pending;
use engine::Exit;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use x86::segment::Segment;
use x86::state::Activity;
use x86::{Cr0, Exception, Rflags, Vector};

impl Cpu {
    /// Fires the local APIC's timer if its time has come.
    #[inline]
    pub(crate) fn look_at_clock(&mut self) {
        if host_tsc() >= self.sys.deadline {
            self.with_apic(|apic, now| apic.timer_expired(now));
        }
    }

    /// Sees to everything pending; an exit where `run` is to return.
    #[cold]
    #[inline(never)]
    pub(crate) fn handle_events(&mut self) -> Option<Exit> {
        self.sample_windows();
        loop {
            if let Some(exit) = self.take_messages() {
                return Some(exit);
            }
            match self.sys.activity {
                Activity::Running => break,
                Activity::Halted => {
                    if self.wakes() {
                        self.sys.activity = Activity::Running;
                    } else {
                        self.sleep();
                    }
                }
                Activity::WaitForSipi => self.sleep(),
            }
        }
        let shadow = std::mem::take(&mut self.interrupt_shadow);
        let stack_shadow = std::mem::take(&mut self.sys.stack_shadow);
        if self.sys.pending_debug != 0 && !(shadow && stack_shadow) {
            let payload = std::mem::take(&mut self.sys.pending_debug);
            let e = Exception { vector: Vector::DB, error_code: 0, payload };
            if let Some(exit) = self.deliver_exception(e) {
                return Some(exit);
            }
        }
        if !shadow && let Some(exit) = self.deliver_waiting() {
            return Some(exit);
        }
        if self.breakpoints_enabled() {
            // RF holds instruction breakpoints off for one instruction.
            let resume = self.system_flags.contains(Rflags::RF);
            self.system_flags.remove(Rflags::RF);
            let hit = self.instruction_breakpoints();
            if hit != 0 && !resume && !(shadow && stack_shadow) {
                let payload = hit | debug::FAULT;
                let exit = self.deliver_exception(Exception { vector: Vector::DB, error_code: 0, payload });
                self.recheck();
                return exit;
            }
            self.single = true;
        }
        if self.system_flags.contains(Rflags::TF) {
            self.sys.stepping = true;
            self.single = true;
        }
        if shadow && self.sys.waiting != 0 {
            self.single = true;
        }
        None
    }

    /// Takes what other threads posted: everything that needs no instruction boundary of its own.
    fn take_messages(&mut self) -> Option<Exit> {
        self.sys.waiting |= self.remote.pending.swap(0, SeqCst) & !pending::RECHECK;
        if self.take_waiting(pending::CODE) {
            self.tlb.clear_code();
        }
        if self.take_waiting(pending::FLUSH) {
            self.service_flush();
        }
        if self.take_waiting(pending::CLOCK) {
            self.look_at_clock();
            // Where this processor's counter is behind the reminder's.
            self.shared.set_deadline(&self.remote, self.sys.deadline);
        }
        if self.take_waiting(pending::KICK) {
            return Some(Exit::Kicked);
        }
        if self.take_waiting(pending::INIT) {
            self.init();
        }
        if self.take_waiting(pending::SIPI) && self.sys.activity == Activity::WaitForSipi {
            self.start_up(self.remote.sipi_vector.load(SeqCst) as u8);
        }
        None
    }

    fn take_waiting(&mut self, bit: u32) -> bool {
        let was = self.sys.waiting & bit != 0;
        self.sys.waiting &= !bit;
        was
    }

    /// Whether a halted processor goes on.
    fn wakes(&mut self) -> bool {
        self.look_at_clock();
        // The clock may have made an interrupt pending.
        self.sys.waiting |= self.remote.pending.swap(0, SeqCst);
        if self.sys.waiting & (pending::KICK | pending::INIT | pending::FLUSH) != 0 {
            self.remote
                .pending
                .fetch_or(self.sys.waiting & (pending::KICK | pending::INIT | pending::FLUSH), SeqCst);
            return false;
        }
        if self.take_waiting(pending::CODE) {
            self.tlb.clear_code();
        }
        self.sys.waiting &= !(pending::RECHECK | pending::CLOCK);
        if self.sys.waiting & pending::NMI != 0 && !self.sys.nmi_masked || self.sys.pending_debug != 0 {
            return true;
        }
        if self.sys.waiting & pending::INTERRUPT == 0 || !self.system_flags.contains(Rflags::IF) {
            return false;
        }
        let apic = self.remote.lock_apic();
        let due = apic.pending_interrupt().is_some() || apic.external_interrupt_pending();
        drop(apic);
        if !due {
            self.sys.waiting &= !pending::INTERRUPT;
        }
        due
    }

    /// Sleeps until something is posted or the timer is due.
    fn sleep(&mut self) {
        let limit = match self.sys.deadline {
            u64::MAX => None,
            deadline => {
                let ticks = deadline.saturating_sub(host_tsc());
                if ticks == 0 {
                    self.look_at_clock();
                    return;
                }
                let ns = ticks as u128 * 1_000_000 / self.shared.tsc_khz.max(1) as u128;
                // A day is as good as for ever, and safe to add to any clock.
                Some(Duration::from_nanos(ns.min(86_400_000_000_000) as u64))
            }
        };
        // It wakes by itself.
        self.shared.set_deadline(&self.remote, u64::MAX);
        self.park();
        self.tlb.park_window();
        self.remote.leave();
        self.remote.sleep(limit, self.shared.vcpus > 1);
        self.remote.enter();
        self.service_flush();
        self.look_at_clock();
        self.shared.set_deadline(&self.remote, self.sys.deadline);
    }

    /// Delivers an NMI, then the interrupt with the highest priority.
    fn deliver_waiting(&mut self) -> Option<Exit> {
        if self.sys.waiting & pending::NMI != 0 && !self.sys.nmi_masked {
            self.sys.waiting &= !pending::NMI;
            self.sys.nmi_masked = true;
            if let Some(exit) = self.deliver_interrupt(Vector::NMI as u8) {
                return Some(exit);
            }
        }
        if self.sys.waiting & pending::INTERRUPT == 0 || !self.system_flags.contains(Rflags::IF) {
            return None;
        }
        let mut apic = self.remote.lock_apic();
        let vector = if apic.external_interrupt_pending() {
            apic.acknowledge_external();
            drop(apic);
            self.outside(|bus| bus.acknowledge_interrupt()).flatten()
        } else if apic.pending_interrupt().is_some() {
            let vector = apic.acknowledge();
            drop(apic);
            Some(vector)
        } else {
            drop(apic);
            // Whatever comes later posts again.
            self.sys.waiting &= !pending::INTERRUPT;
            return None;
        };
        match vector {
            Some(vector) => self.deliver_interrupt(vector),
            None => {
                self.recheck();
                None
            }
        }
    }

    /// INIT (SDM 3A table 9-1): as power-on, but the FPU, the caches, the TSC and most MSRs stay.
    fn init(&mut self) {
        let mut s = x86::State::reset();
        s.gpr[RDX] = super::cpuid::signature() as u64;
        s.cr0 = Cr0::ET | self.cr0 & (Cr0::CD | Cr0::NW);
        let boot = {
            let mut apic = self.remote.lock_apic();
            apic.init_reset();
            apic.is_bootstrap()
        };
        self.load_registers(&s);
        self.cpl = 0;
        self.interrupt_shadow = false;
        self.single = false;
        let sys = &mut self.sys;
        sys.nmi_masked = false;
        sys.pending_debug = 0;
        sys.stepping = false;
        sys.waiting &= pending::KICK | pending::FLUSH | pending::SIPI;
        sys.deadline = u64::MAX;
        self.shared.set_deadline(&self.remote, u64::MAX);
        let sys = &mut self.sys;
        sys.activity = if boot { Activity::Running } else { Activity::WaitForSipi };
        self.debug_registers_changed();
        self.tlb.flush();
        self.update_mode();
    }

    /// A start-up IPI: real mode at the page that the vector names.
    fn start_up(&mut self, vector: u8) {
        self.seg[CS] = Segment::real_mode((vector as u16) << 8, true);
        self.regs[RIP] = 0;
        self.sys.activity = Activity::Running;
        self.update_mode();
    }
}
