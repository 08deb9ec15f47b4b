//! From the control domain's world to a guest's and back (see [`crate::run`]).

use core::mem::offset_of;

use address::HostPhys;
use arm::control::{hcr, mode};
use arm::syndrome::Syndrome;
use hypercall::page::Exit;
use hypercall::registers::Registers;

use super::inject;
use super::world::{load_system, load_vectors, save_system, save_vectors};
use crate::guest::{load_timer, save_timer};
use crate::vm::{Vcpu, Vm};

const _: () = assert!(offset_of!(Registers, x) == 0 && offset_of!(Registers, v) == 272);
const _: () = assert!(offset_of!(Registers, pc) == 256 && offset_of!(Registers, pstate) == 264);

unsafe extern "C" {
    static guest_vectors: u8;
}

/// HCR in any guest. What isn't there for guests is trapped, set/way cache maintenance included.
const GUEST: u64 = hcr::VM | hcr::SWIO | hcr::FMO | hcr::IMO | hcr::AMO | hcr::TWI | hcr::TWE | hcr::TSC | hcr::TSW
    // FB and BSU: maintenance by a vCPU reaches the processors where it, or the others, were before.
    | 1 << 9
    | 0b01 << 10
    // TID3: identification registers. TIDCP, TAC: what is the implementation's own.
    | 1 << 18
    | 1 << 20
    | 1 << 21;
/// HCPTR: trace (TTA) is trapped, floating point isn't.
const HCPTR: u64 = 0x33ff | 1 << 20;
/// HDCR: debug and performance monitors are trapped (TPMCR, TPM, TDA, TDOSA, TDRA).
const HDCR: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11;

/// HSTR: ThumbEE is trapped (TTEE).
const HSTR: u64 = 1 << 16;

/// What the control domain had on a processor while a guest is there.
pub struct Host {
    registers: Registers,
    controls: Controls,
}

controls! {
    hvbar HVBAR, hcr HCR, vtcr VTCR, vttbr VTTBR, hcptr HCPTR, hdcr HDCR, hstr HSTR, cnthctl CNTHCTL, vmpidr VMPIDR,
}

impl Host {
    pub const NEW: Self = Self { registers: Registers::RESET, controls: Controls::NONE };

    /// Puts the control domain's registers away and the guest's in their place.
    pub fn enter(&mut self, vm: &Vm, n: usize, vcpu: &mut Vcpu, root: HostPhys) {
        self.controls = Controls::save();
        save_vectors(&mut self.registers);
        save_system(&mut self.registers);
        let guest = Controls {
            hvbar: &raw const guest_vectors as u64,
            hcr: GUEST,
            vtcr: super::setup::guest_vtcr(),
            vttbr: u64::from(vm.vmid) << 48 | root.0,
            hcptr: HCPTR,
            hstr: HSTR,
            hdcr: HDCR | self.controls.hdcr & 0x1f,
            // PL1PCTEN: the physical counter can be read; its timer is trapped.
            cnthctl: 1,
            // The multiprocessing extensions' format, and the vCPU's number as affinity 0.
            vmpidr: 1 << 31 | n as u64,
        };
        guest.load();
        if vm.is_another_here(n) {
            super::forget_translations_here();
        }
        let r = &vcpu.registers;
        load_timer(r);
        load_system(r);
        load_vectors(r);
        super::isb();
    }

    /// The other way round.
    pub fn leave(&mut self, vcpu: &mut Vcpu) {
        let r = &mut vcpu.registers;
        save_timer(r);
        save_system(r);
        save_vectors(r);
        self.controls.load();
        load_system(&self.registers);
        load_vectors(&self.registers);
        super::isb();
    }
}

/// Registers that a mode has of its own: `x` is where those lie that exception frames have, the others are the processor's.
macro_rules! by_mode {
    ($r:ident, $n:ident, frame $frame:expr, banked $do:ident $(, $value:expr)?) => {
        match ($n, $r.pstate as u32 & mode::MASK) {
            (8, mode::FIQ) => $do!("R8_fiq" $(, $value)?),
            (9, mode::FIQ) => $do!("R9_fiq" $(, $value)?),
            (10, mode::FIQ) => $do!("R10_fiq" $(, $value)?),
            (11, mode::FIQ) => $do!("R11_fiq" $(, $value)?),
            (12, mode::FIQ) => $do!("R12_fiq" $(, $value)?),
            (13, mode::FIQ) => $do!("SP_fiq" $(, $value)?),
            (14, mode::FIQ) => $do!("LR_fiq" $(, $value)?),
            (13, mode::IRQ) => $do!("SP_irq" $(, $value)?),
            (14, mode::IRQ) => $do!("LR_irq" $(, $value)?),
            (13, mode::SVC) => $do!("SP_svc" $(, $value)?),
            (14, mode::SVC) => $do!("LR_svc" $(, $value)?),
            (13, mode::ABT) => $do!("SP_abt" $(, $value)?),
            (14, mode::ABT) => $do!("LR_abt" $(, $value)?),
            (13, mode::UND) => $do!("SP_und" $(, $value)?),
            (14, mode::UND) => $do!("LR_und" $(, $value)?),
            (13, _) => $do!("SP_usr" $(, $value)?),
            (0..=14, _) => $frame,
            _ => Default::default(),
        }
    };
}

/// A general register of the mode that the guest is in, by its number in a syndrome. Its world is loaded.
pub fn register(r: &Registers, n: u8) -> u64 {
    by_mode!(r, n, frame r.x[n as usize] & 0xffff_ffff, banked read_register)
}

/// Sets it.
pub fn set_general(r: &mut Registers, n: u8, value: u64) {
    by_mode!(r, n, frame r.x[n as usize] = value & 0xffff_ffff, banked set_register, value);
}

/// What is trapped and nothing is known of.
pub fn trapped(vm: &Vm, _n: usize, vcpu: &mut Vcpu, _syndrome: Syndrome) -> Option<Exit> {
    inject::undefined(vcpu, vm.is_aarch32());
    None
}

/// Makes a register file one that a guest can be entered with: 32-bit words, and CPSR names a mode of PL0 or PL1.
pub fn tame(r: &mut Registers, _aarch32: bool) {
    r.x.iter_mut().for_each(|x| *x &= 0xffff_ffff);
    (r.pc, r.pstate) = (r.pc & 0xffff_ffff, r.pstate & 0xffff_ffff);
    let tamed = |cpsr: u64| {
        matches!(
            cpsr as u32 & mode::MASK,
            mode::USR | mode::FIQ | mode::IRQ | mode::SVC | mode::ABT | mode::UND | mode::SYS
        )
    };
    if !tamed(r.pstate) {
        r.pstate = u64::from(mode::SVC | mode::AIF);
    }
    // J would be ThumbEE or Jazelle.
    r.pstate &= !(1 << 24);
}
