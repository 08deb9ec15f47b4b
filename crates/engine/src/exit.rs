//! Why a vCPU stopped running.

/// Why [`crate::Vcpu::run`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Someone called [`crate::Kick::kick`]; nothing is wrong and the vCPU can run on.
    Kicked,
    /// Triple fault (x86): the processor shut down; a board resets it. The text says where, for a person.
    Shutdown(String),
    /// PSCI or its like asked for power off. (ARM; a pc powers off through its chipset.)
    PowerOff,
    /// PSCI or its like asked for a reset.
    Reset,
    /// The engine can't go on with this guest; a sentence that says at what address and why.
    Failed(String),
}
