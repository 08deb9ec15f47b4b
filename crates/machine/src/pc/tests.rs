//! The whole board under scripted vCPUs: life cycle, interrupts, devices as a guest reaches them.

mod console;

use super::*;
use crate::Status;
use crate::boot::testing::bzimage;
use crate::config::{Boot, Ending, OnReset, Output, Source};
use engine::fake::{
    Cpu, FakeEngine, FakeVm, Next, Step, act, exit, expect_in8, out8, spin_until, wait_until,
};
use engine::{Exit, Msi, VcpuState};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use x86::state::Activity;

/// Power off by PM1a_CNT: SLP_EN with S5's type.
fn power_off() -> Step {
    act(|cpu| cpu.out16(io_map::PM1A_CONTROL, 0x2000))
}

fn config() -> PcConfig {
    let kernel = Source::from_bytes("vmlinuz", bzimage(b"KERNEL"));
    let boot = Boot { kernel, modules: Vec::new(), command_line: String::new() };
    PcConfig { memory_bytes: 16 << 20, entropy: false, ..PcConfig::new("test", boot) }
}

fn run_with(config: PcConfig, script: Vec<Step>) -> (Ending, Arc<FakeVm>) {
    let engine = FakeEngine::new(script);
    let ending = build(&engine, config).unwrap().run();
    (ending, engine.vm().unwrap())
}

fn run(script: Vec<Step>) -> Ending {
    run_with(config(), script).0
}

fn failed(why: impl Into<String>) -> Next {
    Next::Exit(Exit::Failed(why.into()))
}

#[test]
fn s5_written_to_pm1_control_powers_off() {
    assert_eq!(run(vec![power_off()]), Ending::PoweredOff);
}

#[test]
fn every_way_to_reset_boots_anew() {
    type Reset = fn(&mut Cpu<'_>);
    let ways: [(&str, Reset); 3] = [
        ("reset control register", |cpu| cpu.out8(0xcf9, 6)),
        ("keyboard controller", |cpu| cpu.out8(0x64, 0xfe)),
        ("port 92h", |cpu| cpu.out8(0x92, 3)),
    ];
    for (name, reset) in ways {
        let ending = run(vec![
            Box::new(move |cpu| match cpu.boots {
                1 => {
                    // What the guest did to its kernel is undone, and its devices are as at power-on.
                    cpu.store(0x10_0000, b"broken");
                    cpu.out8(0x21, 0x55);
                    reset(cpu);
                    Next::Wait
                }
                _ if cpu.load(0x10_0000) != *b"KERNEL" => failed("the kernel was not loaded again"),
                _ => Next::Continue,
            }),
            expect_in8(0x21, 0xff),
            power_off(),
        ]);
        assert_eq!(ending, Ending::PoweredOff, "{name}");
    }
}

#[test]
fn triple_fault_resets_as_a_pc_does() {
    let ending = run(vec![
        Box::new(|cpu| match cpu.boots {
            1 | 2 => Next::Exit(Exit::Shutdown("at 0x1234".to_string())),
            _ => Next::Continue,
        }),
        power_off(),
    ]);
    assert_eq!(ending, Ending::PoweredOff);
}

#[test]
fn third_triple_fault_in_a_row_is_a_crash_that_says_where() {
    let boots = Arc::new(AtomicU32::new(0));
    let seen = boots.clone();
    let ending = run(vec![
        act(move |cpu| seen.store(cpu.boots, SeqCst)),
        exit(Exit::Shutdown("at 0x1234".to_string())),
    ]);
    assert!(matches!(&ending, Ending::Crashed(why) if why.contains("0x1234")), "{ending:?}");
    assert_eq!(boots.load(SeqCst), 3);
}

#[test]
fn reset_with_on_reset_end_ends() {
    let c = || PcConfig { on_reset: OnReset::End, ..config() };
    assert_eq!(run_with(c(), vec![out8(0xcf9, 6)]).0, Ending::Reset);
    let (ending, _) = run_with(c(), vec![exit(Exit::Shutdown("at 0x1234".to_string()))]);
    assert!(matches!(&ending, Ending::Crashed(why) if why.contains("0x1234")), "{ending:?}");
}

#[test]
fn debug_exit_and_debug_console_reach_the_outside() {
    let out = Arc::new(Collected::default());
    let c = PcConfig {
        debug_exit: Some(0xf4),
        debugcon: vec![0xe9, 0x402],
        debugcon_output: out.clone(),
        ..config()
    };
    let script = vec![out8(0xe9, b'h'), out8(0x402, b'i'), act(|cpu| cpu.out32(0xf4, 0x1234))];
    assert_eq!(run_with(c, script).0, Ending::DebugExit(0x1234));
    assert_eq!(*out.0.lock().unwrap(), b"hi");
}

#[test]
fn engine_failure_or_panic_is_a_crash_with_its_sentence() {
    assert_eq!(
        run(vec![exit(Exit::Failed("no such thing".to_string()))]),
        Ending::Crashed("no such thing".into())
    );
    let ending = run(vec![act(|_| panic!("a bug"))]);
    assert!(matches!(&ending, Ending::Crashed(why) if why.contains("a bug")), "{ending:?}");
}

#[test]
fn unclaimed_ports_and_memory_read_as_ones() {
    let script = vec![
        expect_in8(0x300, 0xff),
        act(|cpu| {
            cpu.out32(0x300, 0);
            cpu.store32(0xd000_0000, 0);
            cpu.store32(0xa_0000, 0);
            cpu.store32(memory_map::FIRMWARE, 0);
        }),
        Box::new(|cpu| match (cpu.load32(0xd000_0000), cpu.load::<4>(memory_map::FIRMWARE)) {
            (u32::MAX, rsdp) if rsdp == *b"RSD " => Next::Continue,
            other => failed(format!("{other:x?}")),
        }),
        power_off(),
    ];
    assert_eq!(run(script), Ending::PoweredOff);
}

/// Initializes the 8259s with vectors from 20h, all lines masked but those of `unmasked`.
fn set_up_pic(cpu: &Cpu<'_>, unmasked: u16) {
    for (command, base, cascade) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
        cpu.out8(command, 0x11);
        [base, cascade, 1].iter().for_each(|&v| cpu.out8(command + 1, v));
    }
    let [low, high] = (!unmasked).to_le_bytes();
    cpu.out8(0x21, low & !4);
    cpu.out8(0xa1, high);
}

