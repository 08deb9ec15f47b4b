//! RDMSR and WRMSR.

use super::operand::canonical;
use crate::cpu::{Cpu, FS, GS, RAX, RCX, RDX};
use crate::fault::Guest;
use crate::op::Op;
use crate::paging::PHYSICAL_BITS;
use irqchip::local_apic::registers::{FIRST_MSR, LAST_MSR};
use x86::msr;

/// MTRRcap: eight variable ranges, fixed ones, write-combining.
const MTRR_CAP: u64 = 0x508;
/// Memory types that PAT and MTRRs take: UC, WC, WT, WP, WB; PAT UC- too.
const MEMORY_TYPES: u64 = 0b111_0011;
const UC_MINUS: u64 = 7;
/// What this processor is not vulnerable to, or does by itself (SDM 4 table 2-2, IA32_ARCH_CAPABILITIES): an interpreter speculates past none of
/// the guest's checks. RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO,
/// PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
pub(super) const ARCH_CAPABILITIES: u64 = 1 << 0
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;
/// IBRS, STIBP and BHI_DIS_S: stored, without effect.
const SPEC_CTRL_WRITABLE: u64 = 0b11 | 1 << 10;
/// Fast strings; BTS and PEBS unavailable.
pub(super) const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;
/// The PAT after reset (SDM 3A 11.12.4).
pub(super) const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// A microcode revision newer than any that kernels warn of.
const MICROCODE: u64 = 0xffff_0000;

/// Variable and fixed MTRRs and the default type. No firmware sets them, so all memory starts as write-back.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mtrrs {
    /// Sixteen variable ones, base and mask in turn, then eleven fixed ones.
    ranges: [u64; 27],
    default_type: u64,
}

impl Default for Mtrrs {
    fn default() -> Self {
        Self { ranges: [0; 27], default_type: 0x806 }
    }
}

impl Mtrrs {
    /// A range register's place.
    fn place(index: u32) -> Option<usize> {
        Some(match index {
            0x200..=0x20f => (index - 0x200) as usize,
            msr::MTRR_FIX64K_00000 => 16,
            msr::MTRR_FIX16K_80000 => 17,
            msr::MTRR_FIX16K_A0000 => 18,
            0x268..=0x26f => 19 + (index - 0x268) as usize,
            _ => return None,
        })
    }
    fn slot(&mut self, index: u32) -> Option<&mut u64> {
        Self::place(index).map(|i| &mut self.ranges[i])
    }
    fn get(&self, index: u32) -> Option<u64> {
        Self::place(index).map(|i| self.ranges[i])
    }
    /// Whether a value may be written (SDM 3A 11.11.2).
    fn valid(index: u32, value: u64) -> bool {
        let beyond = u64::MAX << PHYSICAL_BITS;
        match index {
            0x200..=0x20f if index & 1 == 0 => value & (beyond | 0xf00) == 0 && memory_type(value & 0xff),
            0x200..=0x20f => value & (beyond | 0x7ff) == 0,
            _ => value.to_le_bytes().iter().all(|&t| memory_type(t as u64)),
        }
    }
}

fn memory_type(t: u64) -> bool {
    t < 8 && MEMORY_TYPES >> t & 1 != 0
}

/// RDMSR.
pub(super) fn rdmsr(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    let index = cpu.regs[RCX] as u32;
    match cpu.read_msr(index) {
        Some(value) => {
            cpu.regs[RAX] = value & 0xffff_ffff;
            cpu.regs[RDX] = value >> 32;
            Ok(())
        }
        None => {
            log::debug!("vCPU {}: RDMSR of {index:#x}, which doesn't exist", cpu.id);
            cpu.gp(0)
        }
    }
}

/// WRMSR.
pub(super) fn wrmsr(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.require_cpl0()?;
    let index = cpu.regs[RCX] as u32;
    let value = cpu.regs[RDX] << 32 | cpu.regs[RAX] & 0xffff_ffff;
    cpu.write_msr(index, value).inspect_err(|_| {
        log::debug!("WRMSR of {index:#x}, {value:#x}: refused");
    })
}

