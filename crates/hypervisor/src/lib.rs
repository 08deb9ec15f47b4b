//! The Auberge hypervisor: boots before the operating system, runs it as its control domain, and runs guests for it.
//!
//! Everything here but [`arch`] is independent of the architecture and tested on the host, where `arch` is a fake one. From the first
//! instruction: `arch/<architecture>/` → [`boot`] → [`control`] (the control domain); afterwards only exceptions lead here, through
//! `exceptions.rs`, to [`firmware`] (SMC) and [`calls`] (the doorbell).
#![no_std]

#[cfg(not(target_os = "none"))]
extern crate std;

pub mod aarch32;
#[cfg(target_os = "none")]
#[macro_use]
mod register_lists;
#[macro_use]
#[cfg_attr(all(target_os = "none", target_arch = "aarch64"), path = "arch/aarch64/mod.rs")]
#[cfg_attr(all(target_os = "none", target_arch = "arm"), path = "arch/armv7/mod.rs")]
#[cfg_attr(not(target_os = "none"), path = "arch/fake.rs")]
pub mod arch;
#[cfg(target_os = "none")]
pub mod board;
pub mod boot;
pub mod calls;
pub mod console;
pub mod control;
pub mod control_tree;
#[cfg(target_os = "none")]
pub mod cp15;
pub mod cpu_interface;
#[cfg(target_os = "none")]
mod exceptions;
pub mod fdt;
pub mod firmware;
#[cfg(target_os = "none")]
pub mod guest;
#[cfg(target_os = "none")]
pub mod identification;
pub mod image;
#[cfg(target_os = "none")]
mod machine;
pub mod per_cpu;
pub mod platform;
pub mod pool;
pub mod problem;
pub mod regions;
#[cfg(target_os = "none")]
pub mod run;
pub mod smmu;
pub mod table;
#[cfg(target_os = "none")]
pub mod traps;
#[cfg(test)]
mod tree_tests;
pub mod vgic_v2;
pub mod vm;
