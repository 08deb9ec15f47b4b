//! ACPI power management as the PIIX4 has it (82371AB datasheet 7.2; ACPI 6.5 4.8): PM1 events and control, the PM timer,
//! the SCI, and the SMI command port that turns ACPI mode on.

use crate::wiring::{Alarm, BoardControl, BoardEvent, Clock, IrqLine, Nanos, PortDevice, Timed};
use std::sync::{Arc, Mutex, PoisonError};

/// Where the block usually is: kernels without ACPI power off by writing 2000h to port 604h.
pub const DEFAULT_BASE: u16 = 0x600;
/// Ports of the block.
pub const PORTS: u16 = 0x40;
/// Registers by offset, for the FADT.
pub const PM1_EVENT: u16 = 0x00;
pub const PM1_EVENT_LEN: u8 = 4;
pub const PM1_CONTROL: u16 = 0x04;
pub const PM1_CONTROL_LEN: u8 = 2;
pub const PM_TIMER: u16 = 0x08;
pub const PM_TIMER_LEN: u8 = 4;
/// General-purpose events: two bytes of status, two of enables. Nothing is wired to them.
pub const GPE0: u16 = 0x0c;
pub const GPE0_LEN: u8 = 4;
/// Interrupt of the SCI in a PIIX, level-triggered.
pub const SCI_IRQ: u8 = 9;
/// SLP_TYP of the only sleeping state there is, S5, for the DSDT's `_S5`.
pub const SLEEP_TYPE_S5: u8 = 0;
/// The SMI command port, and what the FADT says to write there.
pub const SMI_COMMAND_PORT: u16 = 0xb2;
pub const ACPI_ENABLE: u8 = 0xf1;
pub const ACPI_DISABLE: u8 = 0xf0;

/// PM timer frequency.
pub const PM_TIMER_HZ: u64 = 3_579_545;

/// PM1 status and enable bits.
mod event {
    pub const TIMER: u16 = 1 << 0;
    pub const GLOBAL: u16 = 1 << 5;
    pub const POWER_BUTTON: u16 = 1 << 8;
    pub const RTC: u16 = 1 << 10;
}
/// PM1 control bits.
mod control {
    pub const SCI_ENABLED: u16 = 1 << 0;
    pub const BUS_MASTER_RELOAD: u16 = 1 << 1;
    pub const SLEEP_TYPE: u16 = 7 << 10;
    pub const SLEEP_ENABLE: u16 = 1 << 13;
}
const ENABLES: u16 = event::TIMER | event::GLOBAL | event::POWER_BUTTON | event::RTC;

/// The block.
pub struct AcpiPm {
    clock: Arc<dyn Clock>,
    alarm: Arc<dyn Alarm>,
    sci: Arc<dyn IrqLine>,
    board: Arc<dyn BoardControl>,
    /// 24 or 32.
    timer_bits: u32,
    status: u16,
    enable: u16,
    control: u16,
    gpe_enable: u16,
    /// Half periods of the timer (changes of its top bit) already noted in TMR_STS.
    half_periods: u64,
}

impl AcpiPm {
    /// ACPI mode off. `wide_timer` makes the PM timer 32 bits wide (FADT flag TMR_VAL_EXT) instead of 24. `alarm` calls
    /// [`Timed::expire`].
    pub fn new(
        clock: Arc<dyn Clock>,
        alarm: Arc<dyn Alarm>,
        sci: Arc<dyn IrqLine>,
        board: Arc<dyn BoardControl>,
        wide_timer: bool,
    ) -> Self {
        let mut pm = Self {
            clock,
            alarm,
            sci,
            board,
            timer_bits: if wide_timer { 32 } else { 24 },
            status: 0,
            enable: 0,
            control: 0,
            gpe_enable: 0,
            half_periods: 0,
        };
        pm.half_periods = pm.count() >> (pm.timer_bits - 1);
        pm
    }

    /// The board's reset.
    pub fn reset(&mut self) {
        self.status = 0;
        self.enable = 0;
        self.control = 0;
        self.gpe_enable = 0;
        self.half_periods = self.count() >> (self.timer_bits - 1);
        self.update();
    }

