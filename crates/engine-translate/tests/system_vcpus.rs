//! vCPUs as a board uses them: threads, kicks, interrupts, start-up, through the engine contract alone.

use address::GuestPhys;
use engine::{Arch, Bus, Engine, Exit, Kick, Msi, Vcpu, VcpuState, Vm, VmConfig};
use engine_translate::Translate;
use memory::{GuestMemory, Kind, RegionConfig};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use x86::{Rflags, Segment, State};

/// Notes what the guest writes to ports; a write to port 1 kicks.
#[derive(Default)]
struct Board {
    written: Mutex<Vec<(u16, u32)>>,
    kick: Mutex<Option<Arc<dyn Kick>>>,
    /// The vector an 8259 would give.
    external: AtomicU32,
    ended: Mutex<Vec<u8>>,
    vm: Mutex<Option<Arc<dyn Vm>>>,
}

impl Bus for Board {
    fn io_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0x5a);
    }
    fn io_write(&self, port: u16, data: &[u8]) {
        let mut b = [0; 4];
        b[..data.len()].copy_from_slice(data);
        self.written.lock().unwrap().push((port, u32::from_le_bytes(b)));
        if port == 1 {
            self.kick.lock().unwrap().as_ref().unwrap().kick();
        }
    }
    fn mmio_read(&self, _: GuestPhys, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: GuestPhys, _: &[u8]) {}
    fn acknowledge_interrupt(&self) -> Option<u8> {
        if let Some(vm) = &*self.vm.lock().unwrap() {
            vm.set_line(0, false).unwrap();
        }
        Some(self.external.load(SeqCst) as u8)
    }
    fn end_of_interrupt(&self, vector: u8) {
        self.ended.lock().unwrap().push(vector);
    }
}

impl Board {
    fn values(&self, port: u16) -> Vec<u32> {
        self.written.lock().unwrap().iter().filter(|(p, _)| *p == port).map(|(_, v)| *v).collect()
    }
}

fn vm(vcpus: u32) -> (Arc<dyn Vm>, Arc<GuestMemory>) {
    let config = RegionConfig { base: GuestPhys(0), len: 1 << 20, kind: Kind::Ram };
    let memory = Arc::new(GuestMemory::new(&[config]).unwrap());
    let vm = Translate::new()
        .create_vm(VmConfig { arch: Arch::X86, vcpus, memory: memory.clone(), gic: None })
        .unwrap();
    (vm, memory)
}

/// Flat 32-bit protected mode at 1000H, stack at 9000H, an IDT at 2000H whose gates all lead to 3000H + 16 * vector.
fn flat(memory: &GuestMemory) -> State {
    let mut s = State::reset();
    let data = Segment { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xc093, unusable: false };
    s.seg = [data; 6];
    s.seg[1] = Segment { selector: 8, attributes: 0xc09b, ..data };
    s.cr0 = x86::Cr0::PE | x86::Cr0::ET;
    s.rip = 0x1000;
    s.gpr[4] = 0x9000;
    s.gdtr = x86::segment::Table { base: 0x1800, limit: 0x17 };
    s.idtr = x86::segment::Table { base: 0x2000, limit: 0x7ff };
    memory.write_u64(GuestPhys(0x1808), 0x00cf_9b00_0000_ffff).unwrap();
    memory.write_u64(GuestPhys(0x1810), 0x00cf_9300_0000_ffff).unwrap();
    for vector in 0..256u64 {
        let handler = 0x3000 + 16 * vector;
        memory.write_u64(GuestPhys(0x2000 + 8 * vector), handler | 8 << 16 | 0x8e << 40).unwrap();
    }
    s
}

fn set(vcpu: &mut dyn Vcpu, s: State) {
    vcpu.set_state(&VcpuState::X86(Box::new(s))).unwrap();
}
fn get(vcpu: &dyn Vcpu) -> State {
    match vcpu.state().unwrap() {
        VcpuState::X86(s) => *s,
        VcpuState::Arm(_) => unreachable!(),
    }
}

type Started = (Arc<dyn Vm>, Arc<GuestMemory>, Box<dyn Vcpu>, Arc<Board>);

