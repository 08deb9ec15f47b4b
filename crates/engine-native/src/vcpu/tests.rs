//! vCPUs on a fake hypervisor.

use super::*;
use crate::fake::{self, FakeHost};
use engine::Vm;
use engine::state::ArmState;
use hypercall::Call;
use std::sync::Mutex;

/// Remembers accesses; loads give 0x1122334455667788.
#[derive(Default)]
struct TestBus(Mutex<Vec<(u64, usize, Option<u64>)>>);

impl Bus for TestBus {
    fn io_read(&self, _: u16, _: &mut [u8]) {}
    fn io_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, address: GuestPhys, data: &mut [u8]) {
        self.0.lock().unwrap().push((address.0, data.len(), None));
        data.copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes()[..data.len()]);
    }
    fn mmio_write(&self, address: GuestPhys, data: &[u8]) {
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        self.0.lock().unwrap().push((address.0, data.len(), Some(u64::from_le_bytes(value))));
    }
    fn hypercall(&self, number: u64, arguments: [u64; 4]) -> Option<u64> {
        (number == 0xc600_0000).then_some(arguments[0] + 1)
    }
}

fn exit(reason: Reason) -> page::Exit {
    page::Exit { reason: reason as u32, ..page::Exit::default() }
}
fn call(arguments: [u64; 4]) -> page::Exit {
    page::Exit { arguments, ..exit(Reason::Call) }
}
const OFF: [u64; 4] = [0x8400_0008, 0, 0, 0];

fn boot() -> VcpuState {
    VcpuState::Arm(Box::new(ArmState { pc: 0x4000_0000, pstate: 0x3c5, ..ArmState::default() }))
}

#[test]
fn run_accesses_reach_the_bus_and_their_answers_the_page() {
    let host = FakeHost::new();
    let vm = fake::vm(&host, 1);
    let mut vcpu = vm.create_vcpu(0).unwrap();
    vcpu.set_state(&boot()).unwrap();
    let at = |address, size, write, data| page::Exit { address, size, write, data, ..exit(Reason::Mmio) };
    host.exit(0, exit(Reason::Interrupted));
    host.exit(0, at(0x0900_0000, 2, 0, 0));
    host.then(0, move |page| {
        assert_eq!(page.exit().data, 0x7788);
        at(0x0900_0004, 4, 1, 0xaabb_ccdd)
    });
    host.exit(0, at(0x0900_0fff, 2, 0, 0));
    host.then(0, |page| {
        assert_eq!(page.exit().data, !0, "across a page there is no device");
        call(OFF)
    });
    let bus = TestBus::default();
    assert_eq!(vcpu.run(&bus).unwrap(), Exit::PowerOff);
    let seen = bus.0.lock().unwrap().clone();
    assert_eq!(seen, [(0x0900_0000, 2, None), (0x0900_0004, 4, Some(0xaabb_ccdd))]);
}

#[test]
fn run_hostile_exit_records_are_failures_not_panics() {
    let host = FakeHost::new();
    let vm = fake::vm(&host, 1);
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let bus = TestBus::default();
    for size in [0, 3, 9, 255] {
        host.exit(0, page::Exit { size, ..exit(Reason::Mmio) });
        assert!(matches!(vcpu.run(&bus).unwrap(), Exit::Failed(_)));
    }
    host.exit(0, page::Exit { reason: 1000, ..page::Exit::default() });
    assert!(matches!(vcpu.run(&bus).unwrap(), Exit::Failed(why) if why.contains("1000")));
    host.exit(0, page::Exit { pc: 0x1234, syndrome: 0x9600_0000, ..exit(Reason::Failed) });
    assert!(
        matches!(vcpu.run(&bus).unwrap(), Exit::Failed(why) if why.contains("0x1234") && why.contains("0x96000000"))
    );
    host.exit(0, page::Exit { deadline: u64::MAX - 1, ..exit(Reason::Halt) });
    vcpu.kick_handle().kick();
    assert_eq!(vcpu.run(&bus).unwrap(), Exit::Kicked);
    *host.refuse.lock().unwrap() = Some(Call::Run);
    assert!(vcpu.run(&bus).unwrap_err().to_string().contains("no room"));
}

#[test]
fn run_kicks_are_never_lost() {
    let host = FakeHost::new();
    let vm = fake::vm(&host, 1);
    let mut vcpu = vm.create_vcpu(0).unwrap();
    vcpu.set_state(&boot()).unwrap();
    let kick = vcpu.kick_handle();
    let bus = TestBus::default();
    kick.kick();
    kick.kick();
    assert_eq!(vcpu.run(&bus).unwrap(), Exit::Kicked, "before the run");
    let (done, next) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..2000 {
                kick.kick();
                if next.recv().is_err() {
                    return;
                }
            }
        });
        for _ in 0..2000 {
            assert_eq!(vcpu.run(&bus).unwrap(), Exit::Kicked);
            done.send(()).unwrap();
        }
    });
}

#[test]
fn run_halted_waits_for_its_timer_and_wakes_for_a_line() {
    let mut host = FakeHost::bare();
    host.line_wakes = 1;
    let host = Arc::new(host);
    let vm = fake::vm(&host, 1);
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let bus = TestBus::default();
    let deadline = host.now() + 30_000;
    host.exit(0, page::Exit { deadline, ..exit(Reason::Halt) });
    host.exit(0, call(OFF));
    assert_eq!(vcpu.run(&bus).unwrap(), Exit::PowerOff);
    assert!(host.now() >= deadline);

    host.exit(0, page::Exit { deadline: NEVER, ..exit(Reason::Halt) });
    host.exit(0, call(OFF));
    std::thread::scope(|scope| {
        let vm = vm.clone();
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            vm.set_line(33, true).unwrap();
        });
        assert_eq!(vcpu.run(&bus).unwrap(), Exit::PowerOff);
    });
    assert_eq!(host.calls(Call::SetLine), [[77, 33, 1, 0, 0]]);
    for line in [0, 31, 1020, u32::MAX] {
        assert!(vm.set_line(line, true).is_err());
    }
}

