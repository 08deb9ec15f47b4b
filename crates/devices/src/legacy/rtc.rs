//! MC146818A real-time clock with CMOS memory, ports 70h (index) and 71h (data).
//!
//! It shows the board's wall clock plus an offset, which the guest changes by setting the time. Flags are brought up to
//! date when somebody looks, and an alarm is set only for the next event that would interrupt, so that an idle clock
//! costs nothing and a guest that doesn't acknowledge gets one interrupt.

use super::rtc_calendar::{self as calendar, Format, TimeRegisters};
use super::{each_byte, fill_bytes};
use crate::wiring::{Alarm, Clock, IrqLine, Nanos, PortDevice, Timed};
use std::sync::Arc;

pub const INDEX_PORT: u16 = 0x70;
pub const PORTS: u16 = 2;
pub const IRQ: u8 = 8;

/// CMOS addresses.
mod address {
    pub const SECONDS: u8 = 0x00;
    pub const SECONDS_ALARM: u8 = 0x01;
    pub const MINUTES: u8 = 0x02;
    pub const MINUTES_ALARM: u8 = 0x03;
    pub const HOURS: u8 = 0x04;
    pub const HOURS_ALARM: u8 = 0x05;
    pub const WEEKDAY: u8 = 0x06;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0a;
    pub const B: u8 = 0x0b;
    pub const C: u8 = 0x0c;
    pub const D: u8 = 0x0d;
    /// The ACPI FADT's CENTURY field says so.
    pub const CENTURY: u8 = 0x32;
}
/// Address of the century byte, for the FADT.
pub const CENTURY: u8 = address::CENTURY;

/// Register A.
mod a {
    pub const UPDATE_IN_PROGRESS: u8 = 1 << 7;
    pub const DIVIDER: u8 = 7 << 4;
    /// A 32.768 kHz crystal, running.
    pub const DIVIDER_RUNS: u8 = 2 << 4;
    /// Both encodings 11x hold the divider in reset.
    pub const DIVIDER_RESET: u8 = 6 << 4;
    pub const RATE: u8 = 15;
}
/// Register B.
mod b {
    pub const SET: u8 = 1 << 7;
    pub const PERIODIC: u8 = 1 << 6;
    pub const ALARM: u8 = 1 << 5;
    pub const UPDATE_ENDED: u8 = 1 << 4;
    pub const BINARY: u8 = 1 << 2;
    pub const HOURS_24: u8 = 1 << 1;
}
/// Register C.
const INTERRUPT: u8 = 1 << 7;
/// Register D: the memory's battery is fine.
const VALID: u8 = 1 << 7;

const SECOND: i128 = 1_000_000_000;
const CRYSTAL_HZ: u128 = 32_768;
/// UIP rises 244 µs before an update, which takes 1984 µs with this crystal; the time shown changes at its end.
const UPDATE_NANOS: i128 = 244_000 + 1_984_000;

/// The chip.
pub struct Rtc {
    clock: Arc<dyn Clock>,
    alarm: Arc<dyn Alarm>,
    irq: Arc<dyn IrqLine>,
    index: u8,
    nmi_masked: bool,
    /// Memory. The time registers count only while the clock is stopped.
    cmos: [u8; 128],
    /// The clock's time is the board's wall clock plus this, nanoseconds.
    offset: i128,
    /// Up to this second of the clock's time have updates been noted in register C.
    noted_second: i64,
    /// And up to this periodic tick.
    noted_tick: u64,
}

impl Rtc {
    /// A clock that shows the board's wall clock (UTC), BCD, 24 hours. `alarm` calls [`Timed::expire`].
    pub fn new(clock: Arc<dyn Clock>, alarm: Arc<dyn Alarm>, irq: Arc<dyn IrqLine>) -> Self {
        let mut cmos = [0; 128];
        cmos[usize::from(address::A)] = a::DIVIDER_RUNS | 6;
        cmos[usize::from(address::B)] = b::HOURS_24;
        cmos[usize::from(address::D)] = VALID;
        let mut rtc = Self {
            clock,
            alarm,
            irq,
            index: 0,
            nmi_masked: false,
            cmos,
            offset: 0,
            noted_second: 0,
            noted_tick: 0,
        };
        rtc.noted_second = rtc.second();
        rtc
    }

    /// The board's reset: time and memory stay, interrupts go.
    pub fn reset(&mut self) {
        self.cmos[usize::from(address::B)] &= !(b::PERIODIC | b::ALARM | b::UPDATE_ENDED);
        self.cmos[usize::from(address::C)] = 0;
        self.index = 0;
        self.nmi_masked = false;
        self.update();
    }

    /// Presets a byte of memory, as firmware would have. Time and control registers (below 0Eh) are left alone, as are
    /// addresses above 7Fh.
    pub fn set_cmos(&mut self, address: u8, value: u8) {
        if address > address::D && address != address::CENTURY && address < 0x80 {
            self.cmos[usize::from(address)] = value;
        }
    }