impl Cpu {
    /// The value of an MSR; `None` where there is none, or it can't be read now.
    pub(crate) fn read_msr(&mut self, index: u32) -> Option<u64> {
        let amd = crate::vendor::amd();
        Some(match index {
            msr::TSC_DEADLINE => self.with_apic(|apic, now| apic.tsc_deadline(now)),
            msr::APIC_BASE => self.with_apic(|apic, _| apic.base()),
            FIRST_MSR..=LAST_MSR => return self.with_apic(|apic, now| apic.read_msr(index, now)).ok(),
            msr::EFER => self.efer.bits(),
            msr::FS_BASE => self.seg[FS].base,
            msr::GS_BASE => self.seg[GS].base,
            msr::MTRRCAP => MTRR_CAP,
            // No banks: nothing else of machine check exists.
            msr::MCG_CAP => 0,
            msr::BIOS_SIGN_ID => MICROCODE << if amd { 0 } else { 32 },
            msr::PLATFORM_INFO => (self.shared.tsc_khz / 100_000).min(0xff) << 8,
            msr::ARCH_CAPABILITIES => ARCH_CAPABILITIES,
            msr::PRED_CMD => return None,
            msr::PLATFORM_ID
            | msr::EBL_CR_POWERON
            | msr::SMI_COUNT
            | msr::DEBUGCTL
            | msr::MISC_FEATURES_ENABLES => 0,
            // Locked, with nothing enabled.
            msr::FEATURE_CONTROL => 1,
            msr::PERF_STATUS | msr::PERF_CTL | msr::BIOS_UPDT_TRIG => 0,
            msr::LASTBRANCH_FROM..=msr::LASTINT_TO => 0,
            // There is no northbridge, but Linux turns on its extended configuration space in any case.
            msr::AMD_SYSCFG | msr::AMD_INT_PENDING | msr::AMD_NB_CFG if amd => 0,
            // TscFreqSel, which kernels expect.
            msr::AMD_HWCR if amd => 1 << 24,
            // LFENCE serialises.
            msr::AMD_DE_CFG if amd => 1 << 1,
            _ => return self.stored_msr(index),
        })
    }

    /// The MSRs that are mere values.
    pub(super) fn stored_msr(&self, index: u32) -> Option<u64> {
        let sys = &self.sys;
        Some(match index {
            msr::TSC => self.tsc(),
            msr::TSC_ADJUST => sys.tsc_adjust,
            msr::STAR => sys.star,
            msr::LSTAR => sys.lstar,
            msr::CSTAR => sys.cstar,
            msr::FMASK => sys.fmask,
            msr::KERNEL_GS_BASE => sys.kernel_gs_base,
            msr::TSC_AUX => sys.tsc_aux,
            msr::SYSENTER_CS => sys.sysenter_cs,
            msr::SYSENTER_ESP => sys.sysenter_esp,
            msr::SYSENTER_EIP => sys.sysenter_eip,
            msr::PAT => sys.pat,
            msr::MTRR_DEF_TYPE => sys.mtrrs.default_type,
            msr::MISC_ENABLE => sys.misc_enable,
            msr::MCG_STATUS => sys.mcg_status,
            msr::SPEC_CTRL => sys.spec_ctrl,
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_NEW => sys.system_time,
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_NEW => sys.wall_clock,
            _ => sys.mtrrs.get(index)?,
        })
    }

