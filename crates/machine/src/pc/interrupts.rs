//! The interrupt lines of the board, its 8259 pair and its I/O APIC.
//!
//! Devices drive lines with their own locks held, so [`Interrupts::chips`] comes after them. The engine is called with
//! no lock but [`Interrupts::intr`] held, which nothing else is taken under but `chips` for a moment: an engine may call
//! [`Interrupts::acknowledge`] or [`Interrupts::end_of_interrupt`] at any time.

use super::io_map::{PIRQ_PIN, TIMER_PIN, irq};
use devices::wiring::{IrqLine, MsiSink, PortDevice};
use engine::{Msi, Vm};
use irqchip::pic8259::port as pic_port;
use irqchip::{IoApic, Pic8259};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Interrupt lines: ISA's 16, then PIRQA# to PIRQD# as they reach the I/O APIC.
const LINES: usize = 20;

struct Chips {
    pic: Pic8259,
    io_apic: IoApic,
    /// By line, who asserts it: one bit a source, since lines are shared.
    asserted: [u64; LINES],
    sources: [u32; LINES],
}

/// The board's interrupt controllers.
pub struct Interrupts {
    vm: Arc<dyn Vm>,
    chips: Mutex<Chips>,
    /// The level that the engine was last told of INTR. Held while it is told, so that levels come in order.
    intr: Mutex<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Interrupts {
    /// At power-on; `io_apic_id` is the I/O APIC's.
    pub fn new(vm: Arc<dyn Vm>, io_apic_id: u8) -> Arc<Self> {
        let chips = Chips {
            pic: Pic8259::new(),
            io_apic: IoApic::new(io_apic_id),
            asserted: [0; LINES],
            sources: [0; LINES],
        };
        Arc::new(Self { vm, chips: Mutex::new(chips), intr: Mutex::new(false) })
    }

    /// A new source of ISA interrupt `number`, 0 to 15: it reaches the 8259s and the I/O APIC.
    pub fn isa_line(self: &Arc<Self>, number: u8) -> Arc<dyn IrqLine> {
        self.line(usize::from(number.min(15)))
    }

    /// A new source of PIRQ line `index`, 0 to 3, at the I/O APIC.
    pub fn pirq_line(self: &Arc<Self>, index: u8) -> Arc<dyn IrqLine> {
        self.line(16 + usize::from(index.min(3)))
    }

    fn line(self: &Arc<Self>, line: usize) -> Arc<dyn IrqLine> {
        let mut chips = lock(&self.chips);
        let source = chips.sources[line];
        chips.sources[line] += 1;
        assert!(source < 64, "a board has a fixed handful of sources for each line");
        Arc::new(Line { interrupts: self.clone(), line, bit: 1 << source })
    }

    /// RESET#, and what firmware does after it: the 8259s initialized with the BIOS's vectors, every input masked; ELCR
    /// with a bit of `level` for each ISA interrupt.
    pub fn reset(&self, level: u16) {
        {
            let mut chips = lock(&self.chips);
            chips.pic.reset();
            chips.io_apic.reset();
            // ICW1 to ICW4, then the mask: cascade at input 2, 8086 mode.
            for (command, data, icw2, icw3) in [
                (pic_port::MASTER_COMMAND, pic_port::MASTER_DATA, 0x08, 1 << 2),
                (pic_port::SLAVE_COMMAND, pic_port::SLAVE_DATA, 0x70, 2),
            ] {
                chips.pic.write(command, 0x11);
                [icw2, icw3, 0x01, 0xff].iter().for_each(|&value| chips.pic.write(data, value));
            }
            let [low, high] = level.to_le_bytes();
            chips.pic.write(pic_port::MASTER_ELCR, low);
            chips.pic.write(pic_port::SLAVE_ELCR, high);
        }
        self.update_intr();
    }

    fn set(&self, line: usize, bit: u64, high: bool) {
        let mut messages = Messages::default();
        {
            let mut chips = lock(&self.chips);
            let before = chips.asserted[line];
            let after = if high { before | bit } else { before & !bit };
            chips.asserted[line] = after;
            if (before != 0) == (after != 0) {
                return;
            }
            let level = after != 0;
            if line < 16 {
                chips.pic.set_line(line as u8, level);
            }
            let pin = match line {
                0 => usize::from(TIMER_PIN),
                1..16 => line,
                _ => usize::from(PIRQ_PIN) + line - 16,
            };
            chips.io_apic.set_line(pin, level, &mut messages.sink());
        }
        messages.send(&*self.vm);
        if line < 16 {
            self.update_intr();
        }
    }

    /// INTA: the vector, `None` where no 8259 asks any more.
    pub fn acknowledge(&self) -> Option<u8> {
        let vector = {
            let mut chips = lock(&self.chips);
            chips.pic.output().then(|| chips.pic.acknowledge())
        };
        self.update_intr();
        vector
    }

    /// EOI broadcast of a local APIC.
    pub fn end_of_interrupt(&self, vector: u8) {
        let mut messages = Messages::default();
        lock(&self.chips).io_apic.end_of_interrupt(vector, &mut messages.sink());
        messages.send(&*self.vm);
    }

    /// A load from the I/O APIC's registers: any part of one that lies in one 32-bit register.
    pub fn io_apic_read(&self, offset: u32, data: &mut [u8]) {
        let register = lock(&self.chips).io_apic.read(offset & !3).to_le_bytes();
        data.fill(0xff);
        for (to, from) in data.iter_mut().zip(register.iter().skip(offset as usize & 3)) {
            *to = *from;
        }
    }

    /// A store to them; only whole registers, and bytes of the select register, can be written.
    pub fn io_apic_write(&self, offset: u32, data: &[u8]) {
        let value = match *data {
            [a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]),
            [a, ..] if offset == 0 => u32::from(a),
            _ => return,
        };
        let mut messages = Messages::default();
        lock(&self.chips).io_apic.write(offset, value, &mut messages.sink());
        messages.send(&*self.vm);
    }

