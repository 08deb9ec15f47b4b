//! The differentiated system description table: what the machine has that can't be found by looking (ACPI 6.5, 5.2.11.1).

use super::acpi::{HEADER_LEN, table};
use crate::pc::io_map::{COM1, PCI_IO_WINDOW, PIRQ_PIN, PM_BASE, irq};
use crate::pc::memory_map::{PCI_HOLE, PCI_WINDOW_END};
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Else, IO, If, Interrupt, Method, Name,
    PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, Zero,
};
use acpi_tables::sdt::Sdt;
use devices::legacy::pm::{self, SLEEP_TYPE_S5};
use devices::pci::{IntxRouter, Pin};

/// PCI device numbers that the routing table covers.
const SLOTS: u8 = 32;
const PINS: [Pin; 4] = [Pin::A, Pin::B, Pin::C, Pin::D];
/// ISA interrupts that PIRQA# to PIRQD# have while the operating system uses the 8259s.
const PIRQ_ISA: [u8; 4] = [10, 10, 11, 11];

/// The table.
pub(super) fn dsdt() -> Sdt {
    let mut body = Vec::new();
    let mut s5 = PackageBuilder::new();
    [SLEEP_TYPE_S5, SLEEP_TYPE_S5, 0, 0].iter().for_each(|v| s5.add_element(v));
    Name::new(Path::new("_S5_"), &s5).to_aml_bytes(&mut body);

    // _PIC tells which interrupt controllers the operating system uses: 0 the 8259s, 1 the I/O APIC.
    let mode = Path::new("\\PICF");
    Name::new(Path::new("PICF"), &Zero {}).to_aml_bytes(&mut body);
    Method::new(Path::new("_PIC"), 1, false, vec![&Store::new(&mode, &Arg(0))]).to_aml_bytes(&mut body);

    let bus = pci_bus();
    Scope::new(Path::new("_SB_"), vec![&Bytes(bus)]).to_aml_bytes(&mut body);

    let mut t = table(b"DSDT", HEADER_LEN, 2);
    t.append_slice(&body);
    t
}

/// AML already encoded.
struct Bytes(Vec<u8>);

impl Aml for Bytes {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn encode(aml: &dyn Aml) -> Bytes {
    let mut out = Vec::new();
    aml.to_aml_bytes(&mut out);
    Bytes(out)
}

fn pci_bus() -> Vec<u8> {
    let windows = ResourceTemplate::new(vec![
        &AddressSpace::new_bus_number(0u16, 0xffu16),
        &IO::new(0xcf8, 0xcf8, 1, 8),
        &AddressSpace::new_io(0u16, 0x0cf7, None),
        &AddressSpace::new_io(0x0d00u16, (PCI_IO_WINDOW.end - 1) as u16, None),
        &AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            PCI_HOLE as u32,
            (PCI_WINDOW_END - 1) as u32,
            None,
        ),
    ])
    .encoded();
    let with_apic = routing(|pirq| u32::from(PIRQ_PIN) + pirq as u32);
    let with_pic = routing(|pirq| u32::from(PIRQ_ISA[pirq]));
    let mode = Path::new("\\PICF");
    let (apic_name, pic_name) = (Path::new("PRTA"), Path::new("PRTP"));
    let routes = encode(&Method::new(
        Path::new("_PRT"),
        0,
        false,
        vec![&If::new(&mode, vec![&Return::new(&apic_name)]), &Else::new(vec![&Return::new(&pic_name)])],
    ));
    encode(&Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_BBN"), &Zero {}),
            &Name::new(Path::new("_UID"), &Zero {}),
            &Name::new(Path::new("_CRS"), &windows),
            &Name::new(Path::new("PRTA"), &with_apic),
            &Name::new(Path::new("PRTP"), &with_pic),
            &routes,
            &isa_bridge(),
        ],
    ))
    .0
}

/// One entry for each slot and pin: address, pin, no link device, interrupt (6.2.13).
fn routing(interrupt: impl Fn(usize) -> u32) -> PackageBuilder {
    let mut all = PackageBuilder::new();
    for slot in 0..SLOTS {
        for pin in PINS {
            let mut entry = PackageBuilder::new();
            entry.add_element(&(u32::from(slot) << 16 | 0xffff));
            entry.add_element(&(pin as u8));
            entry.add_element(&Zero {});
            entry.add_element(&interrupt(IntxRouter::pirq(slot, pin)));
            all.add_element(&entry);
        }
    }
    all
}

fn isa_bridge() -> Bytes {
    let device = |path: &str, id: &str, resources: Bytes| {
        encode(&Device::new(
            Path::new(path),
            vec![
                &Name::new(Path::new("_HID"), &EISAName::new(id)),
                &Name::new(Path::new("_CRS"), &resources),
            ],
        ))
    };
    let edge = |number: u8| Interrupt::new(true, true, false, false, u32::from(number));
    let com1 = encode(&Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &1u8),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&IO::new(COM1, COM1, 1, 8), &edge(irq::COM1)]).encoded(),
            ),
        ],
    ));
    let rtc = ResourceTemplate::new(vec![&IO::new(0x70, 0x70, 1, 2), &edge(irq::RTC)]).encoded();
    let keyboard = ResourceTemplate::new(vec![
        &IO::new(0x60, 0x60, 1, 1),
        &IO::new(0x64, 0x64, 1, 1),
        &edge(irq::KEYBOARD),
    ])
    .encoded();
    // What no other device claims, so that nothing else is put there.
    let board = ResourceTemplate::new(vec![
        &IO::new(PM_BASE, PM_BASE, 1, pm::PORTS as u8),
        &IO::new(0x4d0, 0x4d0, 1, 2),
    ])
    .encoded();
    encode(&Device::new(
        Path::new("ISA_"),
        vec![
            &Name::new(Path::new("_ADR"), &0x1_0000u32),
            &com1,
            &device("RTC_", "PNP0B00", rtc),
            &device("KBD_", "PNP0303", keyboard),
            &device("MBRD", "PNP0C02", board),
        ],
    ))
}

/// For templates built of temporaries.
trait Encoded {
    fn encoded(&self) -> Bytes;
}

impl Encoded for ResourceTemplate<'_> {
    fn encoded(&self) -> Bytes {
        encode(self)
    }
}
