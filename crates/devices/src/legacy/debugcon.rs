//! The debug console of Bochs and QEMU: bytes written come out, a read tells that it is there.

use crate::wiring::{PortDevice, SerialOutput};

/// Bochs' port, and the one firmware uses.
pub const DEFAULT_PORT: u16 = 0xe9;
pub const FIRMWARE_PORT: u16 = 0x402;
/// What a read gives, by which kernels detect it.
const PRESENT: u8 = 0xe9;

/// The port. What its output has no room for is lost: there is no flow control.
pub struct DebugCon {
    output: Box<dyn SerialOutput>,
}

impl DebugCon {
    pub fn new(output: Box<dyn SerialOutput>) -> Self {
        Self { output }
    }
}

impl PortDevice for DebugCon {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(PRESENT);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        // A wider write is a byte here and others at the ports above.
        if let (0, Some(byte)) = (offset, data.first()) {
            self.output.write(&[*byte]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Collect(Arc<Mutex<Vec<u8>>>);

    impl SerialOutput for Collect {
        fn write(&mut self, bytes: &[u8]) -> usize {
            self.0.lock().unwrap().extend_from_slice(bytes);
            bytes.len()
        }
    }

    #[test]
    fn write_comes_out_and_read_tells_presence() {
        let out = Arc::new(Mutex::new(Vec::new()));
        let mut port = DebugCon::new(Box::new(Collect(out.clone())));
        for byte in b"hi" {
            port.write(0, &[*byte]);
        }
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!((out.lock().unwrap().as_slice(), data), (&b"hi"[..], [0xe9]));
    }
}
