//! The wires between a device and its board.

use std::sync::Arc;

/// An interrupt request pin. Level semantics: a device that wants an edge sets it high, then low.
pub trait IrqLine: Send + Sync {
    fn set(&self, high: bool);
}

/// Where message-signalled interrupts go: the write a device would make on the bus.
pub trait MsiSink: Send + Sync {
    fn signal(&self, address: u64, data: u32);
}

/// Nanoseconds of the board's clock, monotonic; stands still while the VM is paused.
pub type Nanos = u64;

/// The board's clock.
pub trait Clock: Send + Sync {
    fn now(&self) -> Nanos;
    /// Wall-clock time, for the RTC: time since the Unix epoch.
    fn wall(&self) -> std::time::Duration;
}

/// One device's alarm: at the time set, the board calls the device's [`Timed::expire`].
pub trait Alarm: Send + Sync {
    /// Replaces what was set before; `None` disarms. May be called with the device locked.
    fn set(&self, at: Option<Nanos>);
}

/// A device that asked for an [`Alarm`].
pub trait Timed: Send {
    /// The alarm's time has come (or has passed: `now` may be later). Sets the alarm again if it wants more.
    fn expire(&mut self, now: Nanos);
}

/// The other end of a serial line. Called with the UART locked: it must neither block nor call back.
pub trait SerialOutput: Send {
    /// Takes bytes the guest sent; gives how many, the rest is offered again. A sink that wants to drop takes all.
    fn write(&mut self, bytes: &[u8]) -> usize;
    /// The receiver has room again after [`SerialPort::input`] took less than it was given.
    fn input_room(&mut self) {}
}

/// A UART, as the board reaches it.
pub trait SerialPort: Send {
    /// Bytes from the line; gives how many were taken. With the rest, come again after [`SerialOutput::input_room`].
    fn input(&mut self, bytes: &[u8]) -> usize;
    /// The [`SerialOutput`] has room again.
    fn output_ready(&mut self);
    /// Master reset.
    fn reset(&mut self);
}

/// Registers in the processor's I/O port space. The board locks the device around each call.
pub trait PortDevice: Send {
    /// `offset` from the device's first port; `data` is 1, 2 or 4 bytes, little-endian.
    fn read(&mut self, offset: u16, data: &mut [u8]);
    fn write(&mut self, offset: u16, data: &[u8]);
}

/// Registers in guest-physical memory space. The board locks the device around each call.
pub trait MmioDevice: Send {
    /// `offset` from the device's first byte; `data` is 1 to 8 bytes, little-endian.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A request to the board from a device (chipset) or a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoardEvent {
    /// Reset line pulled: keyboard controller, port 92h, reset control register CF9h, ACPI reset register.
    Reset,
    /// ACPI S5.
    PowerOff,
    /// The debug-exit port was written; the guest's status for `vmctl run` (as QEMU: (value << 1) | 1 is the process's).
    DebugExit(u32),
}

/// Takes [`BoardEvent`]s; returns at once, the board acts on its own threads.
pub trait BoardControl: Send + Sync {
    fn request(&self, event: BoardEvent);
}

/// A pin that leads nowhere, for tests and unconnected outputs.
pub struct NotConnected;

impl IrqLine for NotConnected {
    fn set(&self, _high: bool) {}
}

impl NotConnected {
    /// Such a pin, shared.
    pub fn line() -> Arc<dyn IrqLine> {
        Arc::new(NotConnected)
    }
}
