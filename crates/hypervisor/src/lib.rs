//! The Auberge hypervisor: boots before the operating system, runs it as its control domain, and runs guests for it.
//!
//! Everything here but [`arch`] is independent of the architecture and tested on the host, where `arch` is a fake one. From the first
//! instruction: `arch/<architecture>/` → [`boot`] → [`control`] (the control domain); afterwards only exceptions lead here, through
//! `arch/<architecture>/exceptions.rs`, to [`firmware`] (SMC) and [`calls`] (the doorbell).
#![no_std]

#[cfg(not(target_os = "none"))]
extern crate std;

#[cfg_attr(all(target_os = "none", target_arch = "aarch64"), path = "arch/aarch64/mod.rs")]
#[cfg_attr(all(target_os = "none", target_arch = "arm"), path = "arch/armv7/mod.rs")]
#[cfg_attr(not(target_os = "none"), path = "arch/fake.rs")]
pub mod arch;
pub mod boot;
pub mod calls;
pub mod console;
pub mod control;
pub mod control_tree;
pub mod fdt;
pub mod firmware;
pub mod image;
pub mod per_cpu;
pub mod platform;
pub mod pool;
pub mod problem;
pub mod regions;
pub mod table;
#[cfg(test)]
mod tree_tests;
