//! The GIC of a guest with virtualization extensions: its distributor, GICv2 (Arm IHI 0048B) or GICv3 (IHI 0069), and where the CPU
//! interface's list registers get their interrupts from.
//!
//! The CPU interfaces themselves (acknowledging, priority masks, end of interrupt) are the hardware's: list registers tell it what is
//! pending and active. So a vCPU's interrupts are in one of two places: here, or, while it runs, in its list registers. [`Gic::fill`]
//! moves them there when it is entered, [`Gic::drain`] back when it has left; in between, other vCPUs' accesses change what is here, and
//! say who must be kicked to see it.
//!
//! - [`bank`]: the state of 32 interrupts
//! - [`list`]: list registers: filling and draining; [`encoding`]: as bits
//! - [`registers`]: the guest's accesses to distributor and redistributors
//! - [`sgi`]: interrupts between vCPUs
//!
//! The caller has a lock around it, one a machine. No function's time depends on more than the constants below.

mod bank;
mod encoding;
mod list;
mod registers;
mod sgi;

pub use list::{Flush, ListRegister, MAX_LIST_REGISTERS};
pub use registers::Frame;

use bank::Bank;

/// vCPUs, at most: as many as a GICv2 has.
pub const MAX_VCPUS: usize = 8;
/// Shared peripheral interrupts: INTIDs 32 to 32 + `SPIS` - 1. A multiple of 32.
pub const SPIS: usize = 96;
/// INTIDs 0 to 15 are software generated, 16 to 31 private to a vCPU.
const PRIVATE: usize = 32;
const SGIS: usize = 16;
/// What is implemented of a priority: its upper 5 bits, as list registers hold.
const PRIORITY: u8 = 0xf8;

/// A set of vCPUs: bit n is vCPU n. Where an operation returns one, these are to be kicked (left, if they run; woken, if they wait for
/// an interrupt); the one that is the cause may be among them.
pub type Vcpus = u8;

/// The architecture's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V2,
    /// With affinity routing, one security state and no LPIs.
    V3,
}

/// What each vCPU has of its own.
#[derive(Clone, Copy, Debug)]
struct Private {
    bank: Bank,
    /// GICv2: whose SGIs are pending, by number. `bank.latch` has a bit for each that isn't 0.
    sources: [Vcpus; SGIS],
    /// GICv2: whose SGI is active, or in a list register.
    source: [u8; SGIS],
    /// The INTIDs in its list registers, the first `loads` of them.
    loaded: [u16; MAX_LIST_REGISTERS],
    loads: u8,
    /// GICR_WAKER.ProcessorSleep.
    asleep: bool,
}

/// One machine's distributor and redistributors.
#[derive(Clone, Debug)]
pub struct Gic {
    version: Version,
    count: u8,
    /// GICD_CTLR's EnableGrp0 and EnableGrp1.
    enable: u32,
    vcpus: [Private; MAX_VCPUS],
    spis: [Bank; SPIS / 32],
    /// GICv2: a set of vCPUs each. GICv3: Aff3 to Aff0, a byte each.
    route: [u32; SPIS],
    /// In whose list registers an SPI is, or where it is active.
    owner: [u8; SPIS],
    /// PPIs whose end the hardware passes on to the physical interrupt of the same number.
    linked: u32,
}

impl Gic {
    /// After reset, for 1 to [`MAX_VCPUS`] vCPUs. On a GICv3 vCPU n has affinity 0.0.0.n.
    pub const fn new(version: Version, vcpus: usize) -> Self {
        let v2 = matches!(version, Version::V2);
        let count = match vcpus {
            0 => 1,
            1..=MAX_VCPUS => vcpus as u8,
            _ => MAX_VCPUS as u8,
        };
        // As firmware leaves it: a GICv3's interrupts are in group 1, a GICv2's SGIs always enabled, SPIs the first vCPU's.
        let group1 = if v2 { 0 } else { !0 };
        let private = Private {
            bank: Bank::new(if v2 { 0xffff } else { 0 }, 0xffff, group1),
            sources: [0; SGIS],
            source: [0; SGIS],
            loaded: [0; MAX_LIST_REGISTERS],
            loads: 0,
            asleep: true,
        };
        Self {
            version,
            count,
            enable: 0,
            vcpus: [private; MAX_VCPUS],
            spis: [Bank::new(0, 0, group1); SPIS / 32],
            route: [if v2 { 1 } else { 0 }; SPIS],
            owner: [0; SPIS],
            linked: 0,
        }
    }

