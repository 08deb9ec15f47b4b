//! Arm architecture facts in code: what the hypervisor, the engine and the boards have to agree on with the manuals.
//!
//! Sources: Arm Architecture Reference Manual for A-profile (DDI 0487, "Arm ARM"), section named per item; Power State Coordination
//! Interface (DEN 0022); SMC Calling Convention (DEN 0028).
#![no_std]
#![forbid(unsafe_code)]

pub mod control;
pub mod descriptor;
pub mod psci;
pub mod syndrome;
