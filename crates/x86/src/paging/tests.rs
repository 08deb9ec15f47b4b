use super::*;
use std::collections::HashMap;
use std::vec;

/// Tables in a map, by address.
#[derive(Default, Clone)]
struct Map(HashMap<u64, u64>);

impl Entries for Map {
    fn read32(&mut self, address: u64) -> Option<u32> {
        self.0.get(&address).map(|&v| v as u32)
    }
    fn read64(&mut self, address: u64) -> Option<u64> {
        self.0.get(&address).copied()
    }
    fn update32(&mut self, address: u64, old: u32, new: u32) -> bool {
        self.update64(address, old.into(), new.into())
    }
    fn update64(&mut self, address: u64, old: u64, new: u64) -> bool {
        let slot = self.0.get_mut(&address).unwrap();
        let same = *slot == old;
        if same {
            *slot = new;
        }
        same
    }
}

const LINEAR: u64 = 0x0000_1234_5678_9abc;
const RULES: Rules = Rules {
    tables: Tables::Level4,
    write_protect: true,
    no_execute: true,
    smep: true,
    smap: true,
    physical_bits: 46,
};
const READ: Access = Access { write: false, fetch: false, user: false };

/// Four levels of tables at 1000H, 2000H and so on, with the bits given at each level; the last level maps 7F000H.
fn tables(top: u32, last: u32, bits: [u64; 4]) -> Map {
    let mut map = Map::default();
    for level in (last..=top).rev() {
        let table = 0x1000 * u64::from(top - level + 1);
        let at = table + (LINEAR >> (12 + 9 * (level - 1)) & 0x1ff) * 8;
        let target = if level == last { 0x7f << (12 + 9 * (level - 1)) } else { table + 0x1000 };
        map.0.insert(at, target | bits[level as usize - 1]);
    }
    map
}

/// The manual's table 4.6.1 in its own order of sentences, for one set of rights gathered over the levels.
fn allowed(rules: &Rules, a: Access, writable: bool, user: bool, xd: bool) -> bool {
    let xd = xd && rules.no_execute;
    match (a.user, a.fetch, a.write) {
        (false, true, _) if user => !rules.smep && !xd,
        (false, true, _) => !xd,
        (true, true, _) => user && !xd,
        (false, false, false) => !user || !rules.smap,
        (false, false, true) if user && rules.smap => false,
        (false, false, true) => writable || !rules.write_protect,
        (true, false, false) => user,
        (true, false, true) => user && writable,
    }
}

#[test]
fn walk_of_every_combination_of_rights_and_rules_agrees_with_the_manual() {
    let mut cases = 0;
    for rule_bits in 0..16u32 {
        let bit = |n: u32| rule_bits >> n & 1 != 0;
        let rules = Rules { write_protect: bit(0), no_execute: bit(1), smep: bit(2), smap: bit(3), ..RULES };
        for rights in 0..64u64 {
            // Two levels vary, the others grant everything.
            let of =
                |r: u64| PRESENT | (r & 3) << 1 | if r & 4 != 0 && rules.no_execute { NO_EXECUTE } else { 0 };
            let (upper, lower) = (of(rights >> 3), of(rights & 7));
            let all = PRESENT | WRITABLE | USER;
            let writable = upper & lower & WRITABLE != 0;
            let user = upper & lower & USER != 0;
            let xd = (upper | lower) & NO_EXECUTE != 0;
            for a in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)] {
                let access = Access { fetch: a.0 == 1, write: a.1 == 1, user: a.2 == 1 };
                let before = tables(4, 1, [lower, all, upper, all]);
                let mut map = before.clone();
                let got = walk(&mut map, &rules, 0x1000, LINEAR, access);
                cases += 1;
                if allowed(&rules, access, writable, user, xd) {
                    let page = got.unwrap();
                    assert_eq!(page.physical, 0x7fabc);
                    let may =
                        allowed(&rules, Access { write: true, fetch: false, ..access }, writable, user, xd)
                            || access.fetch && page.writable;
                    assert_eq!(
                        page.writable && !access.fetch,
                        access.write && may,
                        "{rules:?} {rights:#x} {access:?}"
                    );
                    for (at, entry) in &before.0 {
                        let dirty = if access.write && *at >= 0x4000 { DIRTY } else { 0 };
                        assert_eq!(map.0[at], entry | ACCESSED | dirty);
                    }
                } else {
                    let fetch = access.fetch && (rules.smep || rules.no_execute);
                    let code = 1
                        | u32::from(access.write) << 1
                        | u32::from(access.user) << 2
                        | u32::from(fetch) << 4;
                    assert_eq!(got, Err(Failure::Fault(code)), "{rules:?} {rights:#x} {access:?}");
                    assert_eq!(map.0, before.0, "no bits are set by an access that faults");
                }
            }
        }
    }
    assert_eq!(cases, 16 * 64 * 6);
}

