//! The whole board under scripted vCPUs: life cycle, interrupts, devices as a guest reaches them.

use super::memory_map::{GPIO, RAM, RTC, UART, VIRTIO};
use super::*;
use crate::boot::testing::{image64, zimage};
use crate::config::{Ending, OnReset, Output, Source};
use crate::{Handle, Status};
use engine::fake::{Cpu, FakeEngine, FakeVm, Next, Step, act, exit, spin_until, wait_until};
use engine::{Exit, Gic, GicVersion, VcpuState};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const UART_INTID: u32 = 33;
const GPIO_INTID: u32 = 39;
/// Of slot 0.
const VIRTIO_INTID: u32 = 48;

/// PSCI's SYSTEM_OFF, as the engine tells it.
fn power_off() -> Step {
    exit(Exit::PowerOff)
}

fn config_of(arch: Arch, kernel: Vec<u8>) -> VirtConfig {
    let kernel = Source::from_bytes("vmlinuz", kernel);
    let boot = Boot { kernel, modules: Vec::new(), command_line: "quiet".to_string() };
    VirtConfig { memory_bytes: 16 << 20, entropy: false, ..VirtConfig::new("test", arch, boot) }
}

fn config() -> VirtConfig {
    config_of(Arch::Aarch64, image64(b"KERNEL"))
}

fn engine(script: Vec<Step>) -> FakeEngine {
    FakeEngine::new(script).with_gic(GicVersion::V2)
}

fn run_with(config: VirtConfig, script: Vec<Step>) -> (Ending, Arc<FakeVm>) {
    let engine = engine(script);
    let ending = build(&engine, config).unwrap().run();
    (ending, engine.vm().unwrap())
}

fn run(script: Vec<Step>) -> Ending {
    run_with(config(), script).0
}

fn failed(why: impl Into<String>) -> Next {
    Next::Exit(Exit::Failed(why.into()))
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
fn engine_is_asked_for_the_boards_gic_and_the_vcpus_begin_as_the_boot_protocol_says() {
    for (version, interface) in [(GicVersion::V2, 0x801_0000), (GicVersion::V3, 0x80a_0000)] {
        let engine = FakeEngine::default().with_gic(version);
        let machine = build(&engine, VirtConfig { vcpus: 3, ..config() }).unwrap();
        let vm = engine.vm().unwrap();
        let (distributor, interface) = (address::GuestPhys(0x800_0000), address::GuestPhys(interface));
        assert_eq!(vm.gic(), Some(Gic { version, distributor, interface }));
        assert_eq!(vm.arch(), Arch::Aarch64);
        let states: Vec<_> = machine
            .states()
            .iter()
            .map(|s| match s {
                VcpuState::Arm(s) => (s.pc, s.pstate, s.off),
                VcpuState::X86(_) => unreachable!(),
            })
            .collect();
        assert_eq!(states, [(RAM, 0x3c5, false), (0, 0x3c5, true), (0, 0x3c5, true)]);
    }
    let engine = engine(vec![]);
    let machine = build(&engine, config_of(Arch::Armv7, zimage(b"KERNEL"))).unwrap();
    let VcpuState::Arm(s) = &machine.states()[0] else { unreachable!() };
    assert_eq!((s.pstate, s.x[1]), (0x1d3, 0xffff_ffff));
    let magic = engine.vm().unwrap().memory().read_u32(address::GuestPhys(s.x[2])).unwrap();
    assert_eq!(magic, 0xd00d_feed_u32.swap_bytes());
}

#[test]
fn power_off_and_reset_by_psci_are_obeyed() {
    assert_eq!(run(vec![power_off()]), Ending::PoweredOff);
    let c = VirtConfig { on_reset: OnReset::End, ..config() };
    assert_eq!(run_with(c, vec![exit(Exit::Reset)]).0, Ending::Reset);
    let ending = run(vec![
        Box::new(|cpu| match cpu.boots {
            1 => {
                // What the guest did to its kernel is undone, and its devices are as at power-on.
                cpu.store(RAM + 64, b"broken");
                cpu.store32(UART + 0x38, 0x20);
                cpu.store32(UART, u32::from(b'x'));
                match cpu.line(UART_INTID) {
                    true => Next::Exit(Exit::Reset),
                    false => failed("no interrupt"),
                }
            }
            _ if cpu.load(RAM + 64) != *b"KERNEL" => failed("the kernel was not loaded again"),
            _ if cpu.line(UART_INTID) || cpu.load32(UART + 0x38) != 0 => failed("the UART was not reset"),
            _ => Next::Continue,
        }),
        power_off(),
    ]);
    assert_eq!(ending, Ending::PoweredOff);
}

#[test]
fn nothing_answers_between_the_devices() {
    let script = vec![
        Box::new(|cpu: &mut Cpu<'_>| {
            let holes =
                [0, UART - 4, UART + 0x1000, VIRTIO + 0x200, 0x3fff_fffc, RAM + (16 << 20), u64::MAX - 3];
            for at in holes {
                cpu.store32(at, 0);
                if cpu.load32(at) != u32::MAX {
                    return failed(format!("{at:#x} answers"));
                }
            }
            // Across the end of a device.
            if cpu.load::<8>(VIRTIO + 0x1fc) != [0xff; 8] || cpu.load::<8>(UART + 0xffc) != [0xff; 8] {
                return failed("an access across a device's end is answered");
            }
            cpu.out8(0x3f8, 0);
            match cpu.in8(0x3f8) {
                0xff => Next::Continue,
                _ => failed("a port answers"),
            }
        }) as Step,
        power_off(),
    ];
    assert_eq!(run(script), Ending::PoweredOff);
}

