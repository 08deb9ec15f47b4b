//! From the control domain's world to a guest's and back (see [`crate::run`]).

use core::arch::global_asm;
use core::mem::offset_of;

use address::HostPhys;
use arm::control::{hcr, mode};
use arm::syndrome::{Syndrome, fault_page};
use hypercall::page::Exit;
use hypercall::registers::{Registers, Sys};
use spin::Mutex;

use super::inject;
use super::world::{load_system, load_vectors, save_system, save_vectors};
use crate::per_cpu::MAX_CPUS;
use crate::vm::{Vcpu, Vm};

global_asm!(include_str!("guest.S"), options(raw));

const _: () = assert!(offset_of!(Registers, x) == 0 && offset_of!(Registers, v) == 272);
const _: () = assert!(offset_of!(Registers, pc) == 256 && offset_of!(Registers, pstate) == 264);

unsafe extern "C" {
    fn guest_enter(registers: *mut Registers) -> u32;
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

/// CNTV_CTL: enabled, not masked, and due.
const FIRED: u32 = 0b101;

/// HCR in any guest. What isn't there for guests is trapped, set/way cache maintenance included.
const GUEST: u32 = (hcr::VM | hcr::SWIO | hcr::FMO | hcr::IMO | hcr::AMO | hcr::TWI | hcr::TWE | hcr::TSC | hcr::TSW) as u32
    // FB and BSU: maintenance by a vCPU reaches the processors where it, or the others, were before.
    | 1 << 9
    | 0b01 << 10
    // TID3: identification registers. TIDCP, TAC: what is the implementation's own.
    | 1 << 18
    | 1 << 20
    | 1 << 21;
/// HCPTR: trace (TTA) is trapped, floating point isn't.
const HCPTR: u32 = 0x33ff | 1 << 20;
/// HDCR: debug and performance monitors are trapped (TPMCR, TPM, TDA, TDOSA, TDRA).
const HDCR: u32 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11;

/// HSTR: ThumbEE is trapped (TTEE).
const HSTR: u32 = 1 << 16;

/// What the control domain had on a processor while a guest is there.
pub struct Host {
    registers: Registers,
    controls: Controls,
}

/// Hyp mode's own registers that decide what lower modes may.
#[derive(Clone, Copy, Default)]
struct Controls {
    hvbar: u32,
    hcr: u32,
    vtcr: u32,
    vttbr: u64,
    hcptr: u32,
    hdcr: u32,
    hstr: u32,
    cnthctl: u32,
    vmpidr: u32,
}

impl Controls {
    fn save() -> Self {
        Self {
            hvbar: read_register!(HVBAR),
            hcr: read_register!(HCR),
            vtcr: read_register!(VTCR),
            vttbr: read_register64!(VTTBR),
            hcptr: read_register!(HCPTR),
            hdcr: read_register!(HDCR),
            hstr: read_register!(HSTR),
            cnthctl: read_register!(CNTHCTL),
            vmpidr: read_register!(VMPIDR),
        }
    }
    fn load(&self) {
        set_register!(HVBAR, self.hvbar);
        set_register!(HCR, self.hcr);
        set_register!(VTCR, self.vtcr);
        set_register64!(VTTBR, self.vttbr);
        set_register!(HCPTR, self.hcptr);
        set_register!(HDCR, self.hdcr);
        set_register!(HSTR, self.hstr);
        set_register!(CNTHCTL, self.cnthctl);
        set_register!(VMPIDR, self.vmpidr);
        super::isb();
    }
}

/// Of each processor.
pub static HOSTS: [Mutex<Host>; MAX_CPUS] = [const {
    let controls =
        Controls { hvbar: 0, hcr: 0, vtcr: 0, vttbr: 0, hcptr: 0, hdcr: 0, hstr: 0, cnthctl: 0, vmpidr: 0 };
    Mutex::new(Host { registers: Registers::RESET, controls })
}; MAX_CPUS];

impl Host {
    /// Puts the control domain's registers away and the guest's in their place.
    pub fn enter(&mut self, vm: &Vm, n: usize, vcpu: &mut Vcpu, root: HostPhys) {
        self.controls = Controls::save();
        save_vectors(&mut self.registers);
        save_system(&mut self.registers);
        let guest = Controls {
            hvbar: &raw const guest_vectors as u32,
            hcr: GUEST,
            vtcr: super::setup::guest_vtcr(),
            vttbr: u64::from(vm.vmid) << 48 | root.0,
            hcptr: HCPTR,
            hstr: HSTR,
            hdcr: HDCR | self.controls.hdcr & 0x1f,
            // PL1PCTEN: the physical counter can be read; its timer is trapped.
            cnthctl: 1,
            // The multiprocessing extensions' format, and the vCPU's number as affinity 0.
            vmpidr: 1 << 31 | n as u32,
        };
        guest.load();
        if vm.is_another_here(n) {
            super::forget_translations_here();
        }
        let r = &vcpu.registers;
        set_register64!(CNTVOFF, r[Sys::CNTVOFF_EL2]);
        set_register64!(CNTV_CVAL, r[Sys::CNTV_CVAL_EL0]);
        set_register!(CNTV_CTL, r[Sys::CNTV_CTL_EL0] as u32);
        load_system(r);
        load_vectors(r);
        super::isb();
    }

    /// The other way round.
    pub fn leave(&mut self, vcpu: &mut Vcpu) {
        let r = &mut vcpu.registers;
        r[Sys::CNTV_CTL_EL0] = u64::from(read_register!(CNTV_CTL) & 3);
        r[Sys::CNTV_CVAL_EL0] = read_register64!(CNTV_CVAL);
        set_register!(CNTV_CTL, 0);
        set_register64!(CNTVOFF, 0);
        save_system(r);
        save_vectors(r);
        self.controls.load();
        load_system(&self.registers);
        load_vectors(&self.registers);
        super::isb();
    }
}

/// Enters a vCPU in the guest's world, and comes back with what it left for.
pub fn enter(registers: &mut Registers) -> Left {
    // SAFETY: the registers are a vCPU's that nobody else runs, the world is the guest's, and what the guest can reach is bounded by
    // the tables in VTTBR. The assembler code comes back with the stack and callee-saved registers as they were.
    match unsafe { guest_enter(registers) } {
        0 => Left::Synchronous,
        1 => Left::Interrupt,
        _ => Left::Error,
    }
}

/// Of what the guest was left for.
pub fn syndrome() -> Syndrome {
    Syndrome(read_register!(HSR).into())
}

/// The virtual address of an abort that the guest was left for, and the page of its physical address. HIFAR of a fetch's abort is left
/// out: who needs it reads it.
pub fn fault_addresses() -> (u64, u64) {
    (read_register!(HDFAR).into(), fault_page(read_register!(HPFAR).into()))
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
    let value: u32 = by_mode!(r, n, frame r.x[n as usize] as u32, banked read_banked);
    value.into()
}

/// Sets it.
pub fn set_general(r: &mut Registers, n: u8, value: u64) {
    by_mode!(r, n, frame r.x[n as usize] = value & 0xffff_ffff, banked set_banked, value as u32);
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

pub fn timer_fired() -> bool {
    read_register!(CNTV_CTL) & 7 == FIRED
}

/// When the timer of the guest that is loaded fires, as a value of CNTPCT; all ones for never.
pub fn timer_deadline() -> u64 {
    match read_register!(CNTV_CTL) & 3 {
        1 => read_register64!(CNTV_CVAL).wrapping_add(read_register64!(CNTVOFF)),
        _ => u64::MAX,
    }
}
