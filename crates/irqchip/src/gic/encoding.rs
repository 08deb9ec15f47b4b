//! List registers as the hardware has them: GICH_LRn of GICv2 (IHI 0048B 5.3) and ICH_LRn_EL2 of GICv3 (IHI 0069 chapter 12).

use super::ListRegister;

impl ListRegister {
    /// GICH_LRn. Free ones are 0.
    pub fn gich(&self) -> u32 {
        if !(self.pending || self.active) {
            return 0;
        }
        let physical = match self.hardware {
            Some(intid) => 1 << 31 | (intid as u32 & 0x3ff) << 10,
            None => (self.eoi_maintenance as u32) << 19 | (self.source as u32 & 7) << 10,
        };
        (self.group1 as u32) << 30
            | (self.active as u32) << 29
            | (self.pending as u32) << 28
            | (self.priority as u32 >> 3) << 23
            | physical
            | (self.intid as u32 & 0x3ff)
    }

    /// Takes over the state that GICH_LRn has now.
    pub fn update_from_gich(&mut self, value: u32) {
        (self.pending, self.active) = (value & 1 << 28 != 0, value & 1 << 29 != 0);
    }

    /// ICH_LRn_EL2. Free ones are 0.
    pub fn ich(&self) -> u64 {
        if !(self.pending || self.active) {
            return 0;
        }
        let physical = match self.hardware {
            Some(intid) => 1 << 61 | (intid as u64 & 0x3ff) << 32,
            None => (self.eoi_maintenance as u64) << 41,
        };
        (self.active as u64) << 63
            | (self.pending as u64) << 62
            | (self.group1 as u64) << 60
            | (self.priority as u64) << 48
            | physical
            | self.intid as u64
    }

    /// Takes over the state that ICH_LRn_EL2 has now.
    pub fn update_from_ich(&mut self, value: u64) {
        (self.pending, self.active) = (value & 1 << 62 != 0, value & 1 << 63 != 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_registers_are_encoded_as_the_manuals_say() {
        let sgi = ListRegister { intid: 3, source: 5, priority: 0xa0, pending: true, ..Default::default() };
        let timer = ListRegister { intid: 27, group1: true, active: true, hardware: Some(27), ..sgi };
        let level =
            ListRegister { intid: 48, source: 0, pending: false, active: true, eoi_maintenance: true, ..sgi };
        assert_eq!(sgi.gich(), 0x1a00_1403);
        assert_eq!(timer.gich(), 0xfa00_6c1b);
        assert_eq!(level.gich(), 0x2a08_0030);
        assert_eq!(sgi.ich(), 0x40a0_0000_0000_0003);
        assert_eq!(timer.ich(), 0xf0a0_001b_0000_001b);
        assert_eq!(level.ich(), 0x80a0_0200_0000_0030);
        assert_eq!((ListRegister { intid: 3, ..Default::default() }).gich(), 0);
    }

    #[test]
    fn only_the_state_is_taken_back() {
        let mut lr = ListRegister { intid: 48, pending: true, ..Default::default() };
        lr.update_from_gich(0x2fff_ffff);
        assert_eq!(lr, ListRegister { intid: 48, active: true, ..Default::default() });
        lr.update_from_ich(0x7fff_ffff_ffff_ffff);
        assert_eq!(lr, ListRegister { intid: 48, pending: true, ..Default::default() });
    }
}
