//! The local APIC as a guest and an engine drive it.

mod timer;

use super::registers::{Effect, FIRST_MSR, offset};
use super::*;
use crate::message::{DestinationMode, EVERYONE, Ipi, Shorthand};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

/// Software-enabled, with a 1 GHz TSC so that a tick is a count.
fn apic() -> LocalApic {
    let mut apic = LocalApic::new(1, false, 1_000_000);
    write(&mut apic, offset::SVR, 0x1ff);
    apic
}

fn x2apic() -> LocalApic {
    let mut apic = apic();
    apic.set_base(apic.base() | 1 << 10, 36).unwrap();
    apic
}

fn write(apic: &mut LocalApic, offset: u32, value: u32) {
    assert_eq!(apic.write(offset, value, 0), Effect::None);
}

const TIMER_VECTOR: u32 = 0xec;

// --- Interrupts ----------------------------------------------------------------------------------------------------

#[test]
fn acknowledge_takes_the_highest_vector_and_eoi_uncovers_the_next() {
    let mut apic = apic();
    for vector in [0x31, 0x52, 0x45] {
        assert!(apic.accept(vector, false));
    }
    assert!(!apic.accept(0x31, false), "a second one meets the first");
    assert_eq!(apic.acknowledge(), 0x52);
    assert_eq!(apic.pending_interrupt(), None, "lower classes wait for EOI");
    assert!(apic.accept(0x61, false));
    assert_eq!(apic.acknowledge(), 0x61);
    assert_eq!(apic.end_of_interrupt(), None);
    assert_eq!(apic.ppr(), 0x50);
    assert_eq!(apic.end_of_interrupt(), None);
    assert_eq!((apic.acknowledge(), apic.pending_interrupt()), (0x45, None));
}

#[test]
fn pending_interrupt_of_the_same_class_as_one_in_service_waits() {
    let mut apic = apic();
    apic.accept(0x51, false);
    apic.acknowledge();
    apic.accept(0x5f, false);
    assert_eq!(apic.pending_interrupt(), None);
    apic.end_of_interrupt();
    assert_eq!(apic.pending_interrupt(), Some(0x5f));
}

#[test]
fn task_priority_masks_its_class_and_below() {
    let table = [(0x00, Some(0x45)), (0x3f, Some(0x45)), (0x40, None), (0x44, None), (0x50, None)];
    for (tpr, expected) in table {
        let mut apic = apic();
        apic.accept(0x45, false);
        write(&mut apic, offset::TPR, tpr);
        assert_eq!(apic.pending_interrupt(), expected, "{tpr:#x}");
    }
}

#[test]
fn cr8_is_the_upper_half_of_tpr() {
    let mut apic = apic();
    apic.set_cr8(0xa).unwrap();
    assert_eq!((apic.read(offset::TPR, 0), apic.cr8()), (0xa0, 0xa));
    write(&mut apic, offset::TPR, 0x57);
    assert_eq!(apic.cr8(), 5);
    assert_eq!(apic.set_cr8(16), Err(GeneralProtection));
}

#[test]
fn ppr_of_each_task_priority_and_service_is_the_manuals() {
    for (tpr, in_service, expected) in
        [(0x00, 0, 0x00), (0x35, 0, 0x35), (0x35, 0x31, 0x35), (0x25, 0x31, 0x30), (0x31, 0x42, 0x40)]
    {
        let mut apic = apic();
        if in_service != 0 {
            apic.accept(in_service, false);
            apic.acknowledge();
        }
        write(&mut apic, offset::TPR, tpr);
        assert_eq!(apic.read(offset::PPR, 0), expected, "{tpr:#x} {in_service:#x}");
    }
}

#[test]
fn acknowledge_when_the_request_was_masked_gives_the_spurious_vector() {
    let mut apic = apic();
    write(&mut apic, offset::SVR, 0x1ef);
    apic.accept(0x31, false);
    write(&mut apic, offset::TPR, 0xf0);
    assert_eq!(apic.acknowledge(), 0xef);
    assert_eq!(apic.end_of_interrupt(), None, "a spurious interrupt is not in service");
    write(&mut apic, offset::TPR, 0);
    assert_eq!(apic.pending_interrupt(), Some(0x31));
}

