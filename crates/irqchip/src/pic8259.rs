//! The two 8259A interrupt controllers of a PC, cascaded through the master's IR2, with the EISA edge/level control
//! registers (8259A datasheet; 82371AB datasheet 4.1.5).

/// Ports of the pair: command and data of the master, of the slave, edge/level control of both.
pub mod port {
    pub const MASTER_COMMAND: u16 = 0x20;
    pub const MASTER_DATA: u16 = 0x21;
    pub const SLAVE_COMMAND: u16 = 0xa0;
    pub const SLAVE_DATA: u16 = 0xa1;
    pub const MASTER_ELCR: u16 = 0x4d0;
    pub const SLAVE_ELCR: u16 = 0x4d1;
}

/// The master's input that the slave drives.
const CASCADE: u8 = 2;
/// The input that an acknowledge finds when no request is left.
const SPURIOUS: u8 = 7;

/// What an initialization sequence waits for next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Operation,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chip {
    /// Levels of the inputs.
    lines: u8,
    irr: u8,
    isr: u8,
    imr: u8,
    /// Inputs that ELCR makes level-triggered.
    elcr: u8,
    /// ICW1.LTIM: all of them.
    all_level: bool,
    vector_base: u8,
    /// The input with the highest priority.
    top: u8,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    poll: bool,
    read_isr: bool,
    expect: Expect,
    icw4_follows: bool,
    single: bool,
}

impl Chip {
    fn is_level(&self, bit: u8) -> bool {
        self.all_level || self.elcr & bit != 0
    }

    fn set_line(&mut self, input: u8, high: bool) {
        let bit = 1 << (input & 7);
        let rose = high && self.lines & bit == 0;
        self.lines = if high { self.lines | bit } else { self.lines & !bit };
        if self.is_level(bit) {
            self.irr = self.irr & !bit | self.lines & bit;
        } else if rose {
            // The edge is held until acknowledged, so that sources may pulse their line.
            self.irr |= bit;
        }
    }

    /// Inputs that become level-triggered are sampled at once.
    fn set_elcr(&mut self, value: u8) {
        self.elcr = value;
        self.irr = self.irr & !value | self.lines & value;
    }