    /// Writes an MSR; #GP(0) where there is none or the value isn't allowed.
    pub(crate) fn write_msr(&mut self, index: u32, value: u64) -> Guest<()> {
        match index {
            msr::TSC => self.set_tsc(value),
            msr::TSC_ADJUST => {
                let delta = value.wrapping_sub(self.sys.tsc_adjust);
                self.set_tsc(self.tsc().wrapping_add(delta));
                self.sys.tsc_adjust = value;
            }
            msr::TSC_DEADLINE => self.with_apic(|apic, now| apic.set_tsc_deadline(value, now)),
            msr::APIC_BASE => {
                if self.with_apic(|apic, _| apic.set_base(value, PHYSICAL_BITS)).is_err() {
                    return self.gp(0);
                }
                self.apic_moved();
            }
            FIRST_MSR..=LAST_MSR => return self.apic_write_msr(index, value),
            msr::EFER => return self.load_efer(value),
            msr::STAR => self.sys.star = value,
            msr::LSTAR
            | msr::CSTAR
            | msr::FS_BASE
            | msr::GS_BASE
            | msr::KERNEL_GS_BASE
            | msr::SYSENTER_ESP
            | msr::SYSENTER_EIP
                if !canonical(value) =>
            {
                return self.gp(0);
            }
            msr::LSTAR => self.sys.lstar = value,
            msr::CSTAR => self.sys.cstar = value,
            msr::FMASK => self.sys.fmask = value & 0xffff_ffff,
            msr::FS_BASE => self.set_segment_base(FS, value),
            msr::GS_BASE => self.set_segment_base(GS, value),
            msr::KERNEL_GS_BASE => self.sys.kernel_gs_base = value,
            msr::TSC_AUX if value >> 32 == 0 => self.sys.tsc_aux = value,
            msr::SYSENTER_CS => self.sys.sysenter_cs = value & 0xffff_ffff,
            msr::SYSENTER_ESP => self.sys.sysenter_esp = value,
            msr::SYSENTER_EIP => self.sys.sysenter_eip = value,
            msr::PAT
                if value.to_le_bytes().iter().all(|&t| memory_type(t as u64) || t as u64 == UC_MINUS) =>
            {
                self.sys.pat = value;
            }
            msr::MTRR_DEF_TYPE if value & !0xcff == 0 && memory_type(value & 0xff) => {
                self.sys.mtrrs.default_type = value
            }
            msr::MISC_ENABLE => self.sys.misc_enable = value & !(1 << 34) | MISC_ENABLE & !1,
            msr::MCG_STATUS if value <= 7 => self.sys.mcg_status = value,
            // A microcode update signature is asked for by writing 0.
            msr::BIOS_SIGN_ID | msr::BIOS_UPDT_TRIG | msr::PLATFORM_INFO | msr::PERF_CTL => {}
            msr::SPEC_CTRL if value & !SPEC_CTRL_WRITABLE == 0 => self.sys.spec_ctrl = value,
            // IBPB: there is nothing to flush.
            msr::PRED_CMD if value & !1 == 0 => {}
            // Branch trace and last-branch records don't exist; their bits don't stick.
            msr::DEBUGCTL | msr::MISC_FEATURES_ENABLES | msr::EBL_CR_POWERON if value & !0x3 == 0 => {}
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_NEW => self.set_system_time(value),
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_NEW => {
                self.sys.wall_clock = value;
                self.write_wall_clock(value);
            }
            msr::AMD_SYSCFG | msr::AMD_HWCR | msr::AMD_DE_CFG | msr::AMD_NB_CFG if crate::vendor::amd() => {}
            _ => {
                return match self.sys.mtrrs.slot(index) {
                    Some(slot) if Mtrrs::valid(index, value) => {
                        *slot = value;
                        Ok(())
                    }
                    _ => self.gp(0),
                };
            }
        }
        Ok(())
    }

    /// Every MSR that a register file keeps and has no field of its own for.
    pub(crate) fn saved_msrs() -> impl Iterator<Item = u32> {
        let single = [
            msr::TSC,
            msr::TSC_ADJUST,
            msr::STAR,
            msr::LSTAR,
            msr::CSTAR,
            msr::FMASK,
            msr::KERNEL_GS_BASE,
            msr::TSC_AUX,
            msr::SYSENTER_CS,
            msr::SYSENTER_ESP,
            msr::SYSENTER_EIP,
            msr::PAT,
            msr::MTRR_DEF_TYPE,
            msr::MISC_ENABLE,
            msr::MCG_STATUS,
            msr::SPEC_CTRL,
            msr::KVM_SYSTEM_TIME_NEW,
        ];
        let fixed = [msr::MTRR_FIX64K_00000, msr::MTRR_FIX16K_80000, msr::MTRR_FIX16K_A0000];
        single.into_iter().chain(fixed).chain(0x268..=0x26f).chain(0x200..=0x20f)
    }
}
