//! PrimeCell GPIO PL061 (Arm DDI 0190B): eight pins. Inputs are driven by the board, outputs lead nowhere.

use super::{identification, read_word, written_word};
use crate::wiring::{IrqLine, MmioDevice};
use std::sync::Arc;

// Offsets of the registers (table 3-1).
/// GPIODATA: address bits 9 to 2 are a mask of the pins that the access is about.
const DATA_LAST: u64 = 0x3ff;
const DIR: u64 = 0x400;
const IS: u64 = 0x404;
const IBE: u64 = 0x408;
const IEV: u64 = 0x40c;
const IE: u64 = 0x410;
const RIS: u64 = 0x414;
const MIS: u64 = 0x418;
const IC: u64 = 0x41c;
const AFSEL: u64 = 0x420;
const LAST: u64 = 0xffc;

const PART: u16 = 0x061;

/// The registers that a reset clears; a bit each pin.
#[derive(Default)]
struct Registers {
    /// What was written to GPIODATA.
    output: u8,
    /// 1: an output.
    dir: u8,
    /// 1: level-sensitive.
    is: u8,
    /// 1: both edges.
    ibe: u8,
    /// 1: rising edge or high level.
    iev: u8,
    /// 1: interrupts.
    ie: u8,
    /// Edges seen.
    edges: u8,
    afsel: u8,
}

/// The chip.
pub struct Pl061 {
    irq: Arc<dyn IrqLine>,
    /// What the board drives the pins to.
    input: u8,
    r: Registers,
}

impl Pl061 {
    /// All pins inputs, driven low.
    pub fn new(irq: Arc<dyn IrqLine>) -> Self {
        Self { irq, input: 0, r: Registers::default() }
    }

    /// The board's reset; the pins' levels are the board's.
    pub fn reset(&mut self) {
        self.r = Registers::default();
        self.update_irq();
    }

    /// Drives pin `pin`, 0 to 7.
    pub fn set_pin(&mut self, pin: u8, high: bool) {
        let bit = 1 << (pin & 7);
        let before = self.input;
        self.input = if high { before | bit } else { before & !bit };
        let wanted = if high { self.r.ibe | self.r.iev } else { self.r.ibe | !self.r.iev };
        self.r.edges |= (before ^ self.input) & wanted & !self.r.is & !self.r.dir;
        self.update_irq();
    }

    /// Whether a change of pin `pin` would interrupt.
    pub fn listens(&self, pin: u8) -> bool {
        self.r.ie & !self.r.dir & 1 << (pin & 7) != 0
    }

    /// The pins' levels.
    fn pins(&self) -> u8 {
        self.input & !self.r.dir | self.r.output & self.r.dir
    }

    fn raw(&self) -> u8 {
        let levels = !(self.pins() ^ self.r.iev) & self.r.is & !self.r.dir;
        self.r.edges & !self.r.is | levels
    }

    fn update_irq(&self) {
        self.irq.set(self.raw() & self.r.ie != 0);
    }

    fn register(&self, offset: u64) -> u32 {
        let r = &self.r;
        let value = match offset {
            0..=DATA_LAST => self.pins() & (offset >> 2) as u8,
            DIR => r.dir,
            IS => r.is,
            IBE => r.ibe,
            IEV => r.iev,
            IE => r.ie,
            RIS => self.raw(),
            MIS => self.raw() & r.ie,
            AFSEL => r.afsel,
            super::ID..=LAST => return identification(offset, PART, 0),
            _ => 0,
        };
        value.into()
    }

    fn set_register(&mut self, offset: u64, value: u8) {
        let r = &mut self.r;
        match offset {
            0..=DATA_LAST => {
                let mask = (offset >> 2) as u8 & r.dir;
                r.output = r.output & !mask | value & mask;
            }
            DIR => r.dir = value,
            IS => r.is = value,
            IBE => r.ibe = value,
            IEV => r.iev = value,
            IE => r.ie = value,
            IC => r.edges &= !value,
            AFSEL => r.afsel = value,
            _ => {}
        }
    }
}

impl MmioDevice for Pl061 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_word(offset, data, |register| self.register(register));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(value) = written_word(offset, data) {
            self.set_register(offset, value as u8);
            self.update_irq();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeLine;
    use proptest::prelude::*;

    fn chip() -> (Pl061, Arc<FakeLine>) {
        let line = FakeLine::new();
        (Pl061::new(line.clone()), line)
    }
    fn get(chip: &mut Pl061, offset: u64) -> u32 {
        let mut data = [0; 4];
        chip.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn data_is_masked_by_the_address_and_only_outputs_are_written() {
        let (mut c, _) = chip();
        c.set_pin(3, true);
        c.set_pin(7, true);
        assert_eq!((get(&mut c, 0x3fc), get(&mut c, 1 << 5), get(&mut c, 0)), (0x88, 8, 0));
        c.write(DIR, &[0x0f]);
        c.write(0x3fc, &[0xff]);
        assert_eq!(get(&mut c, 0x3fc), 0x8f);
        c.write(0b100 << 2, &[0]);
        assert_eq!(get(&mut c, 0x3fc), 0x8b);
        assert_eq!((get(&mut c, 0xfe0), get(&mut c, 0xfe8), get(&mut c, 0xff0)), (0x61, 4, 0x0d));
    }

    #[test]
    fn edges_interrupt_as_they_were_asked_for_until_cleared() {
        let (mut c, line) = chip();
        assert!(!c.listens(3));
        c.write(IE, &[8]);
        c.write(IEV, &[8]);
        assert!(c.listens(3));
        c.set_pin(3, true);
        assert!(line.is_high());
        c.write(IC, &[8]);
        c.set_pin(3, false);
        assert!(!line.is_high(), "a rising edge only");
        c.write(IBE, &[8]);
        c.set_pin(3, true);
        c.write(IC, &[8]);
        c.set_pin(3, false);
        assert_eq!((line.is_high(), get(&mut c, RIS), get(&mut c, MIS)), (true, 8, 8));
        c.reset();
        assert!(!line.is_high() && !c.listens(3));
    }

    #[test]
    fn level_interrupts_while_it_lasts() {
        let (mut c, line) = chip();
        c.write(IS, &[1]);
        c.write(IEV, &[1]);
        c.write(IE, &[1]);
        c.set_pin(0, true);
        c.write(IC, &[1]);
        assert!(line.is_high());
        c.set_pin(0, false);
        assert!(!line.is_high());
    }

    proptest! {
        #[test]
        fn any_accesses_are_harmless(accesses in prop::collection::vec((0u64..0x1010, 0usize..9, any::<u64>(), 0u8..4), 1..60)) {
            let (mut c, line) = chip();
            for (offset, len, value, kind) in accesses {
                let mut data = value.to_le_bytes();
                match kind {
                    0 => c.read(offset, &mut data[..len]),
                    1 => c.set_pin(value as u8, len > 4),
                    _ => c.write(offset, &data[..len]),
                }
                prop_assert_eq!(line.is_high(), get(&mut c, MIS) != 0);
            }
        }
    }
}
