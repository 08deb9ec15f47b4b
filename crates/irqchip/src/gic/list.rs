//! List registers: how pending and active interrupts get to a vCPU's CPU interface, and back.
//!
//! IHI 0048B chapter 5 and IHI 0069 chapter 6 say what list registers are. These here are values; their encoding is the hardware's half of the job.

use super::{Gic, MAX_VCPUS, PRIVATE, SGIS, Vcpus, Version, bits};

/// List registers that a CPU interface can have (GICv3; a GICv2 can have more, but has 4).
pub const MAX_LIST_REGISTERS: usize = 16;

/// One list register. Neither pending nor active: it is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListRegister {
    pub intid: u16,
    /// GICv2's SGIs: the vCPU that sent it.
    pub source: u8,
    /// All 8 bits; the lower 3 are 0.
    pub priority: u8,
    pub group1: bool,
    pub pending: bool,
    pub active: bool,
    /// A maintenance interrupt is wanted when it has been deactivated.
    pub eoi_maintenance: bool,
    /// The physical interrupt that is deactivated with it: one of [`Flush::silenced`].
    pub hardware: Option<u16>,
}

/// What [`Gic::fill`] did, and which maintenance interrupts it wants besides those of single list registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// So many list registers are used, from the first. The others are free, whatever is in their values.
    pub used: usize,
    /// More are pending than fit: leave when no list register is pending any more (NPIE).
    pub no_pending: bool,
    /// More are active than fit: leave when one that is in none ends (LRENPIE).
    pub eoi_count: bool,
    /// Linked PPIs ([`Gic::link_ppi`]), bit n for INTID n, whose physical interrupts have to be active while the vCPU runs: those that are
    /// asserted, taken by the guest or not, and would interrupt it all the time; and those that the guest is to end.
    pub silenced: u32,
}

impl Flush {
    /// Which of [`Flush::silenced`] still are when the vCPU has left with `lrs`: what the guest has ended was ended with it, and can have
    /// fired again.
    pub fn still_silenced(&self, lrs: &[ListRegister]) -> u32 {
        let ended = lrs.iter().take(self.used).filter(|lr| !lr.pending && !lr.active);
        ended.filter_map(|lr| lr.hardware).fold(self.silenced, |still, intid| still & !(1 << (intid % 32)))
    }
}

impl ListRegister {
    /// Low goes first: higher priority; then what is active, since it blocks the others of its priority; then the lower INTID.
    fn rank(&self) -> u32 {
        (self.priority as u32) << 16 | (!self.active as u32) << 15 | self.intid as u32
    }
}

impl Gic {
    /// Calls `each` for what is pending or active for this vCPU and in no list register, with what one that it could go to says first of
    /// all: INTID, priority, and whether it is active.
    pub(super) fn candidates(&self, vcpu: usize, mut each: impl FnMut(ListRegister)) {
        let vcpu = vcpu % MAX_VCPUS;
        for word in 0..1 + self.spis.len() {
            let Some(bank) = self.bank(vcpu, word) else { continue };
            for bit in bits(bank.waiting(self.enable)) {
                let intid = word * 32 + bit as usize;
                let active = bank.active >> bit & 1 != 0;
                let ours = match intid.checked_sub(PRIVATE) {
                    None => true,
                    Some(spi) if active => self.owner[spi] as usize == vcpu,
                    Some(spi) => self.targets(spi) >> vcpu & 1 != 0,
                };
                if ours {
                    let (intid, priority) = (intid as u16, bank.priority[bit as usize]);
                    each(ListRegister { intid, priority, active, ..Default::default() });
                }
            }
        }
    }

    /// Moves the most urgent interrupts of a vCPU that is about to run to its list registers. All that came before was drained.
    pub fn fill(&mut self, vcpu: usize, lrs: &mut [ListRegister]) -> Flush {
        if self.private(vcpu).loads != 0 {
            self.drain(vcpu, &[], 0);
        }
        let room = lrs.len().min(MAX_LIST_REGISTERS);
        let lrs = &mut lrs[..room];
        let mut used = 0;
        let mut best_pending: Option<ListRegister> = None;
        let (mut active, mut pending) = (0, 0);
        self.candidates(vcpu, |c| {
            *(if c.active { &mut active } else { &mut pending }) += 1;
            if !c.active && best_pending.is_none_or(|best| c.rank() < best.rank()) {
                best_pending = Some(c);
            }
            let place = lrs[..used].iter().position(|lr| c.rank() < lr.rank()).unwrap_or(used);
            if place < room {
                used = (used + 1).min(room);
                lrs[place..used].rotate_right(1);
                lrs[place] = c;
            }
        });
        // Many can be active and not block others (GICC_CTLR.EOImode 1): one list register is always for what is pending.
        let lrs = &mut lrs[..used];
        if let (Some(best), Some(last)) = (best_pending, lrs.last_mut())
            && last.rank() < best.rank()
        {
            *last = best;
        }
        for (slot, lr) in lrs.iter_mut().enumerate() {
            *lr = self.load(vcpu, slot, *lr);
        }
        let loaded_active = lrs.iter().filter(|lr| lr.active).count();
        let private = &self.private(vcpu).bank;
        let silenced = self.linked & (private.line | private.held | private.active);
        let (no_pending, eoi_count) = (pending > used - loaded_active, active > loaded_active);
        Flush { used, no_pending, eoi_count, silenced }
    }

