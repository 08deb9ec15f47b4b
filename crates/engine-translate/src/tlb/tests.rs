use super::*;

const A: u64 = 0x7f12_3456_7000;

fn found(host: u64) -> Found {
    Found { host: host as *mut u8, plain_writes: true, global: false }
}

fn tlb() -> Tlb {
    let mut tlb = Tlb::default();
    for select in 0..3 {
        assert_ne!(tlb.set(select), Entries::nothing());
    }
    tlb
}

fn look(tlb: &Tlb, select: u8, linear: u64) -> Option<u64> {
    tlb.entries(select).look(READ, linear, 1).map(|p| p as u64)
}

#[test]
fn all_of_a_page_goes_with_one_of_its_addresses() {
    for (size, others) in [(1u64 << 12, 0u64), (1 << 21, 1), (1 << 22, 2), (1 << 30, 2)] {
        let mut tlb = tlb();
        let first = A & !((1 << 30) - 1);
        let halves = [first, first + (1 << 20), first + (1 << 21)];
        halves.iter().for_each(|at| tlb.fill(USER, *at, found(0x1000_0000)));
        tlb.note_size(first, size);
        tlb.flush_page(first);
        let dropped = halves.map(|at| tlb.entries(USER).look(READ, at, 8).is_none());
        assert_eq!(dropped, [true, others >= 1, others >= 2], "{size:#x}");
    }
}

#[test]
fn entry_matches_its_page_and_no_other() {
    let mut tlb = tlb();
    tlb.fill(USER, A + 0x18, found(0x5000_0018));
    let e = tlb.entries(USER);
    for array in [READ, WRITE] {
        assert_eq!(e.look(array, A, 1), Some(0x5000_0000 as *mut u8));
        assert_eq!(e.look(array, A + 0xff8, 8), Some(0x5000_0ff8 as *mut u8));
        assert_eq!(e.look(array, A + 0xff9, 8), None, "into the next page");
        assert_eq!(e.look(array, A + 0xfff, 1), Some(0x5000_0fff as *mut u8));
        for other in [A ^ 1 << 32, A ^ 1 << 47, A ^ 1 << 63, A + 0x1000, A - 0x1000, 0] {
            assert_eq!(e.look(array, other, 1), None);
        }
    }
    assert_eq!(look(&tlb, SUPERVISOR, A), None);
    tlb.fill(USER, A ^ 1 << 32, found(0x6000_0000));
    assert_eq!((look(&tlb, USER, A), look(&tlb, USER, A ^ 1 << 32)), (None, Some(0x6000_0000)));
}

#[test]
fn empty_tables_match_nothing() {
    let tlb = tlb();
    for e in [tlb.entries(USER), Tlb::nothing()] {
        for linear in [0, 8, 0xfff, 0x1000, 1 << 32, u64::MAX, u64::MAX << 12, 1 << 63] {
            assert_eq!((e.look(READ, linear, 1), e.look(WRITE, linear, 1)), (None, None), "{linear:#x}");
        }
    }
}

#[test]
fn page_zero_comes_and_goes() {
    let mut tlb = tlb();
    tlb.fill(USER, 8, found(0x5000_0008));
    assert_eq!(look(&tlb, USER, 8), Some(0x5000_0008));
    tlb.flush_page(0);
    assert_eq!(look(&tlb, USER, 8), None);
    tlb.fill(USER, 8, found(0x5000_0008));
    tlb.flush();
    assert_eq!((look(&tlb, USER, 8), look(&tlb, USER, 0x1008)), (None, None));
}