    /// Presses and lets go of the power button. Whether the guest has asked to be told.
    pub fn press_power_button(&mut self) -> bool {
        self.status |= event::POWER_BUTTON;
        self.update();
        self.control & control::SCI_ENABLED != 0 && self.enable & event::POWER_BUTTON != 0
    }

    /// What the SMI handler of a PC does with a command: turns ACPI mode on or off.
    fn smi_command(&mut self, command: u8) {
        match command {
            ACPI_ENABLE => self.control |= control::SCI_ENABLED,
            ACPI_DISABLE => self.control &= !control::SCI_ENABLED,
            _ => {}
        }
        self.update();
    }

    /// Ticks of the PM timer since the board's clock began.
    fn count(&self) -> u64 {
        (u128::from(self.clock.now()) * u128::from(PM_TIMER_HZ) / 1_000_000_000) as u64
    }

    fn timer(&self) -> u32 {
        (self.count() & ((1 << self.timer_bits) - 1)) as u32
    }

    /// TMR_STS is set when the top bit changes.
    fn note_timer(&mut self) {
        let half_periods = self.count() >> (self.timer_bits - 1);
        if half_periods != self.half_periods {
            self.half_periods = half_periods;
            self.status |= event::TIMER;
        }
    }

    fn update(&mut self) {
        self.note_timer();
        let asserted = self.status & self.enable & ENABLES != 0;
        self.sci.set(asserted && self.control & control::SCI_ENABLED != 0);
        // An event that is already noted needs no alarm.
        let wanted = self.enable & !self.status & event::TIMER != 0;
        let next = u128::from(self.half_periods + 1) << (self.timer_bits - 1);
        let at = (next * 1_000_000_000).div_ceil(u128::from(PM_TIMER_HZ)) as Nanos;
        self.alarm.set(wanted.then_some(at));
    }

    fn write_control(&mut self, value: u16) {
        const KEPT: u16 = control::SCI_ENABLED | control::BUS_MASTER_RELOAD | control::SLEEP_TYPE;
        self.control = value & KEPT;
        let sleep_type = (value & control::SLEEP_TYPE) >> 10;
        if value & control::SLEEP_ENABLE != 0 && sleep_type == u16::from(SLEEP_TYPE_S5) {
            self.board.request(BoardEvent::PowerOff);
        }
    }

    /// The registers as they lie in the block.
    fn registers(&mut self) -> [u8; 16] {
        self.note_timer();
        let mut bytes = [0; 16];
        for (at, value) in [(0, self.status), (2, self.enable), (4, self.control), (14, self.gpe_enable)] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes[8..12].copy_from_slice(&self.timer().to_le_bytes());
        bytes
    }
}

impl PortDevice for AcpiPm {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        let registers = self.registers();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = registers.get(usize::from(offset) + index).copied().unwrap_or(0);
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        self.note_timer();
        // Status bits are cleared by ones; every other byte keeps what isn't written.
        let mut bytes = self.registers();
        bytes[0..2].fill(0);
        let mut written = [false; 16];
        for (index, byte) in data.iter().enumerate() {
            let at = usize::from(offset) + index;
            if let (Some(to), Some(flag)) = (bytes.get_mut(at), written.get_mut(at)) {
                *to = *byte;
                *flag = true;
            }
        }
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        self.status &= !word(0);
        self.enable = word(2) & ENABLES;
        self.gpe_enable = word(14);
        if written[4] || written[5] {
            self.write_control(word(4));
        }
        self.update();
    }
}

impl Timed for AcpiPm {
    fn expire(&mut self, _now: Nanos) {
        self.update();
    }
}

/// The SMI command and status ports, B2h and B3h.
pub struct SmiCommand {
    pm: Arc<Mutex<AcpiPm>>,
    command: u8,
    status: u8,
}

impl SmiCommand {
    pub fn new(pm: Arc<Mutex<AcpiPm>>) -> Self {
        Self { pm, command: 0, status: 0 }
    }
}

impl PortDevice for SmiCommand {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        super::fill_bytes(offset, data, |offset| match offset {
            0 => self.command,
            1 => self.status,
            _ => 0xff,
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        for (offset, byte) in super::each_byte(offset, data) {
            match offset {
                0 => {
                    self.command = byte;
                    self.pm.lock().unwrap_or_else(PoisonError::into_inner).smi_command(byte);
                }
                1 => self.status = byte,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
#[path = "pm_tests.rs"]
mod tests;
