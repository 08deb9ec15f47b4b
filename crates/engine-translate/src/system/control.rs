//! Control registers, and the instructions that drop cached translations (SDM 3A 2.5, 2.8; SDM 2).

use super::operand::canonical;
use crate::cpu::{CS, Cpu};
use crate::fault::Guest;
use crate::op::Op;
use x86::{Cr0, Cr4, Efer};

/// What can be set in CR4.
pub(super) const CR4_WRITABLE: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PSE)
    .union(Cr4::PAE)
    .union(Cr4::MCE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT)
    .union(Cr4::UMIP)
    .union(Cr4::FSGSBASE)
    .union(Cr4::PCIDE)
    .union(Cr4::OSXSAVE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP);
/// Changes of these drop cached translations, and have PAE's top entries read again.
const CR4_PAGING: Cr4 =
    Cr4::PSE.union(Cr4::PAE).union(Cr4::PGE).union(Cr4::PCIDE).union(Cr4::SMEP).union(Cr4::SMAP);
const CR0_PAGING: Cr0 = Cr0::PG.union(Cr0::WP).union(Cr0::PE);
const CR0_WRITABLE: Cr0 = Cr0::PE
    .union(Cr0::MP)
    .union(Cr0::EM)
    .union(Cr0::TS)
    .union(Cr0::ET)
    .union(Cr0::NE)
    .union(Cr0::WP)
    .union(Cr0::AM)
    .union(Cr0::NW)
    .union(Cr0::CD)
    .union(Cr0::PG);

/// MOV from CR `op.b` to register `op.a`.
pub(super) fn read_cr(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    let value = match op.b {
        0 => cpu.cr0.bits(),
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4.bits(),
        8 => cpu.with_apic(|apic, _| apic.cr8()),
        _ => return cpu.ud(),
    };
    cpu.set_reg(op.a, op.size, value);
    Ok(())
}

/// MOV to CR `op.a` from register `op.b`.
pub(super) fn write_cr(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    let value = cpu.regs[op.b as usize & 15];
    let value = if op.size == 4 { value & 0xffff_ffff } else { value };
    match op.a {
        0 => cpu.load_cr0(value),
        2 => {
            cpu.cr2 = value;
            Ok(())
        }
        3 => cpu.load_cr3(value),
        4 => cpu.load_cr4(value),
        8 => match cpu.with_apic(|apic, _| apic.set_cr8(value)) {
            Ok(()) => Ok(()),
            Err(_) => cpu.gp(0),
        },
        _ => cpu.ud(),
    }
}

/// CLTS.
pub(super) fn clts(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    cpu.cr0.remove(Cr0::TS);
    Ok(())
}

/// LMSW: PE can be set but not cleared.
pub(super) fn lmsw(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    let value = cpu.source16(op, op.a)? as u64 & 0xf;
    let kept = cpu.cr0.bits() & !0xe;
    cpu.load_cr0(kept | value)
}

/// SMSW.
pub(super) fn smsw(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.check_umip()?;
    let value = cpu.cr0.bits();
    if op.addr_size != 0 {
        return cpu.store(op, 0, value as u16);
    }
    cpu.set_reg(op.a, op.size, value);
    Ok(())
}

/// INVLPG.
pub(super) fn invlpg(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    let offset = cpu.operand_offset(op);
    let linear = cpu.seg_base[op.seg as usize & 7].wrapping_add(offset);
    let linear = if cpu.mode.is64() { linear } else { linear & 0xffff_ffff };
    if canonical(linear) {
        cpu.flush_page(linear);
    }
    Ok(())
}

/// INVPCID: type in register `op.a`, descriptor in memory.
pub(super) fn invpcid(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    let kind = cpu.regs[op.a as usize & 15];
    let kind = if cpu.mode.is64() { kind } else { kind & 0xffff_ffff };
    let pcid: u64 = cpu.load(op, 0)?;
    let linear: u64 = cpu.load(op, 8)?;
    let pcids = cpu.cr4.contains(Cr4::PCIDE);
    if kind > 3 || pcid >> 12 != 0 || kind < 2 && pcid != 0 && !pcids || kind == 0 && !canonical(linear) {
        return cpu.gp(0);
    }
    let current = if pcids { (cpu.cr3 & 0xfff) as u16 } else { 0 };
    match kind {
        0 => cpu.flush_page(linear),
        1 if pcid as u16 == current && pcids => {
            cpu.tlb.switch(current, false);
            cpu.select_tlb(cpu.tlb_select);
        }
        1 if pcids => cpu.tlb.forget(pcid as u16),
        _ => cpu.tlb.flush(),
    }
    Ok(())
}

