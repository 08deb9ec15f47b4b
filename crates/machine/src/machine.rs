//! A machine put together, whatever its board, and what other threads do to it.

use crate::config::{Ending, OnReset};
use crate::lifecycle::{self, Board, Control, Status};
use engine::{Vcpu, VcpuState};
use std::sync::Arc;

/// A board as people reach it.
pub trait Front: Board + Sync {
    /// Presses the power button; false where the guest doesn't listen to it.
    fn press_power_button(&self) -> bool;
    /// Types into the console; gives how many bytes were taken.
    fn console_input(&self, bytes: &[u8]) -> usize;
    /// The console's output has room again.
    fn console_output_ready(&self);
}

/// A machine put together, its kernel loaded, not running yet.
pub struct Machine {
    name: String,
    on_reset: OnReset,
    handle: Handle,
    vcpus: Vec<Box<dyn Vcpu>>,
    states: Vec<VcpuState>,
}

/// What other threads do to a machine, running or not.
#[derive(Clone)]
pub struct Handle {
    board: Arc<dyn Front>,
    control: Arc<Control>,
}

impl Machine {
    /// From a board at power-on, and its vCPUs with the register files that they take first.
    pub(crate) fn new(
        name: String,
        on_reset: OnReset,
        board: Arc<dyn Front>,
        control: Arc<Control>,
        vcpus: Vec<Box<dyn Vcpu>>,
        states: Vec<VcpuState>,
    ) -> Self {
        Self { name, on_reset, handle: Handle { board, control }, vcpus, states }
    }

    /// For pausing, stopping and the console; outlives `self`.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The register files that its vCPUs begin with.
    pub fn states(&self) -> &[VcpuState] {
        &self.states
    }

    /// Runs the machine until it ends. When this returns its threads are gone, its devices drained and its disks
    /// flushed; an error in that is told as [`Ending::Crashed`].
    pub fn run(self) -> Ending {
        let Handle { board, control } = &self.handle;
        lifecycle::run(&self.name, control, &**board, self.vcpus, self.states, self.on_reset)
    }
}

impl Handle {
    /// Returns once no vCPU runs and the guest's clock stands still. Before [`Machine::run`] it makes the machine start
    /// paused.
    pub fn pause(&self) {
        self.control.pause(&*self.board);
    }
    pub fn unpause(&self) {
        self.control.unpause(&*self.board);
    }
    /// Presses the power button (of a pc ACPI's, of a virt board a key at a GPIO pin): the guest is asked to power off, and may take
    /// its time or not do it. False: it doesn't listen to the button (yet), and likely won't.
    pub fn press_power_button(&self) -> bool {
        self.board.press_power_button()
    }
    /// Pulls the reset line.
    pub fn reset(&self) {
        self.control.reset(None);
    }
    /// Ends the machine now, as if its plug were pulled; [`Machine::run`] still flushes the disks before it returns.
    pub fn stop(&self) {
        self.control.end(Ending::Stopped);
    }
    /// What a person types, for the device that the guest wrote to the console through last: the board's UART, where it
    /// starts, or hvc0. Gives how many bytes were taken; offer the rest after [`crate::Output::input_room`].
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        self.board.console_input(bytes)
    }
    /// The console's [`crate::Output`] has room again after it took less than it was given.
    pub fn console_output_ready(&self) {
        self.board.console_output_ready();
    }
    pub fn status(&self) -> Status {
        self.control.status()
    }
    /// The board's clock.
    #[cfg(test)]
    pub(crate) fn now(&self) -> devices::wiring::Nanos {
        self.board.now()
    }
}
