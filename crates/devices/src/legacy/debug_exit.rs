//! The debug-exit port of test kernels: a write ends the VM with the value written, as QEMU's `isa-debug-exit` does.

use crate::wiring::{BoardControl, BoardEvent, PortDevice};
use std::sync::Arc;

/// Port where test kernels expect it by default (F4h, four bytes wide).
pub const DEFAULT_PORT: u16 = 0xf4;
/// Ports it answers to.
pub const PORTS: u16 = 4;

/// The port. One, two or four bytes may be written.
pub struct DebugExit {
    board: Arc<dyn BoardControl>,
}

impl DebugExit {
    pub fn new(board: Arc<dyn BoardControl>) -> Self {
        Self { board }
    }
}

impl PortDevice for DebugExit {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        let mut value = [0; 4];
        for (to, from) in value.iter_mut().skip(usize::from(offset)).zip(data) {
            *to = *from;
        }
        self.board.request(BoardEvent::DebugExit(u32::from_le_bytes(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeBoard;

    #[test]
    fn write_of_each_width_ends_with_the_value() {
        let board = FakeBoard::new();
        let mut port = DebugExit::new(board.clone());
        port.write(0, &[0x10]);
        port.write(0, &[0x34, 0x12]);
        port.write(0, &[0x78, 0x56, 0x34, 0x12]);
        port.write(3, &[1, 2]);
        let values = [0x10, 0x1234, 0x1234_5678, 0x0100_0000];
        assert_eq!(board.take(), values.map(BoardEvent::DebugExit));
    }
}
