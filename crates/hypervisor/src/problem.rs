//! Why the hypervisor doesn't start: a sentence each, for the debug UART.

use thiserror::Error;

use crate::per_cpu::MAX_CPUS;
use crate::regions::Region;

pub type Result<T> = core::result::Result<T, Problem>;

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    #[error("Started at EL{0}: the hypervisor needs EL2; on QEMU's virt board say virtualization=on.")]
    WrongLevel(u64),
    #[error(
        "Started in processor mode {0:#x}: the hypervisor needs Hyp mode, 0x1a; on QEMU's virt board say virtualization=on."
    )]
    WrongMode(u32),
    #[error("The device tree names no memory.")]
    NoMemory,
    #[error("The device tree names no processors.")]
    NoCpus,
    #[error("The device tree names more than the {MAX_CPUS} processors that this hypervisor is built for.")]
    TooManyCpus,
    #[error("The device tree has too many regions of memory.")]
    TooManyRegions,
    #[error("The device tree has no interrupt controller that is a GICv2 or GICv3.")]
    NoGic,
    #[error("The GIC has no virtualization frames (GICH, GICV) in the device tree.")]
    GicWithoutVirtualization,
    #[error("The device tree gives PSCI another way than SMC: firmware below EL2 is needed.")]
    NoPsci,
    #[error("No kernel: /chosen has no module compatible with multiboot,kernel.")]
    NoKernel,
    #[error("The kernel module is not a Linux kernel for this processor (arm64: Image; ARM: zImage).")]
    NotAnImage,
    #[error("The kernel module is truncated: its header tells of {wanted} bytes, and there are {present}.")]
    Truncated { wanted: u64, present: u64 },
    #[error(
        "What is at {0}, a module or the device tree, isn't in memory or overlaps the hypervisor or the device tree."
    )]
    ModuleMisplaced(Region),
    #[error("The initrd at {0} lies below its 32-bit kernel, which uses no memory there: load it higher.")]
    RamdiskBelowKernel(Region),
    #[error("Too little memory: there is no room for {0}.")]
    TooLittleMemory(&'static str),
    #[error("There is no room for the control domain's device tree, or its cells can't say an address.")]
    Tree,
    #[error("No unused page of physical space for the doorbell.")]
    NoDoorbell,
}