#[test]
fn eoi_of_a_level_triggered_vector_is_broadcast() {
    let mut apic = apic();
    apic.accept(0x31, true);
    apic.acknowledge();
    assert_eq!(apic.read(offset::TMR + 0x10, 0), 1 << 0x11);
    assert_eq!(apic.write(offset::EOI, 0, 0), Effect::EndOfInterrupt(0x31));
    apic.accept(0x31, false);
    apic.acknowledge();
    assert_eq!(apic.write(offset::EOI, 0, 0), Effect::None);
    assert_eq!(apic.write(offset::EOI, 0, 0), Effect::None, "with nothing in service");
}

#[test]
fn accept_while_disabled_by_software_is_dropped() {
    let mut apic = LocalApic::new(0, true, 1_000_000);
    assert!(!apic.accept(0x31, false));
    write(&mut apic, offset::SVR, 0x1ff);
    assert_eq!(apic.pending_interrupt(), None);
}

proptest! {
    /// Against the manual's rules on sets.
    #[test]
    fn any_order_of_accept_acknowledge_and_eoi_agrees_with_the_rules(
        steps in prop::collection::vec((0u8..5, 16u8..), 0..200),
    ) {
        let mut apic = apic();
        let (mut irr, mut isr, mut tpr) = (BTreeSet::new(), BTreeSet::new(), 0u8);
        for (step, value) in steps {
            match step {
                0 | 1 => {
                    prop_assert_eq!(apic.accept(value, false), irr.insert(value));
                }
                2 => {
                    tpr = value & 0x7f;
                    write(&mut apic, offset::TPR, u32::from(tpr));
                }
                3 => {
                    apic.end_of_interrupt();
                    isr.pop_last();
                }
                _ => {
                    let threshold = (tpr >> 4).max(isr.last().map_or(0, |v: &u8| v >> 4));
                    let expected = irr.last().copied().filter(|v| v >> 4 > threshold);
                    prop_assert_eq!(apic.pending_interrupt(), expected);
                    let vector = apic.acknowledge();
                    if let Some(expected) = expected {
                        prop_assert_eq!(vector, expected);
                        irr.remove(&vector);
                        isr.insert(vector);
                    } else {
                        prop_assert_eq!(vector, 0xff);
                    }
                }
            }
        }
    }

    /// A guest can write anything anywhere: nothing panics, and no vector below 16 ever gets in.
    #[test]
    fn any_register_writes_leave_a_working_apic(
        x2: bool, writes in prop::collection::vec((any::<u32>(), any::<u64>(), any::<u64>()), 0..100),
    ) {
        let mut apic = if x2 { x2apic() } else { apic() };
        for (at, value, now) in writes {
            let _ = apic.write(at & 0x3f0, value as u32, now);
            let _ = apic.write_mmio(at & 0xfff, &value.to_le_bytes()[..(at >> 28 & 7) as usize], now);
            apic.read_mmio(at & 0xfff, &mut [0; 8], now);
            let _ = apic.write_msr(FIRST_MSR + (at & 0xff), value, now);
            let _ = apic.read_msr(FIRST_MSR + (at & 0xff), now);
            apic.set_tsc_deadline(value, now);
            apic.accept(value as u8, at & 1 != 0);
            apic.timer_expired(now);
            let _ = apic.set_pin(Source::Lint0, at & 2 != 0);
            if let Some(vector) = apic.pending_interrupt() {
                prop_assert!(vector >= FIRST_LEGAL_VECTOR);
                prop_assert_eq!(apic.acknowledge(), vector);
            }
        }
    }
}

// --- Registers -----------------------------------------------------------------------------------------------------