    /// The architecture's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// From now on the level-sensitive PPI `intid` (16 to 31) comes with [`ListRegister::hardware`] instead of with maintenance at its
    /// end: the guest's end of interrupt deactivates the physical interrupt of the same number, which can then fire again.
    pub fn link_ppi(&mut self, intid: u32) {
        if (16..32).contains(&intid) {
            self.linked |= 1 << intid;
        }
    }

    /// A device's output has this level now. INTIDs that aren't SPIs are ignored.
    pub fn set_line(&mut self, intid: u32, level: bool) -> Vcpus {
        let word = intid as usize / 32;
        if word == 0 || self.bank(0, word).is_none() {
            0
        } else {
            self.input(0, word, 1 << (intid % 32), level)
        }
    }

    /// The same of a vCPU's private one, 16 to 31.
    pub fn set_ppi(&mut self, vcpu: usize, intid: u32, level: bool) -> Vcpus {
        if (16..32).contains(&intid) { self.input(vcpu, 0, 1 << intid, level) } else { 0 }
    }

    fn input(&mut self, vcpu: usize, word: usize, mask: u32, level: bool) -> Vcpus {
        let Some(bank) = self.bank_mut(vcpu, word) else { return 0 };
        // One that falls while in a list register is taken back when the vCPU leaves next: no reason to make it.
        let rose = bank.input(mask, level) && level;
        if rose { self.kicks(vcpu, word, mask) } else { 0 }
    }

    /// Whether something is pending that would be sent to this vCPU: it has to be woken from WFI. For one that doesn't run.
    pub fn wants(&self, vcpu: usize) -> bool {
        let mut wants = false;
        self.candidates(vcpu, |c| wants |= !c.active);
        wants
    }

    /// vCPU numbers are the caller's own; one that is out of range is some other one rather than a panic at EL2.
    fn private(&self, vcpu: usize) -> &Private {
        &self.vcpus[vcpu % MAX_VCPUS]
    }

    fn private_mut(&mut self, vcpu: usize) -> &mut Private {
        &mut self.vcpus[vcpu % MAX_VCPUS]
    }

    /// INTIDs 32 * `word` and up, as seen by `vcpu`.
    fn bank(&self, vcpu: usize, word: usize) -> Option<&Bank> {
        match word {
            0 => Some(&self.private(vcpu).bank),
            _ => self.spis.get(word - 1),
        }
    }

    fn bank_mut(&mut self, vcpu: usize, word: usize) -> Option<&mut Bank> {
        match word {
            0 => Some(&mut self.private_mut(vcpu).bank),
            _ => self.spis.get_mut(word - 1),
        }
    }

    /// All vCPUs of this machine.
    fn everyone(&self) -> Vcpus {
        (!0u16 >> (16 - self.count)) as Vcpus
    }

    /// Where an SPI goes.
    fn targets(&self, spi: usize) -> Vcpus {
        match (self.version, self.route[spi]) {
            (Version::V2, mask) => mask as Vcpus,
            (Version::V3, affinity) if affinity < self.count as u32 => 1 << affinity,
            _ => 0,
        }
    }

    /// Who must look at these interrupts after a change: who has them in list registers, or who could get them.
    fn kicks(&self, vcpu: usize, word: usize, mask: u32) -> Vcpus {
        let Some(bank) = self.bank(vcpu, word) else { return 0 };
        let ready = bank.waiting(self.enable) & !bank.active;
        if word == 0 {
            return if (ready | bank.held) & mask != 0 { 1 << (vcpu % MAX_VCPUS) } else { 0 };
        }
        bits((ready | bank.held) & mask).fold(0, |kick, bit| {
            let spi = (word - 1) * 32 + bit as usize;
            kick | if bank.held & 1 << bit != 0 { 1 << self.owner[spi] } else { self.targets(spi) }
        })
    }
}

/// The numbers of the bits that are set, from the lowest.
fn bits(mut set: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (bit < 32).then_some(bit)
    })
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
