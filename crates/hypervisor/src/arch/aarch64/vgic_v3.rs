//! The virtual interface control of a GICv3: system registers ICH_*_EL2 (IHI 0069 chapter 12).
//!
//! A guest's ICC_*_EL1 are the virtual ones while HCR_EL2.IMO and FMO are set, which also traps its writes of ICC_SGI1R_EL1 to us
//! (`Gic::sgi1r`).

use core::sync::atomic::Ordering;

use address::HostPhys;
use irqchip::gic::{ListRegister, MAX_LIST_REGISTERS};

use crate::arch;
use crate::cpu_interface::{CpuInterface, HCR_EN, KICK, PrivateInterrupts, VirtualInterface};
use crate::per_cpu::PerCpu;
use crate::platform::Gic;
use crate::regions::Region;

/// ICC_SRE_EL1 and ICC_SRE_EL2: system registers are used; of EL2 also: EL1 has its own ICC_SRE_EL1.
const SRE: u64 = 1 << 0;
const SRE_EL2_ENABLE: u64 = 1 << 3;
/// GICR_ICPENDR0, in SGI_base.
const ICPENDR0: u64 = 0x280;

/// Reads, or writes a value to, one of some numbered registers; numbers beyond them do nothing.
macro_rules! numbered {
    ($n:expr => $($number:literal $name:literal,)*) => {
        match $n { $($number => read_register!($name),)* _ => 0 }
    };
    ($n:expr, $value:expr => $($number:literal $name:literal,)*) => {
        match $n { $($number => set_register!($name, $value),)* _ => {} }
    };
}

macro_rules! list_registers {
    ($($argument:expr),*) => {
        numbered!($($argument),* =>
            0 "ICH_LR0_EL2", 1 "ICH_LR1_EL2", 2 "ICH_LR2_EL2", 3 "ICH_LR3_EL2", 4 "ICH_LR4_EL2", 5 "ICH_LR5_EL2",
            6 "ICH_LR6_EL2", 7 "ICH_LR7_EL2", 8 "ICH_LR8_EL2", 9 "ICH_LR9_EL2", 10 "ICH_LR10_EL2", 11 "ICH_LR11_EL2",
            12 "ICH_LR12_EL2", 13 "ICH_LR13_EL2", 14 "ICH_LR14_EL2", 15 "ICH_LR15_EL2",)
    };
}

/// Those of both groups, in the order of [`CpuInterface::active_priorities`].
macro_rules! active_priorities {
    ($($argument:expr),*) => {
        numbered!($($argument),* =>
            0 "ICH_AP0R0_EL2", 1 "ICH_AP0R1_EL2", 2 "ICH_AP0R2_EL2", 3 "ICH_AP0R3_EL2",
            4 "ICH_AP1R0_EL2", 5 "ICH_AP1R1_EL2", 6 "ICH_AP1R2_EL2", 7 "ICH_AP1R3_EL2",)
    };
}

/// ICH_*_EL2.
#[derive(Clone, Copy, Debug)]
pub struct VgicV3 {
    list_registers: usize,
    /// Active priorities registers a group: 1, 2 or 4.
    priority_registers: usize,
}

/// The redistributor of the CPU with these MPIDR affinity fields: its SGI_base. `None` if it is in none of the regions.
fn redistributor(regions: &[Region], affinity: u64) -> Option<PrivateInterrupts> {
    let packed = (affinity >> 32 & 0xff) << 24 | affinity & 0xff_ffff;
    for region in regions {
        let mut frame = region.start;
        while frame.checked_add(0x2_0000).is_some_and(|end| end <= region.end) {
            // GICR_PIDR2.ArchRev: a board can have other frames behind these, where loads have effects.
            if !matches!(arch::read32(HostPhys(frame + 0xffe8)) >> 4 & 0xf, 3 | 4) {
                break;
            }
            // GICR_TYPER: Affinity_Value, Last, VLPIS (two more frames).
            let typer = arch::read32(HostPhys(frame + 0x8));
            if u64::from(arch::read32(HostPhys(frame + 0xc))) == packed {
                return Some(PrivateInterrupts(HostPhys(frame + 0x1_0000)));
            }
            if typer & 1 << 4 != 0 {
                break;
            }
            frame += if typer & 1 << 1 != 0 { 0x4_0000 } else { 0x2_0000 };
        }
    }
    None
}

