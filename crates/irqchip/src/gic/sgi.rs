//! Software generated interrupts: from a vCPU to others of its machine.

use super::{Gic, MAX_VCPUS, Vcpus, Version, bits};

impl Gic {
    /// A write of ICC_SGI1R_EL1 (IHI 0069 chapter 12), trapped. SGIs that the target has in group 0 aren't sent.
    pub fn sgi1r(&mut self, source: usize, value: u64) -> Vcpus {
        let targets = if value & 1 << 40 != 0 {
            // IRM: everyone else.
            self.everyone() & !(1 << (source % MAX_VCPUS))
        } else if value & 0x00ff_f0ff_00ff_0000 == 0 {
            value as Vcpus
        } else {
            // Aff3, Aff2, Aff1 or the range selector isn't that of any of ours.
            0
        };
        let sgi = (value >> 24 & 0xf) as usize;
        let group1 = bits(targets as u32).filter(|v| self.private(*v as usize).bank.group1 >> sgi & 1 != 0);
        let targets = group1.fold(0, |set, v| set | 1 << v);
        self.send_sgi(source, targets, sgi)
    }

    /// A write of GICD_SGIR (IHI 0048B 4.3).
    pub(super) fn sgir(&mut self, source: usize, value: u32) -> Vcpus {
        let own = 1 << (source % MAX_VCPUS);
        let targets = match value >> 24 & 3 {
            0 => (value >> 16) as Vcpus,
            1 => !own,
            2 => own,
            _ => 0,
        };
        self.send_sgi(source, targets, (value & 0xf) as usize)
    }

    fn send_sgi(&mut self, source: usize, targets: Vcpus, sgi: usize) -> Vcpus {
        bits((targets & self.everyone()) as u32)
            .fold(0, |kick, target| kick | self.set_sgi(target as usize, sgi, 1 << (source % MAX_VCPUS)))
    }

    /// Makes SGIs of these vCPUs pending for `target`.
    pub(super) fn set_sgi(&mut self, target: usize, sgi: usize, sources: Vcpus) -> Vcpus {
        let v2 = self.version == Version::V2;
        let private = self.private_mut(target);
        if sources != 0 {
            private.bank.latch |= 1 << sgi;
        }
        if v2 {
            private.sources[sgi] |= sources;
        }
        if sources == 0 { 0 } else { self.kicks(target, 0, 1 << sgi) }
    }

    /// GICv2: makes them not pending any more, also the one in a list register.
    pub(super) fn clear_sgi(&mut self, target: usize, sgi: usize, sources: Vcpus) {
        let private = self.private_mut(target);
        private.sources[sgi] &= !sources;
        if private.sources[sgi] == 0 {
            private.bank.latch &= !(1 << sgi);
        }
        if sources >> private.source[sgi] & 1 != 0 {
            private.bank.carried &= !(1 << sgi);
        }
    }

    /// GICv2: whose are pending.
    pub(super) fn sgi_sources(&self, target: usize, sgi: usize) -> Vcpus {
        let private = self.private(target);
        let held = if private.bank.carried >> sgi & 1 != 0 { 1 << private.source[sgi] } else { 0 };
        private.sources[sgi] | held
    }
}
