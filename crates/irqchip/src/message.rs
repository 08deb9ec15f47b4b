//! What travels between interrupt controllers: interprocessor interrupts and message-signalled interrupts.

/// The destination that every local APIC answers to, whatever its mode. The 8-bit form's FFh is turned into it.
pub const EVERYONE: u32 = u32::MAX;

/// What a message does at its destination (SDM 3A 10.6.1, 10.11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The vector, at every processor of the destination.
    Fixed,
    /// The vector, at the one processor of the destination with the lowest priority.
    LowestPriority,
    Smi,
    Nmi,
    Init,
    /// Start-up IPI: the vector is the page number of the start address.
    StartUp,
    /// The vector comes from the 8259s.
    ExtInt,
}

impl DeliveryMode {
    /// From the three-bit field of ICR, LVT, redirection entry or MSI data; `None` for the reserved encoding 3.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => return None,
        })
    }

    /// The three-bit field.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Fixed => 0,
            Self::LowestPriority => 1,
            Self::Smi => 2,
            Self::Nmi => 4,
            Self::Init => 5,
            Self::StartUp => 6,
            Self::ExtInt => 7,
        }
    }
}

/// How a destination number names processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationMode {
    /// It is an APIC id.
    Physical,
    /// It is a set, matched against LDR and DFR.
    Logical,
}

impl DestinationMode {
    const fn from_bit(logical: bool) -> Self {
        if logical { Self::Logical } else { Self::Physical }
    }
}

/// ICR's destination shorthand (SDM 3A 10.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// The destination field counts.
    None,
    /// The sender only.
    ToSelf,
    AllIncludingSelf,
    AllExcludingSelf,
}

/// An interprocessor interrupt as the interrupt command register asks for it; the engine routes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    pub shorthand: Shorthand,
    /// APIC id or logical set by `destination_mode`, or [`EVERYONE`]; without meaning where there is a shorthand.
    pub destination: u32,
    pub destination_mode: DestinationMode,
    pub delivery: DeliveryMode,
    pub vector: u8,
    /// Level-triggered. Only INIT may be: a fixed IPI is always sent as an edge.
    pub level_triggered: bool,
}

impl Ipi {
    /// From ICR's lower half and a destination; `None` for what sends nothing: a reserved delivery mode, and the
    /// INIT level de-assert, which since the P4 has no effect (SDM 3A 10.6.1).
    pub fn from_icr(low: u32, destination: u32) -> Option<Self> {
        let delivery = DeliveryMode::from_bits(low >> 8)?;
        let (assert, level_triggered) = (low & 1 << 14 != 0, low & 1 << 15 != 0);
        match delivery {
            DeliveryMode::ExtInt => return None,
            DeliveryMode::Init if level_triggered && !assert => return None,
            _ => {}
        }
        Some(Self {
            shorthand: match low >> 18 & 3 {
                0 => Shorthand::None,
                1 => Shorthand::ToSelf,
                2 => Shorthand::AllIncludingSelf,
                _ => Shorthand::AllExcludingSelf,
            },
            destination,
            destination_mode: DestinationMode::from_bit(low & 1 << 11 != 0),
            delivery,
            vector: low as u8,
            level_triggered: level_triggered && delivery == DeliveryMode::Init,
        })
    }
}

/// A message-signalled interrupt, decoded (SDM 3A 10.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// APIC id or logical set by `destination_mode`, or [`EVERYONE`].
    pub destination: u32,
    pub destination_mode: DestinationMode,
    pub delivery: DeliveryMode,
    pub vector: u8,
    pub level_triggered: bool,
    /// Level-triggered messages only: assert or de-assert.
    pub assert: bool,
}

/// Bits 31:20 of the addresses that are interrupt messages.
const MSI_REGION: u64 = 0xfee;

