//! Pin interrupts: from a function's INTA# to INTD#, over the chipset's four PIRQ lines, to the board's interrupt lines.
//!
//! Source: PIIX4 (82371AB) datasheet, PIRQRC[A:D] at 60h-63h of the ISA bridge.

use super::{Pin, lock};
use crate::wiring::IrqLine;
use std::sync::{Arc, Mutex};

/// Bit 7 of a PIRQRC register: the line is not routed to an ISA interrupt.
const DISABLED: u8 = 0x80;
/// Where PIRQA# to PIRQD# go at power on, as PC firmware sets them.
const POWER_ON: [u8; 4] = [10, 10, 11, 11];

#[derive(Debug)]
struct State {
    /// For each PIRQ line, which pins pull it: bit 4 * device + pin, over 128 bits.
    pulled: [u128; 4],
    route: [u8; 4],
    /// Levels last given to the board.
    isa: u16,
    apic: u8,
}

/// Routes the functions' pins.
pub struct IntxRouter {
    state: Mutex<State>,
    isa: Vec<Arc<dyn IrqLine>>,
    apic: Vec<Arc<dyn IrqLine>>,
}

impl IntxRouter {
    /// `isa` are the board's interrupt lines by ISA number (up to 16), that PIRQRC chooses among; `apic` those that
    /// PIRQA# to PIRQD# are wired to besides, whatever PIRQRC says (four, or none).
    pub fn new(isa: Vec<Arc<dyn IrqLine>>, apic: Vec<Arc<dyn IrqLine>>) -> Arc<Self> {
        let state = State { pulled: [0; 4], route: POWER_ON, isa: 0, apic: 0 };
        Arc::new(Self { state: Mutex::new(state), isa, apic })
    }

    /// Which PIRQ line (0 for PIRQA#) a device's pin is wired to: each slot is turned by one, as on the i440FX.
    /// The board's ACPI `_PRT` says the same.
    pub const fn pirq(device: u8, pin: Pin) -> usize {
        (device as usize + 3 + pin as usize) % 4
    }

    /// The pin of a device, as a line for it to drive.
    pub fn pin(self: &Arc<Self>, device: u8, pin: Pin) -> Arc<dyn IrqLine> {
        Arc::new(PinLine { router: self.clone(), device: device & 31, pin })
    }

    /// The ISA interrupt a pin is routed to, for the interrupt line register; FFh where it is not.
    pub fn line(&self, device: u8, pin: Pin) -> u8 {
        let route = lock(&self.state).route[Self::pirq(device, pin)];
        if route & DISABLED != 0 { 0xff } else { route & 15 }
    }

    /// PIRQRC\[A:D\].
    pub fn route(&self) -> [u8; 4] {
        lock(&self.state).route
    }

    /// Writes PIRQRC register `index` (0 to 3); an asserted line moves at once.
    pub fn set_route(&self, index: usize, value: u8) {
        let mut s = lock(&self.state);
        if let Some(r) = s.route.get_mut(index) {
            *r = value & (DISABLED | 15);
        }
        self.update(&mut s);
    }

    /// The power-on routing.
    pub fn reset(&self) {
        let mut s = lock(&self.state);
        s.route = POWER_ON;
        self.update(&mut s);
    }

    fn set(&self, device: u8, pin: Pin, high: bool) {
        let mut s = lock(&self.state);
        let pulled = &mut s.pulled[Self::pirq(device, pin)];
        let bit = 1 << (u32::from(device) * 4 + pin as u32);
        *pulled = if high { *pulled | bit } else { *pulled & !bit };
        self.update(&mut s);
    }

    /// Tells the board what changed; with the state locked, so that levels arrive in order.
    fn update(&self, s: &mut State) {
        let (mut isa, mut apic) = (0u16, 0u8);
        for (i, (&pulled, &route)) in s.pulled.iter().zip(&s.route).enumerate() {
            if pulled != 0 {
                apic |= 1 << i;
                isa |= if route & DISABLED == 0 { 1 << (route & 15) } else { 0 };
            }
        }
        for (i, line) in self.isa.iter().enumerate().take(16) {
            if (isa ^ s.isa) >> i & 1 != 0 {
                line.set(isa >> i & 1 != 0);
            }
        }
        for (i, line) in self.apic.iter().enumerate().take(4) {
            if (apic ^ s.apic) >> i & 1 != 0 {
                line.set(apic >> i & 1 != 0);
            }
        }
        (s.isa, s.apic) = (isa, apic);
    }
}

/// One device's pin.
struct PinLine {
    router: Arc<IntxRouter>,
    device: u8,
    pin: Pin,
}

impl IrqLine for PinLine {
    fn set(&self, high: bool) {
        self.router.set(self.device, self.pin, high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeLine;

    fn lines(n: usize) -> (Vec<Arc<FakeLine>>, Vec<Arc<dyn IrqLine>>) {
        let fakes: Vec<_> = (0..n).map(|_| FakeLine::new()).collect();
        let lines = fakes.iter().map(|l| l.clone() as Arc<dyn IrqLine>).collect();
        (fakes, lines)
    }

    fn high(lines: &[Arc<FakeLine>]) -> Vec<usize> {
        (0..lines.len()).filter(|&i| lines[i].is_high()).collect()
    }

    #[test]
    fn pins_that_share_a_line_keep_it_up_until_the_last_lets_go() {
        let ((isa, i), (apic, a)) = (lines(16), lines(4));
        let router = IntxRouter::new(i, a);
        // Devices 2 and 6 are on the same PIRQ line, 4 slots apart.
        let (x, y) = (router.pin(2, Pin::A), router.pin(6, Pin::A));
        assert_eq!(IntxRouter::pirq(2, Pin::A), 1);
        x.set(true);
        y.set(true);
        x.set(false);
        assert_eq!((high(&isa), high(&apic)), (vec![10], vec![1]));
        y.set(false);
        assert_eq!((high(&isa), high(&apic)), (vec![], vec![]));
    }

    #[test]
    fn rerouting_moves_an_asserted_line_and_disabling_drops_it() {
        let (isa, i) = lines(16);
        let router = IntxRouter::new(i, Vec::new());
        let pirq = IntxRouter::pirq(3, Pin::B);
        router.pin(3, Pin::B).set(true);
        router.set_route(pirq, 5);
        assert_eq!((high(&isa), router.line(3, Pin::B)), (vec![5], 5));
        router.set_route(pirq, 0x80);
        assert_eq!((high(&isa), router.line(3, Pin::B)), (vec![], 0xff));
        router.set_route(9, 5);
        router.reset();
        assert_eq!(high(&isa), [11]);
    }
}
