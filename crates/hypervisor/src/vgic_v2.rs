//! The virtual interface control of a GICv2: GICH, in memory (IHI 0048B 5.3). ARMv8 and ARMv7.

use core::sync::atomic::Ordering;

use address::HostPhys;
use irqchip::gic::{ListRegister, MAX_LIST_REGISTERS};

use crate::arch;
use crate::cpu_interface::{CpuInterface, HCR_EN, KICK, PrivateInterrupts, VirtualInterface};
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

    /// Itself, where there is no other version (`arch::vgic`): no call of it is an indirect one there.
    pub fn interface(&self) -> &Self {
        self
    }

    fn read(&self, register: u64) -> u32 {
        arch::read32(HostPhys(self.gich.0 + register))
    }

    fn write(&self, register: u64, value: u32) {
        arch::write32(HostPhys(self.gich.0 + register), value);
    }
}

impl VirtualInterface for VgicV2 {
    fn list_registers(&self) -> usize {
        self.list_registers
    }

    fn start_cpu(&self, _gic: &Gic, cpu: &PerCpu) -> Option<PrivateInterrupts> {
        for n in 0..self.list_registers {
            self.write(LR0 + 4 * n as u64, 0);
        }
        self.write(APR, 0);
        self.write(HCR, 0);
        let targets = arch::read32(HostPhys(self.gicd.0 + ITARGETSR0));
        cpu.target.store(targets & 0xff, Ordering::Relaxed);
        Some(PrivateInterrupts(self.gicd))
    }

    fn kick(&self, cpu: &PerCpu) {
        arch::write32(HostPhys(self.gicd.0 + SGIR), cpu.target.load(Ordering::Relaxed) << 16 | KICK);
    }

    fn take_kick(&self, private: PrivateInterrupts) {
        arch::write32(HostPhys(private.0.0 + CPENDSGIR1), 0xff << 24);
    }

    fn load(&self, interface: &CpuInterface) {
        self.write(VMCR, interface.vmcr);
        self.write(APR, interface.active_priorities[0]);
        self.write(HCR, HCR_EN);
    }

    fn save(&self, interface: &mut CpuInterface) {
        interface.vmcr = self.read(VMCR);
        interface.active_priorities[0] = self.read(APR);
        self.write(HCR, 0);
    }

    fn control(&self) -> u32 {
        self.read(HCR)
    }

    fn set_control(&self, value: u32) {
        self.write(HCR, value);
    }

    fn free(&self) -> u32 {
        self.read(ELRSR0)
    }

    fn load_list_register(&self, n: usize, lr: &ListRegister) {
        self.write(LR0 + 4 * n as u64, lr.gich());
    }

    fn save_list_register(&self, n: usize, lr: &mut ListRegister) {
        let register = LR0 + 4 * n as u64;
        lr.update_from_gich(self.read(register));
        self.write(register, 0);
    }

    fn settle(&self) {}
}