    fn pic<R>(&self, f: impl FnOnce(&mut Pic8259) -> R) -> R {
        let result = f(&mut lock(&self.chips).pic);
        self.update_intr();
        result
    }

    fn update_intr(&self) {
        let mut told = lock(&self.intr);
        let level = lock(&self.chips).pic.output();
        if *told != level {
            *told = level;
            if let Err(e) = self.vm.set_line(0, level) {
                log::error!("the engine could not take the level of INTR: {e}");
            }
        }
    }
}

/// Interrupt messages on their way out: at most one for each pin.
#[derive(Default)]
struct Messages(Vec<(u64, u32)>);

impl Messages {
    fn sink(&mut self) -> impl FnMut(u64, u32) + '_ {
        |address, data| self.0.push((address, data))
    }
    fn send(self, vm: &dyn Vm) {
        self.0.into_iter().for_each(|(address, data)| signal(vm, address, data));
    }
}

fn signal(vm: &dyn Vm, address: u64, data: u32) {
    if let Err(e) = vm.signal_msi(Msi { address, data }) {
        log::debug!("the engine could not deliver an interrupt message: {e}");
    }
}

impl MsiSink for Interrupts {
    fn signal(&self, address: u64, data: u32) {
        signal(&*self.vm, address, data);
    }
}

struct Line {
    interrupts: Arc<Interrupts>,
    line: usize,
    bit: u64,
}

impl IrqLine for Line {
    fn set(&self, high: bool) {
        self.interrupts.set(self.line, self.bit, high);
    }
}

/// The 8259s' ports, from `first` on.
pub struct PicPorts {
    pub interrupts: Arc<Interrupts>,
    pub first: u16,
}

