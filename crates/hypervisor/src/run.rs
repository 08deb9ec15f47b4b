//! Running a guest: from the control domain's world to the guest's and back.
//!
//! [`run`] swaps the registers that the hypervisor doesn't use once, then enters the guest again and again until there is something for the
//! caller: what the hypervisor answers itself (its interrupt controller, its timer, identification registers) costs no swap.
//! Interrupts are masked all the while here, and taken by the control domain right after its world is back.

use core::sync::atomic::Ordering::*;

use hypercall::Reason;
use hypercall::page::Exit;
use irqchip::gic::{ListRegister, MAX_LIST_REGISTERS};

use crate::cpu_interface::{PrivateInterrupts, VIRTUAL_TIMER, VirtualInterface, stays_loaded};
use crate::guest::{self, Left};
use crate::per_cpu::cpu_number;
use crate::vm::{Vcpu, Vm};
use crate::{board, traps};

/// Runs a vCPU until there is something for the caller. `immediate` is asked right before each entry; `answer` is what the exit before
/// wanted, if it did.
pub fn run(vm: &Vm, n: usize, vcpu: &mut Vcpu, immediate: impl Fn() -> bool, answer: u64) -> Exit {
    let Some(root) = vm.root().filter(|_| vcpu.registers.off == 0) else { return halt(u64::MAX) };
    let cpu = cpu_number();
    let (Some(host), Some((vgic, private))) = (guest::HOSTS.get(cpu), board::interrupts()) else {
        return failed(vcpu, 0);
    };
    let mut host = host.lock();
    host.enter(vm, n, vcpu, root);
    traps::finish(vcpu, answer, vm.is_aarch32());
    board::enable(private);
    vgic.load(&vcpu.interface);
    let mut lrs = [ListRegister::default(); MAX_LIST_REGISTERS];
    let lrs = &mut lrs[..vgic.list_registers()];
    let exit = loop {
        if immediate() {
            break exit(Reason::Immediate);
        }
        if vm.dying.load(Acquire) {
            break exit(Reason::Interrupted);
        }
        if let Some(exit) = vm.wakes() {
            break exit;
        }
        let mut answered = None;
        let (why, own) = enter_once(vm, n, vcpu, cpu, (vgic, private), lrs, &mut answered);
        let done = match why {
            Left::Synchronous if answered.is_some() => answered,
            Left::Synchronous => traps::handle(vm, n, vcpu),
            // Seen to on the way in.
            Left::Interrupt if own => None,
            // The control domain's: it takes it when its world is back.
            Left::Interrupt => Some(exit(Reason::Interrupted)),
            Left::Error => Some(failed(vcpu, guest::syndrome().0)),
        };
        if let Some(exit) = done {
            // Those that lose nothing by it wait: the others are followed by a run anyway.
            let waits =
                [Reason::Halt, Reason::Interrupted, Reason::Yield].iter().any(|r| *r as u32 == exit.reason);
            break if waits { vm.wakes().unwrap_or(exit) } else { exit };
        }
    };
    vgic.save(&mut vcpu.interface);
    host.leave(vcpu);
    exit
}

/// Gives the guest its interrupts, enters it, and takes what is left of these back. Gives why it was left, and whether there was an
/// interrupt for the hypervisor itself: the timer, a kick, or list registers to be filled. `answered` is the exit where that is known already.
fn enter_once(
    vm: &Vm,
    n: usize,
    vcpu: &mut Vcpu,
    cpu: usize,
    (vgic, private): (&(impl VirtualInterface + ?Sized), PrivateInterrupts),
    lrs: &mut [ListRegister],
    answered: &mut Option<Exit>,
) -> (Left, bool) {
    let flush = {
        let mut gic = vm.gic.lock();
        vm.running[n].store(cpu as u32 + 1, SeqCst);
        gic.set_ppi(n, VIRTUAL_TIMER, guest::timer_fired());
        gic.fill(n, lrs)
    };
    vgic.enter(private, lrs, &flush);
    let why = loop {
        let why = guest::enter(&mut vcpu.registers);
        if why != Left::Synchronous || !stays_loaded(guest::syndrome(), || guest::fault_addresses().0) {
            break why;
        }
        // An interrupt that came meanwhile, a kick among them, has the guest leave at once.
        if let Some(exit) = traps::handle(vm, n, vcpu) {
            *answered = Some(exit);
            break why;
        }
    };
    let count = vgic.leave(private, lrs, &flush);
    let ended = |lr: &ListRegister| lr.eoi_maintenance && !lr.pending && !lr.active;
    let maintenance = flush.no_pending || flush.eoi_count || lrs.iter().take(flush.used).any(ended);
    let silent = flush.still_silenced(lrs) >> VIRTUAL_TIMER & 1 != 0;
    let kicked = why == Left::Interrupt && board::take_kick(vgic, private);
    let own = kicked || maintenance || guest::timer_fired() && !silent;
    let mut gic = vm.gic.lock();
    let others = gic.drain(n, lrs, count) & !(1 << n);
    vm.running[n].store(0, SeqCst);
    vm.owe_wakes(vm.kick(others));
    (why, own)
}

pub fn exit(reason: Reason) -> Exit {
    Exit { reason: reason as u32, ..Exit::default() }
}

pub fn halt(deadline: u64) -> Exit {
    Exit { deadline, ..exit(Reason::Halt) }
}

/// The guest did what can't be done for it.
pub fn failed(vcpu: &Vcpu, syndrome: u64) -> Exit {
    Exit { syndrome, pc: vcpu.registers.pc, ..exit(Reason::Failed) }
}
