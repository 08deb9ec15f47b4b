//! One counter of the 8254. Time is in clocks of its input; nothing runs, everything is computed from when counting began.

/// Control word and status: modes (6 and 7 are other names of 2 and 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    InterruptOnTerminalCount = 0,
    HardwareOneShot = 1,
    RateGenerator = 2,
    SquareWave = 3,
    SoftwareStrobe = 4,
    HardwareStrobe = 5,
}

impl Mode {
    fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::InterruptOnTerminalCount,
            1 => Self::HardwareOneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    /// The gate starts it, its level doesn't hold it.
    fn is_triggered(self) -> bool {
        matches!(self, Self::HardwareOneShot | Self::HardwareStrobe)
    }
}

/// Which halves of the count the data port moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low = 1,
    High = 2,
    Both = 3,
}

/// Whether clocks are counted, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counting {
    /// Waits for a count or a trigger.
    Idle,
    /// Counts from the clock given.
    Since(u64),
    /// Held by the gate after so many clocks.
    Held(u64),
}

#[derive(Clone, Debug)]
pub(super) struct Channel {
    mode: Mode,
    bcd: bool,
    access: Access,
    gate: bool,
    /// Clocks of the count being counted, 1 to 65536.
    count: u64,
    /// A count written while a period is under way, and the start of the next, when it takes over.
    next: Option<u64>,
    /// The last count written; triggers load it.
    written: u64,
    counting: Counting,
    /// Low byte of a two-byte write, while the other is awaited.
    low_byte: Option<u8>,
    /// The next read of a two-byte count gives the high byte.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    /// After power-on its state is undefined; here it waits in mode 3 for a count.
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: Mode::SquareWave,
            bcd: false,
            access: Access::Both,
            gate,
            count: 0x1_0000,
            next: None,
            written: 0x1_0000,
            counting: Counting::Idle,
            low_byte: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// Clocks counted by `now`.
    fn elapsed(&self, now: u64) -> Option<u64> {
        match self.counting {
            Counting::Idle => None,
            Counting::Since(start) => Some(now.saturating_sub(start)),
            Counting::Held(elapsed) => Some(elapsed),
        }
    }

    /// A count of 1 is illegal in the periodic modes; the shortest period is taken for it.
    fn period(&self) -> u64 {
        self.count.max(2)
    }

    /// Moves a periodic counter into the period that `now` is in, where a newly written count has taken over.
    pub(super) fn catch_up(&mut self, now: u64) {
        let Counting::Since(start) = self.counting else { return };
        if !self.mode.is_periodic() || now < start {
            return;
        }
        let periods = (now - start) / self.period();
        if periods == 0 {
            return;
        }
        let mut start = start + self.period();
        match self.next.take() {
            Some(count) => {
                self.count = count;
                start += (now - start) / self.period() * self.period();
            }
            None => start += (periods - 1) * self.period(),
        }
        self.counting = Counting::Since(start);
    }

    // --- Output ----------------------------------------------------------------------------------------------------

    /// Level of OUT.
    pub(super) fn output(&self, now: u64) -> bool {
        let Some(elapsed) = self.elapsed(now) else {
            return self.mode != Mode::InterruptOnTerminalCount;
        };
        match self.mode {
            Mode::InterruptOnTerminalCount | Mode::HardwareOneShot => elapsed >= self.count,
            Mode::RateGenerator => elapsed % self.period() != self.period() - 1,
            Mode::SquareWave => elapsed % self.period() < self.period().div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != self.count,
        }
    }

    /// The first clock after `now` at which OUT rises. Call [`Channel::catch_up`] before.
    pub(super) fn next_rise(&self, now: u64) -> Option<u64> {
        let Counting::Since(start) = self.counting else { return None };
        let rise = match self.mode {
            Mode::InterruptOnTerminalCount | Mode::HardwareOneShot => start + self.count,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => start + self.count + 1,
            Mode::RateGenerator | Mode::SquareWave => {
                let periods = now.saturating_sub(start) / self.period() + 1;
                start + periods * self.period()
            }
        };
        (rise > now).then_some(rise)
    }

    /// Clocks between rises of OUT; `None` where it rises once.
    pub(super) fn rise_period(&self) -> Option<u64> {
        self.mode.is_periodic().then(|| self.period())
    }

    /// The counting element.
    fn current(&self, now: u64) -> u16 {
        let Some(elapsed) = self.elapsed(now) else { return self.encode(self.written) };
        let value = match self.mode {
            Mode::SquareWave => {
                let (period, position) = (self.period(), elapsed % self.period());
                let high = period.div_ceil(2);
                // It counts by twos, twice a period; an odd count loses one in the first half, three in the second.
                let (position, odd_loss) = if position < high { (position, 1) } else { (position - high, 3) };
                match (position, period % 2) {
                    (0, _) | (_, 0) => period - 2 * position,
                    _ => period + 2 - odd_loss - 2 * position,
                }
            }
            Mode::RateGenerator => self.period() - elapsed % self.period(),
            // Counts on below 0.
            _ => (self.count + self.modulus() - elapsed % self.modulus()) % self.modulus(),
        };
        self.encode(value)
    }

