//! The ACPI block as a kernel's ACPI drives it.

use super::*;
use crate::testing::{FakeAlarm, FakeBoard, FakeClock, FakeLine, run_until};
use proptest::prelude::*;

struct Bench {
    pm: AcpiPm,
    clock: Arc<FakeClock>,
    alarm: Arc<FakeAlarm>,
    sci: Arc<FakeLine>,
    board: Arc<FakeBoard>,
}

impl Bench {
    fn new(wide: bool) -> Self {
        let (clock, alarm, sci, board) =
            (FakeClock::new(), FakeAlarm::new(), FakeLine::new(), FakeBoard::new());
        let pm = AcpiPm::new(clock.clone(), alarm.clone(), sci.clone(), board.clone(), wide);
        Self { pm, clock, alarm, sci, board }
    }

    fn read16(&mut self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.pm.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    fn timer(&mut self) -> u32 {
        let mut data = [0; 4];
        self.pm.read(PM_TIMER, &mut data);
        u32::from_le_bytes(data)
    }

    fn write16(&mut self, offset: u16, value: u16) {
        self.pm.write(offset, &value.to_le_bytes());
    }
}

#[test]
fn s5_powers_off_and_other_states_do_not() {
    let mut bench = Bench::new(true);
    bench.write16(PM1_CONTROL, u16::from(SLEEP_TYPE_S5) << 10);
    assert_eq!(bench.board.take(), [], "without SLP_EN");
    bench.write16(PM1_CONTROL, 1 << 13 | 1 << 10);
    assert_eq!(bench.board.take(), [], "another state");
    bench.write16(PM1_CONTROL, 1 << 13 | u16::from(SLEEP_TYPE_S5) << 10 | 1);
    assert_eq!(bench.board.take(), [BoardEvent::PowerOff]);
    assert_eq!(bench.read16(PM1_CONTROL), 1, "SLP_EN reads as 0");
}

#[test]
fn control_written_by_its_upper_byte_powers_off() {
    let mut bench = Bench::new(true);
    bench.pm.write(PM1_CONTROL + 1, &[0x20]);
    assert_eq!(bench.board.take(), [BoardEvent::PowerOff]);
}

#[test]
fn smi_command_turns_acpi_mode_on_and_off() {
    let bench = Bench::new(true);
    let pm = Arc::new(Mutex::new(bench.pm));
    let mut smi = SmiCommand::new(pm.clone());
    let mut control = [0; 2];
    for (command, expected) in [(ACPI_ENABLE, 1), (0x12, 1), (ACPI_DISABLE, 0)] {
        smi.write(0, &[command]);
        pm.lock().unwrap().read(PM1_CONTROL, &mut control);
        assert_eq!(control, [expected, 0]);
    }
    let mut data = [0; 2];
    smi.write(1, &[0x77]);
    smi.read(0, &mut data);
    assert_eq!(data, [ACPI_DISABLE, 0x77]);
}

#[test]
fn power_button_reaches_a_guest_that_asked_and_waits_for_one_that_did_not() {
    let mut bench = Bench::new(true);
    assert!(!bench.pm.press_power_button());
    assert!(!bench.sci.is_high());
    bench.write16(PM1_CONTROL, 1);
    bench.write16(PM1_EVENT + 2, 1 << 8);
    assert!(bench.sci.is_high(), "it was noted");
    assert_eq!(bench.read16(PM1_EVENT), 1 << 8);
    bench.write16(PM1_EVENT, 1 << 8);
    assert_eq!((bench.read16(PM1_EVENT), bench.sci.is_high()), (0, false));
    assert!(bench.pm.press_power_button());
    assert!(bench.sci.is_high());
    bench.write16(PM1_EVENT, 0xfeff);
    assert!(bench.sci.is_high(), "only ones clear");
}

#[test]
fn timer_counts_at_its_frequency_and_wraps_at_its_width() {
    for (wide, mask) in [(false, 0x00ff_ffff), (true, u32::MAX)] {
        let mut bench = Bench::new(wide);
        for seconds in [0, 1, 10, 10_000] {
            bench.clock.set(seconds * 1_000_000_000);
            assert_eq!(bench.timer(), (seconds * PM_TIMER_HZ) as u32 & mask);
        }
    }
}

#[test]
fn timer_overflow_is_noted_and_interrupts_when_enabled() {
    let mut bench = Bench::new(false);
    let half = (1u64 << 23) * 1_000_000_000 / PM_TIMER_HZ + 1;
    bench.clock.set(half - 1);
    assert_eq!(bench.read16(PM1_EVENT), 0);
    bench.clock.set(half);
    assert_eq!(bench.read16(PM1_EVENT), 1);
    bench.write16(PM1_EVENT, 1);
    bench.write16(PM1_CONTROL, 1);
    bench.write16(PM1_EVENT + 2, 1);
    assert!(!bench.sci.is_high());
    assert_eq!(run_until(&bench.clock, &bench.alarm, &mut bench.pm, 100 * half), 1);
    assert!(bench.sci.is_high());
    bench.write16(PM1_EVENT, 1);
    assert!(!bench.sci.is_high());
    assert!(bench.alarm.at().is_some_and(|at| at > bench.clock.now()));
}

#[test]
fn reading_the_timer_sets_no_alarm() {
    let mut bench = Bench::new(true);
    bench.timer();
    bench.read16(PM1_EVENT);
    assert_eq!(bench.alarm.take_sets(), 0);
}

#[test]
fn general_purpose_events_stay_quiet() {
    let mut bench = Bench::new(true);
    bench.write16(GPE0 + 2, 0xffff);
    bench.write16(GPE0, 0xffff);
    assert_eq!((bench.read16(GPE0), bench.read16(GPE0 + 2), bench.sci.is_high()), (0, 0xffff, false));
}

#[test]
fn reset_leaves_acpi_mode() {
    let mut bench = Bench::new(true);
    bench.write16(PM1_CONTROL, 1);
    bench.write16(PM1_EVENT + 2, 1 << 8);
    bench.pm.press_power_button();
    bench.pm.reset();
    assert_eq!((bench.read16(PM1_EVENT), bench.read16(PM1_CONTROL), bench.sci.is_high()), (0, 0, false));
}

proptest! {
    #[test]
    fn any_accesses_leave_the_alarm_in_the_future(
        steps in prop::collection::vec((0u16..0x40, any::<[u8; 4]>(), 0usize..4, 0u64..10_000_000_000), 0..100),
    ) {
        let mut bench = Bench::new(false);
        for (offset, bytes, length, later) in steps {
            bench.pm.write(offset, &bytes[..=length]);
            let mut data = bytes;
            bench.pm.read(offset, &mut data[..=length]);
            let until = bench.clock.now() + later;
            prop_assert!(run_until(&bench.clock, &bench.alarm, &mut bench.pm, until) <= 1);
            prop_assert!(bench.alarm.at().is_none_or(|at| at > bench.clock.now()));
        }
    }
}
