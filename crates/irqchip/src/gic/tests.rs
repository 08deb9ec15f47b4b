use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const D: Frame = Frame::Distributor;
const R: Frame = Frame::Redistributors;
/// SGI_base of vCPU 0.
const SGI: u64 = 0x1_0000;

/// A GICv2 that forwards group 0, all SPIs enabled.
fn v2(vcpus: usize) -> Gic {
    let mut gic = Gic::new(Version::V2, vcpus);
    gic.write(0, D, 0, 4, 1);
    (1..4).for_each(|w| _ = gic.write(0, D, 0x100 + 4 * w, 4, !0));
    gic
}

/// A GICv3 as Linux sets it up: group 1, SGIs and SPIs enabled.
fn v3(vcpus: usize) -> Gic {
    let mut gic = Gic::new(Version::V3, vcpus);
    gic.write(0, D, 0, 4, 0x12);
    (1..4).for_each(|w| _ = gic.write(0, D, 0x100 + 4 * w, 4, !0));
    (0..vcpus as u64).for_each(|v| _ = gic.write(0, R, v << 17 | SGI | 0x100, 4, !0));
    gic
}

fn get(gic: &Gic, frame: Frame, offset: u64) -> u64 {
    gic.read(0, frame, offset, 4).0
}

fn fill(gic: &mut Gic, vcpu: usize) -> ([ListRegister; 4], Flush) {
    let mut lrs = [ListRegister::default(); 4];
    let flush = gic.fill(vcpu, &mut lrs);
    (lrs, flush)
}

fn intids(lrs: &[ListRegister]) -> Vec<u16> {
    lrs.iter().filter(|l| l.pending || l.active).map(|l| l.intid).collect()
}

/// As the hardware does when the guest reads IAR, and writes EOIR.
fn acknowledge(lr: &mut ListRegister) {
    (lr.pending, lr.active) = (false, true);
}
fn end(lr: &mut ListRegister) {
    lr.active = false;
}

#[test]
fn v2_identification_registers_have_the_manuals_values() {
    let gic = v2(4);
    for (offset, value) in [
        (0x000, 1),
        (0x004, 3 << 5 | 3),
        (0x008, 0x4100_043b),
        (0xfe8, 0x2b),
        (0xff0, 0x0d),
        (0xff4, 0xf0),
        (0xff8, 0x05),
        (0xffc, 0xb1),
    ] {
        assert_eq!(get(&gic, D, offset), value, "{offset:#x}");
    }
    assert_eq!(get(&gic, R, 8), 0);
}

#[test]
fn v3_identification_registers_have_the_manuals_values() {
    let gic = v3(3);
    for (frame, offset, value) in [
        (D, 0x0000, 0x52),
        (D, 0x0004, 1 << 25 | 9 << 19 | 3),
        (D, 0xffe8, 0x3b),
        (D, 0xfff0, 0x0d),
        (R, 0x0000, 0),
        (R, 0x0004, 0x4100_043b),
        (R, 0xffe8, 0x3b),
        (R, 0x2_0008, 1 << 8),
        (R, 0x2_000c, 1),
        (R, 0x4_0008, 2 << 8 | 1 << 4),
        (R, 0x6_0008, 0),
        (R, 0x6_0014, 0),
    ] {
        assert_eq!(get(&gic, frame, offset), value, "{offset:#x}");
    }
    assert_eq!(gic.read(0, R, 0x4_0008, 8).0, 2 << 32 | 2 << 8 | 1 << 4);
}

#[test]
fn waker_says_what_was_asked_for() {
    let mut gic = v3(2);
    assert_eq!(get(&gic, R, 0x14), 6);
    gic.write(0, R, 0x14, 4, 0);
    assert_eq!(get(&gic, R, 0x14), 0);
    assert_eq!(get(&gic, R, 0x2_0014), 6);
}

#[test]
fn set_and_clear_registers_change_only_what_is_written_as_one() {
    for (set, clear) in [(0x104, 0x184), (0x204, 0x284), (0x304, 0x384)] {
        let mut gic = Gic::new(Version::V2, 1);
        gic.write(0, D, set, 4, 0xf0);
        gic.write(0, D, set, 4, 0x0f);
        gic.write(0, D, clear, 4, 0x11);
        assert_eq!(get(&gic, D, set), 0xee, "{set:#x}");
        assert_eq!(get(&gic, D, clear), 0xee, "{clear:#x}");
    }
}

