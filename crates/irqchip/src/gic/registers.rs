//! The guest's accesses to the distributor's and redistributors' registers.
//!
//! GICv2: IHI 0048B 4.3. GICv3: IHI 0069 chapter 12, with affinity routing always on and one security state (GICD_CTLR.DS).
//! What isn't there, or is accessed with a size that it doesn't have, reads as zero and ignores writes.

use core::ops::Range;

use super::{Gic, MAX_VCPUS, PRIORITY, PRIVATE, SPIS, Vcpus, Version, bits};

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The distributor.
    Distributor,
    /// GICv3: all vCPUs' redistributors, 128 KiB each, RD_base before SGI_base.
    Redistributors,
}

/// Implementer Arm, product 'A': nothing that a driver has a workaround for.
const IIDR: u32 = 0x4100_043b;
/// Where a redistributor's registers of SGIs and PPIs begin.
const SGI_BASE: u64 = 0x1_0000;

/// Registers with a bit an interrupt.
#[derive(Clone, Copy, Debug)]
enum Bits {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

/// A register, or the part of one that an access is to.
#[derive(Clone, Copy, Debug)]
enum Register {
    Control,
    Constant(u32),
    /// 32 interrupts, from 32 * this.
    Bits(Bits, usize),
    /// From this INTID on, a byte each.
    Priority(usize),
    Target(usize),
    /// 16 interrupts from this on.
    Configuration(usize),
    SendSgi,
    /// GICD_CPENDSGIR and GICD_SPENDSGIR, from this SGI on.
    ClearSgi(usize),
    SetSgi(usize),
    /// GICD_IROUTER of this SPI, counted from 0; from this bit on.
    Route(usize, u32),
    /// GICR_TYPER, from this bit on.
    RedistributorType(u32),
    Waker,
}

impl Gic {
    /// What a load by `vcpu` gives.
    pub fn read(&self, vcpu: usize, frame: Frame, offset: u64, size: u8) -> (u64, Vcpus) {
        let Some((register, of)) = self.decode(vcpu, frame, offset, size) else { return (0, 0) };
        let bytes = |at: &dyn Fn(usize) -> u8| {
            (0..size as usize).fold(0, |value, n| value | (at(n) as u64) << (8 * n))
        };
        let value = match register {
            Register::Control => match self.version {
                Version::V2 => self.enable as u64,
                // ARE, DS.
                Version::V3 => self.enable as u64 | 0x50,
            },
            Register::Constant(value) => value as u64,
            Register::Bits(kind, word) => return self.read_bits(of, kind, word),
            Register::Priority(intid) => {
                bytes(&|n| self.bank(of, intid / 32).map_or(0, |bank| bank.priority[(intid + n) % 32]))
            }
            Register::Target(intid) => bytes(&|n| match (intid + n).checked_sub(PRIVATE) {
                Some(spi) => self.targets(spi),
                None => 1 << of,
            }),
            Register::Configuration(intid) => {
                let edge = self.bank(of, intid / 32).map_or(0, |bank| bank.edge >> (intid % 32));
                bits(edge & 0xffff).fold(0, |value, bit| value | 2 << (2 * bit))
            }
            Register::SendSgi => 0,
            Register::ClearSgi(sgi) | Register::SetSgi(sgi) => bytes(&|n| self.sgi_sources(of, sgi + n)),
            Register::Route(spi, shift) => {
                let route = self.route[spi] as u64;
                ((route >> 24) << 32 | route & 0xff_ffff) >> shift
            }
            Register::RedistributorType(shift) => {
                let last = of + 1 == self.count as usize;
                ((of as u64) << 32 | (of as u64) << 8 | (last as u64) << 4) >> shift
            }
            Register::Waker => self.private(of).asleep as u64 * 6,
        };
        (if size < 8 { value & 0xffff_ffff } else { value }, 0)
    }

    fn read_bits(&self, of: usize, kind: Bits, word: usize) -> (u64, Vcpus) {
        let Some(bank) = self.bank(of, word) else { return (0, 0) };
        let value = match kind {
            Bits::Group => bank.group1,
            Bits::SetEnable | Bits::ClearEnable => bank.enabled,
            Bits::SetPending | Bits::ClearPending => bank.pending() | bank.carried,
            Bits::SetActive | Bits::ClearActive => {
                // Someone may wait for the end of one: those that have it tell by leaving.
                return ((bank.active | bank.held_active) as u64, self.kicks(of, word, bank.held_active));
            }
        };
        (value as u64, 0)
    }