/// Channel 0 as rate generator at 1 kHz.
fn start_timer(cpu: &Cpu<'_>) {
    cpu.out8(0x43, 0x34);
    cpu.out8(0x40, (1193u16 & 0xff) as u8);
    cpu.out8(0x40, (1193u16 >> 8) as u8);
}

#[test]
fn timer_interrupts_through_the_8259s() {
    let tick = || -> Vec<Step> {
        vec![
            wait_until(|cpu| cpu.intr()),
            Box::new(|cpu| match cpu.bus.acknowledge_interrupt() {
                Some(0x20) => Next::Continue,
                other => failed(format!("vector {other:x?}")),
            }),
            out8(0x20, 0x20),
        ]
    };
    let mut script = vec![act(|cpu| set_up_pic(cpu, 1)), act(|cpu| start_timer(cpu))];
    script.extend((0..3).flat_map(|_| tick()));
    script.push(power_off());
    let (ending, vm) = run_with(config(), script);
    assert_eq!(ending, Ending::PoweredOff);
    assert!(vm.line_changes().starts_with(&[(0, true), (0, false), (0, true), (0, false)]));
    assert!(vm.msis().is_empty(), "the I/O APIC's pins are masked");
}

fn io_apic_write(cpu: &Cpu<'_>, register: u32, value: u32) {
    cpu.store32(memory_map::IOAPIC, register);
    cpu.store32(memory_map::IOAPIC + 0x10, value);
}

#[test]
fn timer_interrupts_through_the_io_apic_at_pin_2() {
    let script = vec![
        act(|cpu| {
            io_apic_write(cpu, 0x10 + 2 * 2 + 1, 0);
            io_apic_write(cpu, 0x10 + 2 * 2, 0x31);
            start_timer(cpu);
        }),
        wait_until(|cpu| cpu.take_msi().is_some_and(|m| m.data & 0xff == 0x31 && m.address == 0xfee0_0000)),
        wait_until(|cpu| cpu.take_msi().is_some()),
        power_off(),
    ];
    let (ending, vm) = run_with(config(), script);
    assert_eq!(ending, Ending::PoweredOff);
    assert!(vm.line_changes().is_empty(), "the 8259s are masked from the start");
}

