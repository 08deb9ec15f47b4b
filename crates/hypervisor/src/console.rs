//! The debug UART: a PL011 (Arm DDI 0183), shared with the control domain, so only polled and only for a few lines.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use address::HostPhys;
use spin::Mutex;

use crate::arch;

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_TXFF: u32 = 1 << 5;
const CR: u64 = 0x30;
const CR_UARTEN_TXE: u32 = 1 << 0 | 1 << 8;

/// A PL011.
pub struct Uart(HostPhys);

impl Uart {
    /// The one at this address; it is turned on if the firmware hasn't done so.
    pub fn new(base: HostPhys) -> Self {
        let uart = Self(base);
        let control = arch::read32(HostPhys(base.0 + CR));
        if control & CR_UARTEN_TXE != CR_UARTEN_TXE {
            arch::write32(HostPhys(base.0 + CR), control | CR_UARTEN_TXE);
        }
        uart
    }

    fn put(&self, byte: u8) {
        // Bounded: a UART that never drains costs a line, not the machine.
        for _ in 0..1_000_000 {
            if arch::read32(HostPhys(self.0.0 + FR)) & FR_TXFF == 0 {
                break;
            }
        }
        arch::write32(HostPhys(self.0.0 + DR), byte as u32);
    }
}

impl Write for Uart {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

static CONSOLE: Mutex<Option<Uart>> = Mutex::new(None);

/// From now on lines go to this UART.
pub fn set(uart: Uart) {
    *CONSOLE.lock() = Some(uart);
}

/// Prints a line; nothing if there is no UART, or (of a panic within a line) it is never free.
pub fn line(arguments: fmt::Arguments) {
    for _ in 0..10_000_000 {
        if let Some(mut console) = CONSOLE.try_lock() {
            if let Some(uart) = console.as_mut() {
                let _ = writeln!(uart, "auberge: {arguments}");
            }
            return;
        }
        core::hint::spin_loop();
    }
}

/// Prints a line that the control domain can cause: at most 10 a second.
pub fn limited_line(arguments: fmt::Arguments) {
    static SECOND: AtomicU64 = AtomicU64::new(u64::MAX);
    static LINES: AtomicU32 = AtomicU32::new(0);
    let second = arch::seconds();
    if SECOND.swap(second, Ordering::Relaxed) != second {
        LINES.store(0, Ordering::Relaxed);
    }
    if LINES.fetch_add(1, Ordering::Relaxed) < 10 {
        line(arguments);
    }
}

/// Prints a line to the debug UART.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::line(format_args!($($argument)*)) };
}
