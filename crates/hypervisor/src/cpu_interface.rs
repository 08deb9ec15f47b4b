//! What a vCPU has in its GIC's CPU interface besides list registers: a GICv2's or a GICv3's.
//!
//! The hardware keeps it while the vCPU's machine is on a CPU: [`VirtualInterface::load`] puts it there, [`VirtualInterface::save`] takes it back. Between those two,
//! each entry to the guest is `Gic::fill` and `enter`, each exit `leave` and `Gic::drain`. Nothing is left on the CPU
//! afterwards, so a vCPU goes on anywhere.

use address::HostPhys;
use arm::syndrome::{Syndrome, class};
use irqchip::gic::{Flush, ListRegister};

use crate::arch;
use crate::per_cpu::PerCpu;
use crate::platform::Gic;

/// The maintenance interrupt of virtual interfaces, a PPI: GIC-400's, and the one that is recommended for others. A board that has it
/// elsewhere says so in the GIC's device tree node, which is not looked at yet.
pub const MAINTENANCE: u32 = 25;
/// The software-generated interrupt that kicks a processor out of a guest. Linux has no use for the last of those that are never the
/// firmware's.
pub const KICK: u32 = 7;
/// The virtual timer's, a PPI.
pub const VIRTUAL_TIMER: u32 = 27;

/// GICD_ISENABLER0, or GICR_ISENABLER0, and so on.
const ISENABLER0: u64 = 0x100;
const ISPENDR0: u64 = 0x200;
const ISACTIVER0: u64 = 0x300;
const ICACTIVER0: u64 = 0x380;

/// A vCPU's CPU interface. After reset all of it is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuInterface {
    /// GICH_VMCR, ICH_VMCR_EL2: what the guest has in its control, priority mask and binary point registers.
    pub vmcr: u32,
    /// Active priorities: GICH_APR in the first; ICH_AP0Rn_EL2, then ICH_AP1Rn_EL2.
    pub active_priorities: [u32; 8],
}

impl CpuInterface {
    /// After reset.
    pub const RESET: Self = Self { vmcr: 0, active_priorities: [0; 8] };
}

/// Whether an exception that the guest was left for can be answered while its interrupts are still in their list registers, because it
/// has nothing to do with what these say. `address` is an abort's.
pub fn stays_loaded(syndrome: Syndrome, address: impl FnOnce() -> u64) -> bool {
    match syndrome.class() {
        class::HVC32 | class::HVC64 | class::SMC32 | class::SMC64 => true,
        // CRn 12 has the CPU interface's.
        class::SYSTEM_REGISTER | class::MCR_CP15 => syndrome.0 >> 10 & 0xf != 12,
        // A load from whatever device; but in the GIC's frames registers here say what is pending or active.
        class::DATA_ABORT_LOWER => {
            !syndrome.write() && !matches!(address() & 0xfff, 0x200..0x400 | 0xf10..0xf30)
        }
        _ => false,
    }
}

/// The CPU's own banked interrupts 0 to 31 of the physical GIC: GICD of version 2, this CPU's SGI_base of version 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateInterrupts(pub HostPhys);

impl PrivateInterrupts {
    /// Lets a PPI through to this CPU. The control domain's kernel turns them off as its CPUs start, and doesn't know of ours: so again
    /// at each entry that needs it. They need not be turned off: nothing asserts them while the control domain runs.
    pub fn enable(&self, intid: u32) {
        self.write(ISENABLER0, 1 << (intid & 31));
    }

    /// Whether a private interrupt is pending on this CPU.
    pub fn is_pending(&self, intid: u32) -> bool {
        arch::read32(HostPhys(self.0.0 + ISPENDR0)) >> (intid & 31) & 1 != 0
    }

    fn write(&self, register: u64, intids: u32) {
        arch::write32(HostPhys(self.0.0 + register), intids);
    }

    /// What there is to be done here before the guest is entered with `lrs`.
    pub fn enter(&self, lrs: &[ListRegister], flush: &Flush) {
        if flush.silenced != 0 {
            self.write(ISACTIVER0, flush.silenced);
        }
        if flush.no_pending || flush.eoi_count || lrs.iter().any(|lr| lr.eoi_maintenance) {
            self.enable(MAINTENANCE);
        }
    }

    /// And after it has left: nothing of its stays active on this CPU.
    pub fn leave(&self, flush: &Flush) {
        if flush.silenced != 0 {
            self.write(ICACTIVER0, flush.silenced);
        }
    }
}