impl Message {
    /// Decodes the write a device makes. `None` where the address is not in FEExxxxxh or the delivery mode is
    /// reserved: such a write interrupts nobody.
    ///
    /// The destination is address bits 19:12, and as bits 14:8 address bits 11:5, which the SDM leaves reserved and
    /// hypervisors use to reach APIC ids above 254 without an interrupt remapper.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != MSI_REGION {
            return None;
        }
        let delivery = DeliveryMode::from_bits(data >> 8)?;
        let destination = (address >> 12 & 0xff | (address >> 5 & 0x7f) << 8) as u32;
        let level_triggered = data & 1 << 15 != 0;
        Some(Self {
            destination: if destination == 0xff { EVERYONE } else { destination },
            // The redirection hint, bit 3, is not looked at: Linux sends logical destinations without it.
            destination_mode: DestinationMode::from_bit(address & 1 << 2 != 0),
            delivery,
            vector: data as u8,
            level_triggered,
            assert: !level_triggered || data & 1 << 14 != 0,
        })
    }

    /// The write (address, data) that [`Message::from_msi`] decodes to this. Destinations above 7FFFh other than
    /// [`EVERYONE`] don't fit and lose their upper bits.
    pub fn to_msi(self) -> (u64, u32) {
        let destination = u64::from(if self.destination == EVERYONE { 0xff } else { self.destination });
        let address = MSI_REGION << 20
            | (destination & 0xff) << 12
            | (destination >> 8 & 0x7f) << 5
            | u64::from(self.destination_mode == DestinationMode::Logical) << 2;
        let data = u32::from(self.vector)
            | self.delivery.bits() << 8
            | u32::from(self.assert) << 14
            | u32::from(self.level_triggered) << 15;
        (address, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn from_msi_with_each_field_set_decodes_it() {
        let base = Message {
            destination: 0,
            destination_mode: DestinationMode::Physical,
            delivery: DeliveryMode::Fixed,
            vector: 0x31,
            level_triggered: false,
            assert: true,
        };
        let table = [
            (0xfee0_0000, 0x0031, Some(base)),
            (0xfee0_3000, 0x0031, Some(Message { destination: 3, ..base })),
            (0xfeef_f000, 0x0031, Some(Message { destination: EVERYONE, ..base })),
            (0xfee0_1020, 0x0031, Some(Message { destination: 0x101, ..base })),
            (
                0xfee0_300c,
                0x0131,
                Some(Message {
                    destination: 3,
                    destination_mode: DestinationMode::Logical,
                    delivery: DeliveryMode::LowestPriority,
                    ..base
                }),
            ),
            (0xfee0_0000, 0xc031, Some(Message { level_triggered: true, ..base })),
            (0xfee0_0000, 0x8031, Some(Message { level_triggered: true, assert: false, ..base })),
            (0xfee0_0000, 0x0400, Some(Message { delivery: DeliveryMode::Nmi, vector: 0, ..base })),
            (0xfee0_0000, 0x0331, None),
            (0xfed0_0000, 0x0031, None),
            (0x1_fee0_0000, 0x0031, None),
        ];
        for (address, data, expected) in table {
            assert_eq!(Message::from_msi(address, data), expected, "{address:#x} {data:#x}");
        }
    }

    #[test]
    fn from_icr_with_init_deassert_sends_nothing() {
        assert_eq!(Ipi::from_icr(0x0000_8500, 1), None);
        assert_eq!(Ipi::from_icr(0x0000_c500, 1).map(|i| i.delivery), Some(DeliveryMode::Init));
        assert_eq!(Ipi::from_icr(0x0000_0500, 1).map(|i| i.delivery), Some(DeliveryMode::Init));
    }

    #[test]
    fn from_icr_with_reserved_or_extint_mode_sends_nothing() {
        assert_eq!(Ipi::from_icr(0x0000_0331, 1), None);
        assert_eq!(Ipi::from_icr(0x0000_0731, 1), None);
    }

    #[test]
    fn from_icr_with_fixed_level_trigger_sends_an_edge() {
        let ipi = Ipi::from_icr(0x000c_c831, 5).unwrap();
        assert_eq!(
            ipi,
            Ipi {
                shorthand: Shorthand::AllExcludingSelf,
                destination: 5,
                destination_mode: DestinationMode::Logical,
                delivery: DeliveryMode::Fixed,
                vector: 0x31,
                level_triggered: false,
            }
        );
    }

    proptest! {
        #[test]
        fn to_msi_of_any_decoded_message_decodes_back(address in 0xfee0_0000u64..0xfef0_0000, data: u32) {
            if let Some(message) = Message::from_msi(address, data) {
                let (address, data) = message.to_msi();
                prop_assert_eq!(Message::from_msi(address, data), Some(message));
            }
        }
    }
}
