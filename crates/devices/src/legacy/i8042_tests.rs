//! The keyboard controller as firmware-like kernels drive it.

use super::*;
use crate::testing::{FakeBoard, FakeLine};
use proptest::prelude::*;

struct Bench {
    chip: Arc<Mutex<I8042>>,
    command: CommandPort,
    irq: Arc<FakeLine>,
    board: Arc<FakeBoard>,
}

impl Bench {
    fn new() -> Self {
        let (irq, board) = (FakeLine::new(), FakeBoard::new());
        let chip = Arc::new(Mutex::new(I8042::new(irq.clone(), board.clone())));
        Self { command: CommandPort::new(chip.clone()), chip, irq, board }
    }

    fn chip(&self) -> MutexGuard<'_, I8042> {
        self.chip.lock().unwrap()
    }

    fn command(&mut self, byte: u8) {
        self.command.write(0, &[byte]);
    }

    fn data(&mut self, byte: u8) {
        self.chip().write(0, &[byte]);
    }

    fn status(&mut self) -> u8 {
        let mut data = [0];
        self.command.read(0, &mut data);
        data[0]
    }

    /// All bytes that wait.
    fn drain(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.status() & status::OUTPUT_FULL != 0 {
            let mut data = [0];
            self.chip().read(0, &mut data);
            bytes.push(data[0]);
            assert!(bytes.len() < 100, "the controller never runs dry");
        }
        bytes
    }
}

#[test]
fn status_at_power_on_is_idle_and_not_locked() {
    assert_eq!(Bench::new().status(), 0x14);
}

#[test]
fn self_tests_pass() {
    let mut bench = Bench::new();
    bench.command(0xaa);
    assert_eq!(bench.status() & 0x0d, 0x0d, "full, passed, last was a command");
    assert_eq!(bench.drain(), [0x55]);
    bench.command(0xab);
    assert_eq!(bench.drain(), [0x00]);
}

#[test]
fn command_byte_reads_back_with_the_auxiliary_port_disabled() {
    let mut bench = Bench::new();
    bench.command(0x20);
    assert_eq!(bench.drain(), [0x65]);
    bench.command(0x60);
    bench.data(0x07);
    bench.command(0xa8);
    bench.command(0x20);
    assert_eq!(bench.drain(), [0x27]);
}

#[test]
fn auxiliary_probes_of_kernels_find_nobody() {
    let mut bench = Bench::new();
    // Linux: the loopback must give the byte back as the auxiliary's, or else the port test must say 00h, FAh or FFh.
    bench.command(0xd3);
    bench.data(0x5a);
    assert_ne!(bench.status() & status::AUXILIARY, 0);
    assert_eq!(bench.drain(), [0xa5]);
    bench.command(0xa9);
    assert_eq!(bench.drain(), [0x01]);
    bench.command(0xd4);
    bench.data(0xff);
    assert_eq!(bench.drain(), [0xfe]);
}

#[test]
fn pulse_of_the_reset_line_resets() {
    let mut bench = Bench::new();
    bench.command(0xff);
    bench.command(0xf1);
    assert_eq!(bench.board.take(), []);
    bench.command(0xfe);
    assert_eq!(bench.board.take(), [BoardEvent::Reset]);
    bench.command(0xd1);
    bench.data(0x02);
    assert_eq!(bench.board.take(), [BoardEvent::Reset]);
}

#[test]
fn a20_in_the_output_port_reads_back_as_told() {
    let mut bench = Bench::new();
    for (value, expected) in [(0x01, 0x01), (0x03, 0x03)] {
        bench.command(0xd1);
        bench.data(value);
        bench.command(0xd0);
        assert_eq!(bench.drain(), [expected]);
    }
    bench.command(0xdd);
    bench.command(0xd0);
    assert_eq!(bench.drain(), [0x01]);
    assert_eq!(bench.board.take(), []);
}

#[test]
fn keyboard_commands_are_answered() {
    // Without translation, as the keyboard sends them.
    let table: [(&[u8], &[u8]); 10] = [
        (&[0xff], &[0xfa, 0xaa]),
        (&[0xf2], &[0xfa, 0xab, 0x83]),
        (&[0xed, 0x02], &[0xfa, 0xfa]),
        (&[0xee], &[0xee]),
        (&[0xf0, 0x00], &[0xfa, 0xfa, 0x02]),
        (&[0xf0, 0x01, 0xf0, 0x00], &[0xfa, 0xfa, 0xfa, 0xfa, 0x01]),
        (&[0xf3, 0x20], &[0xfa, 0xfa]),
        (&[0xf5], &[0xfa]),
        (&[0xed, 0xf4], &[0xfa, 0xfa]),
        (&[0x12], &[0xfe]),
    ];
    for (sent, expected) in table {
        let mut bench = Bench::new();
        bench.command(0x60);
        bench.data(0x25);
        for &byte in sent {
            bench.data(byte);
        }
        assert_eq!(bench.drain(), expected, "{sent:x?}");
    }
}

#[test]
fn leds_follow_the_guest() {
    let mut bench = Bench::new();
    bench.data(0xed);
    bench.data(0x04);
    assert_eq!(bench.chip().leds(), 4);
}

#[test]
fn keys_come_translated_with_an_edge_each() {
    let mut bench = Bench::new();
    // Press and release of A, of the up arrow.
    assert!(bench.chip().key(&[0x1c, 0xf0, 0x1c, 0xe0, 0x75, 0xe0, 0xf0, 0x75]));
    assert!(bench.irq.is_high());
    assert_eq!(bench.drain(), [0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8]);
    assert_eq!((bench.irq.take_rises(), bench.irq.is_high()), (6, false));
}

#[test]
fn keys_without_translation_come_as_sent() {
    let mut bench = Bench::new();
    bench.command(0x60);
    bench.data(0x25);
    bench.chip().key(&[0x1c, 0xf0, 0x1c]);
    assert_eq!(bench.drain(), [0x1c, 0xf0, 0x1c]);
}

#[test]
fn keys_with_interrupts_off_are_there_for_polling() {
    let mut bench = Bench::new();
    bench.command(0x60);
    bench.data(0x64);
    bench.chip().key(&[0x1c]);
    assert!(!bench.irq.is_high());
    assert_eq!(bench.drain(), [0x1e]);
}

#[test]
fn keys_while_the_keyboard_is_disabled_wait() {
    let mut bench = Bench::new();
    bench.command(0xad);
    bench.chip().key(&[0x1c]);
    assert_eq!(bench.drain(), []);
    bench.command(0xae);
    assert_eq!(bench.drain(), [0x1e]);
}

#[test]
fn keys_nobody_reads_are_bounded_and_whole() {
    let bench = Bench::new();
    let taken = (0..1000).filter(|_| bench.chip().key(&[0xf0, 0x1c])).count();
    assert!(taken <= 9, "{taken}");
}

#[test]
fn commands_nobody_reads_answers_of_are_bounded() {
    let mut bench = Bench::new();
    for _ in 0..10_000 {
        bench.command(0xaa);
        bench.data(0xee);
    }
    assert!(bench.drain().len() <= 2 * ANSWER_BUFFER + 1);
}

proptest! {
    #[test]
    fn any_accesses_leave_a_controller_that_passes_its_self_test(steps: Vec<(bool, u8)>) {
        let mut bench = Bench::new();
        for (command, byte) in steps {
            if command { bench.command(byte) } else { bench.data(byte) }
        }
        bench.drain();
        bench.command(0xaa);
        prop_assert_eq!(bench.drain(), [0x55]);
    }
}
