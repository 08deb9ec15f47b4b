//! PrimeCell UART PL011, r1p5 (Arm DDI 0183G), without the timing of a line: bytes move as fast as the two ends take them.
//!
//! Flow control is the 16550's (see [`crate::legacy::uart16550`]): what the [`SerialOutput`] has no room for stays in the transmit FIFO, and
//! what the receive FIFO has no room for stays with the caller of [`SerialPort::input`].

use super::{identification, read_word, written_word};
use crate::wiring::{IrqLine, MmioDevice, SerialOutput, SerialPort};
use std::collections::VecDeque;
use std::sync::Arc;

/// Entries of each FIFO (since r1p5; 16 before).
const FIFO: usize = 32;

// Offsets of the registers (table 3-1).
const DR: u64 = 0x000;
const RSR: u64 = 0x004;
const FR: u64 = 0x018;
const ILPR: u64 = 0x020;
const IBRD: u64 = 0x024;
const FBRD: u64 = 0x028;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;
const DMACR: u64 = 0x048;
const LAST: u64 = 0xffc;

/// Part number and revision r1p5.
const PART: u16 = 0x011;
const REVISION: u8 = 3;

/// Error bits of a received character in UARTDR; there are no others without a line.
const DR_OVERRUN: u32 = 1 << 11;
const RSR_OVERRUN: u32 = 1 << 3;

/// Flag register.
mod fr {
    pub const CTS: u32 = 1 << 0;
    pub const DSR: u32 = 1 << 1;
    pub const DCD: u32 = 1 << 2;
    pub const BUSY: u32 = 1 << 3;
    pub const RECEIVE_EMPTY: u32 = 1 << 4;
    pub const TRANSMIT_FULL: u32 = 1 << 5;
    pub const RECEIVE_FULL: u32 = 1 << 6;
    pub const TRANSMIT_EMPTY: u32 = 1 << 7;
    pub const RI: u32 = 1 << 8;
    pub const MODEM: u32 = CTS | DSR | DCD | RI;
}

/// Line control register: FIFOs on.
const FEN: u32 = 1 << 4;

/// Control register.
mod cr {
    pub const ENABLE: u32 = 1 << 0;
    pub const LOOPBACK: u32 = 1 << 7;
    pub const TRANSMIT: u32 = 1 << 8;
    pub const RECEIVE: u32 = 1 << 9;
    pub const DTR: u32 = 1 << 10;
    pub const RTS: u32 = 1 << 11;
    pub const OUT1: u32 = 1 << 12;
    pub const OUT2: u32 = 1 << 13;
    /// Bits 3 to 6 are reserved.
    pub const WRITABLE: u32 = 0xff87;
}

/// Interrupts, in UARTIMSC, UARTRIS, UARTMIS and UARTICR.
mod int {
    pub const RI: u32 = 1 << 0;
    pub const CTS: u32 = 1 << 1;
    pub const DCD: u32 = 1 << 2;
    pub const DSR: u32 = 1 << 3;
    pub const RECEIVE: u32 = 1 << 4;
    pub const TRANSMIT: u32 = 1 << 5;
    pub const RECEIVE_TIMEOUT: u32 = 1 << 6;
    pub const OVERRUN: u32 = 1 << 10;
    pub const ALL: u32 = 0x7ff;
}

/// The chip.
pub struct Pl011 {
    irq: Arc<dyn IrqLine>,
    output: Box<dyn SerialOutput>,
    receive: VecDeque<u8>,
    transmit: VecDeque<u8>,
    /// [`SerialPort::input`] left something behind.
    input_waits: bool,
    /// A character was lost since the last one was received: told with the next.
    overrun: bool,
    r: Registers,
}

/// What a reset sets.
struct Registers {
    /// UARTRSR.
    errors: u32,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    ris: u32,
    dmacr: u32,
    /// Modem inputs, as in UARTFR.
    modem: u32,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            errors: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: cr::TRANSMIT | cr::RECEIVE,
            ifls: 0x12,
            imsc: 0,
            ris: 0,
            dmacr: 0,
            modem: fr::CTS | fr::DSR | fr::DCD,
        }
    }
}