    /// Presets the bytes by which firmware tells the memory's size: bytes of RAM below 4 GiB and from 4 GiB up.
    pub fn set_memory_size(&mut self, below_4g: u64, above_4g: u64) {
        let capped = |value: u64, max: u64| value.min(max);
        let extended = capped(below_4g.saturating_sub(1 << 20) >> 10, 0xffff) as u16;
        let above_16m = capped(below_4g.saturating_sub(16 << 20) >> 16, 0xffff) as u16;
        let high = capped(above_4g >> 16, 0xff_ffff) as u32;
        let base: u16 = 640;
        for (low, value) in [(0x15, base), (0x17, extended), (0x30, extended), (0x34, above_16m)] {
            self.set_cmos(low, value as u8);
            self.set_cmos(low + 1, (value >> 8) as u8);
        }
        for (index, byte) in high.to_le_bytes().iter().take(3).enumerate() {
            self.set_cmos(0x5b + index as u8, *byte);
        }
    }

    /// Index port bit 7: the guest masks NMIs. Nothing in this machine raises one.
    pub fn nmi_masked(&self) -> bool {
        self.nmi_masked
    }

    fn register(&self, address: u8) -> u8 {
        self.cmos[usize::from(address & 0x7f)]
    }

    fn format(&self) -> Format {
        let b = self.register(address::B);
        Format { binary: b & b::BINARY != 0, hours_24: b & b::HOURS_24 != 0 }
    }

    // --- Time ------------------------------------------------------------------------------------------------------

    /// The clock's time, nanoseconds since the Unix epoch.
    fn nanos(&self) -> i128 {
        self.clock.wall().as_nanos() as i128 + self.offset
    }

    fn second(&self) -> i64 {
        self.nanos().div_euclid(SECOND) as i64
    }

    /// The time advances: not held by SET, and the divider runs.
    fn runs(&self) -> bool {
        self.register(address::B) & b::SET == 0 && self.register(address::A) & a::DIVIDER == a::DIVIDER_RUNS
    }

    fn divider_held(&self) -> bool {
        self.register(address::A) & a::DIVIDER_RESET == a::DIVIDER_RESET
    }

    /// Writes the time into the registers.
    fn show(&mut self) {
        let t = TimeRegisters::at(self.second(), self.format());
        for (address, value) in [
            (address::SECONDS, t.second),
            (address::MINUTES, t.minute),
            (address::HOURS, t.hour),
            (address::WEEKDAY, t.weekday),
            (address::DAY, t.day),
            (address::MONTH, t.month),
            (address::YEAR, t.year),
            (address::CENTURY, t.century),
        ] {
            self.cmos[usize::from(address)] = value;
        }
    }

    /// Makes the time what the registers say, `fraction` nanoseconds into the second.
    fn set_time(&mut self, fraction: i128) {
        let registers = TimeRegisters {
            second: self.register(address::SECONDS),
            minute: self.register(address::MINUTES),
            hour: self.register(address::HOURS),
            weekday: self.register(address::WEEKDAY),
            day: self.register(address::DAY),
            month: self.register(address::MONTH),
            year: self.register(address::YEAR),
            century: self.register(address::CENTURY),
        };
        let time = i128::from(registers.seconds(self.format())) * SECOND + fraction;
        self.offset = time - self.clock.wall().as_nanos() as i128;
        self.noted_second = self.second();
    }

    /// Carries out `change`, which may stop or start the clock.
    fn with_clock_stopped_or_started(&mut self, change: impl FnOnce(&mut Self)) {
        let (ran, was_held) = (self.runs(), self.divider_held());
        if ran {
            self.show();
        }
        let fraction = self.nanos().rem_euclid(SECOND);
        change(self);
        if !ran && self.runs() {
            // Out of a held divider the first update comes after half a second.
            self.set_time(if was_held { SECOND / 2 } else { fraction });
        } else if ran && self.runs() {
            // A changed format shows the same time in another way.
            self.noted_second = self.second();
        }
    }

    // --- Events ----------------------------------------------------------------------------------------------------