impl Cpu {
    /// Drops what is cached of one page, in every address space.
    pub(crate) fn flush_page(&mut self, linear: u64) {
        self.tlb.flush_page(linear);
    }

    /// #GP(0) where UMIP keeps a user program from looking (SDM 3A 2.5).
    pub(super) fn check_umip(&mut self) -> Guest<()> {
        if self.cr4.contains(Cr4::UMIP) && self.cpl > 0 && self.cr0.contains(Cr0::PE) {
            self.gp(0)
        } else {
            Ok(())
        }
    }

    /// MOV to CR0: checks, and what follows from the change (SDM 2, MOV to CR; SDM 3A 9.8.5).
    pub(crate) fn load_cr0(&mut self, value: u64) -> Guest<()> {
        if value >> 32 != 0 {
            return self.gp(0);
        }
        let new = Cr0::from_bits_truncate(value) & CR0_WRITABLE | Cr0::ET;
        let old = self.cr0;
        let bad = new.contains(Cr0::PG) && !new.contains(Cr0::PE)
            || new.contains(Cr0::NW) && !new.contains(Cr0::CD);
        if bad {
            return self.gp(0);
        }
        let (was, is) = (old.contains(Cr0::PG), new.contains(Cr0::PG));
        if was && !is && (self.mode.is64() || self.cr4.contains(Cr4::PCIDE)) {
            return self.gp(0);
        }
        if is && !was {
            if self.efer.contains(Efer::LME) {
                let tss16 = self.tr.kind() & 8 == 0;
                if !self.cr4.contains(Cr4::PAE) || self.seg[CS].long() || tss16 {
                    return self.gp(0);
                }
                self.efer.insert(Efer::LMA);
            } else if self.cr4.contains(Cr4::PAE) {
                self.load_pdptes(self.cr3)?;
            }
        }
        if was && !is {
            self.efer.remove(Efer::LMA);
        }
        self.cr0 = new;
        if (old ^ new).intersects(CR0_PAGING) {
            self.tlb.flush();
        }
        if !new.contains(Cr0::PE) {
            self.cpl = 0;
        }
        self.update_mode();
        Ok(())
    }

    /// MOV to CR4.
    pub(crate) fn load_cr4(&mut self, value: u64) -> Guest<()> {
        if value & !CR4_WRITABLE.bits() != 0 {
            return self.gp(0);
        }
        let new = Cr4::from_bits_truncate(value);
        let old = self.cr4;
        if self.long_mode() && !new.contains(Cr4::PAE) {
            return self.gp(0);
        }
        if new.contains(Cr4::PCIDE)
            && !old.contains(Cr4::PCIDE)
            && (!self.long_mode() || self.cr3 & 0xfff != 0)
        {
            return self.gp(0);
        }
        let paging = (old ^ new).intersects(CR4_PAGING);
        if paging && new.contains(Cr4::PAE) && self.cr0.contains(Cr0::PG) && !self.long_mode() {
            self.load_pdptes(self.cr3)?;
        }
        self.cr4 = new;
        if paging {
            self.tlb.flush();
        }
        self.update_tlb_select();
        Ok(())
    }

    /// WRMSR to EFER.
    pub(crate) fn load_efer(&mut self, value: u64) -> Guest<()> {
        let writable = Efer::SCE | Efer::LME | Efer::NXE;
        if value & !(writable | Efer::LMA).bits() != 0 {
            return self.gp(0);
        }
        let new = Efer::from_bits_truncate(value) & writable;
        if (new ^ self.efer).contains(Efer::LME) && self.cr0.contains(Cr0::PG) {
            return self.gp(0);
        }
        let changed = new ^ self.efer;
        self.efer = new | self.efer & Efer::LMA;
        if changed.contains(Efer::NXE) {
            self.tlb.flush();
        }
        Ok(())
    }
}