/// A board and its first vCPU, about to run `code` at 1000H.
fn start(code: &[u8], rflags: u64) -> Started {
    let (vm, memory) = vm(1);
    let mut vcpu = vm.create_vcpu(0).unwrap();
    memory.load(GuestPhys(0x1000), code).unwrap();
    let mut s = flat(&memory);
    s.rflags = Rflags::from_bits_truncate(rflags);
    set(&mut *vcpu, s);
    let board = Arc::new(Board::default());
    *board.kick.lock().unwrap() = Some(vcpu.kick_handle());
    *board.vm.lock().unwrap() = Some(vm.clone());
    (vm, memory, vcpu, board)
}

#[test]
fn guest_that_writes_a_port_is_seen_and_kicked_out() {
    // mov al, 42; out 1, al; jmp $
    let (_vm, _memory, mut vcpu, board) = start(&[0xb0, 42, 0xe6, 1, 0xeb, 0xfe], 2);
    assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
    assert_eq!(board.values(1), [42]);
    assert_eq!(get(&*vcpu).rip, 0x1004);
}

#[test]
fn kicks_before_and_during_runs_are_never_lost() {
    for code in [&[0xeb, 0xfeu8][..], &[0xf4, 0xeb, 0xfd]] {
        let (_vm, _memory, mut vcpu, board) = start(code, 2);
        let kick = vcpu.kick_handle();
        kick.kick();
        kick.kick();
        assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked, "a kick before the run");
        let (rounds, done) = (2000, Arc::new(AtomicUsize::new(0)));
        let kicker = std::thread::spawn({
            let done = done.clone();
            move || {
                for round in 0..rounds {
                    let start = Instant::now();
                    kick.kick();
                    // Each kick must end one run; a lost one hangs here.
                    while done.load(SeqCst) <= round {
                        assert!(start.elapsed() < Duration::from_secs(60), "kick {round} was lost");
                        std::thread::yield_now();
                    }
                }
            }
        });
        for _ in 0..rounds {
            assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
            done.fetch_add(1, SeqCst);
        }
        kicker.join().unwrap();
    }
}

#[test]
fn halted_vcpu_is_woken_by_an_external_interrupt_in_the_shadow_order() {
    // sti; hlt; mov al, 1; out 2, al; out 1, al; jmp $   handler 40H: out 3, al; iret
    let code = [0xfb, 0xf4, 0xb0, 1, 0xe6, 2, 0xe6, 1, 0xeb, 0xfe];
    let (vm, memory, mut vcpu, board) = start(&code, 2);
    memory.load(GuestPhys(0x3400), &[0xe6, 3, 0xcf]).unwrap();
    board.external.store(0x40, SeqCst);
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        vm.set_line(0, true).unwrap();
    });
    assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
    waker.join().unwrap();
    let ports: Vec<_> = board.written.lock().unwrap().iter().map(|w| w.0).collect();
    assert_eq!(ports, [3, 2, 1]);
}

#[test]
fn interrupt_waits_for_the_instruction_after_sti() {
    // sti; out 2, al; out 4, al; out 1, al; jmp $   handler: out 3, al; iret
    let code = [0xfb, 0xe6, 2, 0xe6, 4, 0xe6, 1, 0xeb, 0xfe];
    let (vm, memory, mut vcpu, board) = start(&code, 2);
    memory.load(GuestPhys(0x3400), &[0xe6, 3, 0xcf]).unwrap();
    board.external.store(0x40, SeqCst);
    vm.set_line(0, true).unwrap();
    assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
    let ports: Vec<_> = board.written.lock().unwrap().iter().map(|w| w.0).collect();
    assert_eq!(ports, [2, 3, 4, 1]);
}