    /// Moves a candidate to a list register; gives what that has to say.
    fn load(&mut self, vcpu: usize, slot: usize, mut lr: ListRegister) -> ListRegister {
        let (enable, linked, v2) = (self.enable, self.linked, self.version == Version::V2);
        let (intid, mask) = (lr.intid as usize, 1 << (lr.intid % 32));
        let private = self.private_mut(vcpu);
        private.loaded[slot] = lr.intid;
        private.loads = slot as u8 + 1;
        if v2 && intid < SGIS {
            // One source's at a time; the others' turn comes when this has ended.
            let forwarded = private.bank.forwarded(enable) & mask != 0;
            if !lr.active {
                private.source[intid] = private.sources[intid].trailing_zeros() as u8 % MAX_VCPUS as u8;
            }
            lr.source = private.source[intid];
            lr.pending = forwarded && private.sources[intid] >> lr.source & 1 != 0;
            if lr.pending {
                private.sources[intid] &= !(1 << lr.source);
                private.bank.carried |= mask;
            }
            if private.sources[intid] == 0 {
                private.bank.latch &= !mask;
            }
            lr.eoi_maintenance = forwarded && private.sources[intid] != 0;
        }
        let Some(bank) = self.bank_mut(vcpu, intid / 32) else { return lr };
        lr.group1 = bank.group1 & mask != 0;
        let waiting = bank.pending() & bank.forwarded(enable) & mask != 0;
        if !(v2 && intid < SGIS) {
            // A level is looked at again at the end of what it caused: with both bits, the hardware would make it pending by itself.
            let level = bank.edge & mask == 0;
            lr.pending = waiting && !(level && lr.active);
            if level && intid < PRIVATE && linked & mask != 0 {
                lr.hardware = Some(lr.intid);
            } else {
                // If it rises later, the vCPU is kicked, and comes here again.
                lr.eoi_maintenance = waiting && level && (lr.active || bank.line & mask != 0);
            }
            if lr.pending {
                bank.carried |= bank.latch & mask;
                bank.latch &= !mask;
            }
        }
        bank.held |= mask;
        bank.held_active |= bank.active & mask;
        bank.active &= !mask;
        if let Some(spi) = intid.checked_sub(PRIVATE) {
            self.owner[spi] = (vcpu % MAX_VCPUS) as u8;
        }
        lr
    }

    /// Takes back the state of a vCPU that has left. `lrs` are the list registers as [`Gic::fill`] gave them and the hardware changed
    /// them; only `pending` and `active` matter, and what is missing is free. `eoi_count` is the hardware's count of ends of interrupts
    /// that are in no list register. An SPI may now be for another vCPU: those are returned.
    pub fn drain(&mut self, vcpu: usize, lrs: &[ListRegister], eoi_count: u32) -> Vcpus {
        let mut kick = 0;
        // Ends come in the order of priorities; and no vCPU can have more active than it has interrupts.
        for _ in 0..eoi_count.min(PRIVATE as u32) {
            let mut first: Option<ListRegister> = None;
            self.candidates(vcpu, |c| {
                if c.active && first.is_none_or(|f| c.rank() < f.rank()) {
                    first = Some(c);
                }
            });
            let Some(c) = first else { break };
            kick |= self.deactivate(vcpu, c.intid as u32);
        }
        let v2 = self.version == Version::V2;
        let loads = core::mem::take(&mut self.private_mut(vcpu).loads) as usize;
        for slot in 0..loads.min(MAX_LIST_REGISTERS) {
            let lr = lrs.get(slot).copied().unwrap_or_default();
            let intid = self.private(vcpu).loaded[slot] as usize;
            let mask = 1 << (intid % 32);
            let Some(bank) = self.bank_mut(vcpu, intid / 32) else { continue };
            let back = lr.pending && bank.carried & mask != 0;
            if back {
                bank.latch |= mask;
            }
            if lr.active && bank.dropped & mask == 0 {
                bank.active |= mask;
            }
            bank.held &= !mask;
            bank.carried &= !mask;
            bank.held_active &= !mask;
            bank.dropped &= !mask;
            if back && v2 && intid < SGIS {
                let private = self.private_mut(vcpu);
                private.sources[intid] |= 1 << private.source[intid];
            }
            kick |= self.moved(vcpu, intid);
        }
        kick
    }

    /// The guest deactivated an interrupt that is in no list register: a trapped write of GICV_DIR or ICC_DIR_EL1, or counted ends.
    pub fn deactivate(&mut self, vcpu: usize, intid: u32) -> Vcpus {
        let Some(bank) = self.bank_mut(vcpu, intid as usize / 32) else { return 0 };
        bank.deactivate(1 << (intid % 32));
        self.moved(vcpu, intid as usize)
    }

    /// Who else has to see to an SPI that `vcpu` has let go.
    fn moved(&self, vcpu: usize, intid: usize) -> Vcpus {
        let kick = if intid < PRIVATE { 0 } else { self.kicks(vcpu, intid / 32, 1 << (intid % 32)) };
        if kick >> (vcpu % MAX_VCPUS) & 1 != 0 { 0 } else { kick }
    }
}
