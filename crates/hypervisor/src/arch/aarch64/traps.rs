//! A guest's synchronous exceptions: what is answered here, and what goes to the caller of the run.

use arm::psci;
use arm::syndrome::{Access, Syndrome, class, fault_page};
use hypercall::Reason;
use hypercall::page::Exit;
use irqchip::gic::{Frame, Version};

use super::guest::{exit, halt, timer_deadline, timer_fired};

use super::{identification, inject};
use crate::cpu_interface::VIRTUAL_TIMER;
use crate::vm::{Unanswered, Vcpu, Vm};

/// A run's exit that has vCPUs woken, if there are any.
fn wake(vcpus: u64) -> Option<Exit> {
    (vcpus != 0).then(|| Exit { data: vcpus, ..exit(Reason::Wake) })
}

/// Completes what waited for the caller's answer.
pub fn finish(vcpu: &mut Vcpu, answer: u64) {
    match vcpu.unanswered.take() {
        Some(Unanswered::Load(access)) => load(vcpu, access, answer),
        Some(Unanswered::Call) => vcpu.registers.x[0] = answer,
        None => {}
    }
}

fn load(vcpu: &mut Vcpu, access: Access, data: u64) {
    if let Some(x) = vcpu.registers.x.get_mut(access.register as usize) {
        *x = access.loaded(data);
    }
}

/// A general register; 31 is zero.
fn register(vcpu: &Vcpu, n: u8) -> u64 {
    vcpu.registers.x.get(n as usize).copied().unwrap_or(0)
}

/// Sees to the exception that the guest was left for. `None`: it goes on.
pub fn handle(vm: &Vm, n: usize, vcpu: &mut Vcpu) -> Option<Exit> {
    let syndrome = Syndrome(read_register!("esr_el2"));
    match syndrome.class() {
        // In AArch32 conditional instructions may trap though their condition fails.
        _ if vm.is_aarch32() && !inject::condition_holds(syndrome, vcpu.registers.pstate) => {
            skip(vcpu, syndrome);
            None
        }
        class::WFX => {
            skip(vcpu, syndrome);
            wait(vm, n, syndrome.0 & 1 != 0)
        }
        class::HVC32 | class::HVC64 => call(vcpu),
        class::SMC32 | class::SMC64 => {
            skip(vcpu, syndrome);
            call(vcpu)
        }
        class::SYSTEM_REGISTER => system_register(vm, n, vcpu, syndrome),
        class::MCR_CP15 | class::MCR_CP14 | class::MCRR_CP15 | super::cp15::MCRR_CP14 | super::cp15::VMRS => {
            super::cp15::handle(vm, n, vcpu, syndrome)
        }
        class::DATA_ABORT_LOWER => data_abort(vm, n, vcpu, syndrome),
        class::INSTRUCTION_ABORT_LOWER => {
            inject::abort(vcpu, vm.is_aarch32(), read_register!("far_el2"), true);
            None
        }
        _ => {
            inject::undefined(vcpu, vm.is_aarch32());
            None
        }
    }
}

/// On behind the instruction.
pub fn skip(vcpu: &mut Vcpu, syndrome: Syndrome) {
    vcpu.registers.pc = vcpu.registers.pc.wrapping_add(syndrome.instruction_length());
    inject::step_it_block(&mut vcpu.registers.pstate);
}

/// WFI, or WFE.
fn wait(vm: &Vm, n: usize, event: bool) -> Option<Exit> {
    if event {
        return Some(exit(Reason::Yield));
    }
    let mut gic = vm.gic.lock();
    gic.set_ppi(n, VIRTUAL_TIMER, timer_fired());
    if gic.wants(n) { None } else { Some(halt(timer_deadline())) }
}

/// HVC or SMC by the SMC Calling Convention.
fn call(vcpu: &mut Vcpu) -> Option<Exit> {
    let x = &mut vcpu.registers.x;
    let answer = match x[0] as u32 {
        psci::VERSION => 1 << 16 | 1,
        psci::SMCCC_VERSION => 1 << 16 | 1,
        psci::MIGRATE_INFO_TYPE => 2,
        psci::SMCCC_FEATURES => psci::NOT_SUPPORTED as u64,
        psci::FEATURES => match x[1] as u32 & !psci::SMC64 {
            psci::VERSION
            | psci::CPU_OFF
            | psci::CPU_ON
            | psci::AFFINITY_INFO
            | psci::MIGRATE_INFO_TYPE
            | psci::SYSTEM_OFF
            | psci::SYSTEM_RESET
            | psci::FEATURES
            | psci::SMCCC_VERSION => 0,
            _ => psci::NOT_SUPPORTED as u64,
        },
        _ => {
            let arguments = [x[0], x[1], x[2], x[3]];
            vcpu.unanswered = Some(Unanswered::Call);
            return Some(Exit { arguments, ..exit(Reason::Call) });
        }
    };
    x[0] = answer;
    None
}