impl VgicV3 {
    /// That of this board, asked on a CPU that has system registers enabled ([`enable_system_registers`]).
    pub fn new() -> Self {
        let vtr = read_register!("ICH_VTR_EL2");
        // ListRegs, PREbits: each less 1.
        let bits = (vtr >> 26 & 7) + 1;
        Self {
            list_registers: ((vtr & 0x1f) as usize + 1).min(MAX_LIST_REGISTERS),
            priority_registers: if bits < 6 { 1 } else { 1 << (bits - 5).min(2) },
        }
    }

    fn load_priorities(&self, priorities: &[u32; 8]) {
        for n in 0..self.priority_registers {
            active_priorities!(n, priorities[n].into());
            active_priorities!(n + 4, priorities[n + 4].into());
        }
    }
}

impl VirtualInterface for VgicV3 {
    fn list_registers(&self) -> usize {
        self.list_registers
    }

    fn start_cpu(&self, gic: &Gic, cpu: &PerCpu) -> Option<PrivateInterrupts> {
        enable_system_registers();
        for n in 0..self.list_registers {
            list_registers!(n, 0);
        }
        self.load_priorities(&[0; 8]);
        self.set_control(0);
        redistributor(gic.frames.get(1..)?, cpu.affinity.load(Ordering::Relaxed))
    }

    /// ICC_SGI1R_EL1.
    fn kick(&self, cpu: &PerCpu) {
        let affinity = cpu.affinity.load(Ordering::Relaxed);
        let field = |shift: u32| affinity >> shift & 0xff;
        let target = field(32) << 48 | field(0) >> 4 << 44 | field(16) << 32 | field(8) << 16;
        set_register!("s3_0_c12_c11_5", target | (KICK as u64) << 24 | 1 << (field(0) & 15));
        arch::isb();
    }

    fn take_kick(&self, private: PrivateInterrupts) {
        arch::write32(HostPhys(private.0.0 + ICPENDR0), 1 << KICK);
    }

    fn load(&self, interface: &CpuInterface) {
        set_register!("ICH_VMCR_EL2", interface.vmcr.into());
        self.load_priorities(&interface.active_priorities);
        self.set_control(HCR_EN);
    }

    /// A guest can have cleared ICC_SRE_EL1.SRE, which the control domain uses too.
    fn save(&self, interface: &mut CpuInterface) {
        interface.vmcr = read_register!("ICH_VMCR_EL2") as u32;
        for n in 0..self.priority_registers {
            interface.active_priorities[n] = active_priorities!(n) as u32;
            interface.active_priorities[n + 4] = active_priorities!(n + 4) as u32;
        }
        self.set_control(0);
        set_register!("ICC_SRE_EL1", read_register!("ICC_SRE_EL1") | SRE);
    }

    fn control(&self) -> u32 {
        read_register!("ICH_HCR_EL2") as u32
    }

    fn set_control(&self, value: u32) {
        set_register!("ICH_HCR_EL2", value.into());
    }

    fn free(&self) -> u32 {
        read_register!("ICH_ELRSR_EL2") as u32
    }

    fn load_list_register(&self, n: usize, lr: &ListRegister) {
        list_registers!(n, lr.ich());
    }

    fn save_list_register(&self, n: usize, lr: &mut ListRegister) {
        lr.update_from_ich(list_registers!(n));
        list_registers!(n, 0);
    }

    fn settle(&self) {
        arch::isb();
    }
}

/// Of each CPU with a GICv3, first: EL2 has its system registers, and lets EL1 have its own.
pub fn enable_system_registers() {
    set_register!("ICC_SRE_EL2", read_register!("ICC_SRE_EL2") | SRE | SRE_EL2_ENABLE);
    arch::isb();
}