#[test]
fn registers_after_power_on_are_the_manuals() {
    let mut apic = LocalApic::new(3, false, 1_000_000);
    let table = [
        (offset::ID, 0x0300_0000),
        (offset::VERSION, 0x0005_0014),
        (offset::TPR, 0),
        (offset::LDR, 0),
        (offset::DFR, 0xffff_ffff),
        (offset::SVR, 0xff),
        (offset::ESR, 0),
        (offset::ICR_LOW, 0),
        (offset::LVT_TIMER, 0x1_0000),
        (offset::LVT_LINT0, 0x1_0000),
        (offset::LVT_ERROR, 0x1_0000),
        (offset::INITIAL_COUNT, 0),
        (offset::DIVIDE, 0),
    ];
    for (at, value) in table {
        assert_eq!(apic.read(at, 0), value, "{at:#x}");
    }
    assert_eq!(apic.base(), 0xfee0_0800);
}

#[test]
fn written_registers_keep_only_their_writable_bits() {
    let table = [
        (offset::TPR, 0xff),
        (offset::LDR, 0xff00_0000),
        (offset::DFR, 0xffff_ffff),
        (offset::SVR, 0x3ff),
        (offset::ICR_HIGH, 0xff00_0000),
        (offset::LVT_TIMER, 0x7_00ff),
        (0x330, 0x1_07ff),
        (0x340, 0x1_07ff),
        (offset::LVT_LINT0, 0x1_a7ff),
        (offset::LVT_LINT1, 0x1_a7ff),
        (offset::LVT_ERROR, 0x1_00ff),
        (offset::DIVIDE, 0xb),
        (offset::ID, 0x0100_0000),
        (offset::VERSION, 0x0005_0014),
    ];
    for (at, expected) in table {
        let mut apic = apic();
        write(&mut apic, at, u32::MAX);
        assert_eq!(apic.read(at, 0), expected, "{at:#x}");
    }
}

#[test]
fn software_disable_masks_every_lvt_entry_and_keeps_them_masked() {
    let mut apic = apic();
    write(&mut apic, offset::LVT_TIMER, TIMER_VECTOR);
    write(&mut apic, offset::SVR, 0xff);
    assert_eq!(apic.read(offset::LVT_TIMER, 0), TIMER_VECTOR | 1 << 16);
    write(&mut apic, offset::LVT_TIMER, TIMER_VECTOR);
    assert_eq!(apic.read(offset::LVT_TIMER, 0), TIMER_VECTOR | 1 << 16);
    write(&mut apic, offset::SVR, 0x1ff);
    write(&mut apic, offset::LVT_TIMER, TIMER_VECTOR);
    assert_eq!(apic.read(offset::LVT_TIMER, 0), TIMER_VECTOR);
}

#[test]
fn irr_and_isr_registers_show_pending_and_serviced_vectors() {
    let mut apic = apic();
    apic.accept(0x40, false);
    apic.accept(0xff, false);
    apic.acknowledge();
    assert_eq!(apic.read(offset::IRR + 0x20, 0), 1);
    assert_eq!(apic.read(offset::IRR + 0x70, 0), 0);
    assert_eq!(apic.read(offset::ISR + 0x70, 0), 1 << 31);
}

#[test]
fn esr_shows_errors_only_after_it_is_written() {
    let mut apic = apic();
    write(&mut apic, offset::LVT_ERROR, 0xfe);
    apic.accept(5, false);
    assert_eq!(apic.read(offset::ESR, 0), 0);
    assert_eq!(apic.pending_interrupt(), Some(0xfe));
    write(&mut apic, offset::ESR, 0);
    assert_eq!(apic.read(offset::ESR, 0), 0x40);
    write(&mut apic, offset::ESR, 0);
    assert_eq!(apic.read(offset::ESR, 0), 0);
    apic.read(0x040, 0);
    assert_eq!(apic.write(offset::ICR_LOW, 0x0004_0005, 0), Effect::None);
    write(&mut apic, offset::ESR, 0);
    assert_eq!(apic.read(offset::ESR, 0), 0xa0, "illegal register, illegal vector sent");
}

#[test]
fn illegal_vector_in_the_error_entry_does_not_report_itself_without_end() {
    let mut apic = apic();
    write(&mut apic, offset::LVT_ERROR, 3);
    apic.accept(5, false);
    assert_eq!(apic.pending_interrupt(), None);
}