fn data_abort(vm: &Vm, n: usize, vcpu: &mut Vcpu, syndrome: Syndrome) -> Option<Exit> {
    let access = syndrome.access().filter(|_| !syndrome.stage1_walk());
    let Some(access) = access else {
        inject::abort(vcpu, vm.is_aarch32(), read_register!("far_el2"), false);
        return None;
    };
    let address = fault_page(read_register!("hpfar_el2")) | read_register!("far_el2") & 0xfff;
    skip(vcpu, syndrome);
    let value = access.stored(register(vcpu, access.register));
    if let Some((frame, offset)) = gic_frame(vm, address) {
        let mut gic = vm.gic.lock();
        let vcpus = if access.write {
            gic.write(n, frame, offset, access.size, value)
        } else {
            let (data, vcpus) = gic.read(n, frame, offset, access.size);
            load(vcpu, access, data);
            vcpus
        };
        return wake(vm.kick(vcpus & !(1 << n)));
    }
    if !access.write {
        vcpu.unanswered = Some(Unanswered::Load(access));
    }
    Some(Exit {
        size: access.size,
        write: access.write as u8,
        address,
        data: if access.write { value } else { 0 },
        ..exit(Reason::Mmio)
    })
}

/// Where in the interrupt controller an address is.
fn gic_frame(vm: &Vm, address: u64) -> Option<(Frame, u64)> {
    let frames = vm.frames();
    let within = |base: u64, size: u64| address.checked_sub(base).filter(|offset| *offset < size);
    if let Some(offset) = within(frames.distributor, 0x1_0000) {
        return Some((Frame::Distributor, offset));
    }
    let redistributors = 0x2_0000 * vm.vcpu_count() as u64;
    let v3 = vm.gic.lock().version() == Version::V3;
    within(frames.interface, redistributors).filter(|_| v3).map(|offset| (Frame::Redistributors, offset))
}

/// A trapped MSR, MRS or system instruction. The encoding is as in ISS (Arm ARM D24.2.40, EC 0x18).
fn system_register(vm: &Vm, n: usize, vcpu: &mut Vcpu, syndrome: Syndrome) -> Option<Exit> {
    let iss = syndrome.0;
    let field = |shift: u32, bits: u32| (iss >> shift) as u32 & ((1 << bits) - 1);
    let name = (field(20, 2), field(14, 3), field(10, 4), field(1, 4), field(17, 3));
    let (read, rt) = (iss & 1 != 0, field(5, 5) as u8);
    let value = register(vcpu, rt);
    let mut answer = 0;
    let mut exit = None;
    match name {
        // ICC_SGI1R_EL1; ASGI1R and SGI0R are of groups that guests don't have.
        (3, 0, 12, 11, 5) if !read => exit = send_sgi(vm, n, value),
        (3, 0, 12, 11, 6 | 7) if !read => {}
        // ICC_DIR_EL1, where it is trapped.
        (3, 0, 12, 11, 1) if !read => exit = deactivate(vm, n, value),
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
    skip(vcpu, syndrome);
    exit
}

/// A write of ICC_SGI1R.
pub fn send_sgi(vm: &Vm, n: usize, value: u64) -> Option<Exit> {
    let mut gic = vm.gic.lock();
    let others = gic.sgi1r(n, value) & !(1 << n);
    wake(vm.kick(others))
}

/// A write of ICC_DIR.
pub fn deactivate(vm: &Vm, n: usize, value: u64) -> Option<Exit> {
    let mut gic = vm.gic.lock();
    let others = gic.deactivate(n, value as u32 & 0xff_ffff) & !(1 << n);
    wake(vm.kick(others))
}

fn undefined(vm: &Vm, vcpu: &mut Vcpu) -> Option<Exit> {
    inject::undefined(vcpu, vm.is_aarch32());
    None
}