#[test]
fn registers_of_private_interrupts_are_each_vcpus_own() {
    let mut gic = v2(2);
    gic.write(1, D, 0x100, 4, 1 << 27);
    assert_eq!(gic.read(0, D, 0x100, 4).0, 0xffff);
    assert_eq!(gic.read(1, D, 0x100, 4).0, 0xffff | 1 << 27);
    let mut gic = v3(2);
    gic.write(0, R, 0x2_0000 | SGI | 0x180, 4, !0);
    assert_eq!(get(&gic, R, SGI | 0x100), 0xffff_ffff);
    assert_eq!(get(&gic, R, 0x2_0000 | SGI | 0x100), 0);
    gic.write(0, D, 0x100, 4, 1);
    assert_eq!(get(&gic, D, 0x100), 0);
}

#[test]
fn priorities_have_five_bits_and_are_accessible_as_bytes_and_words() {
    let mut gic = v2(1);
    gic.write(0, D, 0x400 + 33, 1, 0xff);
    gic.write(0, D, 0x400 + 36, 4, 0x0102_0a47);
    assert_eq!(gic.read(0, D, 0x400 + 33, 1).0, 0xf8);
    assert_eq!(get(&gic, D, 0x420), 0xf800);
    assert_eq!(get(&gic, D, 0x424), 0x0000_0840);
    assert_eq!(gic.write(0, D, 0x400 + 128, 4, !0), 0);
    assert_eq!(get(&gic, D, 0x400 + 128), 0);
}

#[test]
fn targets_say_who_reads_them_and_keep_only_vcpus_that_exist() {
    let mut gic = v2(2);
    assert_eq!(gic.read(1, D, 0x800, 4).0, 0x0202_0202);
    gic.write(0, D, 0x800 + 33, 1, 0xfe);
    assert_eq!(get(&gic, D, 0x820), 0x0101_0201);
    gic.write(0, D, 0x800, 4, 0);
    assert_eq!(get(&gic, D, 0x800), 0x0101_0101);
}

#[test]
fn configuration_makes_edges_and_leaves_sgis_alone() {
    let mut gic = v2(1);
    gic.write(0, D, 0xc00, 4, 0);
    assert_eq!(get(&gic, D, 0xc00), 0xaaaa_aaaa);
    gic.write(0, D, 0xc0c, 4, 0xffff_0008);
    assert_eq!(get(&gic, D, 0xc0c), 0xaaaa_0008);
    gic.write(0, D, 0xc04, 4, 2 << 22);
    assert_eq!(get(&gic, D, 0xc04), 2 << 22);
}

#[test]
fn routes_are_of_eight_bytes_in_halves_or_at_once() {
    let mut gic = v3(2);
    let at = 0x6000 + 8 * 40;
    gic.write(0, D, at, 8, 0xab_8012_3456);
    assert_eq!(gic.read(0, D, at, 8).0, 0xab_0012_3456);
    gic.write(0, D, at + 4, 4, 0);
    gic.write(0, D, at, 4, 1);
    assert_eq!(gic.read(0, D, at, 8).0, 1);
    assert_eq!(gic.set_line(40, true), 2);
    assert_eq!(gic.write(0, D, at, 4, 0), 1);
    assert_eq!(gic.write(0, D, at, 4, 7), 0);
    assert!(!gic.wants(0) && !gic.wants(1));
}

#[test]
fn sizes_that_a_register_does_not_have_do_nothing() {
    let mut gic = v2(1);
    for (offset, size) in [(0x100, 1), (0x100, 8), (0x101, 4), (0x100, 2), (0x420, 8), (0x420, 2), (0, 1)] {
        gic.write(0, D, offset, size, 0);
        assert_eq!(gic.read(0, D, offset, size), (0, 0), "{offset:#x} {size}");
    }
}