#[test]
fn address_spaces_keep_their_entries_apart() {
    let mut tlb = tlb();
    tlb.switch(1, false);
    tlb.set(USER);
    tlb.fill(USER, A, found(0x1000_0000));
    tlb.fill(SUPERVISOR_ANY, A, found(0x1000_0000));
    let kernel = 0xffff_8880_0000_0000;
    tlb.fill(SUPERVISOR, kernel, Found { global: true, ..found(0x3000_0000) });
    tlb.switch(2, false);
    tlb.set(USER);
    assert_eq!((look(&tlb, USER, A), look(&tlb, SUPERVISOR_ANY, A)), (None, None));
    assert_eq!(look(&tlb, SUPERVISOR, kernel), Some(0x3000_0000), "global");
    tlb.fill(USER, A, found(0x2000_0000));
    tlb.switch(1, true);
    assert_eq!(look(&tlb, USER, A), Some(0x1000_0000));
    assert_eq!(look(&tlb, SUPERVISOR_ANY, A), None);
    tlb.switch(1, false);
    assert_eq!(look(&tlb, USER, A), None);
    tlb.switch(2, true);
    assert_eq!(look(&tlb, USER, A), Some(0x2000_0000));
    tlb.forget(1);
    tlb.switch(1, true);
    tlb.set(USER);
    assert_eq!(look(&tlb, USER, A), None);
    tlb.flush_page(A);
    tlb.switch(2, true);
    assert_eq!(look(&tlb, USER, A), None, "dropped in every address space");
    tlb.flush_local();
    assert_eq!(look(&tlb, SUPERVISOR, kernel), Some(0x3000_0000));
    tlb.flush();
    assert_eq!(look(&tlb, SUPERVISOR, kernel), None);
}

#[test]
fn place_that_was_a_global_pages_is_cleared_with_the_local_ones() {
    let mut tlb = tlb();
    tlb.fill(SUPERVISOR, A, Found { global: true, ..found(0x1000_0000) });
    tlb.fill(SUPERVISOR, A ^ 1 << 40, found(0x2000_0000));
    tlb.switch(3, true);
    assert_eq!((look(&tlb, SUPERVISOR, A), look(&tlb, SUPERVISOR, A ^ 1 << 40)), (None, None));
}

#[test]
fn more_address_spaces_than_contexts_take_each_others_place() {
    let mut tlb = tlb();
    for round in 0..3u64 {
        for pcid in 1..40u16 {
            tlb.switch(pcid, true);
            tlb.set(USER);
            let before = look(&tlb, USER, A);
            assert!(before.is_none_or(|p| p == (pcid as u64) << 12), "{round} {pcid}: {before:x?}");
            tlb.fill(USER, A, found((pcid as u64) << 12));
        }
    }
}

#[test]
fn pages_of_one_host_page_lose_their_stores() {
    let mut tlb = tlb();
    let host = 0x4_2000_0000u64;
    for n in 0..50 {
        tlb.fill(USER, A + n * 0x1000, found(host + n * 0x1000));
        tlb.fill(
            SUPERVISOR,
            0xffff_8880_0000_0000 + n * 0x1000,
            Found { global: true, ..found(host + n * 0x1000) },
        );
    }
    for n in [7, 49, 7] {
        tlb.forbid_writes((host + n * 0x1000 + 5) as *const u8);
    }
    for n in 0..50 {
        for (select, base) in [(USER, A), (SUPERVISOR, 0xffff_8880_0000_0000)] {
            let e = tlb.entries(select);
            assert!(e.look(READ, base + n * 0x1000, 8).is_some());
            assert_eq!(e.look(WRITE, base + n * 0x1000, 8).is_some(), n != 7 && n != 49, "{select} {n}");
        }
    }
}

#[test]
fn memory_of_tables_is_bounded() {
    let mut tlb = tlb();
    for n in 0..10_000u64 {
        let linear = n << 21;
        tlb.fill(SUPERVISOR, linear, found(0x1000_0000));
        assert_eq!(look(&tlb, SUPERVISOR, linear), Some(0x1000_0000));
        assert!(tlb.groups <= GROUPS);
    }
    assert_eq!(look(&tlb, SUPERVISOR, 0), None, "the oldest are gone");
}

#[test]
fn endless_refills_of_one_page_are_bounded() {
    let mut tlb = tlb();
    for _ in 0..(1 << 19) {
        tlb.fill(USER, A, found(0x1000_0000));
    }
    assert_eq!(look(&tlb, USER, A), Some(0x1000_0000));
    tlb.flush();
    assert_eq!(look(&tlb, USER, A), None);
}

#[test]
fn epochs_wrap_without_reviving_anything() {
    let mut tlb = tlb();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..10_000 {
        tlb.fill(USER, A, found(0x1000_0000));
        assert!(seen.insert(tlb.flushes(true)));
        tlb.flush();
        assert_eq!(look(&tlb, USER, A), None);
    }
}
