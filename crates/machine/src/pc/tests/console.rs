//! COM1 and hvc0 behind one console, as a guest drives them.

use super::*;
use std::sync::atomic::AtomicBool;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Where the queues' rings are, and a buffer for each.
const RINGS: u64 = 0x30_0000;
const BUFFERS: u64 = 0x38_0000;
const BETWEEN: u64 = 0x1_0000;

/// A transitional driver's queue with one buffer, which is offered again and again.
struct Hvc0 {
    io: u16,
    size: u64,
}

impl Hvc0 {
    /// The device on the bus.
    fn find(cpu: &Cpu<'_>) -> Self {
        let device = (0..32).find(|&d| config_read(cpu, d, 0) == 0x1003_1af4);
        let io = config_read(cpu, device.expect("a virtio console on the bus"), 0x10) & !3;
        let io = io as u16;
        cpu.out16(io + 14, RECEIVE);
        Self { io, size: u64::from(cpu.in16(io + 12)) }
    }
    fn start(cpu: &Cpu<'_>) {
        let Self { io, size } = Self::find(cpu);
        cpu.out8(io + 18, 0);
        cpu.out8(io + 18, 3);
        cpu.out32(io + 4, 0);
        for queue in [RECEIVE, TRANSMIT] {
            let ring = RINGS + u64::from(queue) * BETWEEN;
            // Both rings' indices; memory outlives a reset.
            cpu.store32(ring + size * 16, 0);
            cpu.store32(Self::used(queue, size), 0);
            cpu.out16(io + 14, queue);
            cpu.out32(io + 8, (ring >> 12) as u32);
        }
        cpu.out8(io + 18, 7);
    }
    fn used(queue: u16, size: u64) -> u64 {
        let available_end = RINGS + u64::from(queue) * BETWEEN + size * 16 + 6 + size * 2;
        available_end.next_multiple_of(4096)
    }
    /// Offers a queue's buffer.
    fn offer(cpu: &Cpu<'_>, queue: u16, len: u32) {
        let Self { io, size } = Self::find(cpu);
        let ring = RINGS + u64::from(queue) * BETWEEN;
        cpu.store(ring, &(BUFFERS + u64::from(queue) * BETWEEN).to_le_bytes());
        cpu.store32(ring + 8, len);
        cpu.store32(ring + 12, if queue == RECEIVE { 2 } else { 0 });
        let index = u16::from_le_bytes(cpu.load(ring + size * 16 + 2));
        cpu.store(ring + size * 16 + 4 + u64::from(index) % size * 2, &[0, 0]);
        cpu.store(ring + size * 16 + 2, &(index + 1).to_le_bytes());
        cpu.out16(io + 16, queue);
    }
    /// The length that the device gave the buffer back with, once it has.
    fn taken_back(cpu: &Cpu<'_>, queue: u16) -> Option<u32> {
        let Self { size, .. } = Self::find(cpu);
        let available = u16::from_le_bytes(cpu.load(RINGS + u64::from(queue) * BETWEEN + size * 16 + 2));
        let used = Self::used(queue, size);
        if u16::from_le_bytes(cpu.load(used + 2)) != available {
            return None;
        }
        Some(cpu.load32(used + 4 + u64::from(available - 1) % size * 8 + 4))
    }
}

fn send(text: &'static [u8]) -> [Step; 2] {
    [
        act(move |cpu| {
            cpu.store(BUFFERS + BETWEEN, text);
            Hvc0::offer(cpu, TRANSMIT, text.len() as u32);
        }),
        spin_until(|cpu| Hvc0::taken_back(cpu, TRANSMIT).is_some()),
    ]
}

fn com1_sends(text: &'static [u8]) -> Step {
    act(move |cpu| text.iter().for_each(|&b| cpu.out8(0x3f8, b)))
}

fn com1_receives(byte: u8) -> [Step; 2] {
    [spin_until(|cpu| cpu.in8(0x3fd) & 1 != 0), expect_in8(0x3f8, byte)]
}

fn wait_for(out: &Collected, text: &[u8]) {
    while !out.0.lock().unwrap().ends_with(text) {
        std::thread::yield_now();
    }
}