impl Pl011 {
    /// After reset, connected: CTS, DSR and DCD asserted.
    pub fn new(irq: Arc<dyn IrqLine>, output: Box<dyn SerialOutput>) -> Self {
        Self {
            irq,
            output,
            receive: VecDeque::with_capacity(FIFO),
            transmit: VecDeque::with_capacity(FIFO),
            input_waits: false,
            overrun: false,
            r: Registers::default(),
        }
    }

    fn fifos_on(&self) -> bool {
        self.r.lcr_h & FEN != 0
    }

    fn capacity(&self) -> usize {
        if self.fifos_on() { FIFO } else { 1 }
    }

    /// Entries that a level of UARTIFLS means: 1/8, 1/4, 1/2, 3/4 and 7/8 of the FIFO; without FIFOs, one.
    fn level(&self, select: u32, alone: usize) -> usize {
        match (self.fifos_on(), select & 7) {
            (false, _) => alone,
            (true, n @ 0..=4) => FIFO * [1, 2, 4, 6, 7][n as usize] / 8,
            (true, _) => FIFO / 2,
        }
    }
    /// Entries in the receive FIFO from which it interrupts.
    fn receive_level(&self) -> usize {
        self.level(self.r.ifls >> 3, 1)
    }
    /// Entries in the transmit FIFO down from which it interrupts.
    fn transmit_level(&self) -> usize {
        self.level(self.r.ifls, 0)
    }

    fn looped(&self) -> bool {
        self.r.cr & cr::LOOPBACK != 0
    }

    /// Characters that the receiver takes from the line: none while it is off or looped, so that they wait and aren't lost.
    fn room(&self) -> usize {
        let on = self.r.cr & (cr::ENABLE | cr::RECEIVE) == cr::ENABLE | cr::RECEIVE;
        if on && !self.looped() { self.capacity().saturating_sub(self.receive.len()) } else { 0 }
    }

    fn offer_room(&mut self) {
        if self.room() > 0 && std::mem::take(&mut self.input_waits) {
            self.output.input_room();
        }
    }

    /// After something came in: there is no line, so whatever is left below the level has timed out.
    fn note_received(&mut self) {
        if self.receive.len() >= self.receive_level() {
            self.r.ris |= int::RECEIVE;
        }
        if self.fifos_on() && !self.receive.is_empty() {
            self.r.ris |= int::RECEIVE_TIMEOUT;
        }
    }

    /// Sends what the output takes. Where the FIFO fell to its level, that interrupts.
    fn drain(&mut self) {
        if self.transmit.is_empty() {
            return;
        }
        let taken = self.output.write(self.transmit.make_contiguous()).min(self.transmit.len());
        self.transmit.drain(..taken);
        if taken > 0 {
            self.note_transmit();
        }
    }

    fn note_transmit(&mut self) {
        if self.transmit.len() <= self.transmit_level() {
            self.r.ris |= int::TRANSMIT;
        } else {
            self.r.ris &= !int::TRANSMIT;
        }
    }

    /// A character for the transmitter. It is sent even while the UART is off, as simple programs expect that never switch it on.
    fn send(&mut self, byte: u8) {
        if self.looped() {
            if self.receive.len() < self.capacity() {
                self.receive.push_back(byte);
                self.note_received();
            } else {
                self.overrun = true;
                self.r.errors |= RSR_OVERRUN;
                self.r.ris |= int::OVERRUN;
            }
            self.r.ris |= int::TRANSMIT;
            return;
        }
        // A guest that sends without a look at TXFF loses what it sends.
        if self.transmit.len() < self.capacity() {
            self.transmit.push_back(byte);
            self.note_transmit();
        }
        self.drain();
    }

    fn take_received(&mut self) -> u32 {
        let Some(byte) = self.receive.pop_front() else { return 0 };
        if self.receive.len() < self.receive_level() {
            self.r.ris &= !int::RECEIVE;
        }
        if self.receive.is_empty() {
            self.r.ris &= !int::RECEIVE_TIMEOUT;
        } else {
            self.note_received();
        }
        self.offer_room();
        u32::from(byte) | if std::mem::take(&mut self.overrun) { DR_OVERRUN } else { 0 }
    }

