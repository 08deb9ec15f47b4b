//! Between the contract's register files and the hypervisor's.

use engine::state::ArmState;
use engine::{Error, Result};
use hypercall::registers::Sys;
use hypercall::{GuestMode, Registers, SYSTEM};

/// PSTATE of a vCPU that begins: EL1 with its own stack pointer; debug, SErrors, IRQs and FIQs masked (DDI 0487, D1.7.1; DEN 0022, 6.4.3).
const BEGIN_AARCH64: u64 = 0x3c5;
/// CPSR of one that begins in 32-bit code: Supervisor mode; SErrors, IRQs and FIQs masked.
const BEGIN_AARCH32: u64 = 0x1d3;
/// CPSR.T: Thumb code.
const THUMB: u64 = 1 << 5;
/// SCTLR_EL1 and SCTLR with MMU and caches off: the bits that are one or may be, barriers and WFI allowed (DDI 0487, D17.2.118; DDI
/// 0406C, B4.1.130).
const SCTLR_AARCH64: u64 = 0x30d0_0980;
const SCTLR_AARCH32: u64 = 0x00c5_0078;

/// What a vCPU has in its registers after a reset.
pub fn reset(mode: GuestMode) -> Registers {
    let mut r = Registers::RESET;
    (r.pstate, r[Sys::SCTLR_EL1]) = match mode {
        GuestMode::Aarch64 => (BEGIN_AARCH64, SCTLR_AARCH64),
        GuestMode::Aarch32 => (BEGIN_AARCH32, SCTLR_AARCH32),
    };
    r
}

/// What it has when CPU_ON has turned it on.
pub fn turned_on(mode: GuestMode, entry: u64, context: u64) -> Registers {
    let mut r = reset(mode);
    r.pc = entry;
    r.x[0] = context;
    if mode == GuestMode::Aarch32 && entry & 1 != 0 {
        r.pc &= !1;
        r.pstate |= THUMB;
    }
    r
}

/// The hypervisor's form of a register file; what the file doesn't name is as after a reset.
///
/// Errors: a system register that the hypervisor doesn't keep.
pub fn to_hypervisor(mode: GuestMode, state: &ArmState) -> Result<Registers> {
    let mut r = Registers {
        x: state.x,
        sp: state.sp,
        pc: state.pc,
        pstate: state.pstate,
        v: state.v,
        fp_control: state.fp_control.map(u64::from),
        off: state.off.into(),
        ..reset(mode)
    };
    for &(encoding, value) in &state.system {
        let place = SYSTEM.iter().position(|register| register.encoding() == encoding);
        let place = place.ok_or_else(|| {
            Error::InvalidState(format!("a vCPU of the native engine has no system register {encoding:#x}"))
        })?;
        r.system[place] = value;
    }
    Ok(r)
}

/// The contract's form.
pub fn from_hypervisor(r: &Registers) -> ArmState {
    ArmState {
        x: r.x,
        sp: r.sp,
        pc: r.pc,
        pstate: r.pstate,
        v: r.v,
        // FPCR and FPSR have 32 bits.
        fp_control: r.fp_control.map(|control| control as u32),
        system: SYSTEM.iter().map(|register| register.encoding()).zip(r.system).collect(),
        off: r.off != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_file_survives_both_ways() {
        let mut r = reset(GuestMode::Aarch64);
        r.x[3] = 4;
        r.v[1] = [5, 6];
        r.fp_control = [7, 8];
        r[Sys::TTBR0_EL1] = 9;
        r.off = 1;
        let state = from_hypervisor(&r);
        assert_eq!(to_hypervisor(GuestMode::Aarch64, &state).unwrap(), r);
        assert!(state.system.contains(&(SYSTEM[Sys::TTBR0_EL1 as usize].encoding(), 9)));
    }

    #[test]
    fn to_hypervisor_sparse_file_is_as_after_a_reset_and_unknown_ones_are_named() {
        let mut state = ArmState { pc: 0x4000_0000, pstate: 0x3c5, ..ArmState::default() };
        let r = to_hypervisor(GuestMode::Aarch64, &state).unwrap();
        assert_eq!((r.pc, r[Sys::SCTLR_EL1]), (0x4000_0000, SCTLR_AARCH64));
        state.system.push((0xffff, 1));
        assert!(to_hypervisor(GuestMode::Aarch64, &state).unwrap_err().to_string().contains("0xffff"));
    }

    #[test]
    fn turned_on_in_thumb_code_begins_at_an_even_address() {
        let r = turned_on(GuestMode::Aarch32, 0x8001, 5);
        assert_eq!((r.pc, r.pstate, r.x[0], r.off), (0x8000, 0x1f3, 5, 0));
        assert_eq!(turned_on(GuestMode::Aarch64, 0x8001, 0).pc, 0x8001);
    }
}
