//! One virtual processor, and how other threads reach it.

use crate::{Bus, Exit, Result, VcpuState};
use std::sync::Arc;

/// A virtual processor. It belongs to one thread at a time; everything other threads need is in [`Kick`].
pub trait Vcpu: Send {
    /// Runs until something other than the guest's own work is to be done. A halted vCPU waits in here.
    fn run(&mut self, bus: &dyn Bus) -> Result<Exit>;
    /// The whole register file.
    fn state(&self) -> Result<VcpuState>;
    /// Replaces the whole register file; clears what was pending.
    fn set_state(&mut self, state: &VcpuState) -> Result<()>;
    /// The handle by which other threads make `run` return.
    fn kick_handle(&self) -> Arc<dyn Kick>;
}

/// Makes a vCPU's `run` return from any thread.
pub trait Kick: Send + Sync {
    /// The run under way, or the next one if none is, returns [`Exit::Kicked`] soon. Never lost: each kick is seen by
    /// a `run` that returns after it; kicks that meet before that count as one.
    fn kick(&self);
}
