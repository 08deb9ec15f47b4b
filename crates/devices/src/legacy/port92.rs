//! System control port A (92h): fast A20 and fast reset (PS/2; 82371AB datasheet 4.2.6.4).

use crate::wiring::{BoardControl, BoardEvent, PortDevice};
use std::sync::Arc;

pub const PORT: u16 = 0x92;
const FAST_RESET: u8 = 1 << 0;
const A20: u8 = 1 << 1;

/// The port. A20 is always on in this machine; the bit reads back as it was written.
pub struct Port92 {
    value: u8,
    board: Arc<dyn BoardControl>,
}

impl Port92 {
    pub fn new(board: Arc<dyn BoardControl>) -> Self {
        Self { value: A20, board }
    }

    pub fn reset(&mut self) {
        self.value = A20;
    }
}

impl PortDevice for Port92 {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(byte) = data.first_mut() {
            *byte = self.value;
        }
    }

    fn write(&mut self, _offset: u16, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        let rose = value & !self.value & FAST_RESET != 0;
        self.value = value & (FAST_RESET | A20);
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
    fn write_of_rising_reset_bit_resets_once() {
        let board = FakeBoard::new();
        let mut port = Port92::new(board.clone());
        port.write(0, &[A20]);
        assert_eq!(board.take(), []);
        port.write(0, &[A20 | FAST_RESET]);
        port.write(0, &[A20 | FAST_RESET]);
        assert_eq!(board.take(), [BoardEvent::Reset]);
    }

    #[test]
    fn a20_bit_reads_back_as_written() {
        let mut port = Port92::new(FakeBoard::new());
        let mut data = [0];
        for value in [0, A20] {
            port.write(0, &[value]);
            port.read(0, &mut data);
            assert_eq!(data, [value]);
        }
    }
}
