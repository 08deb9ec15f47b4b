//! Exceptions that a guest or the control domain gets from us, as its processor would deliver them.
//!
//! Its system registers are the processor's at this time.

use arm::control::spsr;
use arm::syndrome::{EXTERNAL_ABORT, Syndrome, class};

use crate::vm::Vcpu;

/// The class of an exception of unknown reason.
const UNKNOWN: u8 = 0;

/// An undefined instruction, at PC.
pub fn undefined(vcpu: &mut Vcpu, aarch32: bool) {
    if aarch32 {
        let thumb = vcpu.registers.pstate & THUMB != 0;
        // LR_und: the address after the instruction, as ARM code has it; Thumb's instruction of 2 bytes is told by that.
        let back = vcpu.registers.pc.wrapping_add(if thumb { 2 } else { 4 });
        return deliver32(vcpu, Mode::UND, 4, back);
    }
    deliver(vcpu, Syndrome::new(UNKNOWN, 0), None);
}

/// A synchronous external abort of an access to `address`, or of the fetch at PC.
pub fn abort(vcpu: &mut Vcpu, aarch32: bool, address: u64, fetch: bool) {
    if aarch32 {
        // DFSR or IFSR with the long or the short descriptors' code for a synchronous external abort.
        let long = read_register!("tcr_el1") & 1 << 31 != 0;
        let status = if long { 1 << 9 | 0x10 } else { 0x08 };
        if fetch {
            set_register!("ifsr32_el2", status);
            set_register!("far_el1", read_register!("far_el1") & 0xffff_ffff | address << 32);
        } else {
            set_register!("esr_el1", status);
            set_register!("far_el1", read_register!("far_el1") & !0xffff_ffff | address & 0xffff_ffff);
        }
        let back = vcpu.registers.pc.wrapping_add(if fetch { 4 } else { 8 });
        return deliver32(vcpu, Mode::ABT, if fetch { 12 } else { 16 }, back);
    }
    let syndrome = Syndrome::new(abort_class(vcpu.registers.pstate, fetch), EXTERNAL_ABORT);
    deliver(vcpu, syndrome, Some(address));
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

const THUMB: u64 = 1 << 5;

/// An AArch32 mode that takes exceptions: its number, and which of X0 to X30 are its LR and SPSR.
struct Mode {
    number: u64,
    link: usize,
    spsr: fn(u64),
}

impl Mode {
    const UND: Self = Self { number: 0x1b, link: 22, spsr: |v| set_register!("spsr_und", v) };
    const ABT: Self = Self { number: 0x17, link: 20, spsr: |v| set_register!("spsr_abt", v) };
}

/// To an AArch32 vector (Arm ARM G1.12).
fn deliver32(vcpu: &mut Vcpu, mode: Mode, vector: u64, back: u64) {
    let r = &mut vcpu.registers;
    let control = read_register!("sctlr_el1");
    (mode.spsr)(r.pstate);
    r.x[mode.link] = back & 0xffff_ffff;
    // A is set by aborts; I always; J, IT and E are from SCTLR.EE; T from SCTLR.TE.
    let abort = if mode.number == 0x17 { 1 << 8 } else { 0 };
    let (thumb, big) = (control >> 30 & 1, control >> 25 & 1);
    let kept = r.pstate & (0xf8 << 24 | 0xf << 16 | 1 << 22 | 1 << 24 | 3 << 6 | 1 << 8);
    r.pstate = kept | abort | 1 << 7 | thumb << 5 | big << 9 | mode.number;
    let base = if control & 1 << 13 != 0 { 0xffff_0000 } else { read_register!("vbar_el1") & 0xffff_ffe0 };
    r.pc = base + vector;
}