#[test]
fn run_second_vcpu_is_turned_on_woken_and_off() {
    let host = FakeHost::new();
    let vm = fake::vm(&host, 2);
    let (mut first, mut second) = (vm.create_vcpu(0).unwrap(), vm.create_vcpu(1).unwrap());
    first.set_state(&boot()).unwrap();
    let kick = second.kick_handle();
    host.exit(0, call([0xc400_0003, 1, 0x4008_0000, 42]));
    host.then(0, |page| {
        assert_eq!(page.exit().data, 0);
        // An interrupt for the second, which is halted.
        page::Exit { data: 0b11, ..exit(Reason::Wake) }
    });
    host.exit(0, call([0x8400_0009, 0, 0, 0]));
    host.exit(1, page::Exit { deadline: NEVER, ..exit(Reason::Halt) });
    host.exit(1, call([0xc600_0000, 6, 0, 0]));
    host.then(1, |page| {
        assert_eq!(page.exit().data, 7);
        call([0x1234, 0, 0, 0])
    });
    host.then(1, |page| {
        assert_eq!(page.exit().data, u64::MAX);
        call([0x8400_0002, 0, 0, 0])
    });
    std::thread::scope(|scope| {
        let second = scope.spawn(move || {
            let bus = TestBus::default();
            assert_eq!(second.run(&bus).unwrap(), Exit::Kicked);
            second.state().unwrap()
        });
        assert_eq!(first.run(&TestBus::default()).unwrap(), Exit::Reset);
        // The halted one was woken and ran its script to its end, where it is off.
        while !host.runs.lock().unwrap()[1].is_empty() {
            vm.set_line(40, true).unwrap();
            host.exit(0, page::Exit { data: 2, ..exit(Reason::Wake) });
            host.exit(0, call(OFF));
            let _ = first.run(&TestBus::default()).unwrap();
        }
        kick.kick();
        let VcpuState::Arm(state) = second.join().unwrap() else { panic!("no ARM register file") };
        assert!(state.off);
    });
    let r = host.registers.lock().unwrap()[1];
    assert_eq!((r.pc, r.x[0], r.pstate), (0x4008_0000, 42, 0x3c5));
}

#[test]
fn create_vm_memory_goes_in_large_frames_where_it_can() {
    let host = FakeHost::new();
    let vm = fake::vm(&host, 1);
    assert_eq!(host.calls(Call::CreateVm), [[0, 1, 0x0800_0000, 0x0801_0000, 0]]);
    let given: Vec<_> = host.calls(Call::AddMemory);
    // 2 MiB at once; the rest, which is not contiguous, by pages, of which a call takes 480.
    assert_eq!(given[0], [77, 0x4000_0000, 1, 21, 1]);
    assert_eq!(given[1], [77, 0x4020_0000, 480, 12, 1]);
    assert_eq!(given[2], [77, 0x4020_0000 + 480 * 4096, 480, 12, 1]);
    assert_eq!(given.iter().map(|g| g[2] << g[3]).sum::<u64>(), 6 << 20);
    drop(vm);
    assert_eq!(host.calls(Call::DestroyVm).len(), 1);
}

#[test]
fn create_vm_what_can_t_be_is_a_sentence_and_leaves_nothing() {
    use crate::calls::Features;
    use crate::vm::NativeVm;
    let host = FakeHost::new();
    let refused =
        |features, config| NativeVm::new(host.clone(), Features::new(features), config).err().unwrap();
    assert!(refused(fake::ALL, fake::config(9)).to_string().contains("1 to 8"));
    assert!(refused(3, fake::config(1)).to_string().contains("64-bit"));
    assert!(refused(fake::ALL | 1, fake::config(1)).to_string().contains("GICv3"));
    let x86 = engine::VmConfig { arch: engine::Arch::X86, ..fake::config(1) };
    assert!(refused(fake::ALL, x86).to_string().contains("ARM"));
    let bare = engine::VmConfig { gic: None, ..fake::config(1) };
    assert!(refused(fake::ALL, bare).to_string().contains("GIC"));
    *host.refuse.lock().unwrap() = Some(Call::AddMemory);
    assert!(refused(fake::ALL, fake::config(1)).to_string().contains("no room"));
    assert_eq!(host.calls(Call::DestroyVm).len(), host.calls(Call::CreateVm).len());

    *host.refuse.lock().unwrap() = None;
    let vm = fake::vm(&host, 1);
    assert!(vm.create_vcpu(1).is_err());
    let mut vcpu = vm.create_vcpu(0).unwrap();
    assert!(vm.create_vcpu(0).is_err());
    assert!(vcpu.set_state(&VcpuState::X86(Box::new(x86::State::reset()))).is_err());
    assert!(vm.signal_msi(engine::Msi { address: 0, data: 0 }).is_err());
    assert!(vm.set_dirty_logging(true).is_err() && vm.take_dirty_log(0).is_err());
}

#[test]
fn ticks_of_any_frequency_are_times() {
    assert_eq!(ticks(62_500_000, 62_500_000), Duration::from_secs(1));
    assert_eq!(ticks(93_750_000, 62_500_000), Duration::from_millis(1500));
    assert!(ticks(u64::MAX, 1) > Duration::from_secs(1 << 60));
    assert_eq!(ticks(5, 0), Duration::from_secs(5));
}