#[test]
fn mmio_of_other_than_whole_registers_is_bounded() {
    let mut apic = apic();
    let mut data = [0xaa; 8];
    apic.read_mmio(offset::VERSION, &mut data, 0);
    assert_eq!(data, [0x14, 0, 5, 0, 0, 0, 0, 0]);
    let mut data = [0xaa; 2];
    apic.read_mmio(offset::VERSION + 1, &mut data, 0);
    assert_eq!(data, [0, 5]);
    apic.read_mmio(offset::VERSION + 4, &mut data, 0);
    assert_eq!(data, [0, 0]);
    assert_eq!(apic.write_mmio(offset::TPR, &[0x55], 0), Effect::None);
    assert_eq!(apic.write_mmio(offset::TPR + 1, &[0x55; 4], 0), Effect::None);
    assert_eq!(apic.tpr(), 0);
    assert_eq!(apic.write_mmio(offset::TPR, &[0x55, 0, 0, 0], 0), Effect::None);
    assert_eq!(apic.tpr(), 0x55);
}

// --- Interprocessor interrupts -------------------------------------------------------------------------------------

#[test]
fn icr_write_asks_for_the_ipi_it_describes() {
    let base = Ipi {
        shorthand: Shorthand::None,
        destination: 2,
        destination_mode: DestinationMode::Physical,
        delivery: DeliveryMode::Fixed,
        vector: 0xfb,
        level_triggered: false,
    };
    let table = [
        (0x0200_0000, 0x40fb, Some(base)),
        (0xff00_0000, 0x40fb, Some(Ipi { destination: EVERYONE, ..base })),
        (0x0200_0000, 0x48fb, Some(Ipi { destination_mode: DestinationMode::Logical, ..base })),
        (0x0200_0000, 0x0c_40fb, Some(Ipi { shorthand: Shorthand::AllExcludingSelf, ..base })),
        (
            0x0200_0000,
            0xc500,
            Some(Ipi { delivery: DeliveryMode::Init, vector: 0, level_triggered: true, ..base }),
        ),
        (0x0200_0000, 0x8500, None),
        (0x0200_0000, 0x4699, Some(Ipi { delivery: DeliveryMode::StartUp, vector: 0x99, ..base })),
        (0x0200_0000, 0x4400, Some(Ipi { delivery: DeliveryMode::Nmi, vector: 0, ..base })),
        (0x0200_0000, 0x4005, None),
    ];
    for (high, low, expected) in table {
        let mut apic = apic();
        write(&mut apic, offset::ICR_HIGH, high);
        let expected = expected.map_or(Effect::None, Effect::Ipi);
        assert_eq!(apic.write(offset::ICR_LOW, low, 0), expected, "{high:#x} {low:#x}");
        assert_eq!(apic.read(offset::ICR_LOW, 0) & 1 << 12, 0, "never pending");
    }
}

#[test]
fn takes_of_each_shorthand_names_the_right_processors() {
    let ipi = |shorthand| Ipi {
        shorthand,
        destination: 1,
        destination_mode: DestinationMode::Physical,
        delivery: DeliveryMode::Fixed,
        vector: 0x40,
        level_triggered: false,
    };
    let table = [
        (Shorthand::None, 0, true),
        (Shorthand::None, 1, true),
        (Shorthand::ToSelf, 0, false),
        (Shorthand::ToSelf, 1, true),
        (Shorthand::AllIncludingSelf, 0, true),
        (Shorthand::AllIncludingSelf, 1, true),
        (Shorthand::AllExcludingSelf, 0, true),
        (Shorthand::AllExcludingSelf, 1, false),
    ];
    for (shorthand, sender, expected) in table {
        assert_eq!(apic().takes(&ipi(shorthand), sender), expected, "{shorthand:?} from {sender}");
    }
}

#[test]
fn arbitration_priority_rises_with_what_is_pending_and_in_service() {
    let mut apic = apic();
    assert_eq!(apic.arbitration_priority(), 0);
    apic.accept(0x45, false);
    assert_eq!(apic.arbitration_priority(), 0x40);
    apic.acknowledge();
    assert_eq!(apic.arbitration_priority(), 0x40);
    write(&mut apic, offset::TPR, 0x80);
    assert_eq!(apic.arbitration_priority(), 0x80);
}