#[test]
fn level_interrupt_is_pending_again_after_its_end_while_asserted() {
    let mut gic = v2(1);
    assert_eq!(gic.set_line(33, true), 1);
    assert_eq!(gic.set_line(33, true), 0);
    assert!(gic.wants(0));
    let (mut lrs, flush) = fill(&mut gic, 0);
    assert_eq!(flush, Flush { used: 1, ..Default::default() });
    assert_eq!(
        lrs[0],
        ListRegister { intid: 33, pending: true, eoi_maintenance: true, ..Default::default() }
    );
    acknowledge(&mut lrs[0]);
    gic.drain(0, &lrs, 0);
    assert!(!gic.wants(0));
    // Active only: with both bits the hardware would signal it again whatever the line is by then.
    let (mut lrs, _) = fill(&mut gic, 0);
    assert_eq!(lrs[0], ListRegister { intid: 33, active: true, eoi_maintenance: true, ..Default::default() });
    end(&mut lrs[0]);
    gic.drain(0, &lrs, 0);
    assert!(gic.wants(0));
    let (mut lrs, _) = fill(&mut gic, 0);
    acknowledge(&mut lrs[0]);
    gic.drain(0, &lrs, 0);
    gic.set_line(33, false);
    let (mut lrs, _) = fill(&mut gic, 0);
    assert!(!lrs[0].eoi_maintenance);
    end(&mut lrs[0]);
    gic.drain(0, &lrs, 0);
    assert!(!gic.wants(0));
}

#[test]
fn level_that_falls_before_it_is_acknowledged_is_forgotten() {
    let mut gic = v2(1);
    gic.set_line(33, true);
    let (lrs, _) = fill(&mut gic, 0);
    gic.set_line(33, false);
    gic.drain(0, &lrs, 0);
    assert!(!gic.wants(0));
    // What a register made pending stays so.
    gic.write(0, D, 0x204, 4, 2);
    let (lrs, _) = fill(&mut gic, 0);
    gic.drain(0, &lrs, 0);
    assert!(gic.wants(0));
    gic.write(0, D, 0x284, 4, 2);
    assert!(!gic.wants(0));
}

#[test]
fn edge_while_active_makes_it_pending_and_active() {
    let mut gic = v2(1);
    gic.write(0, D, 0xc0c, 4, 2 << 2);
    gic.set_line(49, true);
    let (mut lrs, _) = fill(&mut gic, 0);
    acknowledge(&mut lrs[0]);
    assert_eq!(gic.set_line(49, false), 0);
    assert_eq!(gic.set_line(49, true), 1);
    gic.drain(0, &lrs, 0);
    let (mut lrs, _) = fill(&mut gic, 0);
    assert!(lrs[0].pending && lrs[0].active && !lrs[0].eoi_maintenance);
    end(&mut lrs[0]);
    gic.drain(0, &lrs, 0);
    assert!(gic.wants(0));
    let (mut lrs, _) = fill(&mut gic, 0);
    lrs[0].pending = false;
    gic.drain(0, &lrs, 0);
    assert!(!gic.wants(0));
}

#[test]
fn best_priority_goes_first_then_the_lowest_intid() {
    let mut gic = v2(1);
    gic.write(0, D, 0x400 + 50, 1, 0x80);
    gic.write(0, D, 0x400 + 51, 1, 0x40);
    gic.write(0, D, 0x400 + 60, 1, 0x40);
    gic.write(0, D, 0x400 + 61, 1, 0xf8);
    [50, 60, 61, 51].iter().for_each(|n| _ = gic.set_line(*n, true));
    let (lrs, flush) = fill(&mut gic, 0);
    assert_eq!(intids(&lrs), [51, 60, 50, 61]);
    assert_eq!(flush, Flush { used: 4, ..Default::default() });
}

#[test]
fn more_pending_than_list_registers_stay_and_want_maintenance() {
    let mut gic = v2(1);
    (48..54).for_each(|n| _ = gic.set_line(n, true));
    let (mut lrs, flush) = fill(&mut gic, 0);
    assert_eq!(intids(&lrs), [48, 49, 50, 51]);
    assert_eq!(flush, Flush { used: 4, no_pending: true, ..Default::default() });
    for n in 48..52 {
        gic.set_line(n, false);
        let lr = &mut lrs[n as usize - 48];
        (lr.pending, lr.active) = (false, false);
    }
    gic.drain(0, &lrs, 0);
    let (lrs, flush) = fill(&mut gic, 0);
    assert_eq!((intids(&lrs), flush.no_pending), (std::vec![52, 53], false));
}

/// Makes SPIs active by acknowledging them one after the other, each of higher priority than the one before.
fn nest(gic: &mut Gic, range: std::ops::Range<u32>) {
    for n in range {
        gic.write(0, D, 0x400 + n as u64, 1, 0xf8 - 8 * (n as u64 - 32));
        gic.set_line(n, true);
        let (mut lrs, _) = fill(gic, 0);
        let lr = lrs.iter_mut().find(|lr| lr.intid == n as u16).unwrap();
        assert!(lr.pending);
        acknowledge(lr);
        gic.drain(0, &lrs, 0);
        gic.set_line(n, false);
    }
}