#[test]
fn console_carries_bytes_both_ways_and_interrupts() {
    let out = Arc::new(Collected::default());
    let engine = engine(vec![
        act(|cpu| {
            cpu.store32(UART, u32::from(b'>'));
            cpu.store32(UART + 0x30, 0x301);
            cpu.store32(UART + 0x38, 0x50);
        }),
        wait_until(|cpu| cpu.line(UART_INTID)),
        act(|cpu| cpu.store32(UART, cpu.load32(UART) & !0x20)),
        Box::new(|cpu| if cpu.line(UART_INTID) { failed("still high") } else { Next::Continue }),
        power_off(),
    ]);
    let machine = build(&engine, VirtConfig { console: out.clone(), ..config() }).unwrap();
    let handle = machine.handle();
    let runner = std::thread::spawn(move || machine.run());
    while handle.console_input(b"x") == 0 {
        assert!(!runner.is_finished());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(runner.join().unwrap(), Ending::PoweredOff);
    assert_eq!(*out.0.lock().unwrap(), b">X");
    assert_eq!(engine.vm().unwrap().line_changes(), [(UART_INTID, true), (UART_INTID, false)]);
    assert_eq!(handle.status(), Status::Ended);
}

#[test]
fn power_button_is_heard_by_a_guest_that_listens() {
    let engine = engine(vec![
        act(|cpu| {
            // Both edges of pin 3.
            cpu.store32(GPIO + 0x408, 8);
            cpu.store32(GPIO + 0x410, 8);
        }),
        wait_until(|cpu| cpu.line(GPIO_INTID)),
        Box::new(|cpu| match cpu.load32(GPIO + (8 << 2)) {
            8 => Next::Continue,
            other => failed(format!("the pin is {other}")),
        }),
        act(|cpu| cpu.store32(GPIO + 0x41c, 8)),
        // Released.
        wait_until(|cpu| cpu.line(GPIO_INTID)),
        power_off(),
    ]);
    let machine = build(&engine, config()).unwrap();
    let handle = machine.handle();
    assert!(!handle.press_power_button(), "nobody listens before the guest has booted");
    let runner = std::thread::spawn(move || machine.run());
    while !handle.press_power_button() && !runner.is_finished() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(runner.join().unwrap(), Ending::PoweredOff);
}

#[test]
fn rtc_shows_the_hosts_time() {
    let script = vec![
        Box::new(|cpu: &mut Cpu<'_>| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            match now.wrapping_sub(u64::from(cpu.load32(RTC))) {
                0..5 => Next::Continue,
                off => failed(format!("off by {off} s")),
            }
        }) as Step,
        power_off(),
    ];
    assert_eq!(run(script), Ending::PoweredOff);
}

