//! From the control domain's world to a guest's and back (see [`crate::run`]).

use core::mem::offset_of;

use address::HostPhys;
use arm::control::{hcr, spsr};
use hypercall::registers::Registers;

use super::sve;
pub use super::system_register::trapped;
use super::world::{Extensions, load_system, load_vectors, save_system, save_vectors};
use crate::guest::{load_timer, save_timer};
use crate::vm::{Vcpu, Vm};

const _: () = assert!(offset_of!(Registers, x) == 0 && offset_of!(Registers, sp) == 248);
const _: () = assert!(offset_of!(Registers, pc) == 256 && offset_of!(Registers, pstate) == 264);

unsafe extern "C" {
    static guest_vectors: u8;
}

/// HCR_EL2 in any guest. What isn't there for guests is trapped, set/way cache maintenance and cache types included.
const GUEST: u64 = hcr::VM
    | hcr::SWIO
    | hcr::FMO
    | hcr::IMO
    | hcr::AMO
    // FB and BSU: maintenance by a vCPU reaches the processors where it, or the others, were before.
    | 1 << 9
    | 0b01 << 10
    | hcr::TWI
    | hcr::TWE
    // TID3: identification registers. TIDCP, TACR: what is the implementation's own.
    | 1 << 18
    | hcr::TSC
    | 1 << 20
    | 1 << 21
    | hcr::TSW;
/// CPTR_EL2: SVE (TZ), SME (TSM) and trace (TTA) are trapped, floating point isn't.
const CPTR: u64 = 0x33ff | 1 << 20;
/// MDCR_EL2: debug and performance monitors are trapped (TPMCR, TPM, TDE is off, TDA, TDOSA, TDRA).
const MDCR: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11;

/// What the control domain had on a processor while a guest is there.
pub struct Host {
    registers: Registers,
    sve: sve::State,
    controls: Controls,
    /// HCRX_EL2, where there is one.
    hcrx: u64,
    has: Option<Extensions>,
}

controls! {
    vbar "vbar_el2", hcr "hcr_el2", vtcr "vtcr_el2", vttbr VTTBR, cptr "cptr_el2", mdcr "mdcr_el2", cnthctl "cnthctl_el2",
    vmpidr "vmpidr_el2",
}

impl Host {
    pub const NEW: Self = Self {
        registers: Registers::RESET,
        sve: sve::State::new(),
        controls: Controls::NONE,
        hcrx: 0,
        has: None,
    };

    /// Puts the control domain's registers away and the guest's in their place.
    pub fn enter(&mut self, vm: &Vm, n: usize, vcpu: &mut Vcpu, root: HostPhys) {
        let has = *self.has.get_or_insert_with(Extensions::here);
        self.controls = Controls::save();
        if has.hcrx {
            self.hcrx = read_register!("s3_4_c1_c2_2");
            set_register!("s3_4_c1_c2_2", 0);
        }
        if has.sve {
            sve::save(&mut self.sve);
        }
        save_vectors(&mut self.registers);
        save_system(&mut self.registers, &has);
        let aarch64 = if vm.is_aarch32() { 0 } else { hcr::RW };
        let keys = if has.pointer_authentication { hcr::API | hcr::APK } else { 0 };
        let guest = Controls {
            vbar: &raw const guest_vectors as u64,
            hcr: GUEST | aarch64 | keys,
            vtcr: super::setup::guest_vtcr(),
            vttbr: (vm.vmid as u64) << 48 | root.0,
            cptr: CPTR,
            mdcr: MDCR,
            // EL1PCTEN: the physical counter can be read; its timer is trapped.
            cnthctl: 1,
            // RES1, and the vCPU's number as affinity 0.
            vmpidr: 1 << 31 | n as u64,
        };
        guest.load();
        if vm.is_another_here(n) {
            super::forget_translations_here();
        }
        let r = &vcpu.registers;
        load_timer(r);
        load_system(r, &has);
        load_vectors(r);
        super::isb();
    }

    /// The other way round.
    pub fn leave(&mut self, vcpu: &mut Vcpu) {
        let has = self.has.unwrap_or_default();
        let r = &mut vcpu.registers;
        save_timer(r);
        save_system(r, &has);
        save_vectors(r);
        if has.hcrx {
            set_register!("s3_4_c1_c2_2", self.hcrx);
        }
        self.controls.load();
        load_system(&self.registers, &has);
        load_vectors(&self.registers);
        if has.sve {
            sve::load(&self.sve);
        }
        super::isb();
    }
}

/// A general register by its number in a syndrome; 31 is zero.
pub fn register(r: &Registers, n: u8) -> u64 {
    r.x.get(n as usize).copied().unwrap_or(0)
}

/// Sets it.
pub fn set_general(r: &mut Registers, n: u8, value: u64) {
    if let Some(x) = r.x.get_mut(n as usize) {
        *x = value;
    }
}

/// Makes a register file one that a guest can be entered with: PSTATE names a mode of EL0 or EL1, of the guest's own kind.
pub fn tame(r: &mut Registers, aarch32: bool) {
    let mode = r.pstate & spsr::MODE;
    let good = if aarch32 {
        matches!(mode, 0x10..=0x13 | 0x17 | 0x1b | 0x1f)
    } else {
        matches!(mode, 0 | spsr::EL1T | spsr::EL1H) || mode == spsr::AARCH32
    };
    if !good {
        r.pstate = spsr::DAIF | if aarch32 { 0x13 } else { spsr::EL1H };
    }
    // IL would be an illegal state, SS a single step.
    r.pstate &= !(1 << 20 | 1 << 21) & 0xffff_ffff;
}
