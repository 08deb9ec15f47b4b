//! From linear to guest-physical addresses.

use crate::cpu::Cpu;
use crate::fault::Guest;
use x86::Cr0;

/// What an access is, for the page walk's permission checks.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub write: bool,
    pub fetch: bool,
    /// Privilege, as the TLB to be filled: [`crate::tlb::USER`] and so on. For fetches USER means CPL 3, any other supervisor.
    pub select: u8,
}

/// What a page walk found.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// Guest-physical address of the byte asked for.
    pub physical: u64,
    /// A store with the same privilege needs no further walk: writable, and the dirty bit is set.
    pub writable: bool,
}

impl Cpu {
    /// Walks the page tables: permission checks, accessed and dirty bits; raises #PF.
    pub fn translate(&mut self, linear: u64, _access: Access) -> Guest<Translation> {
        if !self.cr0.contains(Cr0::PG) {
            return Ok(Translation { physical: linear & 0xffff_ffff, writable: true });
        }
        self.ud()
    }
}
