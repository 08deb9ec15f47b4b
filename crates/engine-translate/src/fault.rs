//! How an instruction that can't complete says so.

use engine::Exit;
use x86::Exception;

/// The instruction being executed did not complete; [`crate::cpu::Cpu::fault`] says why. A value of no size, so that a
/// `Result` with it travels in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Raised;

/// Result of anything that may fault.
pub type Guest<T> = Result<T, Raised>;

/// Why an instruction did not complete.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// An exception for the guest. RIP is that of the faulting instruction.
    Exception(Exception),
    /// A data access to a non-canonical linear address: #SS(0) through SS, #GP(0) through any other segment.
    NonCanonical,
    /// The instruction was about to write to the block it is part of: nothing has happened yet; run it again alone.
    Restart,
    /// The engine leaves `run` with this; RIP is that of the instruction, which has had no effect.
    Exit(Exit),
}