/// A disk of one pattern that counts its flushes.
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

/// A driver: one request through the registers of slot 0, its interrupt by SPI.
fn read_a_sector() -> Vec<Step> {
    const RING: u64 = RAM + 0x30_0000;
    const HEADER: u64 = RAM + 0x31_0000;
    const DATA: u64 = RAM + 0x31_1000;
    const STATUS: u64 = RAM + 0x31_2000;
    let register = |at: u64| VIRTIO + at;
    vec![
        Box::new(move |cpu| {
            let identity = [0, 4, 8].map(|at| cpu.load32(register(at)));
            if identity != [0x7472_6976, 2, 2] {
                return failed(format!("no virtio block device in slot 0: {identity:x?}"));
            }
            for (at, value) in [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x24, 0), (0x20, 0), (0x70, 11)]
            {
                cpu.store32(register(at), value);
            }
            // Memory outlives a reset, and the device looks at the rings as soon as they are its.
            cpu.store(RING, &[0; 0x300]);
            cpu.store32(register(0x30), 0);
            cpu.store32(register(0x38), 8);
            for (at, address) in [(0x80, RING), (0x90, RING + 0x100), (0xa0, RING + 0x200)] {
                cpu.store32(register(at), address as u32);
                cpu.store32(register(at + 4), (address >> 32) as u32);
            }
            cpu.store32(register(0x44), 1);
            cpu.store32(register(0x70), 15);

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
            cpu.store(RING + 0x100, &[0, 0, 1, 0, 0, 0]);
            cpu.store32(register(0x50), 0);
            Next::Continue
        }),
        wait_until(|cpu| cpu.line(VIRTIO_INTID)),
        Box::new(move |cpu| {
            if cpu.load32(register(0x60)) != 1 {
                return failed("the device says it didn't interrupt");
            }
            cpu.store32(register(0x64), 1);
            match (cpu.line(VIRTIO_INTID), cpu.load::<1>(STATUS), cpu.load::<512>(DATA)) {
                (false, [0], data) if data == [3 ^ 0x5a; 512] => Next::Continue,
                (line, status, data) => failed(format!("{line}, status {status:?}, data {:x?}", &data[..4])),
            }
        }),
        power_off(),
    ]
}

#[test]
fn driver_reads_a_sector_and_is_interrupted_once() {
    let c = VirtConfig { disks: vec![Arc::new(Disk::default())], ..config() };
    let (ending, vm) = run_with(c, read_a_sector());
    assert_eq!(ending, Ending::PoweredOff);
    assert_eq!(vm.line_changes(), [(VIRTIO_INTID, true), (VIRTIO_INTID, false)]);
}

#[test]
fn request_made_while_paused_waits_for_unpause() {
    let c = VirtConfig { disks: vec![Arc::new(Disk::default())], ..config() };
    let machine = build(&engine(read_a_sector()), c).unwrap();
    let handle = machine.handle();
    handle.pause();
    let runner = std::thread::spawn(move || machine.run());
    std::thread::sleep(Duration::from_millis(10));
    assert!(!runner.is_finished());
    handle.unpause();
    assert_eq!(runner.join().unwrap(), Ending::PoweredOff);
}

#[test]
fn reset_during_requests_leaves_devices_fresh() {
    let boots = Arc::new(AtomicU64::new(0));
    let seen = boots.clone();
    let mut script = read_a_sector();
    script.pop();
    script.push(spin_until(move |cpu| {
        seen.store(cpu.boots.into(), SeqCst);
        cpu.boots > 5
    }));
    script.push(power_off());
    let c = VirtConfig { disks: vec![Arc::new(Disk::default())], ..config() };
    let machine = build(&engine(script), c).unwrap();
    let handle: Handle = machine.handle();
    let runner = std::thread::spawn(move || machine.run());
    for boot in 1..=5 {
        while boots.load(SeqCst) < boot {
            assert!(!runner.is_finished());
            std::thread::yield_now();
        }
        handle.reset();
    }
    assert_eq!(runner.join().unwrap(), Ending::PoweredOff);
}

