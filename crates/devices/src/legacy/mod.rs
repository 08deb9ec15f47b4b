//! The PC's own chips, one a file. Each says which ports it expects to be given.

pub mod debug_exit;
pub mod debugcon;
pub mod i8042;
pub mod pit8254;
mod pit_channel;
pub mod pm;
pub mod port92;
pub mod post_code;
pub mod ps2_keyboard;
pub mod reset_control;
pub mod rtc;
mod rtc_calendar;
pub mod speaker;
pub mod uart16550;

pub use debug_exit::DebugExit;
pub use debugcon::DebugCon;
pub use i8042::I8042;
pub use pit8254::Pit8254;
pub use pm::{AcpiPm, SmiCommand};
pub use port92::Port92;
pub use post_code::PostCode;
pub use reset_control::ResetControl;
pub use rtc::Rtc;
pub use speaker::Speaker;
pub use uart16550::Uart16550;

/// A write to a device of 8-bit registers, as an ISA bus splits it: each byte to the next offset.
fn each_byte(offset: u16, data: &[u8]) -> impl Iterator<Item = (u16, u8)> + '_ {
    data.iter().enumerate().map(move |(index, &byte)| (offset.wrapping_add(index as u16), byte))
}

/// A read from a device of 8-bit registers: each byte from the next offset.
fn fill_bytes(offset: u16, data: &mut [u8], mut read: impl FnMut(u16) -> u8) {
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = read(offset.wrapping_add(index as u16));
    }
}