    /// A store by `vcpu` does what it does.
    pub fn write(&mut self, vcpu: usize, frame: Frame, offset: u64, size: u8, value: u64) -> Vcpus {
        let Some((register, of)) = self.decode(vcpu, frame, offset, size) else { return 0 };
        let word = value as u32;
        let byte = |n: usize| (value >> (8 * n)) as u8;
        let bytes = 0..size as usize;
        match register {
            Register::Control => {
                let changed = self.enable != word & 3;
                self.enable = word & 3;
                if changed { self.everyone() } else { 0 }
            }
            Register::Bits(kind, index) => self.write_bits(of, kind, index, word),
            Register::Priority(intid) => {
                if let Some(bank) = self.bank_mut(of, intid / 32) {
                    bytes.for_each(|n| bank.priority[(intid + n) % 32] = byte(n) & PRIORITY);
                }
                0
            }
            Register::Target(intid) => bytes.fold(0, |kick, n| match (intid + n).checked_sub(PRIVATE) {
                Some(spi) => kick | self.set_route(spi, (byte(n) & self.everyone()) as u32),
                None => kick,
            }),
            Register::Configuration(intid) => {
                if let Some(bank) = self.bank_mut(of, intid / 32) {
                    for n in 0..16 {
                        let mask = 1 << (intid % 32 + n);
                        // SGIs are edges, always.
                        let edge = intid + n < 16 || word >> (2 * n + 1) & 1 != 0;
                        bank.edge = if edge { bank.edge | mask } else { bank.edge & !mask };
                    }
                }
                self.kicks(of, intid / 32, 0xffff << (intid % 32))
            }
            Register::SendSgi => self.sgir(of, word),
            Register::ClearSgi(sgi) => {
                bytes.for_each(|n| self.clear_sgi(of, sgi + n, byte(n)));
                0
            }
            Register::SetSgi(sgi) => {
                bytes.fold(0, |kick, n| kick | self.set_sgi(of, sgi + n, byte(n) & self.everyone()))
            }
            Register::Route(spi, shift) => {
                let old = self.route[spi];
                let low = if shift == 0 { word & 0xff_ffff } else { old & 0xff_ffff };
                let high = match (shift, size) {
                    (0, 4) => old >> 24,
                    (0, _) => (value >> 32) as u32 & 0xff,
                    _ => word & 0xff,
                };
                self.set_route(spi, high << 24 | low)
            }
            Register::Waker => {
                self.private_mut(of).asleep = word & 2 != 0;
                0
            }
            Register::Constant(_) | Register::RedistributorType(_) => 0,
        }
    }

    fn set_route(&mut self, spi: usize, route: u32) -> Vcpus {
        self.route[spi] = route;
        self.kicks(0, 1 + spi / 32, 1 << (spi % 32))
    }

    fn write_bits(&mut self, of: usize, kind: Bits, word: usize, value: u32) -> Vcpus {
        // GICv2 has other registers for SGIs' pending state.
        let latches = if word == 0 && self.version == Version::V2 { value & !0xffff } else { value };
        if matches!(kind, Bits::SetActive) && word > 0 {
            self.own(word, value);
        }
        let Some(bank) = self.bank_mut(of, word) else { return 0 };
        let before = *bank;
        let changed = match kind {
            Bits::Group => core::mem::replace(&mut bank.group1, value) ^ value,
            Bits::SetEnable => {
                bank.enabled |= value;
                value & !before.enabled
            }
            Bits::ClearEnable => {
                bank.enabled &= !value;
                value & before.enabled
            }
            Bits::SetPending => {
                bank.latch |= latches;
                latches
            }
            Bits::ClearPending => {
                bank.latch &= !latches;
                bank.carried &= !latches;
                latches & before.carried
            }
            Bits::SetActive => {
                bank.active |= value & !before.held_active;
                value & !before.held_active
            }
            Bits::ClearActive => {
                bank.deactivate(value);
                value
            }
        };
        self.kicks(of, word, changed)
    }

    /// SPIs that become active by a register are their first target's, where they aren't someone's.
    fn own(&mut self, word: usize, mask: u32) {
        let Some(bank) = self.bank(0, word) else { return };
        for bit in bits(mask & !bank.active & !bank.held) {
            let spi = (word - 1) * 32 + bit as usize;
            self.owner[spi] = (self.targets(spi).trailing_zeros() as usize % MAX_VCPUS) as u8;
        }
    }

