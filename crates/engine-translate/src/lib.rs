//! The translate engine: x86 virtual machines with no hardware extension.
//!
//! Tier T0, an interpreter of decoded blocks, covers every instruction and mode and is the oracle for the faster tier:
//! [`t1`] translates hot blocks. The way of an instruction:
//!
//! 1. [`block`] finds the decoded block for RIP, or has [`decode`] make one: each instruction becomes an [`op::Op`], a
//!    function pointer with its operands unpacked. `exec/` holds integer instructions, `system/` privileged ones and
//!    control transfers through descriptors, `vector/` x87, MMX, SSE and AVX (run natively on the guest's state).
//! 2. [`run`] executes blocks; between blocks it looks at pending events ([`remote`]: kicks, interrupts, shootdowns).
//! 3. Memory goes through [`mem`]: a soft TLB ([`tlb`]) in front of the page walk ([`paging`]); writes to pages that hold
//!    decoded code take the slow path and make the blocks stale.
//! 4. A fault unwinds as [`fault::Raised`] with the reason in the [`cpu::Cpu`]; `system/` delivers it to the guest.
//!
//! The guest's processor is of the host's vendor: [`vendor`] says whose, and what AMD's do otherwise than Intel's.
#![cfg(target_arch = "x86_64")]

pub mod block;
pub mod cache;
mod clock;
pub mod cpu;
pub mod decode;
pub mod exec;
pub mod fault;
pub(crate) mod lockstep;
pub mod mem;
pub mod op;
pub mod paging;
pub(crate) mod placed;
pub mod remote;
pub mod reset;
pub mod run;
pub mod system;
pub mod t1;
#[cfg(test)]
pub(crate) mod testing;
pub mod tlb;
pub mod vector;
pub mod vendor;
pub mod vm;
pub(crate) mod windows;
#[cfg(test)]
mod windows_tests;

pub use vm::{Tiers, Translate};