    fn flags(&mut self) -> u32 {
        self.drain();
        let flag = |is: bool, bit: u32| if is { bit } else { 0 };
        self.r.modem
            | flag(!self.transmit.is_empty(), fr::BUSY)
            | flag(self.transmit.is_empty(), fr::TRANSMIT_EMPTY)
            | flag(self.transmit.len() >= self.capacity(), fr::TRANSMIT_FULL)
            | flag(self.receive.is_empty(), fr::RECEIVE_EMPTY)
            | flag(self.receive.len() >= self.capacity(), fr::RECEIVE_FULL)
    }

    fn set_lcr_h(&mut self, value: u32) {
        let toggled = (self.r.lcr_h ^ value) & FEN != 0;
        self.r.lcr_h = value & 0xff;
        if toggled {
            // The FIFOs become single registers or the other way round. What was still to be sent is, as far as there is room.
            self.drain();
            self.transmit.clear();
            self.receive.clear();
            self.r.ris &= !(int::RECEIVE | int::RECEIVE_TIMEOUT);
            self.offer_room();
        }
    }

    fn set_cr(&mut self, value: u32) {
        self.r.cr = value & cr::WRITABLE;
        let old = self.r.modem;
        self.r.modem = if self.looped() {
            // The outputs come back as inputs (DDI 0183G 2.4.2).
            [(cr::RTS, fr::CTS), (cr::DTR, fr::DSR), (cr::OUT1, fr::DCD), (cr::OUT2, fr::RI)]
                .into_iter()
                .filter(|(output, _)| self.r.cr & output != 0)
                .fold(0, |inputs, (_, input)| inputs | input)
        } else {
            fr::CTS | fr::DSR | fr::DCD
        };
        for (input, interrupt) in
            [(fr::CTS, int::CTS), (fr::DSR, int::DSR), (fr::DCD, int::DCD), (fr::RI, int::RI)]
        {
            if (old ^ self.r.modem) & fr::MODEM & input != 0 {
                self.r.ris |= interrupt;
            }
        }
        self.offer_room();
    }

    fn update_irq(&self) {
        self.irq.set(self.r.ris & self.r.imsc != 0);
    }

    fn register(&mut self, offset: u64) -> u32 {
        match offset {
            DR => self.take_received(),
            RSR => self.r.errors,
            FR => self.flags(),
            ILPR => self.r.ilpr,
            IBRD => self.r.ibrd,
            FBRD => self.r.fbrd,
            LCR_H => self.r.lcr_h,
            CR => self.r.cr,
            IFLS => self.r.ifls,
            IMSC => self.r.imsc,
            RIS => self.r.ris,
            MIS => self.r.ris & self.r.imsc,
            DMACR => self.r.dmacr,
            super::ID..=LAST => identification(offset, PART, REVISION),
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            DR => self.send(value as u8),
            // UARTECR: any value.
            RSR => self.r.errors = 0,
            ILPR => self.r.ilpr = value & 0xff,
            IBRD => self.r.ibrd = value & 0xffff,
            FBRD => self.r.fbrd = value & 0x3f,
            LCR_H => self.set_lcr_h(value),
            CR => self.set_cr(value),
            IFLS => self.r.ifls = value & 0x3f,
            IMSC => self.r.imsc = value & int::ALL,
            ICR => self.r.ris &= !value,
            // There is no DMA controller to ask.
            DMACR => self.r.dmacr = value & 7,
            _ => {}
        }
    }
}

impl SerialPort for Pl011 {
    fn input(&mut self, bytes: &[u8]) -> usize {
        let taken = self.room().min(bytes.len());
        self.receive.extend(&bytes[..taken]);
        self.input_waits = taken < bytes.len();
        if taken > 0 {
            self.note_received();
        }
        self.update_irq();
        taken
    }

    fn output_ready(&mut self) {
        self.drain();
        self.update_irq();
    }

    /// PRESETn. What was still to be sent is sent if there is room, and else lost.
    fn reset(&mut self) {
        self.drain();
        self.receive.clear();
        self.transmit.clear();
        self.overrun = false;
        self.r = Registers::default();
        self.update_irq();
    }
}

impl MmioDevice for Pl011 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_word(offset, data, |register| self.register(register));
        self.update_irq();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(value) = written_word(offset, data) {
            self.set_register(offset, value);
            self.update_irq();
        }
    }
}

#[cfg(test)]
#[path = "pl011_tests.rs"]
mod tests;