    /// Which register an access is to, and whose.
    fn decode(&self, vcpu: usize, frame: Frame, offset: u64, size: u8) -> Option<(Register, usize)> {
        // No remainder, which a 32-bit processor has to work out at length.
        if !matches!(size, 1 | 4 | 8) || offset & (size as u64 - 1) != 0 {
            return None;
        }
        let (register, of) = match (frame, self.version) {
            (Frame::Distributor, Version::V2) => (self.distributor_v2(offset)?, vcpu % MAX_VCPUS),
            (Frame::Distributor, Version::V3) => (Self::distributor_v3(offset)?, vcpu % MAX_VCPUS),
            (Frame::Redistributors, Version::V2) => return None,
            (Frame::Redistributors, Version::V3) => {
                let of = usize::try_from(offset >> 17).ok().filter(|n| *n < self.count as usize)?;
                match offset & 0x1_ffff {
                    at @ ..SGI_BASE => (Self::redistributor(at)?, of),
                    at => (interrupts(at - SGI_BASE, 0..1)?, of),
                }
            }
        };
        let fits = match register {
            Register::Priority(_) | Register::Target(_) | Register::ClearSgi(_) | Register::SetSgi(_) => {
                size <= 4
            }
            Register::Route(..) | Register::RedistributorType(_) => size >= 4,
            _ => size == 4,
        };
        fits.then_some((register, of))
    }

    fn distributor_v2(&self, offset: u64) -> Option<Register> {
        Some(match offset {
            0x000 => Register::Control,
            // CPUNumber, ITLinesNumber.
            0x004 => Register::Constant((self.count as u32 - 1) << 5 | (WORDS as u32 - 1)),
            0x008 => Register::Constant(IIDR),
            0x800..0xc00 => Register::Target(in_range(offset - 0x800, 0..WORDS)?),
            0xf00 => Register::SendSgi,
            0xf10..0xf20 => Register::ClearSgi((offset - 0xf10) as usize),
            0xf20..0xf30 => Register::SetSgi((offset - 0xf20) as usize),
            // ICPIDR2: architecture 2.
            0xfe8 => Register::Constant(0x2b),
            0xff0..0x1000 => component(offset - 0xff0),
            _ => return interrupts(offset, 0..WORDS),
        })
    }

    fn distributor_v3(offset: u64) -> Option<Register> {
        Some(match offset {
            0x0000 => Register::Control,
            // No1N, 10 bits of INTID, ITLinesNumber.
            0x0004 => Register::Constant(1 << 25 | 9 << 19 | (WORDS as u32 - 1)),
            0x0008 => Register::Constant(IIDR),
            0x6100..0x8000 => {
                let spi = ((offset - 0x6100) / 8) as usize;
                return (spi < SPIS).then_some(Register::Route(spi, (offset % 8 * 8) as u32));
            }
            0xffe8 => Register::Constant(PIDR2_V3),
            0xfff0..0x1_0000 => component(offset - 0xfff0),
            _ => return interrupts(offset, 1..WORDS),
        })
    }

    /// RD_base. GICR_CTLR has nothing without LPIs.
    fn redistributor(offset: u64) -> Option<Register> {
        Some(match offset {
            0x0004 => Register::Constant(IIDR),
            0x0008 | 0x000c => Register::RedistributorType((offset % 8 * 8) as u32),
            0x0014 => Register::Waker,
            0xffe8 => Register::Constant(PIDR2_V3),
            0xfff0..0x1_0000 => component(offset - 0xfff0),
            _ => return None,
        })
    }
}

/// Words of bit registers.
const WORDS: usize = 1 + SPIS / 32;
/// GICD_PIDR2, GICR_PIDR2: architecture 3.
const PIDR2_V3: u32 = 0x3b;

/// Component identification, the same of both versions and all frames.
fn component(offset: u64) -> Register {
    Register::Constant([0x0d, 0xf0, 0x05, 0xb1][(offset / 4 % 4) as usize])
}

/// `at`, as the INTID it is, if that is in one of these words.
fn in_range(at: u64, words: Range<usize>) -> Option<usize> {
    usize::try_from(at).ok().filter(|intid| words.contains(&(intid / 32)))
}

/// The registers with a field an interrupt, which distributors and SGI_base have at the same offsets.
fn interrupts(offset: u64, words: Range<usize>) -> Option<Register> {
    let kind = match offset {
        0x080..0x100 => Bits::Group,
        0x100..0x180 => Bits::SetEnable,
        0x180..0x200 => Bits::ClearEnable,
        0x200..0x280 => Bits::SetPending,
        0x280..0x300 => Bits::ClearPending,
        0x300..0x380 => Bits::SetActive,
        0x380..0x400 => Bits::ClearActive,
        0x400..0x800 => return in_range(offset - 0x400, words).map(Register::Priority),
        0xc00..0xd00 => return in_range((offset - 0xc00) * 4, words).map(Register::Configuration),
        _ => return None,
    };
    let word = (offset % 0x80 / 4) as usize;
    words.contains(&word).then_some(Register::Bits(kind, word))
}
