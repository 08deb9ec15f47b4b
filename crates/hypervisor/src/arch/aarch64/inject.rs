//! Exceptions that a guest or the control domain gets from us, as its processor would deliver them.
//!
//! Its system registers are the processor's at this time.

use arm::control::spsr;
use arm::syndrome::{EXTERNAL_ABORT, Syndrome, class};

use crate::aarch32::{Exception, Place, external_abort_status};
use crate::vm::Vcpu;

/// The class of an exception of unknown reason.
const UNKNOWN: u8 = 0;

/// An undefined instruction, at PC.
pub fn undefined(vcpu: &mut Vcpu, aarch32: bool) {
    if aarch32 {
        set_register!("spsr_und", vcpu.registers.pstate);
        return deliver32(vcpu, Exception::Undefined, LR_UND);
    }
    deliver(vcpu, Syndrome::new(UNKNOWN, 0), None);
}

/// A synchronous external abort of an access to `address`, or of the fetch at PC.
pub fn abort(vcpu: &mut Vcpu, aarch32: bool, address: u64, fetch: bool) {
    if !aarch32 {
        let syndrome = Syndrome::new(abort_class(vcpu.registers.pstate, fetch), EXTERNAL_ABORT);
        return deliver(vcpu, syndrome, Some(address));
    }
    let (status, far) = (external_abort_status(read_register!("tcr_el1"), false), read_register!("far_el1"));
    set_register!("spsr_abt", vcpu.registers.pstate);
    if fetch {
        set_register!("ifsr32_el2", status);
        set_register!("far_el1", far & 0xffff_ffff | address << 32);
        deliver32(vcpu, Exception::FetchAbort, LR_ABT);
    } else {
        set_register!("esr_el1", status);
        set_register!("far_el1", far & !0xffff_ffff | address & 0xffff_ffff);
        deliver32(vcpu, Exception::DataAbort, LR_ABT);
    }
}

/// The class of an abort that EL1 takes from where PSTATE says.
pub fn abort_class(pstate: u64, fetch: bool) -> u8 {
    let lower = pstate & 0b1100 == 0 || pstate & spsr::AARCH32 != 0;
    match (fetch, lower) {
        (true, true) => class::INSTRUCTION_ABORT_LOWER,
        (true, false) => class::INSTRUCTION_ABORT,
        (false, true) => class::DATA_ABORT_LOWER,
        (false, false) => class::DATA_ABORT,
    }
}

fn deliver(vcpu: &mut Vcpu, syndrome: Syndrome, address: Option<u64>) {
    take(&mut vcpu.registers.pc, &mut vcpu.registers.pstate, syndrome, address);
}

/// Lets EL1 take a synchronous exception at `pc`, as the processor would (Arm ARM D1.3.1, AArch64.TakeException).
pub fn take(pc: &mut u64, pstate: &mut u64, syndrome: Syndrome, address: Option<u64>) {
    let vector = match *pstate & spsr::MODE {
        spsr::EL1H => 0x200,
        spsr::EL1T => 0x000,
        mode if mode & spsr::AARCH32 != 0 => 0x600,
        _ => 0x400,
    };
    let sctlr = read_register!("sctlr_el1");
    // PAN is set unless SCTLR_EL1.SPAN says to leave it; SSBS is SCTLR_EL1.DSSBS; tag checks are off if there are any.
    let pan = if sctlr & 1 << 23 == 0 { spsr::PAN } else { *pstate & spsr::PAN };
    let has_mte = read_register!("id_aa64pfr1_el1") >> 8 & 0xf >= 2;
    set_register!("esr_el1", syndrome.0);
    if let Some(address) = address {
        set_register!("far_el1", address);
    }
    set_register!("elr_el1", *pc);
    set_register!("spsr_el1", *pstate);
    *pc = read_register!("vbar_el1").wrapping_add(vector);
    *pstate = *pstate & (spsr::NZCV | spsr::DIT)
        | pan
        | (sctlr >> 44 & 1) << 12
        | if has_mte { 1 << 25 } else { 0 }
        | spsr::DAIF
        | spsr::EL1H;
}

/// Which of X0 to X30 are AArch32's LR_abt and LR_und.
const LR_ABT: usize = 20;
const LR_UND: usize = 22;

/// To an AArch32 vector, with the return address in X`link`.
fn deliver32(vcpu: &mut Vcpu, exception: Exception, link: usize) {
    let r = &mut vcpu.registers;
    let from = Place { pc: r.pc, cpsr: r.pstate };
    let (to, back) = exception.take(from, read_register!("sctlr_el1"), read_register!("vbar_el1"));
    r.x[link] = back;
    (r.pc, r.pstate) = (to.pc, to.cpsr | from.cpsr & spsr::DIT);
}