    /// Length of the periodic interrupt, crystal cycles.
    fn period(&self) -> Option<u64> {
        let a = self.register(address::A);
        match u32::from(a & a::RATE) {
            _ if a & a::DIVIDER != a::DIVIDER_RUNS => None,
            0 => None,
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    fn tick(&self) -> u64 {
        let cycles = u128::from(self.clock.now()) * CRYSTAL_HZ / 1_000_000_000;
        self.period().map_or(0, |period| (cycles / u128::from(period)) as u64)
    }

    fn day_alarm(&self) -> calendar::Alarm {
        calendar::Alarm::new(
            self.register(address::SECONDS_ALARM),
            self.register(address::MINUTES_ALARM),
            self.register(address::HOURS_ALARM),
            self.format(),
        )
    }

    /// Notes in register C what has happened since it was last brought up to date.
    fn note_events(&mut self) {
        let mut flags = 0;
        let second = self.second();
        if self.runs() && second > self.noted_second {
            flags |= b::UPDATE_ENDED;
            if self.day_alarm().after(self.noted_second).is_some_and(|at| at <= second) {
                flags |= b::ALARM;
            }
        }
        // The wall clock may also have been set back.
        self.noted_second = second;
        let tick = self.tick();
        if self.period().is_some() && tick > self.noted_tick {
            flags |= b::PERIODIC;
        }
        self.noted_tick = tick;
        self.cmos[usize::from(address::C)] |= flags;
    }

    /// Brings flags, interrupt line and alarm up to date.
    fn update(&mut self) {
        self.note_events();
        let enabled = self.register(address::B) & (b::PERIODIC | b::ALARM | b::UPDATE_ENDED);
        let c = self.register(address::C) & !INTERRUPT;
        let asserted = c & enabled != 0;
        self.cmos[usize::from(address::C)] = c | if asserted { INTERRUPT } else { 0 };
        self.irq.set(asserted);
        // While an interrupt waits to be acknowledged no other can be told from it.
        self.alarm.set(if asserted { None } else { self.next_interrupt(enabled) });
    }

    /// The board's time of the next event among `enabled`.
    fn next_interrupt(&self, enabled: u8) -> Option<Nanos> {
        let now = self.clock.now();
        let at_second = |second: i64| {
            let delay = i128::from(second) * SECOND - self.nanos();
            now.saturating_add(u64::try_from(delay).unwrap_or(0))
        };
        let wants = |bit: u8| enabled & bit != 0;
        let update = (wants(b::UPDATE_ENDED) && self.runs()).then(|| at_second(self.noted_second + 1));
        let alarm = (wants(b::ALARM) && self.runs())
            .then(|| self.day_alarm().after(self.noted_second).map(at_second))
            .flatten();
        let periodic = self.period().filter(|_| wants(b::PERIODIC)).map(|period| {
            let cycles = (u128::from(self.noted_tick) + 1) * u128::from(period);
            (cycles * 1_000_000_000).div_ceil(CRYSTAL_HZ) as Nanos
        });
        [update, alarm, periodic].into_iter().flatten().min()
    }

    // --- Registers -------------------------------------------------------------------------------------------------

    fn read_data(&mut self) -> u8 {
        match self.index {
            address::A => {
                let left = SECOND - self.nanos().rem_euclid(SECOND);
                let updating = self.runs() && left <= UPDATE_NANOS;
                self.register(address::A) | if updating { a::UPDATE_IN_PROGRESS } else { 0 }
            }
            address::C => {
                self.update();
                let value = self.register(address::C);
                self.cmos[usize::from(address::C)] = 0;
                self.update();
                value
            }
            index => {
                if is_time(index) && self.runs() {
                    self.show();
                }
                self.register(index)
            }
        }
    }

    fn write_data(&mut self, value: u8) {
        let index = usize::from(self.index);
        self.note_events();
        match self.index {
            address::A => self.with_clock_stopped_or_started(|rtc| {
                rtc.cmos[index] = value & !a::UPDATE_IN_PROGRESS;
                rtc.noted_tick = rtc.tick();
            }),
            address::B => self.with_clock_stopped_or_started(|rtc| {
                // SET clears the update-ended interrupt's enable.
                rtc.cmos[index] = if value & b::SET != 0 { value & !b::UPDATE_ENDED } else { value };
            }),
            address::C | address::D => {}
            time if is_time(time) && self.runs() => {
                self.show();
                self.cmos[index] = value;
                self.set_time(self.nanos().rem_euclid(SECOND));
            }
            _ => self.cmos[index] = value,
        }
        self.update();
    }
}

/// Whether a register shows the time.
fn is_time(index: u8) -> bool {
    matches!(index, 0x00 | 0x02 | 0x04 | 0x06..=0x09 | address::CENTURY)
}

impl PortDevice for Rtc {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        // The index port can't be read.
        fill_bytes(offset, data, |offset| if offset == 1 { self.read_data() } else { 0xff });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        for (offset, byte) in each_byte(offset, data) {
            match offset {
                0 => {
                    self.index = byte & 0x7f;
                    self.nmi_masked = byte & 0x80 != 0;
                }
                1 => self.write_data(byte),
                _ => {}
            }
        }
    }
}

impl Timed for Rtc {
    fn expire(&mut self, _now: Nanos) {
        self.update();
    }
}

#[cfg(test)]
#[path = "rtc_tests.rs"]
mod tests;