/// GICH_HCR and ICH_HCR_EL2: En, LRENPIE, NPIE, EOICount.
pub const HCR_EN: u32 = 1 << 0;
const HCR_LRENPIE: u32 = 1 << 2;
const HCR_NPIE: u32 = 1 << 3;
const HCR_EOI_COUNT_SHIFT: u32 = 27;

/// The board's virtual interface control: a GICv2's or a GICv3's.
pub trait VirtualInterface {
    /// List registers of a CPU.
    fn list_registers(&self) -> usize;
    /// Of each CPU that starts, before any guest is on it: gets it ready, and finds its own interrupts.
    fn start_cpu(&self, gic: &Gic, cpu: &PerCpu) -> Option<PrivateInterrupts>;
    /// Sends a CPU the interrupt that has it leave its guest.
    fn kick(&self, cpu: &PerCpu);
    /// Takes it back, whoever has sent it.
    fn take_kick(&self, private: PrivateInterrupts);
    /// This vCPU's guest is on this CPU now.
    fn load(&self, interface: &CpuInterface);
    /// And no more.
    fn save(&self, interface: &mut CpuInterface);

    fn control(&self) -> u32;
    fn set_control(&self, value: u32);
    /// The list registers that are free (ELRSR): bit n for number n.
    fn free(&self) -> u32;
    fn load_list_register(&self, n: usize, lr: &ListRegister);
    /// Takes its state over, and frees it.
    fn save_list_register(&self, n: usize, lr: &mut ListRegister);
    /// What was written is so before anyone looks whether an interrupt is pending.
    fn settle(&self);

    /// Before the guest is entered: what was filled goes to the hardware.
    fn enter(&self, ppis: PrivateInterrupts, lrs: &[ListRegister], flush: &Flush) {
        let used = lrs.get(..flush.used).unwrap_or(lrs);
        ppis.enter(used, flush);
        for (n, lr) in used.iter().enumerate() {
            self.load_list_register(n, lr);
        }
        if flush.no_pending || flush.eoi_count {
            let npie = if flush.no_pending { HCR_NPIE } else { 0 };
            let lrenpie = if flush.eoi_count { HCR_LRENPIE } else { 0 };
            self.set_control(HCR_EN | npie | lrenpie);
        }
    }

    /// After the guest has left: the hardware's state is taken over to `lrs`, which are those that it was entered with, and the hardware's
    /// are free. Returns the count of ends without list register.
    fn leave(&self, ppis: PrivateInterrupts, lrs: &mut [ListRegister], flush: &Flush) -> u32 {
        let used = flush.used.min(lrs.len());
        let free = if used > 0 { self.free() } else { 0 };
        for (n, lr) in lrs[..used].iter_mut().enumerate() {
            if free >> n & 1 != 0 {
                (lr.pending, lr.active) = (false, false);
            } else {
                self.save_list_register(n, lr);
            }
        }
        ppis.leave(flush);
        let mut ends = 0;
        if flush.no_pending || flush.eoi_count {
            ends = self.control() >> HCR_EOI_COUNT_SHIFT;
            self.set_control(HCR_EN);
            // Read back: what the maintenance interrupt was for is gone from here on.
            self.control();
        }
        self.settle();
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_registers_stay_loaded_for_what_does_not_concern_them() {
        let stays = |class, iss, address| stays_loaded(Syndrome::new(class, iss), || address);
        assert!(stays(class::HVC64, 0, 0) && stays(class::SMC32, 0, 0));
        // ACTLR_EL1; ICC_SGI1R_EL1; ICC_DIR of AArch32.
        assert!(stays(class::SYSTEM_REGISTER, 1 << 10, 0));
        assert!(!stays(class::SYSTEM_REGISTER, 12 << 10, 0) && !stays(class::MCR_CP15, 12 << 10, 0));
        // GICD_TYPER; GICD_ISPENDR, GICD_ICACTIVER, GICD_SPENDSGIR; a store; WFI.
        assert!(stays(class::DATA_ABORT_LOWER, 0, 0x800_0004));
        assert!([0x200, 0x3fc, 0xf20].iter().all(|at| !stays(class::DATA_ABORT_LOWER, 0, 0x800_0000 + at)));
        assert!(!stays(class::DATA_ABORT_LOWER, 1 << 6, 0x800_0004) && !stays(class::WFX, 0, 0));
    }
}
