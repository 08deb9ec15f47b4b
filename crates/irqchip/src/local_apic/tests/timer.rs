//! The timer through the registers.

use super::*;

#[test]
fn one_shot_timer_interrupts_at_its_deadline() {
    let mut apic = apic();
    write(&mut apic, offset::DIVIDE, 0b1011);
    write(&mut apic, offset::LVT_TIMER, TIMER_VECTOR);
    assert_eq!(apic.write(offset::INITIAL_COUNT, 1000, 500), Effect::None);
    assert_eq!(apic.next_deadline(), Some(1500));
    assert!(!apic.timer_expired(1499));
    assert_eq!(apic.read(offset::CURRENT_COUNT, 1499), 1);
    assert!(apic.timer_expired(1500));
    assert_eq!((apic.pending_interrupt(), apic.next_deadline()), (Some(0xec), None));
}

#[test]
fn masked_timer_counts_without_a_deadline_and_without_an_interrupt() {
    let mut apic = apic();
    write(&mut apic, offset::DIVIDE, 0b1011);
    write(&mut apic, offset::INITIAL_COUNT, 1000);
    assert_eq!((apic.next_deadline(), apic.read(offset::CURRENT_COUNT, 400)), (None, 600));
    assert_eq!(apic.write(offset::LVT_TIMER, TIMER_VECTOR, 2000), Effect::None);
    assert_eq!((apic.next_deadline(), apic.pending_interrupt()), (None, None), "it passed while masked");
}

#[test]
fn periodic_timer_missing_periods_interrupts_once_and_goes_on() {
    let mut apic = apic();
    write(&mut apic, offset::DIVIDE, 0b1011);
    write(&mut apic, offset::LVT_TIMER, TIMER_VECTOR | 1 << 17);
    write(&mut apic, offset::INITIAL_COUNT, 1000);
    assert!(apic.timer_expired(5500));
    assert!(!apic.timer_expired(5500));
    assert_eq!(apic.next_deadline(), Some(6000));
}

#[test]
fn tsc_deadline_fires_reads_zero_and_a_past_one_fires_at_once() {
    let mut apic = apic();
    apic.set_tsc_deadline(100, 0);
    assert_eq!(apic.tsc_deadline(0), 0, "ignored in another mode");
    write(&mut apic, offset::LVT_TIMER, TIMER_VECTOR | 2 << 17);
    apic.set_tsc_deadline(100, 0);
    assert_eq!((apic.tsc_deadline(50), apic.next_deadline()), (100, Some(100)));
    apic.set_tsc_deadline(0, 50);
    assert_eq!(apic.next_deadline(), None);
    apic.set_tsc_deadline(100, 50);
    assert_eq!((apic.tsc_deadline(100), apic.pending_interrupt()), (0, Some(0xec)));
    apic.acknowledge();
    apic.end_of_interrupt();
    apic.set_tsc_deadline(100, 200);
    assert_eq!((apic.pending_interrupt(), apic.next_deadline()), (Some(0xec), None));
}

#[test]
fn initial_count_written_while_counting_starts_over() {
    let mut apic = apic();
    write(&mut apic, offset::DIVIDE, 0b1011);
    write(&mut apic, offset::LVT_TIMER, TIMER_VECTOR);
    write(&mut apic, offset::INITIAL_COUNT, 1000);
    assert_eq!(apic.write(offset::INITIAL_COUNT, 1000, 900), Effect::None);
    assert_eq!(apic.next_deadline(), Some(1900));
}