impl PortDevice for PicPorts {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        for (port, byte) in (self.first.wrapping_add(offset)..).zip(data) {
            *byte = self.interrupts.pic(|pic| pic.read(port));
        }
    }
    fn write(&mut self, offset: u16, data: &[u8]) {
        for (port, &byte) in (self.first.wrapping_add(offset)..).zip(data) {
            self.interrupts.pic(|pic| pic.write(port, byte));
        }
    }
}

// What the tables say and what is wired.
const _: () = assert!(irq::TIMER == 0 && PIRQ_PIN as usize + 4 <= irqchip::io_apic::PINS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pc::memory_map::MemoryMap;
    use engine::fake::{FakeEngine, FakeVm};
    use engine::{Arch, Engine, VmConfig};

    fn board() -> (Arc<Interrupts>, Arc<FakeVm>) {
        let memory = Arc::new(MemoryMap::new(1 << 20).unwrap().allocate().unwrap());
        let engine = FakeEngine::default();
        let vm = engine.create_vm(VmConfig { arch: Arch::X86, vcpus: 1, memory, gic: None }).unwrap();
        let i = Interrupts::new(vm, 1);
        i.reset(1 << 10);
        (i, engine.vm().unwrap())
    }

    fn redirect(i: &Interrupts, pin: u32, entry: u32) {
        i.io_apic_write(0, &(0x10 + pin * 2).to_le_bytes());
        i.io_apic_write(0x10, &entry.to_le_bytes());
    }

    #[test]
    fn shared_line_falls_when_its_last_source_lets_go() {
        let (i, vm) = board();
        let (a, b) = (i.isa_line(10), i.isa_line(10));
        i.pic(|p| p.write(pic_port::SLAVE_DATA, !(1 << 2)));
        i.pic(|p| p.write(pic_port::MASTER_DATA, !(1 << 2)));
        a.set(true);
        b.set(true);
        b.set(true);
        a.set(false);
        assert_eq!(vm.line_changes(), [(0, true)]);
        b.set(false);
        assert_eq!(vm.line_changes(), [(0, true), (0, false)]);
        assert_eq!(i.acknowledge(), None, "the request has gone away");
    }

    #[test]
    fn line_reaches_8259s_at_bios_vectors_and_io_apic_at_its_pin() {
        let (i, vm) = board();
        redirect(&i, 10, 0x8041);
        i.pic(|p| p.write(pic_port::SLAVE_DATA, !(1 << 2)));
        i.pic(|p| p.write(pic_port::MASTER_DATA, !(1 << 2)));
        i.isa_line(10).set(true);
        assert_eq!(i.acknowledge(), Some(0x72));
        assert_eq!(vm.msis().iter().map(|m| m.data & 0xff).collect::<Vec<_>>(), [0x41]);
        // Level-triggered and still high: it comes again at the end of interrupt.
        i.end_of_interrupt(0x41);
        assert_eq!(vm.msis().len(), 2);
    }

    #[test]
    fn pirq_line_reaches_only_its_io_apic_pin() {
        let (i, vm) = board();
        redirect(&i, 17, 0xa052);
        i.pic(|p| p.write(pic_port::MASTER_DATA, 0));
        i.pirq_line(1).set(true);
        assert_eq!((vm.msis().len(), vm.line_changes().len()), (1, 0));
    }

    #[test]
    fn io_apic_registers_take_odd_accesses() {
        let (i, _vm) = board();
        i.io_apic_write(0, &[1]);
        let mut byte = [0];
        i.io_apic_read(0x12, &mut byte);
        assert_eq!(byte, [23], "highest entry, in bits 23:16 of the version");
        let mut wide = [0; 8];
        i.io_apic_read(0x10, &mut wide);
        assert_eq!(wide, [0x20, 0, 23, 0, 0xff, 0xff, 0xff, 0xff]);
        for offset in 0..0x1000 {
            i.io_apic_write(offset, &[0xff; 8]);
            i.io_apic_read(offset, &mut [0; 3]);
            i.io_apic_write(offset, &[]);
        }
    }
}