#[test]
fn walk_with_an_absent_entry_at_any_level_faults_without_the_present_bit() {
    for absent in 0..4 {
        let mut bits = [PRESENT | WRITABLE | USER; 4];
        bits[absent] &= !PRESENT;
        let mut map = tables(4, 1, bits);
        for (access, code) in [
            (READ, 0),
            (Access { write: true, ..READ }, 2),
            (Access { user: true, ..READ }, 4),
            (Access { fetch: true, ..READ }, 0x10),
            (Access { write: true, user: true, ..READ }, 6),
        ] {
            assert_eq!(walk(&mut map, &RULES, 0x1000, LINEAR, access), Err(Failure::Fault(code)));
        }
    }
}

#[test]
fn walk_with_each_reserved_bit_faults_with_rsvd() {
    let all = PRESENT | WRITABLE;
    let no_nx = Rules { no_execute: false, ..RULES };
    // (top level, level of the last entry, level with the bit, bit, whether it is reserved)
    let mut table = vec![(4, 1, 4, 7, true), (4, 1, 1, 7, false), (4, 1, 1, 62, false), (2, 1, 1, 62, true)];
    for bit in 46..52 {
        for level in 1..=4 {
            table.push((4, 1, level, bit, true));
        }
        table.push((2, 2, 2, bit, true));
    }
    for bit in 13..21 {
        table.push((4, 2, 2, bit, true));
        table.push((2, 2, 2, bit, true));
    }
    for bit in 13..30 {
        table.push((4, 3, 3, bit, true));
    }
    table.push((4, 2, 2, 12, false));
    for (top, last, level, bit, reserved) in table {
        let mut bits = [all; 4];
        if last > 1 {
            bits[last as usize - 1] |= PAGE_SIZE;
        }
        bits[level as usize - 1] |= 1 << bit;
        let mut map = tables(top, last, bits);
        let rules = Rules { tables: if top == 2 { Tables::Pae } else { Tables::Level4 }, ..RULES };
        let got = walk(&mut map, &rules, 0x1000, LINEAR, READ);
        assert_eq!(got == Err(Failure::Fault(9)), reserved, "level {level} bit {bit}: {got:?}");
    }
    for level in 1..=4usize {
        let mut bits = [all; 4];
        bits[level - 1] |= NO_EXECUTE;
        assert_eq!(walk(&mut tables(4, 1, bits), &no_nx, 0x1000, LINEAR, READ), Err(Failure::Fault(9)));
    }
}

#[test]
fn walk_of_large_pages_keeps_the_offset() {
    let big = PRESENT | WRITABLE | PAGE_SIZE | GLOBAL;
    let up = PRESENT | WRITABLE;
    let mut two = tables(4, 2, [0, big, up, up]);
    let page = walk(&mut two, &RULES, 0x1000, LINEAR, READ).unwrap();
    assert_eq!((page.physical, page.size, page.global), (0x7f << 21 | LINEAR & 0x1f_ffff, 2 << 20, true));
    let mut one = tables(4, 3, [0, 0, big, up]);
    let page = walk(&mut one, &RULES, 0x1000, LINEAR, Access { write: true, ..READ }).unwrap();
    assert_eq!((page.physical, page.size, page.writable), (0x7f << 30 | LINEAR & 0x3fff_ffff, 1 << 30, true));
}