// --- Modes ---------------------------------------------------------------------------------------------------------

#[test]
fn base_transitions_are_those_of_figure_10_27() {
    const OFF: u64 = 0xfee0_0000;
    const X: u64 = OFF | 1 << 11;
    const X2: u64 = X | 1 << 10;
    let table = [
        (OFF, OFF, true),
        (OFF, X, true),
        (OFF, X2, false),
        (X, OFF, true),
        (X, X, true),
        (X, X2, true),
        (X2, OFF, true),
        (X2, X, false),
        (X2, X2, true),
        (X, OFF | 1 << 10, false),
        (X, X | 1, false),
        (X, X | 1 << 9, false),
        (X, X | 1 << 36, false),
        (X, X | 1 << 35, true),
    ];
    for (from, to, allowed) in table {
        let mut apic = LocalApic::new(0, false, 1_000_000);
        match from {
            OFF => apic.set_base(OFF, 36).unwrap(),
            X2 => apic.set_base(X2, 36).unwrap(),
            _ => {}
        }
        assert_eq!(apic.set_base(to, 36).is_ok(), allowed, "{from:#x} -> {to:#x}");
        assert_eq!(apic.base(), if allowed { to } else { from });
    }
}

#[test]
fn disabling_by_base_loses_state_and_hides_pending_interrupts() {
    let mut apic = apic();
    apic.accept(0x31, false);
    apic.set_base(0xfee0_0000, 36).unwrap();
    assert_eq!((apic.mode(), apic.mmio_base(), apic.pending_interrupt()), (Mode::Disabled, None, None));
    apic.set_base(0xfee0_0800, 36).unwrap();
    assert_eq!((apic.pending_interrupt(), apic.read(offset::SVR, 0)), (None, 0xff));
}

#[test]
fn init_in_x2apic_mode_keeps_the_mode_and_clears_the_rest() {
    let mut apic = x2apic();
    apic.accept(0x31, false);
    apic.set_cr8(5).unwrap();
    apic.init_reset();
    assert_eq!((apic.mode(), apic.cr8(), apic.pending_interrupt()), (Mode::X2Apic, 0, None));
    assert_eq!(apic.read_msr(0x80d, 0), Ok(2), "LDR follows from the id");
    apic.power_on_reset();
    assert_eq!(apic.mode(), Mode::XApic);
}

#[test]
fn x2apic_msrs_read_and_write_as_table_10_6_says() {
    let read_write = [0x808, 0x80f, 0x828, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x83e];
    let write_only = [0x80b, 0x83f];
    let read_only: Vec<u32> = [0x802, 0x803, 0x80a, 0x80d, 0x839].into_iter().chain(0x810..0x828).collect();
    for msr in 0x800..=0x8ff {
        let mut apic = x2apic();
        let value = if msr == 0x83f { 0x40 } else { 0 };
        let (readable, writable) = (
            read_write.contains(&msr) || read_only.contains(&msr),
            read_write.contains(&msr) || write_only.contains(&msr),
        );
        assert_eq!(apic.read_msr(msr, 0).is_ok(), readable, "read {msr:#x}");
        assert_eq!(apic.write_msr(msr, value, 0).is_ok(), writable, "write {msr:#x}");
    }
}

#[test]
fn x2apic_writes_with_reserved_bits_are_general_protection() {
    let table = [
        (0x808, 0x100),
        (0x80b, 1),
        (0x80f, 0x1000),
        (0x828, 1),
        (0x830, 1 << 13),
        (0x830, 1 << 20),
        (0x832, 1 << 19),
        (0x837, 1 << 8),
        (0x838, 1 << 32),
        (0x83e, 4),
        (0x83f, 0x100),
    ];
    for (msr, value) in table {
        assert_eq!(x2apic().write_msr(msr, value, 0), Err(GeneralProtection), "{msr:#x} {value:#x}");
    }
}

#[test]
fn x2apic_msrs_in_xapic_mode_are_general_protection() {
    assert_eq!(apic().read_msr(0x802, 0), Err(GeneralProtection));
    assert_eq!(apic().write_msr(0x808, 0, 0), Err(GeneralProtection));
}