#[test]
fn disks_are_flushed_at_the_end_and_a_failure_is_told() {
    let good = Arc::new(Disk::default());
    let c = VirtConfig { disks: vec![good.clone()], ..config() };
    assert_eq!(run_with(c, vec![power_off()]).0, Ending::PoweredOff);
    assert!(good.flushes.load(SeqCst) >= 1);
    let bad = Arc::new(Disk { broken: true, ..Disk::default() });
    let ending = run_with(VirtConfig { disks: vec![bad], ..config() }, vec![power_off()]).0;
    assert!(matches!(&ending, Ending::Crashed(why) if why.contains("disk0")), "{ending:?}");
}

#[test]
fn stop_while_paused_or_halted_ends_it() {
    for pause in [true, false] {
        let machine = build(&engine(vec![]), VirtConfig { vcpus: 3, ..config() }).unwrap();
        let handle = machine.handle();
        let runner = std::thread::spawn(move || machine.run());
        if pause {
            handle.pause();
        }
        handle.stop();
        assert_eq!(runner.join().unwrap(), Ending::Stopped);
    }
}

#[test]
fn random_accesses_to_every_device_never_panic() {
    let script = vec![
        act(|cpu| {
            let mut seed = 0x1234_5678_9abc_def1u64;
            let mut random = move || {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed
            };
            for _ in 0..50_000 {
                let (what, value) = (random(), random());
                let base = [UART, RTC, GPIO, VIRTIO, VIRTIO + 0x200, VIRTIO + 0x400][what as usize % 6];
                let at = base + (what >> 8) % 0x204;
                let value = &value.to_le_bytes()[..[1, 2, 4, 8][(what >> 24) as usize % 4]];
                match what >> 32 & 1 {
                    0 => cpu.bus.mmio_write(address::GuestPhys(at), value),
                    _ => cpu.bus.mmio_read(address::GuestPhys(at), &mut [0; 8][..value.len()]),
                }
            }
        }),
        power_off(),
    ];
    let c = VirtConfig { disks: vec![Arc::new(Disk::default())], entropy: true, ..config() };
    assert_eq!(run_with(c, script).0, Ending::PoweredOff);
}

#[test]
fn impossible_configurations_are_sentences() {
    let with = |engine: FakeEngine, c: VirtConfig| match build(&engine, c) {
        Ok(_) => panic!("it was accepted"),
        Err(e) => e.to_string(),
    };
    let new = |c| with(engine(vec![]), c);
    assert!(with(FakeEngine::default(), config()).contains("no GIC"));
    assert!(new(VirtConfig { arch: Arch::X86, ..config() }).contains("ARM"));
    assert!(
        new(config_of(Arch::Armv7, image64(b"")))
            .contains("vmlinuz can't be booted: it is a 64-bit ARM kernel")
    );
    assert!(new(config_of(Arch::Aarch64, b"hello".to_vec())).contains("it is no kernel"));
    assert!(new(VirtConfig { vcpus: 0, ..config() }).contains("1 to 8"));
    assert!(new(VirtConfig { vcpus: 9, ..config() }).contains("1 to 8"));
    assert!(new(VirtConfig { memory_bytes: 1 << 20, ..config() }).contains("16 MiB"));
    assert!(new(VirtConfig { memory_bytes: 1 << 50, ..config() }).contains("at most 255 GiB"));
    let many: Vec<Arc<dyn disk::Image>> = (0..40).map(|_| Arc::new(Disk::default()) as _).collect();
    assert!(new(VirtConfig { disks: many, ..config() }).contains("too many devices"));
    let boot = |kernel: Vec<u8>| config_of(Arch::Aarch64, kernel).boot;
    assert_eq!(arch_of(&boot(zimage(b"")), 1 << 20).unwrap(), Arch::Armv7);
    assert!(arch_of(&boot(vec![0; 2 << 20]), 1 << 20).unwrap_err().to_string().contains("more memory"));
}
