//! The virtual interface control of a GICv2: GICH, in memory (IHI 0048B 5.3). ARMv8 and ARMv7.

use core::sync::atomic::Ordering;

use address::HostPhys;
use irqchip::gic::{Flush, ListRegister, MAX_LIST_REGISTERS};

use crate::arch;
use crate::cpu_interface::{CpuInterface, KICK, PrivateInterrupts};
use crate::per_cpu::PerCpu;
use crate::platform::Gic;

const HCR: u64 = 0x000;
const VTR: u64 = 0x004;
const VMCR: u64 = 0x008;
const ELRSR0: u64 = 0x030;
const APR: u64 = 0x0f0;
const LR0: u64 = 0x100;

/// GICD_ITARGETSR0, GICD_SGIR, GICD_CPENDSGIR1.
const ITARGETSR0: u64 = 0x800;
const SGIR: u64 = 0xf00;
const CPENDSGIR1: u64 = 0xf14;

const HCR_EN: u32 = 1 << 0;
const HCR_LRENPIE: u32 = 1 << 2;
const HCR_NPIE: u32 = 1 << 3;
const HCR_EOI_COUNT_SHIFT: u32 = 27;

/// GICH, banked by CPU.
#[derive(Clone, Copy, Debug)]
pub struct VgicV2 {
    gich: HostPhys,
    gicd: HostPhys,
    list_registers: usize,
}

impl VgicV2 {
    /// That of this board; `None` if it lacks what there must be.
    pub fn new(gic: &Gic) -> Option<Self> {
        let (gich, gicd) = (gic.virtualization?.0.address(), gic.frames.first()?.address());
        let vtr = arch::read32(HostPhys(gich.0 + VTR));
        Some(Self { gich, gicd, list_registers: ((vtr & 0x3f) as usize + 1).min(MAX_LIST_REGISTERS) })
    }

    fn read(&self, register: u64) -> u32 {
        arch::read32(HostPhys(self.gich.0 + register))
    }

    fn write(&self, register: u64, value: u32) {
        arch::write32(HostPhys(self.gich.0 + register), value);
    }

    pub fn list_registers(&self) -> usize {
        self.list_registers
    }

    /// Of each CPU that starts, before any guest is on it: gets it ready, and finds its own interrupts.
    pub fn start_cpu(&self, _gic: &Gic, cpu: &PerCpu) -> Option<PrivateInterrupts> {
        for n in 0..self.list_registers {
            self.write(LR0 + 4 * n as u64, 0);
        }
        self.write(APR, 0);
        self.write(HCR, 0);
        let targets = arch::read32(HostPhys(self.gicd.0 + ITARGETSR0));
        cpu.target.store(targets & 0xff, Ordering::Relaxed);
        Some(PrivateInterrupts(self.gicd))
    }

    /// Sends a CPU the interrupt that has it leave its guest.
    pub fn kick(&self, cpu: &PerCpu) {
        arch::write32(HostPhys(self.gicd.0 + SGIR), cpu.target.load(Ordering::Relaxed) << 16 | KICK);
    }

    /// Takes it back, whoever has sent it.
    pub fn take_kick(&self, private: PrivateInterrupts) {
        arch::write32(HostPhys(private.0.0 + CPENDSGIR1), 0xff << 24);
    }

    /// This vCPU's guest is on this CPU now.
    pub fn load(&self, interface: &CpuInterface) {
        self.write(VMCR, interface.vmcr);
        self.write(APR, interface.active_priorities[0]);
        self.write(HCR, HCR_EN);
    }

    /// And no more.
    pub fn save(&self, interface: &mut CpuInterface) {
        interface.vmcr = self.read(VMCR);
        interface.active_priorities[0] = self.read(APR);
        self.write(HCR, 0);
    }

    /// Before the guest is entered: what was filled goes to the hardware.
    pub fn enter(&self, ppis: PrivateInterrupts, lrs: &[ListRegister], flush: &Flush) {
        let used = lrs.get(..flush.used).unwrap_or(lrs);
        ppis.enter(used, flush);
        for (n, lr) in used.iter().enumerate() {
            self.write(LR0 + 4 * n as u64, lr.gich());
        }
        if flush.no_pending || flush.eoi_count {
            let npie = if flush.no_pending { HCR_NPIE } else { 0 };
            let lrenpie = if flush.eoi_count { HCR_LRENPIE } else { 0 };
            self.write(HCR, HCR_EN | npie | lrenpie);
        }
    }

    /// After the guest has left: the hardware's state is taken over to `lrs`, which are those that it was entered with, and the hardware's
    /// are free. Returns the count of ends without list register.
    pub fn leave(&self, ppis: PrivateInterrupts, lrs: &mut [ListRegister], flush: &Flush) -> u32 {
        let used = flush.used.min(lrs.len());
        let free = if used > 0 { self.read(ELRSR0) } else { 0 };
        for (n, lr) in lrs[..used].iter_mut().enumerate() {
            let register = LR0 + 4 * n as u64;
            if free >> n & 1 != 0 {
                lr.update_from_gich(0);
            } else {
                lr.update_from_gich(self.read(register));
                self.write(register, 0);
            }
        }
        ppis.leave(flush);
        if !(flush.no_pending || flush.eoi_count) {
            return 0;
        }
        let ends = self.read(HCR) >> HCR_EOI_COUNT_SHIFT;
        self.write(HCR, HCR_EN);
        // Read back: what the maintenance interrupt was for is gone before anyone looks whether an interrupt is pending.
        self.read(HCR);
        ends
    }
}
