//! 16550A UART (PC16550D datasheet), without the timing of a line: bytes move as fast as the two ends take them.
//!
//! Flow control. What the guest sends goes to a [`SerialOutput`], which takes what it has room for. While it has none the
//! bytes stay in the 16-byte FIFO and THRE is withheld, so that a guest can't flood anybody: call
//! [`SerialPort::output_ready`] when there is room again. What comes in waits in the receive FIFO; the caller keeps what
//! [`SerialPort::input`] didn't take, and tries again when told so by [`SerialOutput::input_room`].

use super::{each_byte, fill_bytes};
use crate::wiring::{IrqLine, PortDevice, SerialOutput, SerialPort};
use std::collections::VecDeque;
use std::sync::Arc;

/// Ports it answers to.
pub const PORTS: u16 = 8;
/// The first port of COM1, and its interrupt line.
pub const COM1: u16 = 0x3f8;
pub const COM1_IRQ: u8 = 4;

const FIFO: usize = 16;

/// Interrupt enable register.
mod ier {
    pub const RECEIVED: u8 = 1 << 0;
    pub const TRANSMIT_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
}

/// Interrupt identification register.
mod iir {
    pub const NONE: u8 = 0b0001;
    pub const LINE_STATUS: u8 = 0b0110;
    pub const RECEIVED: u8 = 0b0100;
    pub const TIMEOUT: u8 = 0b1100;
    pub const TRANSMIT_EMPTY: u8 = 0b0010;
    pub const MODEM_STATUS: u8 = 0b0000;
    /// Both bits: 16550A with FIFOs on.
    pub const FIFOS: u8 = 0b1100_0000;
}

/// Line status register.
mod lsr {
    pub const DATA_READY: u8 = 1 << 0;
    pub const OVERRUN: u8 = 1 << 1;
    pub const THR_EMPTY: u8 = 1 << 5;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 6;
}

/// Modem control register.
mod mcr {
    pub const DTR: u8 = 1 << 0;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOPBACK: u8 = 1 << 4;
}

/// Modem status register.
mod msr {
    pub const DELTA_CTS: u8 = 1 << 0;
    pub const DELTA_DSR: u8 = 1 << 1;
    pub const TRAILING_RI: u8 = 1 << 2;
    pub const DELTA_DCD: u8 = 1 << 3;
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
}

const LCR_DIVISOR_LATCH: u8 = 1 << 7;
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVE: u8 = 1 << 1;
const FCR_CLEAR_TRANSMIT: u8 = 1 << 2;

/// The chip.
pub struct Uart16550 {
    irq: Arc<dyn IrqLine>,
    output: Box<dyn SerialOutput>,
    receive: VecDeque<u8>,
    transmit: VecDeque<u8>,
    /// [`SerialPort::input`] left something behind.
    input_waits: bool,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    msr: u8,
    scratch: u8,
    divisor: u16,
    overrun: bool,
    /// The transmitter-empty interrupt is due; reading IIR or writing THR takes it back.
    transmit_interrupt: bool,
}

impl Uart16550 {
    /// After reset, connected: CTS, DSR and DCD asserted.
    pub fn new(irq: Arc<dyn IrqLine>, output: Box<dyn SerialOutput>) -> Self {
        Self {
            irq,
            output,
            receive: VecDeque::with_capacity(FIFO),
            transmit: VecDeque::with_capacity(FIFO),
            input_waits: false,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            msr: msr::CTS | msr::DSR | msr::DCD,
            scratch: 0,
            divisor: 12,
            overrun: false,
            transmit_interrupt: false,
        }
    }

    fn fifos_on(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifos_on() { FIFO } else { 1 }
    }

    /// Sends what the output takes.
    fn drain(&mut self) {
        if self.transmit.is_empty() {
            return;
        }
        let taken = self.output.write(self.transmit.make_contiguous()).min(self.transmit.len());
        self.transmit.drain(..taken);
        if self.transmit.is_empty() {
            self.transmit_interrupt = true;
        }
    }

    fn offer_room(&mut self) {
        let room = self.mcr & mcr::LOOPBACK == 0 && self.receive.len() < self.capacity();
        if room && std::mem::take(&mut self.input_waits) {
            self.output.input_room();
        }
    }

    fn send(&mut self, byte: u8) {
        self.transmit_interrupt = false;
        if self.mcr & mcr::LOOPBACK != 0 {
            self.receive_looped(byte);
            self.transmit_interrupt = true;
            return;
        }
        if self.transmit.len() >= self.capacity() {
            // The guest sends without looking at THRE. The byte that gives way is the newest in a FIFO, the older
            // in a single register.
            if !self.fifos_on() {
                self.transmit.clear();
                self.transmit.push_back(byte);
            }
        } else {
            self.transmit.push_back(byte);
        }
        self.drain();
    }

    fn receive_looped(&mut self, byte: u8) {
        if self.receive.len() < self.capacity() {
            self.receive.push_back(byte);
        } else {
            self.overrun = true;
            if !self.fifos_on() {
                self.receive.clear();
                self.receive.push_back(byte);
            }
        }
    }

    /// Received bytes from which the interrupt is of the higher sort.
    fn trigger_level(&self) -> usize {
        if self.fifos_on() { [1, 4, 8, 14][usize::from(self.fcr >> 6)] } else { 1 }
    }

