//! The board's virtual interface control, of either version. ARMv7 has [`VgicV2`] alone, by the same name.

use super::vgic_v3::{VgicV3, enable_system_registers};
use crate::cpu_interface::VirtualInterface;
use crate::platform::Gic;
use crate::vgic_v2::VgicV2;

/// What guests' CPU interfaces are made of.
#[derive(Clone, Copy, Debug)]
pub enum Vgic {
    V2(VgicV2),
    V3(VgicV3),
}

/// What guests are run with.
pub type Interface = dyn VirtualInterface;

impl Vgic {
    /// The board's; `None` if it lacks what a GIC of its version must have.
    pub fn new(gic: &Gic) -> Option<Self> {
        if gic.version == 2 {
            return VgicV2::new(gic).map(Self::V2);
        }
        enable_system_registers();
        Some(Self::V3(VgicV3::new()))
    }

    pub fn interface(&self) -> &Interface {
        match self {
            Self::V2(v2) => v2,
            Self::V3(v3) => v3,
        }
    }
}
