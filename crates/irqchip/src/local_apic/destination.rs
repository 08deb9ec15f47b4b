//! Whether a message is for this processor (SDM 3A 10.6.2, 10.12.10).

use super::{LocalApic, Mode};
use crate::message::{DestinationMode, EVERYONE};

impl LocalApic {
    /// Whether `destination` of an [`crate::Ipi`] without shorthand or a [`crate::Message`] names this processor. A
    /// disabled APIC (by IA32_APIC_BASE) is on no bus and answers to nothing; one disabled by software only answers,
    /// for INIT, NMI and SIPI.
    pub fn matches(&self, destination: u32, mode: DestinationMode) -> bool {
        match (self.mode(), mode) {
            (Mode::Disabled, _) => false,
            _ if destination == EVERYONE => true,
            (Mode::XApic, DestinationMode::Physical) => destination == self.id & 0xff,
            (Mode::X2Apic, DestinationMode::Physical) => destination == self.id,
            (Mode::XApic, DestinationMode::Logical) => {
                u8::try_from(destination).is_ok_and(|set| self.matches_logical(set))
            }
            (Mode::X2Apic, DestinationMode::Logical) => {
                let ldr = self.x2apic_ldr();
                destination >> 16 == ldr >> 16 && destination & ldr & 0xffff != 0
            }
        }
    }

    fn matches_logical(&self, set: u8) -> bool {
        match self.dfr_model {
            0xf => self.ldr & set != 0,
            // Cluster number above, members of the cluster below.
            0x0 => self.ldr >> 4 == set >> 4 && self.ldr & set & 0xf != 0,
            _ => false,
        }
    }

    /// The x2APIC's logical id: cluster id[31:4], member 1 << id[3:0] (SDM 3A 10.12.10.2).
    pub(super) const fn x2apic_ldr(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 0xf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local_apic::registers::{Effect, offset};
    use DestinationMode::{Logical, Physical};

    fn apic(id: u32) -> LocalApic {
        LocalApic::new(id, id == 0, 1_000_000)
    }

    fn x2apic(id: u32) -> LocalApic {
        let mut apic = apic(id);
        apic.set_base(apic.base() | 1 << 10, 36).unwrap();
        apic
    }

    #[test]
    fn matches_physical_in_xapic_mode_compares_eight_bits_of_id() {
        for (id, destination, expected) in
            [(3, 3, true), (3, 2, false), (3, EVERYONE, true), (3, 0x103, false), (0x103, 3, true)]
        {
            assert_eq!(apic(id).matches(destination, Physical), expected, "{id} {destination:#x}");
        }
    }

    #[test]
    fn matches_logical_in_flat_model_intersects_the_sets() {
        let mut apic = apic(1);
        assert_eq!(apic.write(offset::LDR, 0x0200_0000, 0), Effect::None);
        for (set, expected) in
            [(0x02, true), (0x03, true), (0xfd, false), (0, false), (EVERYONE, true), (0x102, false)]
        {
            assert_eq!(apic.matches(set, Logical), expected, "{set:#x}");
        }
    }

    #[test]
    fn matches_logical_in_cluster_model_needs_cluster_and_member() {
        let mut apic = apic(1);
        assert_eq!(apic.write(offset::DFR, 0x0fff_ffff, 0), Effect::None);
        assert_eq!(apic.write(offset::LDR, 0x3200_0000, 0), Effect::None);
        for (set, expected) in [(0x32, true), (0x33, true), (0x31, false), (0x22, false), (EVERYONE, true)] {
            assert_eq!(apic.matches(set, Logical), expected, "{set:#x}");
        }
    }

    #[test]
    fn matches_logical_in_x2apic_mode_uses_cluster_and_member_of_id() {
        let apic = x2apic(0x25);
        for (set, expected) in [
            (0x0002_0020, true),
            (0x0002_ffff, true),
            (0x0002_0010, false),
            (0x0001_0020, false),
            (EVERYONE, true),
        ] {
            assert_eq!(apic.matches(set, Logical), expected, "{set:#x}");
        }
    }

    #[test]
    fn matches_when_disabled_answers_to_nothing() {
        let mut apic = apic(1);
        apic.set_base(0, 36).unwrap();
        assert!(!apic.matches(EVERYONE, Physical));
        assert!(!apic.matches(1, Physical));
    }
}
