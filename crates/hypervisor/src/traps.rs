//! A guest's synchronous exceptions: what is answered here, and what goes to the caller of the run.

use arm::psci;
use arm::syndrome::{Access, Syndrome, class};
use hypercall::Reason;
use hypercall::page::Exit;
use irqchip::gic::{Frame, Version};

use crate::arch::inject;
use crate::cpu_interface::VIRTUAL_TIMER;
use crate::run::{exit, halt};
use crate::vm::{Unanswered, Vcpu, Vm};
use crate::{aarch32, cp15, guest};

/// A run's exit that has vCPUs woken, if there are any.
fn wake(vcpus: u64) -> Option<Exit> {
    (vcpus != 0).then(|| Exit { data: vcpus, ..exit(Reason::Wake) })
}

/// Completes what waited for the caller's answer.
pub fn finish(vcpu: &mut Vcpu, answer: u64, aarch32: bool) {
    match vcpu.unanswered.take() {
        Some(Unanswered::Load(access)) => load(vcpu, access, answer),
        Some(Unanswered::Call) => vcpu.registers.x[0] = narrowed(answer, aarch32),
        None => {}
    }
}

fn load(vcpu: &mut Vcpu, access: Access, data: u64) {
    guest::set_general(&mut vcpu.registers, access.register, access.loaded(data));
}

/// What is left of a value in a register of 32 bits.
fn narrowed(value: u64, aarch32: bool) -> u64 {
    if aarch32 { value & 0xffff_ffff } else { value }
}

/// Sees to the exception that the guest was left for. `None`: it goes on.
pub fn handle(vm: &Vm, n: usize, vcpu: &mut Vcpu) -> Option<Exit> {
    let syndrome = guest::syndrome();
    match syndrome.class() {
        // In AArch32 conditional instructions may trap though their condition fails.
        _ if vm.is_aarch32() && !aarch32::condition_holds(syndrome, vcpu.registers.pstate) => {
            skip(vcpu, syndrome);
            None
        }
        class::WFX => {
            skip(vcpu, syndrome);
            wait(vm, n, syndrome.0 & 1 != 0)
        }
        class::HVC32 | class::HVC64 => call(vcpu, vm.is_aarch32()),
        class::SMC32 | class::SMC64 => {
            skip(vcpu, syndrome);
            call(vcpu, vm.is_aarch32())
        }
        class::MCR_CP15 | class::MCR_CP14 | class::MCRR_CP15 | cp15::MCRR_CP14 | cp15::VMRS => {
            cp15::handle(vm, n, vcpu, syndrome)
        }
        class::DATA_ABORT_LOWER => data_abort(vm, n, vcpu, syndrome),
        class::INSTRUCTION_ABORT_LOWER => {
            inject::abort(vcpu, vm.is_aarch32(), guest::fault_addresses().0, true);
            None
        }
        _ => guest::trapped(vm, n, vcpu, syndrome),
    }
}

/// On behind the instruction.
pub fn skip(vcpu: &mut Vcpu, syndrome: Syndrome) {
    vcpu.registers.pc = vcpu.registers.pc.wrapping_add(syndrome.instruction_length());
    aarch32::step_it_block(&mut vcpu.registers.pstate);
}

/// WFI, or WFE.
fn wait(vm: &Vm, n: usize, event: bool) -> Option<Exit> {
    if event {
        return Some(exit(Reason::Yield));
    }
    let mut gic = vm.gic.lock();
    gic.set_ppi(n, VIRTUAL_TIMER, guest::timer_fired());
    if gic.wants(n) { None } else { Some(halt(guest::timer_deadline())) }
}

/// HVC or SMC by the SMC Calling Convention.
fn call(vcpu: &mut Vcpu, aarch32: bool) -> Option<Exit> {
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
            let arguments = [x[0], x[1], x[2], x[3]].map(|x| narrowed(x, aarch32));
            vcpu.unanswered = Some(Unanswered::Call);
            return Some(Exit { arguments, ..exit(Reason::Call) });
        }
    };
    x[0] = narrowed(answer, aarch32);
    None
}

fn data_abort(vm: &Vm, n: usize, vcpu: &mut Vcpu, syndrome: Syndrome) -> Option<Exit> {
    let access = syndrome.access().filter(|_| !syndrome.stage1_walk());
    let (far, page) = guest::fault_addresses();
    let Some(access) = access else {
        inject::abort(vcpu, vm.is_aarch32(), far, false);
        return None;
    };
    let address = page | far & 0xfff;
    let value = access.stored(guest::register(&vcpu.registers, access.register));
    skip(vcpu, syndrome);
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
    let offset = within(frames.interface, redistributors)?;
    (vm.gic.lock().version() == Version::V3).then_some((Frame::Redistributors, offset))
}

/// A write of ICC_SGI1R.
pub fn send_sgi(vm: &Vm, n: usize, value: u64) -> Option<Exit> {
    let mut gic = vm.gic.lock();
    wake(vm.kick(gic.sgi1r(n, value) & !(1 << n)))
}

/// A write of ICC_DIR.
pub fn deactivate(vm: &Vm, n: usize, value: u64) -> Option<Exit> {
    let mut gic = vm.gic.lock();
    wake(vm.kick(gic.deactivate(n, value as u32 & 0xff_ffff) & !(1 << n)))
}