#[test]
fn power_button_raises_sci_until_acknowledged() {
    let engine = FakeEngine::new(vec![
        act(|cpu| {
            set_up_pic(cpu, 1 << 9 | 1 << 2);
            cpu.out8(0xb2, 0xf1);
            cpu.out16(io_map::PM1A_EVENT + 2, 1 << 8);
        }),
        wait_until(|cpu| cpu.intr()),
        Box::new(|cpu| match (cpu.bus.acknowledge_interrupt(), cpu.in16(io_map::PM1A_EVENT)) {
            (Some(0x29), status) if status & 1 << 8 != 0 => Next::Continue,
            other => failed(format!("{other:x?}")),
        }),
        act(|cpu| {
            cpu.out8(0xa0, 0x20);
            cpu.out8(0x20, 0x20);
        }),
        // The line is a level: still there, until the status bit is cleared.
        wait_until(|cpu| cpu.intr()),
        act(|cpu| cpu.out16(io_map::PM1A_EVENT, 1 << 8)),
        wait_until(|cpu| !cpu.intr()),
        power_off(),
    ]);
    let pc = build(&engine, config()).unwrap();
    let handle = pc.handle();
    assert!(!handle.press_power_button(), "nobody listens before the guest has booted");
    let runner = std::thread::spawn(move || pc.run());
    while !handle.press_power_button() {
        if runner.is_finished() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(runner.join().unwrap(), Ending::PoweredOff);
}

#[derive(Default)]
struct Collected(Mutex<Vec<u8>>);
impl Output for Collected {
    fn write(&self, bytes: &[u8]) -> usize {
        self.0.lock().unwrap().extend_from_slice(bytes);
        bytes.len()
    }
}

#[test]
fn console_carries_bytes_both_ways() {
    let out = Arc::new(Collected::default());
    let c = PcConfig { console: out.clone(), ..config() };
    let engine = FakeEngine::new(vec![
        out8(0x3f8, b'>'),
        spin_until(|cpu| cpu.in8(0x3fd) & 1 != 0),
        act(|cpu| cpu.out8(0x3f8, cpu.in8(0x3f8).to_ascii_uppercase())),
        power_off(),
    ]);
    let pc = build(&engine, c).unwrap();
    let handle = pc.handle();
    let runner = std::thread::spawn(move || pc.run());
    assert_eq!(handle.console_input(b"x"), 1);
    assert_eq!(runner.join().unwrap(), Ending::PoweredOff);
    assert_eq!(*out.0.lock().unwrap(), b">X");
    assert_eq!(handle.status(), Status::Ended);
}

/// A guest that counts at 200000h, busily.
fn counting() -> Vec<Step> {
    vec![spin_until(|cpu| {
        cpu.store32(0x20_0000, cpu.load32(0x20_0000).wrapping_add(1));
        false
    })]
}

fn count(vm: &FakeVm) -> u32 {
    vm.memory().read_u32(address::GuestPhys(0x20_0000)).unwrap()
}

fn wait_for_more(vm: &FakeVm) {
    let before = count(vm);
    while count(vm) == before {
        std::thread::yield_now();
    }
}

#[test]
fn paused_machine_and_its_clock_stand_still() {
    let engine = FakeEngine::new(counting());
    let pc = build(&engine, config()).unwrap();
    let (handle, vm) = (pc.handle(), engine.vm().unwrap());
    let runner = std::thread::spawn(move || pc.run());
    wait_for_more(&vm);
    for _ in 0..200 {
        handle.pause();
        let (stopped, at) = (count(&vm), handle.now());
        std::thread::yield_now();
        assert_eq!((count(&vm), handle.now(), handle.status()), (stopped, at, Status::Paused));
        handle.unpause();
        wait_for_more(&vm);
    }
    assert_eq!(handle.status(), Status::Running);
    handle.stop();
    assert_eq!(runner.join().unwrap(), Ending::Stopped);
}

#[test]
fn stop_while_paused_or_halted_or_before_run_ends_it() {
    for pause in [true, false] {
        let engine = FakeEngine::new(vec![]);
        let pc = build(&engine, PcConfig { vcpus: 3, ..config() }).unwrap();
        let handle = pc.handle();
        let runner = std::thread::spawn(move || pc.run());
        if pause {
            handle.pause();
        }
        handle.stop();
        assert_eq!(runner.join().unwrap(), Ending::Stopped);
        handle.pause();
        handle.unpause();
    }
    let pc = build(&FakeEngine::new(counting()), config()).unwrap();
    pc.handle().stop();
    assert_eq!(pc.run(), Ending::Stopped);
}

#[test]
fn machine_paused_before_run_starts_paused() {
    let engine = FakeEngine::new(counting());
    let pc = build(&engine, config()).unwrap();
    let (handle, vm) = (pc.handle(), engine.vm().unwrap());
    handle.pause();
    let runner = std::thread::spawn(move || pc.run());
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((count(&vm), handle.now()), (0, 0));
    handle.unpause();
    wait_for_more(&vm);
    handle.stop();
    assert_eq!(runner.join().unwrap(), Ending::Stopped);
}

#[test]
fn resets_and_pauses_at_once_lose_nothing() {
    let boots = Arc::new(AtomicU32::new(0));
    let seen = boots.clone();
    let engine = FakeEngine::new(vec![spin_until(move |cpu| {
        seen.store(cpu.boots, SeqCst);
        false
    })]);
    engine.add_script(counting());
    let pc = build(&engine, PcConfig { vcpus: 2, ..config() }).unwrap();
    let handle = pc.handle();
    let runner = std::thread::spawn(move || pc.run());
    let pausing = std::thread::spawn({
        let handle = handle.clone();
        move || {
            for _ in 0..100 {
                handle.pause();
                handle.unpause();
            }
        }
    });
    for boot in 2..30 {
        handle.reset();
        while boots.load(SeqCst) < boot {
            handle.reset();
            std::thread::yield_now();
        }
    }
    pausing.join().unwrap();
    handle.stop();
    assert_eq!(runner.join().unwrap(), Ending::Stopped);
}

#[test]
fn other_processors_wait_for_their_start_up_message() {
    let engine = FakeEngine::new(vec![]);
    let pc = build(&engine, PcConfig { vcpus: 2, ..config() }).unwrap();
    let activity = |i: usize| match &pc.states()[i] {
        VcpuState::X86(s) => s.activity,
        VcpuState::Arm(_) => unreachable!(),
    };
    assert_eq!((activity(0), activity(1)), (Activity::Running, Activity::WaitForSipi));
}

/// A disk of one pattern that counts its flushes, and can fail them.
#[derive(Default)]
struct Disk {
    flushes: AtomicU64,
    broken: bool,
}
impl disk::Image for Disk {
    fn len(&self) -> u64 {
        1 << 20
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.iter_mut().zip(offset..).for_each(|(b, i)| *b = (i / 512) as u8 ^ 0x5a);
        Ok(())
    }
    fn write_at(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, SeqCst);
        if self.broken { Err(io::Error::other("the cable is out")) } else { Ok(()) }
    }
    fn write_zeroes(&self, _offset: u64, _len: u64, _discard: bool) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn disks_are_flushed_at_every_ending_and_a_failure_is_told() {
    let good = Arc::new(Disk::default());
    assert_eq!(
        run_with(PcConfig { disks: vec![good.clone()], ..config() }, vec![power_off()]).0,
        Ending::PoweredOff
    );
    assert!(good.flushes.load(SeqCst) >= 1);
    let bad = Arc::new(Disk { broken: true, ..Disk::default() });
    let (ending, _) = run_with(PcConfig { disks: vec![bad], ..config() }, vec![power_off()]);
    assert!(
        matches!(&ending, Ending::Crashed(why) if why.contains("cable") && why.contains("disk0")),
        "{ending:?}"
    );
}

/// Reads a double word of a function's configuration space.
fn config_read(cpu: &Cpu<'_>, device: u32, offset: u32) -> u32 {
    cpu.out32(0xcf8, 1 << 31 | device << 11 | offset);
    cpu.in32(0xcfc)
}

/// A transitional driver: one request through the legacy registers, its interrupt through PIRQ and I/O APIC.
fn read_a_sector() -> Vec<Step> {
    const RING: u64 = 0x30_0000;
    const HEADER: u64 = 0x31_0000;
    const DATA: u64 = 0x31_1000;
    const STATUS: u64 = 0x31_2000;
    let ports = Arc::new(AtomicU32::new(0));
    let base = ports.clone();
    vec![
        Box::new(move |cpu| {
            let Some(device) = (0..32).find(|&d| config_read(cpu, d, 0) == 0x1001_1af4) else {
                return failed("no virtio block device on the bus");
            };
            let bar = config_read(cpu, device, 0x10);
            if bar & 1 == 0 {
                return failed("its first register is not in port space");
            }
            let io = (bar & !3) as u16;
            base.store(u32::from(io), SeqCst);
            let pirq = devices::pci::IntxRouter::pirq(device as u8, devices::pci::Pin::A) as u32;
            // Level-triggered, active low.
            io_apic_write(cpu, 0x10 + (16 + pirq) * 2, 0xa041);

            cpu.out8(io + 18, 1);
            cpu.out8(io + 18, 3);
            cpu.out32(io + 4, 0);
            cpu.out16(io + 14, 0);
            let size = u64::from(cpu.in16(io + 12));
            cpu.out32(io + 8, (RING >> 12) as u32);
            cpu.out8(io + 18, 7);

            // Type 0 (in), sector 3.
            cpu.store(HEADER, &[0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
            cpu.store(STATUS, &[0xff]);
            for (i, (at, len, flags)) in
                [(HEADER, 16u32, 1u32), (DATA, 512, 3), (STATUS, 1, 2)].into_iter().enumerate()
            {
                let d = RING + i as u64 * 16;
                cpu.store(d, &at.to_le_bytes());
                cpu.store32(d + 8, len);
                cpu.store32(d + 12, flags | (i as u32 + 1) << 16);
            }
            let available = RING + size * 16;
            cpu.store(available, &[0, 0, 1, 0, 0, 0]);
            cpu.out16(io + 16, 0);
            Next::Continue
        }),
        wait_until(|cpu| cpu.take_msi().is_some_and(|m: Msi| m.data & 0xff == 0x41)),
        Box::new(move |cpu| {
            let io = ports.load(SeqCst) as u16;
            if cpu.in8(io + 19) & 1 == 0 {
                return failed("the device says it didn't interrupt");
            }
            cpu.bus.end_of_interrupt(0x41);
            match (cpu.load::<1>(STATUS), cpu.load::<512>(DATA)) {
                ([0], data) if data == [3 ^ 0x5a; 512] => Next::Continue,
                (status, data) => failed(format!("status {status:?}, data {:x?}", &data[..4])),
            }
        }),
        power_off(),
    ]
}

#[test]
fn driver_reads_a_sector_and_is_interrupted_once() {
    let c = PcConfig { disks: vec![Arc::new(Disk::default())], ..config() };
    let (ending, vm) = run_with(c, read_a_sector());
    assert_eq!(ending, Ending::PoweredOff);
    assert_eq!(vm.msis(), [], "the line fell when the driver read the status, so nothing more came");
}

#[test]
fn request_made_while_paused_waits_for_unpause() {
    let c = PcConfig { disks: vec![Arc::new(Disk::default())], ..config() };
    let engine = FakeEngine::new(read_a_sector());
    let pc = build(&engine, c).unwrap();
    let handle = pc.handle();
    handle.pause();
    let runner = std::thread::spawn(move || pc.run());
    std::thread::sleep(Duration::from_millis(10));
    assert!(!runner.is_finished());
    handle.unpause();
    assert_eq!(runner.join().unwrap(), Ending::PoweredOff);
}

#[test]
fn impossible_configurations_are_sentences() {
    let new = |c: PcConfig| match build(&FakeEngine::default(), c) {
        Ok(_) => panic!("it was accepted"),
        Err(e) => e.to_string(),
    };
    let kernel = |bytes: &[u8]| {
        let mut c = config();
        c.boot.kernel = Source::from_bytes("hello.txt", bytes);
        c
    };
    assert!(new(kernel(b"hello")).starts_with("hello.txt can't be booted: it is no kernel"));
    let many: Vec<Arc<dyn disk::Image>> = (0..40).map(|_| Arc::new(Disk::default()) as _).collect();
    assert!(new(PcConfig { disks: many, ..config() }).contains("too many devices"));
    assert!(new(PcConfig { vcpus: 0, ..config() }).contains("1 to 255"));
    assert!(new(PcConfig { memory_bytes: 1 << 38, ..config() }).contains("-m"));
    assert!(new(PcConfig { debug_exit: Some(0x3f6), ..config() }).contains("0x3f8"));
    let mut c = config();
    c.boot.kernel = Source::from_file("/", std::fs::File::open("/").unwrap());
    assert!(new(c).contains("not a regular file"));
    let mut c = config();
    c.boot.kernel = Source::from_bytes("big", vec![0; 32 << 20]);
    assert!(new(c).contains("more memory"));
}