    fn encode(&self, value: u64) -> u16 {
        let value = value % self.modulus();
        if !self.bcd {
            return value as u16;
        }
        (0..4).fold(0, |register, digit| register | ((value / 10u64.pow(digit) % 10) as u16) << (digit * 4))
    }

    fn decode(&self, register: u16) -> u64 {
        let value = if self.bcd {
            (0..4).rev().fold(0, |value, digit| value * 10 + u64::from(register >> (digit * 4) & 15))
        } else {
            u64::from(register)
        };
        // Digits above 9 can make more than the counter has.
        if value == 0 || value > self.modulus() { self.modulus() } else { value }
    }

    // --- Gate ------------------------------------------------------------------------------------------------------

    /// Sets the level of GATE.
    pub(super) fn set_gate(&mut self, gate: bool, now: u64) {
        if gate == self.gate {
            return;
        }
        self.catch_up(now);
        self.gate = gate;
        match (self.mode, gate) {
            (mode, true) if mode.is_triggered() && self.low_byte.is_none() => self.load(now),
            (Mode::RateGenerator | Mode::SquareWave, true) if self.counting != Counting::Idle => {
                self.load(now)
            }
            // OUT is forced high, where a period begins.
            (Mode::RateGenerator | Mode::SquareWave, false) if self.counting != Counting::Idle => {
                self.counting = Counting::Held(0);
            }
            (Mode::InterruptOnTerminalCount | Mode::SoftwareStrobe, true) => {
                if let Counting::Held(elapsed) = self.counting {
                    self.counting = Counting::Since(now.saturating_sub(elapsed));
                }
            }
            (Mode::InterruptOnTerminalCount | Mode::SoftwareStrobe, false) => {
                if let Counting::Since(start) = self.counting {
                    self.counting = Counting::Held(now.saturating_sub(start));
                }
            }
            _ => {}
        }
    }

    /// The count written goes to the counting element at the next clock.
    fn load(&mut self, now: u64) {
        self.count = self.written;
        self.next = None;
        self.counting =
            if self.gate || self.mode.is_triggered() { Counting::Since(now + 1) } else { Counting::Held(0) };
    }

    // --- Registers -------------------------------------------------------------------------------------------------

    /// A control word for this counter, not a latch command.
    pub(super) fn write_control(&mut self, word: u8) {
        self.access = match word >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        self.mode = Mode::from_bits(word >> 1);
        self.bcd = word & 1 != 0;
        self.counting = Counting::Idle;
        self.next = None;
        self.low_byte = None;
        self.read_high = false;
        self.latched_count = None;
        self.latched_status = None;
    }

    /// A byte to the data port.
    pub(super) fn write(&mut self, byte: u8, now: u64) {
        let register = match (self.access, self.low_byte.take()) {
            (Access::Low, _) => u16::from(byte),
            (Access::High, _) => u16::from(byte) << 8,
            (Access::Both, Some(low)) => u16::from(byte) << 8 | u16::from(low),
            (Access::Both, None) => {
                self.low_byte = Some(byte);
                if self.mode == Mode::InterruptOnTerminalCount {
                    // The first byte stops the count and lowers OUT.
                    self.counting = Counting::Idle;
                }
                return;
            }
        };
        self.catch_up(now);
        self.written = self.decode(register);
        match self.mode {
            // Waits for the gate.
            mode if mode.is_triggered() => {}
            // Takes over when the period under way ends.
            mode if mode.is_periodic() && matches!(self.counting, Counting::Since(_)) => {
                self.next = Some(self.written);
            }
            _ => self.load(now),
        }
    }

    /// A byte from the data port.
    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = self.latched_count.unwrap_or_else(|| self.current(now));
        let (byte, done) = match self.access {
            Access::Low => (value as u8, true),
            Access::High => ((value >> 8) as u8, true),
            Access::Both if self.read_high => ((value >> 8) as u8, true),
            Access::Both => (value as u8, false),
        };
        self.read_high = !done;
        if done {
            self.latched_count = None;
        }
        byte
    }

    /// Latches the count until it is read; a second latch before that has no effect.
    pub(super) fn latch_count(&mut self, now: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.current(now));
        }
    }

    /// Latches the status until it is read; a second latch before that has no effect.
    pub(super) fn latch_status(&mut self, now: u64) {
        if self.latched_status.is_none() {
            let null_count = self.next.is_some()
                || self.counting == Counting::Idle
                || matches!(self.counting, Counting::Since(start) if now < start);
            let value = u8::from(self.output(now)) << 7
                | u8::from(null_count) << 6
                | (self.access as u8) << 4
                | (self.mode as u8) << 1
                | u8::from(self.bcd);
            self.latched_status = Some(value);
        }
    }
}
