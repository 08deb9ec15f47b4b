//! Exceptions that the world below Hyp mode gets from us, as its processor would deliver them (DDI 0406C B1.8, B1.9).
//!
//! Its system registers are the processor's at this time; its PC and CPSR are in memory, for the return to it.

use arm::control::mode;

use crate::vm::Vcpu;

/// Where it goes on.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub pc: u32,
    pub cpsr: u32,
}

/// An undefined instruction, at PC.
pub fn undefined_at(from: Place) -> Place {
    // LR_und: 4 beyond an ARM instruction, 2 beyond a Thumb instruction's start.
    let link = from.pc.wrapping_add(if from.cpsr & mode::T != 0 { 2 } else { 4 });
    set_banked!("SPSR_und", from.cpsr);
    set_banked!("LR_und", link);
    vector(from, mode::UND, 4)
}

/// A synchronous external abort of an access to `address` by the instruction at PC, or of its fetch.
pub fn abort_at(from: Place, address: u32, fetch: bool, write: bool) -> Place {
    // DFSR and IFSR with long or short descriptors' code for a synchronous external abort.
    let long = read_register!(TTBCR) >> 31 != 0;
    let status = if long { 1 << 9 | 0x10 } else { 0x08 };
    if fetch {
        set_register!(IFSR, status);
        set_register!(IFAR, address);
    } else {
        set_register!(DFSR, status | if write { 1 << 11 } else { 0 });
        set_register!(DFAR, address);
    }
    set_banked!("SPSR_abt", from.cpsr);
    set_banked!("LR_abt", from.pc.wrapping_add(if fetch { 4 } else { 8 }));
    vector(from, mode::ABT, if fetch { 12 } else { 16 })
}

/// A guest's undefined instruction.
pub fn undefined(vcpu: &mut Vcpu, _aarch32: bool) {
    let to = undefined_at(place(vcpu));
    (vcpu.registers.pc, vcpu.registers.pstate) = (to.pc.into(), to.cpsr.into());
}

/// A guest's synchronous external abort of an access to `address`, or of the fetch that it was left for.
pub fn abort(vcpu: &mut Vcpu, _aarch32: bool, address: u64, fetch: bool) {
    let address = if fetch { read_register!(HIFAR) } else { address as u32 };
    let to = abort_at(place(vcpu), address, fetch, false);
    (vcpu.registers.pc, vcpu.registers.pstate) = (to.pc.into(), to.cpsr.into());
}

fn place(vcpu: &Vcpu) -> Place {
    Place { pc: vcpu.registers.pc as u32, cpsr: vcpu.registers.pstate as u32 }
}

fn vector(from: Place, to: u32, offset: u32) -> Place {
    let control = read_register!(SCTLR);
    // A is set by aborts, I always; IT and J are cleared; T is SCTLR.TE, E SCTLR.EE.
    let abort = if to == mode::ABT { 1 << 8 } else { 0 };
    let (thumb, big) = (control >> 30 & 1, control >> 25 & 1);
    let kept = from.cpsr & (0xf8 << 24 | 0xf << 16 | 0b101 << 6);
    let base = if control & 1 << 13 != 0 { 0xffff_0000 } else { read_register!(VBAR) & !0x1f };
    Place {
        pc: base.wrapping_add(offset),
        cpsr: kept | from.cpsr & 1 << 8 | abort | 1 << 7 | thumb << 5 | big << 9 | to,
    }
}
