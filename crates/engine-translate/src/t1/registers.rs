//! Where the guest's general registers are.

use super::asm::Mem;
use crate::cpu::Cpu;
use iced_x86::Register;
use std::mem::offset_of;

/// A guest register's place while translated code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A host register, by number.
    Host(u8),
    /// [`Cpu::regs`], by index.
    Slot(u8),
}

/// The place of guest register `n`, 0 to 15. Compilers use R8 to R11 least, by far: nothing survives a call in them.
pub fn place(n: u8) -> Place {
    match n {
        0 => Place::Host(12),
        4 => Place::Host(13),
        8..=11 => Place::Slot(n),
        12.. => Place::Host(n - 4),
        _ => Place::Host(n),
    }
}

/// Guest registers that are in host registers, with those.
pub const MAPPED: [(u8, u8); 12] =
    [(0, 12), (1, 1), (2, 2), (3, 3), (4, 13), (5, 5), (6, 6), (7, 7), (12, 8), (13, 9), (14, 10), (15, 11)];

/// The host registers of the guest's RSP and RAX.
pub const STACK: u8 = 13;
pub const ACCUMULATOR: u8 = 12;

/// A guest register's field in the vCPU.
pub const fn slot(n: u8) -> Mem {
    Mem::cpu(offset_of!(Cpu, regs) + n as usize * 8)
}

/// Number of a general register; `None` for AH, CH, DH, BH and what is no general register.
pub fn number(r: Register) -> Option<u8> {
    let high = matches!(r, Register::AH | Register::CH | Register::DH | Register::BH);
    (r.is_gpr() && !high).then(|| r.full_register().number() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_registers_have_their_places_and_no_scratch_register() {
        for n in 0..16 {
            let host = MAPPED.iter().find(|(guest, _)| *guest == n).map(|(_, host)| *host);
            assert_eq!(place(n), host.map_or(Place::Slot(n), Place::Host));
        }
        for (_, host) in MAPPED {
            // RAX, R14, R15 and the host's RSP.
            assert!(![0, 4, 14, 15].contains(&host));
            assert_eq!(MAPPED.iter().filter(|(_, h)| *h == host).count(), 1);
        }
    }
}
