//! The pc's ports and interrupt lines, as its wiring, its firmware tables and its PCI windows share them.

use devices::legacy::{pm, uart16550};

/// First port of ACPI power management (PIIX4 PMBA).
pub const PM_BASE: u16 = pm::DEFAULT_BASE;
pub const PM1A_EVENT: u16 = PM_BASE + pm::PM1_EVENT;
pub const PM1A_CONTROL: u16 = PM_BASE + pm::PM1_CONTROL;
pub const PM_TIMER: u16 = PM_BASE + pm::PM_TIMER;
pub const GPE0: u16 = PM_BASE + pm::GPE0;

/// Reset control register, and the value that pulls RESET#.
pub const RESET_CONTROL: u16 = 0xcf9;
pub const RESET_VALUE: u8 = 0x06;

pub use uart16550::COM1;

/// ISA interrupt numbers.
pub mod irq {
    pub const TIMER: u8 = 0;
    pub const KEYBOARD: u8 = 1;
    pub const COM1: u8 = 4;
    pub const RTC: u8 = 8;
    /// System control interrupt of ACPI, a level.
    pub const SCI: u8 = 9;
}

/// I/O APIC pin of ISA interrupt 0; all others have their own number's.
pub const TIMER_PIN: u8 = 2;
/// I/O APIC pin of PIRQA#; the other three follow.
pub const PIRQ_PIN: u8 = 16;
/// Level-triggered ISA interrupts as firmware sets ELCR: SCI, and the two that PIRQ lines are routed to.
pub const LEVEL_IRQS: u16 = 1 << 9 | 1 << 10 | 1 << 11;

/// Ports that PCI functions' registers are placed in.
pub const PCI_IO_WINDOW: std::ops::Range<u32> = 0xc000..0x1_0000;