    /// The interrupt of the highest priority.
    fn interrupt(&self) -> u8 {
        if self.ier & ier::LINE_STATUS != 0 && self.overrun {
            iir::LINE_STATUS
        } else if self.ier & ier::RECEIVED != 0 && self.receive.len() >= self.trigger_level() {
            iir::RECEIVED
        } else if self.ier & ier::RECEIVED != 0 && !self.receive.is_empty() {
            // No line, no character times: whatever is left below the trigger level has timed out.
            iir::TIMEOUT
        } else if self.ier & ier::TRANSMIT_EMPTY != 0 && self.transmit_interrupt {
            iir::TRANSMIT_EMPTY
        } else if self.ier & ier::MODEM_STATUS != 0 && self.msr & 0xf != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    /// In a PC, OUT2 gates the interrupt to the bus; loopback disconnects it.
    fn update_irq(&mut self) {
        let gated = self.mcr & (mcr::OUT2 | mcr::LOOPBACK) == mcr::OUT2;
        self.irq.set(gated && self.interrupt() != iir::NONE);
    }

    fn line_status(&mut self) -> u8 {
        self.drain();
        let mut value = 0;
        if !self.receive.is_empty() {
            value |= lsr::DATA_READY;
        }
        if std::mem::take(&mut self.overrun) {
            value |= lsr::OVERRUN;
        }
        if self.transmit.is_empty() {
            value |= lsr::THR_EMPTY | lsr::TRANSMITTER_EMPTY;
        }
        value
    }

    /// The modem's inputs: those of the line, or in loopback the chip's own outputs.
    fn modem_inputs(&self) -> u8 {
        if self.mcr & mcr::LOOPBACK == 0 {
            return msr::CTS | msr::DSR | msr::DCD;
        }
        [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)]
            .into_iter()
            .filter(|(output, _)| self.mcr & output != 0)
            .fold(0, |inputs, (_, input)| inputs | input)
    }

    fn write_mcr(&mut self, value: u8) {
        self.mcr = value & 0x1f;
        let (old, new) = (self.msr & 0xf0, self.modem_inputs());
        let mut deltas = self.msr & 0x0f;
        for (input, delta) in
            [(msr::CTS, msr::DELTA_CTS), (msr::DSR, msr::DELTA_DSR), (msr::DCD, msr::DELTA_DCD)]
        {
            if (old ^ new) & input != 0 {
                deltas |= delta;
            }
        }
        if old & !new & msr::RI != 0 {
            deltas |= msr::TRAILING_RI;
        }
        self.msr = new | deltas;
        self.offer_room();
    }

    fn write_fcr(&mut self, value: u8) {
        let toggled = (value ^ self.fcr) & FCR_ENABLE != 0;
        // The other bits count only together with the enable bit.
        self.fcr = if value & FCR_ENABLE != 0 { value & 0b1100_1001 } else { 0 };
        if toggled || value & FCR_CLEAR_RECEIVE != 0 {
            self.receive.clear();
            self.offer_room();
        }
        if toggled || value & FCR_CLEAR_TRANSMIT != 0 {
            self.transmit.clear();
            self.transmit_interrupt = true;
        }
    }

    fn read_register(&mut self, offset: u16) -> u8 {
        let latch = self.lcr & LCR_DIVISOR_LATCH != 0;
        match offset {
            0 if latch => self.divisor as u8,
            1 if latch => (self.divisor >> 8) as u8,
            0 => {
                let byte = self.receive.pop_front().unwrap_or(0);
                self.offer_room();
                byte
            }
            1 => self.ier,
            2 => {
                self.drain();
                let interrupt = self.interrupt();
                if interrupt == iir::TRANSMIT_EMPTY {
                    self.transmit_interrupt = false;
                }
                interrupt | if self.fifos_on() { iir::FIFOS } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => self.line_status(),
            6 => {
                let value = self.msr;
                self.msr &= 0xf0;
                value
            }
            7 => self.scratch,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, offset: u16, value: u8) {
        let latch = self.lcr & LCR_DIVISOR_LATCH != 0;
        match offset {
            0 if latch => self.divisor = self.divisor & 0xff00 | u16::from(value),
            1 if latch => self.divisor = self.divisor & 0x00ff | u16::from(value) << 8,
            0 => self.send(value),
            1 => {
                // Enabling it while empty interrupts at once.
                let enabled = value & !self.ier & ier::TRANSMIT_EMPTY != 0;
                if enabled && self.transmit.is_empty() {
                    self.transmit_interrupt = true;
                }
                self.ier = value & 0x0f;
            }
            2 => self.write_fcr(value),
            3 => self.lcr = value,
            4 => self.write_mcr(value),
            7 => self.scratch = value,
            _ => {}
        }
    }
}

impl SerialPort for Uart16550 {
    /// Master reset. What was still to be sent is sent if there is room, and else lost.
    fn reset(&mut self) {
        self.drain();
        self.receive.clear();
        self.transmit.clear();
        self.ier = 0;
        self.fcr = 0;
        self.lcr = 0;
        self.mcr = 0;
        self.msr = msr::CTS | msr::DSR | msr::DCD;
        self.scratch = 0;
        self.divisor = 12;
        self.overrun = false;
        self.transmit_interrupt = false;
        self.offer_room();
        self.update_irq();
    }

    fn input(&mut self, bytes: &[u8]) -> usize {
        // In loopback the line is disconnected from the receiver: what comes is kept waiting, not lost.
        let room = if self.mcr & mcr::LOOPBACK != 0 {
            0
        } else {
            self.capacity().saturating_sub(self.receive.len())
        };
        let taken = room.min(bytes.len());
        self.receive.extend(&bytes[..taken]);
        self.input_waits = taken < bytes.len();
        self.update_irq();
        taken
    }

    fn output_ready(&mut self) {
        self.drain();
        self.update_irq();
    }
}

impl PortDevice for Uart16550 {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        fill_bytes(offset, data, |offset| self.read_register(offset));
        self.update_irq();
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        for (offset, byte) in each_byte(offset, data) {
            self.write_register(offset, byte);
        }
        self.update_irq();
    }
}

#[cfg(test)]
#[path = "uart16550_tests.rs"]
mod tests;
