//! Privileged instructions, control transfers through descriptors, exceptions, interrupts.

use crate::cpu::{Cpu, Mode};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::Op;
use address::GuestPhys;
use engine::Exit;
use iced_x86::Instruction;
use x86::Exception;

/// The local APIC and what the engine keeps beside it.
#[derive(Default)]
pub struct Apic {}

/// State that only this folder looks at.
#[derive(Default)]
pub struct SystemState {}

/// Chooses the handler for a system instruction; `None` if it isn't one.
pub fn select(_i: &Instruction, _op: &mut Op, _mode: Mode) -> Option<Lowered> {
    None
}

impl Cpu {
    pub(crate) fn is_apic_page(&self, _address: GuestPhys) -> bool {
        false
    }
    pub(crate) fn apic_mmio_read(&mut self, _offset: u64, _out: &mut [u8]) -> Guest<()> {
        Ok(())
    }
    pub(crate) fn apic_mmio_write(&mut self, _offset: u64, _data: &[u8]) -> Guest<()> {
        Ok(())
    }
    pub(crate) fn look_at_clock(&mut self) {}
    pub(crate) fn handle_events(&mut self) -> Option<Exit> {
        None
    }
    pub(crate) fn deliver_exception(&mut self, e: Exception) -> Option<Exit> {
        Some(Exit::Shutdown(format!("{e:?}")))
    }
    pub(crate) fn after_single(&mut self) -> Option<Exit> {
        None
    }
}
