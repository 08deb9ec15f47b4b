//! Exceptions that the world below Hyp mode gets from us, as its processor would deliver them.
//!
//! Its system registers are the processor's at this time; its PC and CPSR are in memory, for the return to it.

use crate::aarch32::{Exception, Place, external_abort_status};
use crate::vm::Vcpu;

/// An undefined instruction, at PC.
pub fn undefined_at(from: Place) -> Place {
    let (to, link) = Exception::Undefined.take(from, read_register!(SCTLR), read_register!(VBAR));
    set_register!("SPSR_und", from.cpsr);
    set_register!("LR_und", link);
    to
}

/// A synchronous external abort of an access to `address` by the instruction at PC, or of its fetch.
pub fn abort_at(from: Place, address: u64, fetch: bool, write: bool) -> Place {
    let status = external_abort_status(read_register!(TTBCR), write);
    if fetch {
        set_register!(IFSR, status);
        set_register!(IFAR, address);
    } else {
        set_register!(DFSR, status);
        set_register!(DFAR, address);
    }
    let exception = if fetch { Exception::FetchAbort } else { Exception::DataAbort };
    let (to, link) = exception.take(from, read_register!(SCTLR), read_register!(VBAR));
    set_register!("SPSR_abt", from.cpsr);
    set_register!("LR_abt", link);
    to
}

/// A guest's undefined instruction.
pub fn undefined(vcpu: &mut Vcpu, _aarch32: bool) {
    take(vcpu, undefined_at);
}

/// A guest's synchronous external abort of an access to `address`, or of the fetch that it was left for.
pub fn abort(vcpu: &mut Vcpu, _aarch32: bool, address: u64, fetch: bool) {
    let address = if fetch { read_register!(HIFAR) } else { address };
    take(vcpu, |place| abort_at(place, address, fetch, false));
}

fn take(vcpu: &mut Vcpu, exception: impl FnOnce(Place) -> Place) {
    let to = exception(Place { pc: vcpu.registers.pc, cpsr: vcpu.registers.pstate });
    (vcpu.registers.pc, vcpu.registers.pstate) = (to.pc, to.cpsr);
}