#[test]
fn input_goes_to_the_device_written_through_last_and_to_com1_after_a_reset() {
    let out = Arc::new(Collected::default());
    let typed = Arc::new(AtomicBool::new(false));
    let mut script = vec![act(|cpu| Hvc0::start(cpu)), com1_sends(b"1")];
    script.extend(com1_receives(b'a'));
    script.extend(send(b"2"));
    // hvc0 has no buffer yet: what was typed waits.
    let seen = typed.clone();
    script.push(spin_until(move |_| seen.load(SeqCst)));
    script.push(expect_in8(0x3fd, 0x60));
    script.push(act(|cpu| Hvc0::offer(cpu, RECEIVE, 64)));
    script.push(spin_until(|cpu| Hvc0::taken_back(cpu, RECEIVE).is_some()));
    script.push(Box::new(|cpu| match (Hvc0::taken_back(cpu, RECEIVE), cpu.load::<4>(BUFFERS)) {
        (Some(4), text) if text == *b"bcde" => Next::Continue,
        other => failed(format!("{other:?}")),
    }));
    script.push(com1_sends(b"3"));
    script.extend(com1_receives(b'f'));
    script.extend(send(b"4"));
    script.push(Box::new(|cpu| {
        if cpu.boots == 1 {
            cpu.out8(0xcf9, 6);
            return Next::Wait;
        }
        Next::Continue
    }));
    script.push(power_off());

    let engine = FakeEngine::new(script);
    let pc = build(&engine, PcConfig { console: out.clone(), ..config() }).unwrap();
    let handle = pc.handle();
    let runner = std::thread::spawn(move || pc.run());
    for seen in [&b"1"[..], b"12341"] {
        wait_for(&out, seen);
        assert_eq!(handle.console_input(b"a"), 1);
        wait_for(&out, b"2");
        assert_eq!(handle.console_input(b"bcde"), 4);
        typed.store(true, SeqCst);
        wait_for(&out, b"3");
        assert_eq!(handle.console_input(b"f"), 1);
    }
    assert_eq!(runner.join().unwrap(), Ending::PoweredOff);
    assert_eq!(*out.0.lock().unwrap(), b"12341234");
}

/// An output with little room.
#[derive(Default)]
struct Narrow {
    room: Mutex<usize>,
    text: Mutex<Vec<u8>>,
}

impl Output for Narrow {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut room = self.room.lock().unwrap();
        let n = bytes.len().min(*room);
        *room -= n;
        self.text.lock().unwrap().extend_from_slice(&bytes[..n]);
        n
    }
}

#[test]
fn full_output_holds_both_devices_and_loses_no_byte_of_either() {
    const LEN: usize = 20_000;
    let out = Arc::new(Narrow::default());
    let sent = AtomicU32::new(0);
    let script = vec![
        act(|cpu| {
            Hvc0::start(cpu);
            cpu.store(BUFFERS + BETWEEN, &[b'h'; LEN]);
            Hvc0::offer(cpu, TRANSMIT, LEN as u32);
        }),
        spin_until(move |cpu| {
            if cpu.in8(0x3fd) & 0x20 != 0 {
                cpu.out8(0x3f8, b'c');
                sent.fetch_add(1, SeqCst);
            }
            sent.load(SeqCst) == LEN as u32
        }),
        spin_until(|cpu| cpu.in8(0x3fd) & 0x40 != 0 && Hvc0::taken_back(cpu, TRANSMIT).is_some()),
        power_off(),
    ];
    let engine = FakeEngine::new(script);
    let pc = build(&engine, PcConfig { console: out.clone(), ..config() }).unwrap();
    let handle = pc.handle();
    let runner = std::thread::spawn(move || pc.run());
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(*out.text.lock().unwrap(), b"", "there was no room");
    while !runner.is_finished() {
        *out.room.lock().unwrap() += 7;
        handle.console_output_ready();
        std::thread::yield_now();
    }
    assert_eq!(runner.join().unwrap(), Ending::PoweredOff);
    let text = out.text.lock().unwrap();
    let count = |byte| text.iter().filter(|&&b| b == byte).count();
    assert_eq!((count(b'h'), count(b'c'), text.len()), (LEN, LEN, 2 * LEN));
}