#[test]
fn ends_of_active_interrupts_without_list_register_are_counted() {
    let mut gic = v2(1);
    nest(&mut gic, 40..46);
    let (mut lrs, flush) = fill(&mut gic, 0);
    assert_eq!(intids(&lrs), [45, 44, 43, 42]);
    assert_eq!(flush, Flush { used: 4, eoi_count: true, ..Default::default() });
    lrs.iter_mut().for_each(end);
    gic.drain(0, &lrs, 1);
    let (lrs, flush) = fill(&mut gic, 0);
    assert_eq!(intids(&lrs), [40]);
    assert_eq!((lrs[0].active, flush.eoi_count), (true, false));
    gic.drain(0, &lrs, 31);
    assert_eq!(get(&gic, D, 0x304), 1 << 8);
}

#[test]
fn pending_interrupt_gets_in_however_many_are_active() {
    let mut gic = v2(1);
    nest(&mut gic, 40..46);
    gic.write(0, D, 0x400 + 100, 1, 0xf8);
    gic.write(0, D, 0x400 + 101, 1, 0xf8);
    gic.set_line(101, true);
    gic.set_line(100, true);
    let (lrs, flush) = fill(&mut gic, 0);
    assert_eq!(intids(&lrs), [45, 44, 43, 100]);
    assert_eq!(flush, Flush { used: 4, no_pending: true, eoi_count: true, silenced: 0 });
    gic.drain(0, &lrs, 0);
    gic.deactivate(0, 45);
    assert_eq!(intids(&fill(&mut gic, 0).0), [44, 43, 42, 100]);
}

#[test]
fn v2_sgis_come_one_source_at_a_time() {
    let mut gic = v2(4);
    assert_eq!(gic.write(1, D, 0xf00, 4, 0b0101 << 16 | 3), 0b0101);
    assert_eq!(gic.write(3, D, 0xf00, 4, 1 << 24 | 3), 0b0111);
    assert_eq!(gic.read(0, D, 0xf10, 4).0, 0b1010 << 24);
    let (mut lrs, _) = fill(&mut gic, 0);
    assert_eq!((lrs[0].intid, lrs[0].source, lrs[0].eoi_maintenance), (3, 1, true));
    assert_eq!(intids(&lrs), [3]);
    assert_eq!(gic.read(0, D, 0xf23, 1).0, 0b1010);
    acknowledge(&mut lrs[0]);
    gic.drain(0, &lrs, 0);
    let (mut lrs, _) = fill(&mut gic, 0);
    assert_eq!((lrs[0].source, lrs[0].pending, lrs[0].eoi_maintenance), (1, false, true));
    // The same source again while its SGI is active: both.
    assert_eq!(gic.write(1, D, 0xf00, 4, 0b0001 << 16 | 3), 1);
    gic.drain(0, &lrs, 0);
    (lrs, _) = fill(&mut gic, 0);
    assert_eq!((lrs[0].source, lrs[0].pending, lrs[0].active), (1, true, true));
    (lrs[0].pending, lrs[0].active) = (false, false);
    gic.drain(0, &lrs, 0);
    let (mut lrs, _) = fill(&mut gic, 0);
    assert_eq!((lrs[0].source, lrs[0].pending, lrs[0].eoi_maintenance), (3, true, false));
    lrs[0].pending = false;
    gic.drain(0, &lrs, 0);
    assert!(!gic.wants(0) && gic.wants(1) && gic.wants(2) && !gic.wants(3));
}

#[test]
fn v2_sgi_to_oneself_and_its_pending_registers() {
    let mut gic = v2(2);
    assert_eq!(gic.write(1, D, 0xf00, 4, 2 << 24 | 15), 2);
    assert_eq!(gic.write(1, D, 0xf20, 4, 0xff00), 2);
    assert_eq!(gic.read(1, D, 0xf20, 4).0, 0x0300);
    assert_eq!(gic.read(1, D, 0x200, 4).0, 1 << 15 | 1 << 1);
    gic.write(1, D, 0x280, 4, !0);
    assert!(gic.wants(1));
    gic.write(1, D, 0xf1f, 1, 2);
    gic.write(1, D, 0xf11, 1, 1);
    assert_eq!(gic.read(1, D, 0x200, 4).0, 1 << 1);
    // Cleared while in a list register: what comes back is not believed.
    let (lrs, _) = fill(&mut gic, 1);
    assert_eq!((lrs[0].intid, lrs[0].source), (1, 1));
    gic.write(1, D, 0xf11, 1, 2);
    gic.drain(1, &lrs, 0);
    assert!(!gic.wants(1));
}

