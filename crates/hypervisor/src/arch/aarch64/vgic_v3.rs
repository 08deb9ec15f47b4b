//! The virtual interface control of a GICv3: system registers ICH_*_EL2 (IHI 0069 chapter 12).
//!
//! A guest's ICC_*_EL1 are the virtual ones while HCR_EL2.IMO and FMO are set, which also traps its writes of ICC_SGI1R_EL1 to us
//! (`Gic::sgi1r`).

use core::sync::atomic::Ordering;

use address::HostPhys;
use irqchip::gic::{Flush, ListRegister, MAX_LIST_REGISTERS};

use crate::arch;
use crate::cpu_interface::{CpuInterface, KICK, PrivateInterrupts};
use crate::per_cpu::PerCpu;
use crate::regions::Region;

const HCR_EN: u64 = 1 << 0;
const HCR_LRENPIE: u64 = 1 << 2;
const HCR_NPIE: u64 = 1 << 3;
const HCR_EOI_COUNT_SHIFT: u32 = 27;
/// ICC_SRE_EL1 and ICC_SRE_EL2: system registers are used; of EL2 also: EL1 has its own ICC_SRE_EL1.
const SRE: u64 = 1 << 0;
const SRE_EL2_ENABLE: u64 = 1 << 3;
/// GICR_ICPENDR0, in SGI_base.
const ICPENDR0: u64 = 0x280;

/// Writes one of the registers above.
macro_rules! write_ich {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: it changes what guests' CPU interfaces do, and none runs on this CPU now; no memory of ours.
        unsafe { write_register!($name, value) }
    }};
}

/// Reads, or writes a value to, one of some numbered registers; numbers beyond them do nothing.
macro_rules! numbered {
    ($n:expr => $($number:literal $name:literal,)*) => {
        match $n { $($number => read_register!($name),)* _ => 0 }
    };
    ($n:expr, $value:expr => $($number:literal $name:literal,)*) => {
        match $n { $($number => write_ich!($name, $value),)* _ => {} }
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

fn isb() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("isb", options(nostack)) };
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

    pub fn list_registers(&self) -> usize {
        self.list_registers
    }

    /// Of each CPU that starts, before any guest is on it, with the board's redistributor regions and the CPU's affinity.
    pub fn start_cpu(&self, redistributors: &[Region], affinity: u64) -> Option<PrivateInterrupts> {
        for n in 0..self.list_registers {
            list_registers!(n, 0);
        }
        self.load_priorities(&[0; 8]);
        write_ich!("ICH_HCR_EL2", 0);
        redistributor(redistributors, affinity)
    }

    /// Sends a CPU the interrupt that has it leave its guest: ICC_SGI1R_EL1.
    pub fn kick(&self, cpu: &PerCpu) {
        let affinity = cpu.affinity.load(Ordering::Relaxed);
        let field = |shift: u32| affinity >> shift & 0xff;
        let range = field(0) >> 4;
        write_ich!(
            "s3_0_c12_c11_5",
            field(32) << 48
                | range << 44
                | field(16) << 32
                | (KICK as u64) << 24
                | field(8) << 16
                | 1 << (field(0) & 15)
        );
        isb();
    }

    /// Takes it back, whoever has sent it.
    pub fn take_kick(&self, private: PrivateInterrupts) {
        arch::write32(HostPhys(private.0.0 + ICPENDR0), 1 << KICK);
    }

    fn load_priorities(&self, priorities: &[u32; 8]) {
        for n in 0..self.priority_registers {
            active_priorities!(n, priorities[n].into());
            active_priorities!(n + 4, priorities[n + 4].into());
        }
    }

    /// This vCPU's guest is on this CPU now.
    pub fn load(&self, interface: &CpuInterface) {
        write_ich!("ICH_VMCR_EL2", interface.vmcr.into());
        self.load_priorities(&interface.active_priorities);
        write_ich!("ICH_HCR_EL2", HCR_EN);
    }

    /// And no more. A guest can have cleared ICC_SRE_EL1.SRE, which the control domain uses too.
    pub fn save(&self, interface: &mut CpuInterface) {
        interface.vmcr = read_register!("ICH_VMCR_EL2") as u32;
        for n in 0..self.priority_registers {
            interface.active_priorities[n] = active_priorities!(n) as u32;
            interface.active_priorities[n + 4] = active_priorities!(n + 4) as u32;
        }
        write_ich!("ICH_HCR_EL2", 0);
        write_ich!("ICC_SRE_EL1", read_register!("ICC_SRE_EL1") | SRE);
    }

    /// Before the guest is entered: what was filled goes to the hardware. ERET is the barrier.
    pub fn enter(&self, ppis: PrivateInterrupts, lrs: &[ListRegister], flush: &Flush) {
        let used = lrs.get(..flush.used).unwrap_or(lrs);
        ppis.enter(used, flush);
        for (n, lr) in used.iter().enumerate() {
            list_registers!(n, lr.ich());
        }
        if flush.no_pending || flush.eoi_count {
            let npie = if flush.no_pending { HCR_NPIE } else { 0 };
            let lrenpie = if flush.eoi_count { HCR_LRENPIE } else { 0 };
            write_ich!("ICH_HCR_EL2", HCR_EN | npie | lrenpie);
        }
    }

    /// After the guest has left: the hardware's state is taken over to `lrs`, which are those that it was entered with, and the hardware's
    /// are free. Returns the count of ends without list register.
    pub fn leave(&self, ppis: PrivateInterrupts, lrs: &mut [ListRegister], flush: &Flush) -> u32 {
        let used = flush.used.min(lrs.len());
        let free = if used > 0 { read_register!("ICH_ELRSR_EL2") } else { 0 };
        for (n, lr) in lrs[..used].iter_mut().enumerate() {
            if free >> n & 1 != 0 {
                lr.update_from_ich(0);
            } else {
                lr.update_from_ich(list_registers!(n));
                list_registers!(n, 0);
            }
        }
        ppis.leave(flush);
        let mut ends = 0;
        if flush.no_pending || flush.eoi_count {
            ends = (read_register!("ICH_HCR_EL2") as u32) >> HCR_EOI_COUNT_SHIFT;
            write_ich!("ICH_HCR_EL2", HCR_EN);
        }
        // What the maintenance interrupt was for is gone before anyone looks whether an interrupt is pending.
        isb();
        ends
    }
}

impl Default for VgicV3 {
    fn default() -> Self {
        Self::new()
    }
}

/// Of each CPU with a GICv3, first: EL2 has its system registers, and lets EL1 have its own.
pub fn enable_system_registers() {
    write_ich!("ICC_SRE_EL2", read_register!("ICC_SRE_EL2") | SRE | SRE_EL2_ENABLE);
    isb();
}
