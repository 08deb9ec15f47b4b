//! Port 80h: progress codes of firmware, and the delay that drivers make by writing there.

use crate::wiring::PortDevice;

pub const PORT: u16 = 0x80;

/// A latch: reads back what was written.
#[derive(Default)]
pub struct PostCode {
    value: u8,
}

impl PostCode {
    pub fn new() -> Self {
        Self::default()
    }

    /// The last code written.
    pub fn value(&self) -> u8 {
        self.value
    }
}

impl PortDevice for PostCode {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(byte) = data.first_mut() {
            *byte = self.value;
        }
    }

    fn write(&mut self, _offset: u16, data: &[u8]) {
        self.value = data.first().copied().unwrap_or(self.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_gives_the_code_written() {
        let mut port = PostCode::new();
        port.write(0, &[0x42]);
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!((data, port.value()), ([0x42], 0x42));
    }
}
