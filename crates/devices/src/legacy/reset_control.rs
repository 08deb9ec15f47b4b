//! The reset control register, port CF9h (82371AB datasheet 4.2.6.5); the ACPI reset register points at it.
//!
//! It lies inside the PCI configuration address port's four bytes: the board gives it the accesses of one byte.

use crate::wiring::{BoardControl, BoardEvent, PortDevice};
use std::sync::Arc;

pub const PORT: u16 = 0xcf9;
/// What resets the machine when written: RCPU with SRST or without. For the FADT's RESET_VALUE.
pub const RESET_VALUE: u8 = 0x06;
/// SRST: hard reset instead of soft.
const HARD: u8 = 1 << 1;
/// RCPU: its rising edge resets.
const RESET: u8 = 1 << 2;

/// The register.
pub struct ResetControl {
    value: u8,
    board: Arc<dyn BoardControl>,
}

impl ResetControl {
    pub fn new(board: Arc<dyn BoardControl>) -> Self {
        Self { value: 0, board }
    }

    pub fn reset(&mut self) {
        self.value = 0;
    }
}

impl PortDevice for ResetControl {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(byte) = data.first_mut() {
            *byte = self.value;
        }
    }

    fn write(&mut self, _offset: u16, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        let rose = value & !self.value & RESET != 0;
        self.value = value & (HARD | RESET);
        if rose {
            self.board.request(BoardEvent::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeBoard;

    #[test]
    fn rising_reset_bit_resets_as_kernels_write_it() {
        let board = FakeBoard::new();
        let mut port = ResetControl::new(board.clone());
        // Linux: read, write 02h, then 06h.
        port.write(0, &[0x02]);
        assert_eq!(board.take(), []);
        port.write(0, &[0x06]);
        assert_eq!(board.take(), [BoardEvent::Reset]);
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!(data, [0x06]);
    }
}
