//! The board's virtual interface control, of either version. ARMv7 has [`VgicV2`] alone, by the same name and functions.

use core::sync::atomic::Ordering::Relaxed;

use irqchip::gic::{Flush, ListRegister};

use super::vgic_v3::{VgicV3, enable_system_registers};
use crate::cpu_interface::{CpuInterface, PrivateInterrupts};
use crate::per_cpu::PerCpu;
use crate::platform::Gic;
use crate::vgic_v2::VgicV2;

/// What guests' CPU interfaces are made of.
#[derive(Clone, Copy, Debug)]
pub enum Vgic {
    V2(VgicV2),
    V3(VgicV3),
}

macro_rules! either {
    ($self:ident, $vgic:ident => $call:expr) => {
        match $self {
            Self::V2($vgic) => $call,
            Self::V3($vgic) => $call,
        }
    };
}

impl Vgic {
    /// The board's; `None` if it lacks what a GIC of its version must have.
    pub fn new(gic: &Gic) -> Option<Self> {
        if gic.version == 2 {
            return VgicV2::new(gic).map(Self::V2);
        }
        enable_system_registers();
        Some(Self::V3(VgicV3::new()))
    }

    /// List registers of a CPU.
    pub fn list_registers(&self) -> usize {
        either!(self, v => v.list_registers())
    }

    /// Of each CPU that starts, before any guest is on it: gets it ready, and finds its own interrupts.
    pub fn start_cpu(&self, gic: &Gic, cpu: &PerCpu) -> Option<PrivateInterrupts> {
        match self {
            Self::V2(v2) => v2.start_cpu(gic, cpu),
            Self::V3(v3) => {
                enable_system_registers();
                v3.start_cpu(gic.frames.get(1..)?, cpu.affinity.load(Relaxed))
            }
        }
    }

    /// Sends a CPU the interrupt that has it leave its guest.
    pub fn kick(&self, cpu: &PerCpu) {
        either!(self, v => v.kick(cpu));
    }

    /// Takes it back, whoever has sent it.
    pub fn take_kick(&self, private: PrivateInterrupts) {
        either!(self, v => v.take_kick(private));
    }

    /// See [`crate::cpu_interface`] for the order of these.
    pub fn load(&self, interface: &CpuInterface) {
        either!(self, v => v.load(interface));
    }

    pub fn save(&self, interface: &mut CpuInterface) {
        either!(self, v => v.save(interface));
    }

    pub fn enter(&self, ppis: PrivateInterrupts, lrs: &[ListRegister], flush: &Flush) {
        either!(self, v => v.enter(ppis, lrs, flush));
    }

    pub fn leave(&self, ppis: PrivateInterrupts, lrs: &mut [ListRegister], flush: &Flush) -> u32 {
        either!(self, v => v.leave(ppis, lrs, flush))
    }
}