#[test]
fn sgi1r_sends_by_affinity_or_to_all_others() {
    let mut gic = v3(4);
    assert_eq!(gic.sgi1r(0, 5 << 24 | 0b1_1010), 0b1010);
    assert_eq!(gic.sgi1r(1, 1 << 40 | 6 << 24), 0b1101);
    for elsewhere in [1 << 16, 1 << 32, 1 << 48, 1 << 44] {
        assert_eq!(gic.sgi1r(0, elsewhere | 0xf), 0);
    }
    let (lrs, _) = fill(&mut gic, 3);
    assert_eq!(intids(&lrs), [5, 6]);
    assert!(lrs[0].group1 && lrs[0].source == 0 && !lrs[0].eoi_maintenance);
    gic.write(0, R, SGI | 0x80, 4, 0);
    assert_eq!(gic.sgi1r(2, 1), 0);
}

#[test]
fn disabled_interrupts_and_groups_are_not_sent() {
    let mut gic = v2(1);
    gic.write(0, D, 0x184, 4, 2);
    assert_eq!(gic.set_line(33, true), 0);
    assert!(!gic.wants(0));
    assert_eq!(gic.write(0, D, 0x104, 4, 2), 1);
    assert_eq!(gic.write(0, D, 0, 4, 2), 1);
    assert!(!gic.wants(0));
    gic.write(0, D, 0x84, 4, 2);
    assert!(gic.wants(0));
    assert!(fill(&mut gic, 0).0[0].group1);
}

#[test]
fn disabling_what_another_vcpu_holds_kicks_it_and_takes_it_back() {
    let mut gic = v2(2);
    gic.set_line(33, true);
    let (lrs, _) = fill(&mut gic, 0);
    assert_eq!(gic.write(1, D, 0x184, 4, 2), 1);
    gic.drain(0, &lrs, 0);
    assert!(!gic.wants(0));
    assert_eq!(fill(&mut gic, 0).1.used, 0);
}

#[test]
fn deactivating_what_another_vcpu_holds_outlasts_its_list_register() {
    let mut gic = v2(2);
    gic.set_line(33, true);
    let (mut lrs, _) = fill(&mut gic, 0);
    gic.set_line(33, false);
    acknowledge(&mut lrs[0]);
    gic.drain(0, &lrs, 0);
    let (lrs, _) = fill(&mut gic, 0);
    assert_eq!(gic.read(1, D, 0x304, 4), (2, 1));
    assert_eq!(gic.write(1, D, 0x384, 4, 2), 1);
    assert_eq!(gic.read(1, D, 0x304, 4), (0, 0));
    gic.drain(0, &lrs, 0);
    assert_eq!(get(&gic, D, 0x304), 0);
}

#[test]
fn retargeted_interrupt_goes_to_its_new_vcpu_once_the_old_one_left() {
    let mut gic = v2(2);
    gic.set_line(33, true);
    let (lrs, _) = fill(&mut gic, 0);
    assert_eq!(gic.write(1, D, 0x821, 1, 2), 1);
    assert!(!gic.wants(1));
    assert_eq!(gic.drain(0, &lrs, 0), 2);
    assert!(gic.wants(1) && !gic.wants(0));
    // Active, it stays where it was acknowledged.
    let (mut lrs, _) = fill(&mut gic, 1);
    acknowledge(&mut lrs[0]);
    gic.drain(1, &lrs, 0);
    gic.write(1, D, 0x821, 1, 1);
    assert_eq!(fill(&mut gic, 0).1.used, 0);
    let (mut lrs, _) = fill(&mut gic, 1);
    end(&mut lrs[0]);
    assert_eq!(gic.drain(1, &lrs, 0), 1);
}

#[test]
fn interrupt_for_several_vcpus_is_taken_by_one() {
    let mut gic = v2(2);
    gic.write(0, D, 0x821, 1, 3);
    assert_eq!(gic.set_line(33, true), 3);
    assert_eq!(fill(&mut gic, 1).1.used, 1);
    assert_eq!(fill(&mut gic, 0).1.used, 0);
}