#[test]
fn x2apic_icr_is_one_64_bit_register() {
    let mut apic = x2apic();
    let Ok(Effect::Ipi(ipi)) = apic.write_msr(0x830, 0x0000_1234_0000_40fb, 0) else { panic!("no IPI") };
    assert_eq!((ipi.destination, ipi.vector), (0x1234, 0xfb));
    assert_eq!(apic.read_msr(0x830, 0), Ok(0x0000_1234_0000_40fb));
    let Ok(Effect::Ipi(ipi)) = apic.write_msr(0x830, 0xffff_ffff_0000_00fb, 0) else { panic!("no IPI") };
    assert_eq!(ipi.destination, EVERYONE);
}

#[test]
fn self_ipi_is_accepted_as_an_edge() {
    let mut apic = x2apic();
    assert_eq!(apic.write_msr(0x83f, 0x51, 0), Ok(Effect::None));
    assert_eq!(apic.pending_interrupt(), Some(0x51));
}

// --- Local sources -------------------------------------------------------------------------------------------------

#[test]
fn virtual_wire_mode_lets_the_8259s_through() {
    let mut apic = LocalApic::new(0, true, 1_000_000);
    let _ = apic.set_pin(Source::Lint0, true);
    assert!(!apic.external_interrupt_pending(), "masked after reset");
    apic.enter_virtual_wire_mode();
    assert!(apic.external_interrupt_pending());
    let _ = apic.set_pin(Source::Lint0, false);
    assert!(!apic.external_interrupt_pending());
    assert_eq!(apic.set_pin(Source::Lint1, true), Some(LocalEvent::Nmi));
    assert_eq!(apic.set_pin(Source::Lint1, true), None, "no edge");
}

#[test]
fn pins_with_the_apic_disabled_are_intr_and_nmi() {
    let mut apic = LocalApic::new(0, true, 1_000_000);
    apic.set_base(0xfee0_0100, 36).unwrap();
    assert_eq!(apic.set_pin(Source::Lint0, true), None);
    assert!(apic.external_interrupt_pending());
    assert_eq!(apic.set_pin(Source::Lint1, true), Some(LocalEvent::Nmi));
}

#[test]
fn external_message_is_pending_until_acknowledged() {
    let mut apic = apic();
    apic.accept_external();
    assert!(apic.external_interrupt_pending());
    apic.acknowledge_external();
    assert!(!apic.external_interrupt_pending());
}

#[test]
fn level_triggered_pin_interrupts_again_after_eoi_while_high() {
    let mut apic = apic();
    write(&mut apic, offset::LVT_LINT0, 0x8045);
    assert_eq!(apic.set_pin(Source::Lint0, true), None);
    assert_eq!(apic.acknowledge(), 0x45);
    assert_eq!(apic.read(offset::LVT_LINT0, 0), 0xc045, "remote IRR");
    assert_eq!(apic.pending_interrupt(), None);
    apic.end_of_interrupt();
    assert_eq!(apic.acknowledge(), 0x45);
    let _ = apic.set_pin(Source::Lint0, false);
    apic.end_of_interrupt();
    assert_eq!((apic.pending_interrupt(), apic.read(offset::LVT_LINT0, 0)), (None, 0x8045));
}

#[test]
fn edge_pin_and_other_sources_do_what_their_entry_says() {
    let table = [
        (0x0045, None, Some(0x45)),
        (0x0400, Some(LocalEvent::Nmi), None),
        (0x0200, Some(LocalEvent::Smi), None),
        (0x0500, Some(LocalEvent::Init), None),
        (0x1_0045, None, None),
        (0x1_0400, None, None),
    ];
    for (entry, event, vector) in table {
        for source in [Source::Lint0, Source::PerformanceMonitor, Source::Thermal] {
            let mut apic = apic();
            write(&mut apic, offset::LVT_TIMER + source as u32 * 0x10, entry);
            let got = if source == Source::Lint0 { apic.set_pin(source, true) } else { apic.raise(source) };
            assert_eq!((got, apic.pending_interrupt()), (event, vector), "{source:?} {entry:#x}");
        }
    }
}