#[test]
fn message_interrupts_reach_the_handler_by_priority_and_end_on_the_bus() {
    // jmp $   handler 51H: out 3, al (AL is 0); mov [FEE000B0], eax; iret
    // handler 61H: out 4, al; EOI; out 1, al; iret
    let (vm, memory, mut vcpu, board) = start(&[0xeb, 0xfe], 0x202);
    let eoi = [0xa3, 0xb0, 0x00, 0xe0, 0xfe];
    memory.load(GuestPhys(0x3510), &[&[0xe6, 3][..], &eoi, &[0xe6, 1, 0xcf]].concat()).unwrap();
    memory.load(GuestPhys(0x3610), &[&[0xe6, 4][..], &eoi, &[0xcf]].concat()).unwrap();
    // Both pending before the vCPU runs: the higher vector first.
    vm.signal_msi(Msi { address: 0xfee0_0000, data: 0xc051 }).unwrap();
    vm.signal_msi(Msi { address: 0xfee0_0000, data: 0x61 }).unwrap();
    vm.signal_msi(Msi { address: 0x1234_0000, data: 0x71 }).unwrap();
    assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
    let ports: Vec<_> = board.written.lock().unwrap().iter().map(|w| w.0).collect();
    assert_eq!(ports, [4, 3, 1]);
    assert_eq!(*board.ended.lock().unwrap(), [0x51], "only the level-triggered one");
}

#[test]
fn nmi_is_masked_until_iret() {
    // jmp $   NMI handler: inc ebx; mov al, bl; out 3, al; cmp bl, 2; jb over; out 1, al; over: iret
    let (vm, memory, mut vcpu, board) = start(&[0xeb, 0xfe], 2);
    memory
        .load(GuestPhys(0x3020), &[0x43, 0x88, 0xd8, 0xe6, 3, 0x80, 0xfb, 2, 0x72, 2, 0xe6, 1, 0xcf])
        .unwrap();
    vm.signal_msi(Msi { address: 0xfee0_0000, data: 0x400 }).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            vm.signal_msi(Msi { address: 0xfee0_0000, data: 0x400 }).unwrap();
        });
        assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
    });
    assert_eq!(board.values(3), [1, 2]);
}