#[test]
fn linked_ppi_ends_in_hardware() {
    let mut gic = v3(2);
    gic.link_ppi(27);
    gic.link_ppi(99);
    assert_eq!(gic.set_ppi(1, 27, true), 2);
    assert_eq!(gic.set_ppi(1, 15, true) | gic.set_ppi(1, 32, true), 0);
    let (mut lrs, flush) = fill(&mut gic, 1);
    assert_eq!((lrs[0].hardware, lrs[0].eoi_maintenance, flush.silenced), (Some(27), false, 1 << 27));
    assert!(!gic.wants(0));
    acknowledge(&mut lrs[0]);
    gic.drain(1, &lrs, 0);
    // To be ended in hardware, whatever the line is.
    gic.set_ppi(1, 27, false);
    let (mut lrs, flush) = fill(&mut gic, 1);
    assert_eq!((lrs[0].hardware, flush.silenced), (Some(27), 1 << 27));
    assert_eq!(flush.still_silenced(&lrs), 1 << 27);
    end(&mut lrs[0]);
    assert_eq!(flush.still_silenced(&lrs), 0, "the end of it is the physical one's");
    gic.drain(1, &lrs, 0);
    assert_eq!(fill(&mut gic, 1).1, Flush::default());
    // One that the guest doesn't take is kept from interrupting it.
    gic.write(0, R, 0x2_0000 | SGI | 0x180, 4, 1 << 27);
    gic.set_ppi(1, 27, true);
    let (lrs, flush) = fill(&mut gic, 1);
    assert_eq!(flush, Flush { silenced: 1 << 27, ..Default::default() });
    assert_eq!(flush.still_silenced(&lrs), 1 << 27);
}

#[test]
fn fill_without_drain_loses_no_list_register() {
    let mut gic = v2(1);
    for _ in 0..100 {
        gic.set_line(33, true);
        assert_eq!(fill(&mut gic, 0).1.used, 1);
    }
}

#[test]
fn intids_and_vcpus_that_do_not_exist_do_nothing() {
    for mut gic in [v2(1), v3(1), Gic::new(Version::V3, 0), Gic::new(Version::V2, 99)] {
        for intid in [0, 16, 31, 128, 1019, 1023, u32::MAX] {
            assert_eq!(gic.set_line(intid, true), 0);
            gic.deactivate(usize::MAX, intid);
        }
        gic.set_ppi(usize::MAX, 20, true);
        gic.sgi1r(usize::MAX, u64::MAX);
        gic.drain(usize::MAX, &[ListRegister::default(); 64], u32::MAX);
        gic.fill(usize::MAX, &mut [ListRegister::default(); 64]);
        gic.fill(0, &mut []);
    }
}

proptest! {
    #[test]
    fn random_accesses_do_not_panic_and_leave_the_state_in_bounds(
        version in any::<bool>(),
        accesses in prop::collection::vec((any::<bool>(), 0u64..0x18_0000, 0u8..10, any::<u64>(), 0usize..9), 1..200),
    ) {
        let mut gic = Gic::new(if version { Version::V3 } else { Version::V2 }, 3);
        for (redistributor, offset, size, value, vcpu) in accesses {
            let frame = if redistributor { R } else { D };
            // Most distributors' registers are in the first 4 KiB, and word-aligned.
            let near = offset % 0x1000;
            let offsets = [offset, near, near & !3, (0x6000 + near) & !7];
            for at in offsets {
                for size in [size, 1, 4, 8] {
                    let kick = gic.write(vcpu, frame, at, size, value);
                    let (read, more) = gic.read(vcpu, frame, at, size);
                    // Kicks go to vCPUs that exist, and the numbers of those that don't are folded.
                    prop_assert!((kick | more) & !7 == 0 || vcpu > 2);
                    prop_assert!(size >= 8 || read >> (8 * size as u32) == 0);
                }
            }
            let (lrs, flush) = fill(&mut gic, vcpu);
            prop_assert!(flush.used <= 4);
            for lr in &lrs[..flush.used] {
                prop_assert!((lr.pending || lr.active) && (lr.intid as usize) < 32 + SPIS && lr.priority & 7 == 0);
            }
            let unique = intids(&lrs);
            prop_assert!((1..unique.len()).all(|n| !unique[..n].contains(&unique[n])));
            gic.drain(vcpu, &lrs, value as u32 & 31);
            prop_assert!(gic.vcpus.iter().all(|v| v.loads == 0 && v.bank.held == 0 && v.bank.carried == 0));
            prop_assert!(gic.spis.iter().all(|b| b.held | b.carried | b.held_active | b.dropped == 0));
        }
    }
}
