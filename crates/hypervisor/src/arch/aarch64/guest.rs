//! From the control domain's world to a guest's and back (see [`crate::run`]).

use core::arch::global_asm;
use core::mem::offset_of;

use address::HostPhys;
use arm::control::{hcr, spsr};
use arm::syndrome::{Syndrome, fault_page};
use hypercall::registers::{Registers, Sys};
use spin::Mutex;

use super::sve;
pub use super::system_register::trapped;
use super::world::{Extensions, load_system, load_vectors, save_system, save_vectors};
use crate::per_cpu::MAX_CPUS;
use crate::vm::{Vcpu, Vm};

global_asm!(include_str!("guest.S"));

const _: () = assert!(offset_of!(Registers, x) == 0 && offset_of!(Registers, sp) == 248);
const _: () = assert!(offset_of!(Registers, pc) == 256 && offset_of!(Registers, pstate) == 264);

unsafe extern "C" {
    fn guest_enter(registers: *mut Registers) -> u64;
    static guest_vectors: u8;
}

/// Why a guest was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Synchronous,
    Interrupt,
    /// An asynchronous abort.
    Error,
}

/// CNTV_CTL_EL0: enabled, not masked, and due.
const FIRED: u64 = 0b101;

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
    vectors: u64,
    sve: sve::State,
    controls: Controls,
    has: Option<Extensions>,
}

/// EL2's own registers that decide what EL1 may.
#[derive(Clone, Copy, Default)]
struct Controls {
    hcr: u64,
    /// HCRX_EL2, where there is one.
    hcrx: u64,
    vtcr: u64,
    vttbr: u64,
    cptr: u64,
    mdcr: u64,
    cnthctl: u64,
    vmpidr: u64,
}

impl Controls {
    fn save(has: &Extensions) -> Self {
        Self {
            hcr: read_register!("hcr_el2"),
            hcrx: if has.hcrx { read_register!("s3_4_c1_c2_2") } else { 0 },
            vtcr: read_register!("vtcr_el2"),
            vttbr: read_register!("vttbr_el2"),
            cptr: read_register!("cptr_el2"),
            mdcr: read_register!("mdcr_el2"),
            cnthctl: read_register!("cnthctl_el2"),
            vmpidr: read_register!("vmpidr_el2"),
        }
    }
    fn load(&self, has: &Extensions) {
        set_register!("hcr_el2", self.hcr);
        if has.hcrx {
            set_register!("s3_4_c1_c2_2", self.hcrx);
        }
        set_register!("vtcr_el2", self.vtcr);
        set_register!("vttbr_el2", self.vttbr);
        set_register!("cptr_el2", self.cptr);
        set_register!("mdcr_el2", self.mdcr);
        set_register!("cnthctl_el2", self.cnthctl);
        set_register!("vmpidr_el2", self.vmpidr);
        super::isb();
    }
}

pub static HOSTS: [Mutex<Host>; MAX_CPUS] = [const {
    Mutex::new(Host {
        registers: Registers::RESET,
        vectors: 0,
        sve: sve::State::new(),
        controls: Controls { hcr: 0, hcrx: 0, vtcr: 0, vttbr: 0, cptr: 0, mdcr: 0, cnthctl: 0, vmpidr: 0 },
        has: None,
    })
}; MAX_CPUS];

impl Host {
    /// Puts the control domain's registers away and the guest's in their place.
    pub fn enter(&mut self, vm: &Vm, n: usize, vcpu: &mut Vcpu, root: HostPhys) {
        let has = *self.has.get_or_insert_with(Extensions::here);
        self.controls = Controls::save(&has);
        if has.sve {
            sve::save(&mut self.sve);
        }
        save_vectors(&mut self.registers);
        save_system(&mut self.registers, &has);
        self.vectors = read_register!("vbar_el2");
        let aarch64 = if vm.is_aarch32() { 0 } else { hcr::RW };
        let keys = if has.pointer_authentication { hcr::API | hcr::APK } else { 0 };
        let guest = Controls {
            hcr: GUEST | aarch64 | keys,
            hcrx: 0,
            vtcr: super::setup::guest_vtcr(),
            vttbr: (vm.vmid as u64) << 48 | root.0,
            cptr: CPTR,
            mdcr: MDCR,
            // EL1PCTEN: the physical counter can be read; its timer is trapped.
            cnthctl: 1,
            // RES1, and the vCPU's number as affinity 0.
            vmpidr: 1 << 31 | n as u64,
        };
        guest.load(&has);
        // SAFETY: guest_vectors are exception vectors, aligned as VBAR_EL2 wants it.
        set_register!("vbar_el2", (&raw const guest_vectors) as u64);
        if vm.is_another_here(n) {
            super::forget_translations_here();
        }
        let r = &vcpu.registers;
        set_register!("cntvoff_el2", r[Sys::CNTVOFF_EL2]);
        set_register!("cntv_cval_el0", r[Sys::CNTV_CVAL_EL0]);
        set_register!("cntv_ctl_el0", r[Sys::CNTV_CTL_EL0]);
        load_system(r, &has);
        load_vectors(r);
        super::isb();
    }

    /// The other way round.
    pub fn leave(&mut self, vcpu: &mut Vcpu) {
        let has = self.has.unwrap_or_default();
        let r = &mut vcpu.registers;
        r[Sys::CNTV_CTL_EL0] = read_register!("cntv_ctl_el0") & 3;
        r[Sys::CNTV_CVAL_EL0] = read_register!("cntv_cval_el0");
        set_register!("cntv_ctl_el0", 0);
        set_register!("cntvoff_el2", 0);
        save_system(r, &has);
        save_vectors(r);
        set_register!("vbar_el2", self.vectors);
        self.controls.load(&has);
        load_system(&self.registers, &has);
        load_vectors(&self.registers);
        if has.sve {
            sve::load(&self.sve);
        }
        super::isb();
    }
}

/// Enters a vCPU in the guest's world, and comes back with what it left for.
pub fn enter(registers: &mut Registers) -> Left {
    // SAFETY: the registers are a vCPU's that nobody else runs, the world is the guest's, and what the guest can reach is bounded by
    // the tables in VTTBR_EL2. The assembler code comes back with the stack and callee-saved registers as they were.
    match unsafe { guest_enter(registers) } {
        0 => Left::Synchronous,
        1 => Left::Interrupt,
        _ => Left::Error,
    }
}

/// Of what the guest was left for.
pub fn syndrome() -> Syndrome {
    Syndrome(read_register!("esr_el2"))
}

/// The virtual address of an abort that the guest was left for, and the page of its physical address.
pub fn fault_addresses() -> (u64, u64) {
    (read_register!("far_el2"), fault_page(read_register!("hpfar_el2")))
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

pub fn timer_fired() -> bool {
    read_register!("cntv_ctl_el0") & 7 == FIRED
}

/// When the timer of the guest that is loaded fires, as a value of CNTPCT; all ones for never.
pub fn timer_deadline() -> u64 {
    match read_register!("cntv_ctl_el0") & 3 {
        1 => read_register!("cntv_cval_el0").wrapping_add(read_register!("cntvoff_el2")),
        _ => u64::MAX,
    }
}