#[test]
fn apic_timer_in_deadline_mode_wakes_from_halt() {
    // mov ecx, 6E0H; rdtsc; add eax, 10000000; adc edx, 0; wrmsr; sti; hlt; jmp $   handler 50H: out 1, al
    let code = [
        0xc7, 0x05, 0x20, 0x03, 0xe0, 0xfe, 0x50, 0x00, 0x04,
        0x00, // LVT timer: TSC deadline, vector 50H
        0xb9, 0xe0, 0x06, 0, 0, 0x0f, 0x31, 0x05, 0x80, 0x96, 0x98, 0x00, 0x83, 0xd2, 0, 0x0f, 0x30, 0xfb,
        0xf4, 0xeb, 0xfe,
    ];
    let (_vm, memory, mut vcpu, board) = start(&code, 2);
    memory.load(GuestPhys(0x3500), &[0xe6, 1, 0xcf]).unwrap();
    let begin = Instant::now();
    assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
    let took = begin.elapsed();
    assert!(took > Duration::from_micros(800) && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn triple_fault_is_a_shutdown_with_a_sentence() {
    let (_vm, _memory, mut vcpu, board) = start(&[0x0f, 0x0b], 2);
    let mut s = get(&*vcpu);
    s.idtr.limit = 0;
    set(&mut *vcpu, s);
    let exit = vcpu.run(&*board).unwrap();
    assert!(matches!(&exit, Exit::Shutdown(text) if text.contains("triple fault")), "{exit:?}");
}

#[test]
fn state_read_and_written_back_goes_on_the_same() {
    let (_vm, _memory, mut vcpu, board) = start(&[0x40, 0xe6, 1, 0xeb, 0xfb], 2);
    assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
    let mut s = get(&*vcpu);
    s.msrs.retain(|(i, _)| *i != x86::msr::TSC);
    set(&mut *vcpu, s.clone());
    let mut again = get(&*vcpu);
    again.msrs.retain(|(i, _)| *i != x86::msr::TSC);
    assert_eq!(again, s);
    assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
    assert_eq!(board.values(1), [1, 2]);
}

#[test]
fn register_files_that_no_processor_holds_are_refused() {
    let (_vm, _memory, mut vcpu, _board) = start(&[0xf4], 2);
    let good = get(&*vcpu);
    let changes: [fn(&mut State); 7] = [
        |s| s.cr0 = x86::Cr0::PG,
        |s| s.cr4 = x86::Cr4::LA57,
        |s| s.efer = x86::Efer::LMA,
        |s| s.efer = x86::Efer::SVME,
        |s| s.rip = 1 << 40,
        |s| s.apic.truncate(3),
        |s| s.xsave.truncate(100),
    ];
    for change in changes {
        let mut s = good.clone();
        change(&mut s);
        assert!(vcpu.set_state(&VcpuState::X86(Box::new(s))).is_err());
    }
}

#[test]
fn vcpus_and_lines_out_of_range_are_refused_with_a_sentence() {
    let (vm, memory) = vm(2);
    assert!(vm.create_vcpu(2).is_err());
    let _first = vm.create_vcpu(0).unwrap();
    assert!(vm.create_vcpu(0).is_err());
    assert!(vm.set_line(1, true).is_err());
    assert!(vm.take_dirty_log(1).is_err());
    for vcpus in [0, 256] {
        assert!(
            Translate::new()
                .create_vm(VmConfig { arch: Arch::X86, vcpus, memory: memory.clone(), gic: None })
                .is_err()
        );
    }
    assert!(
        Translate::new().create_vm(VmConfig { arch: Arch::Aarch64, vcpus: 1, memory, gic: None }).is_err()
    );
}

#[test]
fn application_processor_starts_by_init_and_sipi_and_a_locked_counter_counts_all() {
    const ROUNDS: u32 = 200_000;
    let (vm, memory) = vm(2);
    let mut boot = vm.create_vcpu(0).unwrap();
    let mut other = vm.create_vcpu(1).unwrap();
    // Boot processor: INIT, SIPI with vector 8 to APIC 1, then count; wait for the other's flag; out 1.
    let count = |at: u32| {
        let mut c = vec![0xb9];
        c.extend(ROUNDS.to_le_bytes());
        // lock inc dword [5000H]; loop
        c.extend([0xf0, 0xff, 0x05]);
        c.extend(at.to_le_bytes());
        c.extend([0xe2, 0xf7]);
        c
    };
    let mut code = vec![
        0xc7, 0x05, 0x10, 0x03, 0xe0, 0xfe, 0, 0, 0, 1, // ICR high: APIC 1
        0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0, 0, // INIT
        0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x08, 0x46, 0, 0, // SIPI, page 8
    ];
    code.extend(count(0x5000));
    // wait: cmp byte [5004H], 1; jne wait; out 1, al; jmp $
    code.extend([0x80, 0x3d, 0x04, 0x50, 0, 0, 1, 0x75, 0xf7, 0xe6, 1, 0xeb, 0xfe]);
    memory.load(GuestPhys(0x1000), &code).unwrap();
    // Real mode at 0800:0000: mov ecx, ROUNDS; lock inc dword [5000H]; dec ecx; jnz; mov byte [5004H], 1; hlt
    let mut ap = vec![0x66, 0xb9];
    ap.extend(ROUNDS.to_le_bytes());
    ap.extend([0xf0, 0x66, 0xff, 0x06, 0x00, 0x50, 0x66, 0x49, 0x75, 0xf6, 0xc6, 0x06, 0x04, 0x50, 1, 0xf4]);
    memory.load(GuestPhys(0x8000), &ap).unwrap();
    let s = flat(&memory);
    set(&mut *boot, s);
    let board = Board::default();
    *board.kick.lock().unwrap() = Some(boot.kick_handle());
    let stop = other.kick_handle();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(other.run(&board).unwrap(), Exit::Kicked));
        assert_eq!(boot.run(&board).unwrap(), Exit::Kicked);
        stop.kick();
    });
    assert_eq!(memory.read_u32(GuestPhys(0x5000)).unwrap(), 2 * ROUNDS);
    assert_eq!(get(&*other).activity, x86::state::Activity::Halted);
}

