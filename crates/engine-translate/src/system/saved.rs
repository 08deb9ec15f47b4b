//! A vCPU's whole register file, out and in.

use super::control::CR4_WRITABLE;
use super::operand::canonical;
use crate::cpu::{CS, Cpu, RIP};
use crate::fault::Fault;
use crate::remote::pending;
use engine::{Error, Result};
use irqchip::local_apic::Saved;
use irqchip::local_apic::registers::{FIRST_MSR, LAST_MSR};
use std::sync::atomic::Ordering::SeqCst;
use x86::state::Activity;
use x86::{Cr0, Cr4, Efer, Rflags, State, msr};

impl Cpu {
    /// The register file as it is between two runs.
    pub(crate) fn save(&self) -> Result<State> {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.regs[..16]);
        let now = self.tsc();
        let (saved, cr8) = {
            let mut apic = self.remote.lock_apic();
            (apic.save(now), apic.cr8())
        };
        let mut msrs: Vec<_> = Self::saved_msrs().filter_map(|i| Some((i, self.stored_msr(i)?))).collect();
        msrs.push((msr::TSC_DEADLINE, saved.tsc_deadline));
        let posted = self.remote.pending.load(SeqCst) | self.sys.waiting;
        Ok(State {
            gpr,
            rip: self.regs[RIP],
            rflags: Rflags::from_bits_truncate(self.rflags()),
            seg: self.seg,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8,
            efer: self.efer,
            dr: self.dr,
            xcr0: self.vector.xcr0,
            xsave: self.vector.to_bytes(),
            msrs,
            apic_base: saved.base,
            apic: saved.registers.to_vec(),
            activity: self.sys.activity,
            interrupt_shadow: self.interrupt_shadow,
            nmi_pending: posted & pending::NMI != 0,
            nmi_masked: self.sys.nmi_masked,
        })
    }

    /// Takes the general, segment, control and debug registers and the flags as they are in `s`. What is derived from
    /// them is up to the caller.
    pub(super) fn load_registers(&mut self, s: &State) {
        self.regs[..16].copy_from_slice(&s.gpr);
        self.regs[RIP] = s.rip;
        self.set_rflags(s.rflags.bits());
        self.seg = s.seg;
        self.ldtr = s.ldtr;
        self.tr = s.tr;
        self.gdtr = s.gdtr;
        self.idtr = s.idtr;
        self.cr0 = s.cr0 | Cr0::ET;
        self.cr2 = s.cr2;
        self.cr3 = s.cr3;
        self.cr4 = s.cr4;
        self.efer = s.efer;
        self.dr = s.dr;
    }

    /// Replaces everything; refuses what no processor could hold, and is then unchanged but for MSRs.
    pub(crate) fn restore(&mut self, s: &State) -> Result<()> {
        let bad = |why: &str| Err(Error::InvalidState(why.to_string()));
        let paging = s.cr0.contains(Cr0::PG);
        let long = s.efer.contains(Efer::LME) && paging;
        if paging && !s.cr0.contains(Cr0::PE) {
            return bad("CR0 has PG without PE");
        }
        if s.cr4.bits() & !CR4_WRITABLE.bits() != 0 {
            return bad(&format!("CR4 {:#x} has bits that this engine doesn't have", s.cr4.bits()));
        }
        if long && !s.cr4.contains(Cr4::PAE) {
            return bad("long mode without CR4.PAE");
        }
        if s.efer.contains(Efer::LMA) && !long {
            return bad("EFER.LMA without EFER.LME and CR0.PG");
        }
        if !(Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE).contains(s.efer) {
            return bad(&format!("EFER {:#x} has bits that this engine doesn't have", s.efer.bits()));
        }
        if long && s.rflags.contains(Rflags::VM) {
            return bad("virtual-8086 mode in long mode");
        }
        if s.rip >> 32 != 0 && !(long && s.seg[CS].long() && canonical(s.rip)) {
            return bad(&format!("RIP is {:#x}", s.rip));
        }
        if !s.apic.is_empty() && s.apic.len() != irqchip::local_apic::saved::REGISTERS {
            return bad(&format!("{} local APIC registers, not 64", s.apic.len()));
        }
        if let Err(e) = self.vector.load_bytes(&s.xsave) {
            return Err(Error::InvalidState(e.to_string()));
        }
        if let Err(e) = self.vector.set_xcr0(s.xcr0) {
            return Err(Error::InvalidState(e.to_string()));
        }
        for &(index, value) in &s.msrs {
            self.restore_msr(index, value)?;
        }
        self.restore_apic(s)?;

        self.load_registers(s);
        self.efer.set(Efer::LMA, long);
        self.cpl = match () {
            _ if !s.cr0.contains(Cr0::PE) => 0,
            _ if s.rflags.contains(Rflags::VM) => 3,
            _ => (s.seg[CS].selector & 3) as u8,
        };
        self.interrupt_shadow = s.interrupt_shadow;
        self.single = false;
        self.fault = None;
        let sys = &mut self.sys;
        sys.stack_shadow = false;
        sys.pending_debug = 0;
        sys.stepping = false;
        sys.activity = s.activity;
        sys.nmi_masked = s.nmi_masked;
        sys.waiting = if s.nmi_pending { pending::NMI } else { 0 } | pending::INTERRUPT;
        // Kicks and shootdowns are not the register file's.
        self.remote.pending.fetch_and(pending::KICK | pending::FLUSH, SeqCst);
        self.recheck();
        self.debug_registers_changed();
        self.tlb.flush();
        self.update_mode();
        if paging && !long && s.cr4.contains(Cr4::PAE) && self.load_pdptes(s.cr3).is_err() {
            self.fault = None::<Fault>;
            return bad("PAE's page-directory pointers have reserved bits set");
        }
        Ok(())
    }

    fn restore_msr(&mut self, index: u32, value: u64) -> Result<()> {
        match index {
            msr::TSC => {
                self.sys.tsc_offset = value.wrapping_sub(super::time::host_tsc());
                return Ok(());
            }
            msr::TSC_ADJUST => {
                self.sys.tsc_adjust = value;
                return Ok(());
            }
            // These have fields of their own, or come with the APIC.
            msr::TSC_DEADLINE
            | msr::APIC_BASE
            | msr::EFER
            | msr::FS_BASE
            | msr::GS_BASE
            | FIRST_MSR..=LAST_MSR => return Ok(()),
            _ => {}
        }
        if self.write_msr(index, value).is_err() {
            self.fault = None;
            return Err(Error::InvalidState(format!("MSR {index:#x} can't be {value:#x}")));
        }
        Ok(())
    }

    /// No registers: the APIC as firmware leaves it, the boot processor's in virtual wire mode.
    fn restore_apic(&mut self, s: &State) -> Result<()> {
        let deadline = s.msrs.iter().find(|(i, _)| *i == msr::TSC_DEADLINE).map_or(0, |&(_, v)| v);
        // Which processor is the boot processor is the board's.
        let bsp = if self.id == 0 { 1 << 8 } else { 0 };
        let base = s.apic_base & !(1 << 8) | bsp;
        let done = self.with_apic(|apic, now| {
            apic.power_on_reset();
            if let Ok(registers) = s.apic.as_slice().try_into() {
                return apic
                    .restore(&Saved { base, registers, tsc_deadline: deadline, pending_errors: 0 }, now);
            }
            apic.set_base(base, crate::paging::PHYSICAL_BITS)?;
            if bsp != 0 {
                apic.enter_virtual_wire_mode();
            }
            apic.set_cr8(s.cr8)
        });
        if done.is_err() {
            return Err(Error::InvalidState(format!(
                "IA32_APIC_BASE can't be {:#x}, or CR8 {:#x}",
                s.apic_base, s.cr8
            )));
        }
        self.apic_moved();
        Ok(())
    }

    /// Starts as INIT leaves a processor that isn't the boot processor.
    pub(crate) fn wait_for_start_up(&mut self) {
        self.sys.activity = Activity::WaitForSipi;
    }
}
