//! Coprocessor accesses of 32-bit guests that are trapped (Arm ARM D24.2.40, EC 0x03 to 0x05, 0x08, 0x0c).

use arm::syndrome::{Syndrome, class};
use hypercall::page::Exit;

use crate::arch::{self, inject};
use crate::vm::{Vcpu, Vm};
use crate::{guest, identification, traps};

/// MCRR and MRRC to coprocessor 14.
pub const MCRR_CP14: u8 = 0x0c;
/// VMRS to an identification register.
pub const VMRS: u8 = 0x08;

/// One that is trapped.
pub fn handle(vm: &Vm, n: usize, vcpu: &mut Vcpu, syndrome: Syndrome) -> Option<Exit> {
    let iss = syndrome.0;
    let field = |shift: u32, bits: u32| (iss >> shift) as u32 & ((1 << bits) - 1);
    let (read, rt, rt2) = (iss & 1 != 0, field(5, 5) as u8, field(10, 5) as u8);
    let get = |vcpu: &Vcpu, r: u8| guest::register(&vcpu.registers, r) & 0xffff_ffff;
    let mut answer = Some(0);
    let mut exit = None;
    match syndrome.class() {
        class::MCRR_CP15 => {
            // CRm, opc1. ICC_SGI1R: 12, 0.
            match (field(1, 4), field(16, 4)) {
                (12, 0) if !read => {
                    let value = get(vcpu, rt2) << 32 | get(vcpu, rt);
                    exit = traps::send_sgi(vm, n, value);
                }
                (12, 1 | 2) if !read => {}
                // PMCCNTR.
                (9, 0) => {}
                _ => answer = None,
            }
            if read && answer.is_some() {
                guest::set_general(&mut vcpu.registers, rt2, 0);
            }
        }
        class::MCR_CP15 => {
            // CRn, opc1, CRm, opc2.
            match (field(10, 4), field(14, 3), field(1, 4), field(17, 3)) {
                (0, 0, crm @ 1..=7, op2) if read => answer = identification::read(crm, op2, vm),
                // DCISW, DCCSW, DCCISW.
                (7, 0, 6 | 10 | 14, 2) if !read => arch::clean_set_way(get(vcpu, rt)),
                // ACTLR, ACTLR2; what is implementation defined; performance monitors.
                (1, 0, 0, 1 | 3) | (9 | 10 | 11 | 15, ..) | (14, 0, 8..=15, _) => {}
                (12, 0, 11, 1) if !read => exit = traps::deactivate(vm, n, get(vcpu, rt)),
                _ => answer = None,
            }
        }
        // Debug, and identification of floating point: MVFR0 to 2 and FPSID.
        VMRS => answer = arch::identification::floating_point(field(10, 4)),
        _ => {}
    }
    let Some(answer) = answer else {
        inject::undefined(vcpu, true);
        return None;
    };
    if read {
        guest::set_general(&mut vcpu.registers, rt, answer & 0xffff_ffff);
    }
    traps::skip(vcpu, syndrome);
    exit
}