#[test]
fn walk_of_32_bit_tables_handles_both_page_sizes() {
    let rules =
        Rules { tables: Tables::Bits32 { pse: true }, no_execute: false, smep: false, smap: false, ..RULES };
    let linear = 0x5678_9abc;
    let directory = 0x1000 + (linear >> 22) * 4;
    let entry = 0x2000 + (linear >> 12 & 0x3ff) * 4;
    let small = |d: u64, e: u64| Map([(directory, 0x2000 | d), (entry, 0x7f000 | e)].into());
    let user_write = Access { write: true, user: true, fetch: false };
    for (d, e, expected) in [
        (7, 7, Ok(0x7fabc)),
        (5, 7, Err(Failure::Fault(7))),
        (7, 5, Err(Failure::Fault(7))),
        (3, 7, Err(Failure::Fault(7))),
        (7, 6, Err(Failure::Fault(6))),
        (6, 7, Err(Failure::Fault(6))),
    ] {
        let got = walk(&mut small(d, e), &rules, 0x1000, linear, user_write);
        assert_eq!(got.map(|p| p.physical), expected, "{d} {e}");
    }
    // A fetch fault has no I bit without NX and SMEP.
    let got =
        walk(&mut small(3, 3), &rules, 0x1000, linear, Access { fetch: true, user: true, write: false });
    assert_eq!(got, Err(Failure::Fault(5)));
    let big = |bits: u64| Map([(directory, 0x1540_0083 | bits)].into());
    let page = walk(&mut big(0x0a << 13), &rules, 0x1000, linear, READ).unwrap();
    assert_eq!((page.physical, page.size), (0xa_1540_0000 | linear & 0x3f_ffff, 4 << 20));
    assert_eq!(walk(&mut big(1 << 21), &rules, 0x1000, linear, READ), Err(Failure::Fault(9)));
    let narrow = Rules { physical_bits: 39, ..rules };
    assert_eq!(walk(&mut big(0x80 << 13), &narrow, 0x1000, linear, READ), Err(Failure::Fault(9)));
    // Without PSE the bit means nothing.
    let mut map = small(PAGE_SIZE | 7, 7);
    let plain = Rules { tables: Tables::Bits32 { pse: false }, ..rules };
    assert_eq!(walk(&mut map, &plain, 0x1000, linear, READ).unwrap().physical, 0x7fabc);
}

#[test]
fn walk_to_a_table_outside_memory_says_where() {
    let mut map = tables(4, 1, [3; 4]);
    map.0.retain(|&at, _| at < 0x3000);
    let at = 0x3000 + (LINEAR >> 21 & 0x1ff) * 8;
    assert_eq!(walk(&mut map, &RULES, 0x1000, LINEAR, READ), Err(Failure::NoMemory(at)));
}

#[test]
fn walk_under_an_entry_that_always_changes_ends() {
    struct Racing(Map);
    impl Entries for Racing {
        fn read32(&mut self, a: u64) -> Option<u32> {
            self.0.read32(a)
        }
        fn read64(&mut self, a: u64) -> Option<u64> {
            self.0.read64(a)
        }
        fn update32(&mut self, _: u64, _: u32, _: u32) -> bool {
            false
        }
        fn update64(&mut self, _: u64, _: u64, _: u64) -> bool {
            false
        }
    }
    assert_eq!(walk(&mut Racing(tables(4, 1, [3; 4])), &RULES, 0x1000, LINEAR, READ), Err(Failure::Fault(0)));
}