    /// How far `input` is below the top: 0 is the highest priority.
    fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.top) & 7
    }

    /// The input of the highest priority in `set`.
    fn highest(&self, set: u8) -> Option<u8> {
        let rotated = set.rotate_right(u32::from(self.top & 7));
        (rotated != 0).then(|| (rotated.trailing_zeros() as u8 + self.top) & 7)
    }

    /// The input that asks the processor: unmasked, requested, and above what is in service.
    fn request(&self, master: bool) -> Option<u8> {
        let input = self.highest(self.irr & !self.imr)?;
        let mut in_service = self.isr;
        if self.special_mask {
            // What is masked while in service no longer holds back what is below it.
            in_service &= !self.imr;
        }
        if self.special_fully_nested && master {
            // The slave may interrupt its own service with something more urgent.
            in_service &= !(1 << CASCADE);
        }
        match self.highest(in_service) {
            Some(current) => (self.rank(input) < self.rank(current)).then_some(input),
            None => Some(input),
        }
    }

    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if !self.is_level(bit) {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.top = (input + 1) & 7;
        }
    }

    fn initialize(&mut self, icw1: u8) {
        let (lines, elcr) = (self.lines, self.elcr);
        *self = Self {
            lines,
            elcr,
            vector_base: self.vector_base,
            all_level: icw1 & 1 << 3 != 0,
            single: icw1 & 1 << 1 != 0,
            icw4_follows: icw1 & 1 != 0,
            expect: Expect::Icw2,
            ..Self::default()
        };
        // The edge sense is reset: an input must go low and high again. Levels count at once.
        for input in 0..8 {
            let bit = 1 << input;
            if self.is_level(bit) {
                self.irr |= lines & bit;
            }
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 1 << 4 != 0 {
            self.initialize(value);
        } else if value & 1 << 3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let level = value & 7;
        let (rotate, specific, eoi) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
        match (eoi, specific) {
            (true, true) => {
                self.isr &= !(1 << level);
                if rotate {
                    self.top = (level + 1) & 7;
                }
            }
            (true, false) => {
                let candidates = if self.special_mask { self.isr & !self.imr } else { self.isr };
                if let Some(input) = self.highest(candidates) {
                    self.isr &= !(1 << input);
                    if rotate {
                        self.top = (input + 1) & 7;
                    }
                }
            }
            // Set priority command; 010 is no operation.
            (false, true) => {
                if rotate {
                    self.top = (level + 1) & 7;
                }
            }
            (false, false) => self.rotate_on_auto_eoi = rotate,
        }
    }

    fn write_ocw3(&mut self, value: u8) {
        self.poll = value & 1 << 2 != 0;
        if value & 1 << 1 != 0 {
            self.read_isr = value & 1 != 0;
        }
        if value & 1 << 6 != 0 {
            self.special_mask = value & 1 << 5 != 0;
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expect = match self.expect {
            Expect::Operation => {
                self.imr = value;
                Expect::Operation
            }
            Expect::Icw2 => {
                self.vector_base = value & 0xf8;
                match (self.single, self.icw4_follows) {
                    (false, _) => Expect::Icw3,
                    (true, true) => Expect::Icw4,
                    (true, false) => Expect::Operation,
                }
            }
            // The wiring of a PC is what it is.
            Expect::Icw3 if self.icw4_follows => Expect::Icw4,
            Expect::Icw3 => Expect::Operation,
            Expect::Icw4 => {
                self.special_fully_nested = value & 1 << 4 != 0;
                self.auto_eoi = value & 1 << 1 != 0;
                Expect::Operation
            }
        };
    }

    /// A read of either port; a poll command takes precedence, and acknowledges.
    fn read(&mut self, data: bool, master: bool) -> u8 {
        if core::mem::take(&mut self.poll) {
            return match self.request(master) {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (data, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }
}

/// The pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pic8259 {
    master: Chip,
    slave: Chip,
}

impl Pic8259 {
    /// After power-on: edge-triggered, vectors from 0, nothing masked; a guest initializes it before it means anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Back to power-on; the inputs keep their levels.
    pub fn reset(&mut self) {
        let (master, slave) = (self.master.lines, self.slave.lines);
        *self = Self::default();
        self.master.lines = master & !(1 << CASCADE);
        self.slave.lines = slave;
    }

    /// Sets input `irq`, 0 to 15, of the pair. Number 2 is the cascade and is ignored, as is anything above 15.
    pub fn set_line(&mut self, irq: u8, high: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.master.set_line(irq, high),
            8..16 => self.slave.set_line(irq - 8, high),
            _ => {}
        }
        self.cascade();
    }

    /// The slave's output is the master's IR2. It is followed as a level, whatever the trigger mode: the slave takes its
    /// request back where a mask or an acknowledge removes the reason.
    fn cascade(&mut self) {
        let bit = 1 << CASCADE;
        if self.slave.request(false).is_some() {
            self.master.irr |= bit;
        } else {
            self.master.irr &= !bit;
        }
    }

    /// The INTR output to the processor.
    pub fn output(&self) -> bool {
        self.master.request(true).is_some()
    }

    /// The processor's interrupt acknowledge: gives the vector. Where the request has gone away, that of IR7 (spurious).
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.master.request(true) {
            Some(CASCADE) => {
                self.master.acknowledge(CASCADE);
                let input = self.slave.request(false);
                if let Some(input) = input {
                    self.slave.acknowledge(input);
                }
                self.slave.vector_base | input.unwrap_or(SPURIOUS)
            }
            Some(input) => {
                self.master.acknowledge(input);
                self.master.vector_base | input
            }
            None => self.master.vector_base | SPURIOUS,
        };
        self.cascade();
        vector
    }

    /// Reads a byte of one of the [`port`]s; others read as FFh.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            port::MASTER_COMMAND => self.master.read(false, true),
            port::MASTER_DATA => self.master.read(true, true),
            port::SLAVE_COMMAND => self.slave.read(false, false),
            port::SLAVE_DATA => self.slave.read(true, false),
            port::MASTER_ELCR => self.master.elcr,
            port::SLAVE_ELCR => self.slave.elcr,
            _ => 0xff,
        };
        // A poll acknowledges.
        self.cascade();
        value
    }

    /// Writes a byte to one of the [`port`]s. The output may change.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            port::MASTER_COMMAND => self.master.write_command(value),
            port::MASTER_DATA => self.master.write_data(value),
            port::SLAVE_COMMAND => self.slave.write_command(value),
            port::SLAVE_DATA => self.slave.write_data(value),
            // Timer, keyboard and cascade; RTC and coprocessor error: always edges.
            port::MASTER_ELCR => self.master.set_elcr(value & 0xf8),
            port::SLAVE_ELCR => self.slave.set_elcr(value & 0xde),
            _ => {}
        }
        self.cascade();
    }
}

#[cfg(test)]
#[path = "pic8259_tests.rs"]
mod tests;