#[test]
fn code_rewritten_by_another_vcpu_is_never_executed_stale() {
    const ROUNDS: u32 = 3000;
    let (vm, memory) = vm(2);
    let mut vcpus = [vm.create_vcpu(0).unwrap(), vm.create_vcpu(1).unwrap()];
    // vCPU 0: writes n to the immediate at 7001H, then n to the flag at 5000H; waits until 5004H is n; next.
    let writer = [
        0xb8, 0, 0, 0, 0,    // mov eax, 0
        0x40, // next: inc eax
        0xa3, 0x01, 0x70, 0, 0, // mov [7001H], eax
        0xa3, 0x00, 0x50, 0, 0, // mov [5000H], eax
        0x39, 0x05, 0x04, 0x50, 0, 0, // wait: cmp [5004H], eax
        0x75, 0xf8, // jne wait
        0x3d, 0xb8, 0x0b, 0, 0, // cmp eax, 3000
        0x72, 0xe6, // jb next
        0xe6, 1, 0xeb, 0xfe,
    ];
    // vCPU 1: waits for a new flag, serialises, calls 7000H (mov eax, imm; ret), stores what it got to 5004H; if it differs, ends.
    let reader = [
        0x31, 0xdb, // xor ebx, ebx
        0x43, // next: inc ebx
        0x39, 0x1d, 0x00, 0x50, 0, 0, // wait: cmp [5000H], ebx
        0x75, 0xf8, // jne wait
        0x53, 0x31, 0xc0, 0x0f, 0xa2, 0x5b, // push ebx; xor eax, eax; cpuid; pop ebx
        0xe8, 0xea, 0x4f, 0, 0, // call 7000H
        0x39, 0xd8, // cmp eax, ebx
        0x75, 0x07, // jne wrong
        0xa3, 0x04, 0x50, 0, 0, // mov [5004H], eax
        0xeb, 0xe1, // jmp next
        0xe6, 1, 0xeb, 0xfe, // wrong: out 1, al
    ];
    memory.load(GuestPhys(0x1000), &writer).unwrap();
    memory.load(GuestPhys(0x2800), &reader).unwrap();
    memory.load(GuestPhys(0x7000), &[0xb8, 0, 0, 0, 0, 0xc3]).unwrap();
    let s = flat(&memory);
    // The IDT's upper half is the reader's code; nobody interrupts here.
    memory.load(GuestPhys(0x2800), &reader).unwrap();
    let second = State {
        rip: 0x2800,
        gpr: {
            let mut g = s.gpr;
            g[4] = 0xa000;
            g
        },
        ..s.clone()
    };
    let call_at = 0x2800 + 17u32;
    let displacement = 0x7000u32.wrapping_sub(call_at + 5);
    memory.write_u32(GuestPhys(call_at as u64 + 1), displacement).unwrap();
    set(&mut *vcpus[0], s);
    set(&mut *vcpus[1], second);
    let boards = [Board::default(), Board::default()];
    let kicks = [vcpus[0].kick_handle(), vcpus[1].kick_handle()];
    *boards[0].kick.lock().unwrap() = Some(kicks[0].clone());
    *boards[1].kick.lock().unwrap() = Some(kicks[0].clone());
    let [a, b] = &mut vcpus;
    let wrong = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            b.run(&boards[1]).unwrap();
            wrong.store(!boards[1].values(1).is_empty(), SeqCst);
        });
        a.run(&boards[0]).unwrap();
        kicks[1].kick();
    });
    assert!(!wrong.load(SeqCst), "stale code ran");
    assert_eq!(memory.read_u32(GuestPhys(0x5004)).unwrap(), ROUNDS);
}

#[test]
fn dirty_log_holds_the_pages_written_since_it_was_last_taken() {
    // next: mov [5000H], eax; mov [0C000H], eax; out 1, al; jmp next
    let code = [0xa3, 0x00, 0x50, 0, 0, 0xa3, 0x00, 0xc0, 0, 0, 0xe6, 1, 0xeb, 0xf2];
    let (vm, _memory, mut vcpu, board) = start(&code, 2);
    assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
    vm.set_dirty_logging(true).unwrap();
    for _ in 0..3 {
        assert_eq!(vcpu.run(&*board).unwrap(), Exit::Kicked);
        let log = vm.take_dirty_log(0).unwrap();
        assert_eq!(log[0], 1 << 5 | 1 << 12);
        assert!(log[1..].iter().all(|w| *w == 0));
    }
    vm.set_dirty_logging(false).unwrap();
}
