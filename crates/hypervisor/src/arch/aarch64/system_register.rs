//! A guest's accesses to system registers that are trapped.

use arm::syndrome::{Syndrome, class};
use hypercall::page::Exit;

use super::inject;
use crate::vm::{Vcpu, Vm};
use crate::{identification, traps};

/// What is trapped in AArch64 only: MSR, MRS or a system instruction, encoded as in ISS (Arm ARM D24.2.40, EC 0x18).
pub fn trapped(vm: &Vm, n: usize, vcpu: &mut Vcpu, syndrome: Syndrome) -> Option<Exit> {
    if syndrome.class() != class::SYSTEM_REGISTER {
        return undefined(vm, vcpu);
    }
    let iss = syndrome.0;
    let field = |shift: u32, bits: u32| (iss >> shift) as u32 & ((1 << bits) - 1);
    let name = (field(20, 2), field(14, 3), field(10, 4), field(1, 4), field(17, 3));
    let (read, rt) = (iss & 1 != 0, field(5, 5) as u8);
    let value = super::guest::register(&vcpu.registers, rt);
    let mut answer = 0;
    let mut exit = None;
    match name {
        // ICC_SGI1R_EL1; ASGI1R and SGI0R are of groups that guests don't have.
        (3, 0, 12, 11, 5) if !read => exit = traps::send_sgi(vm, n, value),
        (3, 0, 12, 11, 6 | 7) if !read => {}
        // ICC_DIR_EL1, where it is trapped.
        (3, 0, 12, 11, 1) if !read => exit = traps::deactivate(vm, n, value),
        (3, 0, 0, crm @ 1..=7, op2) if read => match identification::read(crm, op2, vm) {
            Some(v) => answer = v,
            None => return undefined(vm, vcpu),
        },
        // DC ISW, CSW, CISW: by set and way only the whole of a processor's own caches can be meant. Cleaning is always allowed.
        (1, 0, 7, 6 | 10 | 14, 2) if !read => super::clean_set_way(value),
        // OSLAR, OSDLR and their like: the lock is always open (OSLSR.OSLM says that there is none).
        (2, ..) => {}
        // ACTLR_EL1.
        (3, 0, 1, 0, 1) => {}
        // PMCR_EL0 and others of the performance monitors, which the identification registers don't show.
        (3, 0 | 3, 9, 12..=14, _) | (3, 3, 14, 8..=15, _) => {}
        // CNTP_TVAL, CTL and CVAL: guests have the virtual timer only.
        _ => return undefined(vm, vcpu),
    }
    if read && let Some(x) = vcpu.registers.x.get_mut(rt as usize) {
        *x = answer;
    }
    traps::skip(vcpu, syndrome);
    exit
}

fn undefined(vm: &Vm, vcpu: &mut Vcpu) -> Option<Exit> {
    inject::undefined(vcpu, vm.is_aarch32());
    None
}
