//! What a vCPU has in its GIC's CPU interface besides list registers: a GICv2's or a GICv3's.
//!
//! The hardware keeps it while the vCPU's machine is on a CPU: `Vgic::load` puts it there, `Vgic::save` takes it back. Between those two,
//! each entry to the guest is `Gic::fill` and `Vgic::enter`, each exit `Vgic::leave` and `Gic::drain`. Nothing is left on the CPU
//! afterwards, so a vCPU goes on anywhere.

use address::HostPhys;
use irqchip::gic::{Flush, ListRegister};

use crate::arch;

/// The maintenance interrupt of virtual interfaces, a PPI (Arm BSA; both versions, all boards that have one).
pub const MAINTENANCE: u32 = 25;
/// The virtual timer's, a PPI.
pub const VIRTUAL_TIMER: u32 = 27;

/// A vCPU's CPU interface. After reset all of it is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuInterface {
    /// GICH_VMCR, ICH_VMCR_EL2: what the guest has in its control, priority mask and binary point registers.
    pub vmcr: u32,
    /// Active priorities: GICH_APR in the first; ICH_AP0Rn_EL2, then ICH_AP1Rn_EL2.
    pub active_priorities: [u32; 8],
}

impl CpuInterface {
    /// Whether an interrupt of this priority would be signalled, if nothing is active: the mask (VMPriMask, VPMR) lets it through, and
    /// a group is enabled.
    pub fn accepts(&self, priority: u8) -> bool {
        self.vmcr & 3 != 0 && u32::from(priority) < self.vmcr >> 24
    }
}

/// The CPU's own banked interrupts 0 to 31 of the physical GIC: GICD of version 2, this CPU's SGI_base of version 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateInterrupts(pub HostPhys);

impl PrivateInterrupts {
    /// Lets a PPI through to this CPU. The control domain's kernel turns them off as its CPUs start, and doesn't know of ours: so again
    /// at each entry that needs it. They need not be turned off: nothing asserts them while the control domain runs.
    pub fn enable(&self, intid: u32) {
        self.write(0x100, intid);
    }

    /// Makes it active, so that it can't fire before the guest ends it.
    pub fn activate(&self, intid: u32) {
        self.write(0x300, intid);
    }

    pub fn deactivate(&self, intid: u32) {
        self.write(0x380, intid);
    }

    fn write(&self, register: u64, intid: u32) {
        arch::write32(HostPhys(self.0.0 + register), 1 << (intid & 31));
    }

    /// What there is to be done here before `lrs` go to the hardware. Says whether a maintenance interrupt is wanted.
    pub fn enter(&self, lrs: &[ListRegister], flush: &Flush) -> bool {
        for intid in lrs.iter().filter_map(|lr| lr.hardware) {
            self.activate(intid.into());
        }
        let maintenance = flush.no_pending || flush.eoi_count || lrs.iter().any(|lr| lr.eoi_maintenance);
        if maintenance {
            self.enable(MAINTENANCE);
        }
        maintenance
    }

    /// And after the hardware's state was taken over to them: what the guest hasn't ended is not active on this CPU any more.
    pub fn leave(&self, lrs: &[ListRegister]) {
        for lr in lrs.iter().filter(|lr| lr.pending || lr.active) {
            if let Some(intid) = lr.hardware {
                self.deactivate(intid.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_and_the_groups_say_what_is_accepted() {
        // As QEMU's GICs had it after Linux's settings of a mask of 0xf0 and one group.
        for vmcr in [0xf04c_0001, 0xf04c_000a] {
            let interface = CpuInterface { vmcr, ..Default::default() };
            assert!(interface.accepts(0xe8) && !interface.accepts(0xf0));
        }
        assert!(!CpuInterface { vmcr: 0xf000_0000, ..Default::default() }.accepts(0));
        assert!(!CpuInterface::default().accepts(0));
    }
}
