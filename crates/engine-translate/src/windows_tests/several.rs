//! Programs with a window that go from one vCPU to another.

use super::*;
use crate::placed::Placed;
use crate::testing::cpus64;
use crate::tlb::windows::NOWHERE;
use address::GuestPhys;

/// Two vCPUs that execute one program, which has a window on the first.
fn two(code: &[u8]) -> [Placed; 2] {
    let mut cpus: [Placed; 2] = cpus64(2, code).try_into().ok().unwrap();
    for cpu in &mut cpus {
        begin_program(cpu);
        cpu.allow_windows();
    }
    cpus[0].give_window();
    cpus
}
/// One goes idle, the other goes on with the program.
fn hand_over(from: &mut Cpu, to: &mut Cpu) {
    from.go_idle();
    to.load_cr3(TABLES).unwrap();
    to.go_on();
}

impl Cpu {
    /// As its kernel does, without giving another address space.
    fn go_idle(&mut self) {
        self.tlb.park_window();
        self.cpl = 0;
        self.update_mode();
        self.remote.leave();
    }
    /// With the program.
    fn go_on(&mut self) {
        self.remote.enter();
        self.service_flush();
        self.cpl = 3;
        self.update_mode();
    }
}

fn load(cpu: &mut Cpu, linear: u64) -> u64 {
    cpu.go_on();
    cpu.regs[RDI] = linear;
    run_all(cpu);
    cpu.regs[RAX]
}

#[test]
fn window_goes_with_its_program() {
    let [mut a, mut b] = two(LOAD);
    for (n, linear) in [LOW, LOW + 0x1000, HIGH].into_iter().enumerate() {
        put(&a, LOW + n as u64 * 0x1000, n as u64 + 1);
        assert_eq!(load(&mut a, linear), n as u64 + 1);
    }
    let pages = windows(&mut a).pages();
    assert!(pages >= 3);
    let (mut from, mut to) = (&mut a, &mut b);
    for _ in 0..6 {
        hand_over(from, to);
        assert_eq!((windows(from).pages(), windows(to).pages()), (0, pages));
        assert!(to.mode.0 & Mode::WINDOWS != 0, "it has one at once");
        for linear in [LOW, HIGH] {
            let leads = from.tlb.window_addend(linear).wrapping_add(linear & !0xffff_ffff);
            assert_eq!(leads, NOWHERE, "{linear:#x} of the vCPU that left it");
            assert_ne!(to.tlb.window_addend(linear).wrapping_add(linear & !0xffff_ffff), NOWHERE);
        }
        assert_eq!([LOW, LOW + 0x1000, HIGH].map(|linear| load(to, linear)), [1, 2, 3]);
        assert_eq!(windows(to).pages(), pages);
        (from, to) = (to, from);
    }
    // Nobody took it meanwhile.
    from.go_idle();
    assert_eq!(load(from, LOW), 1);
    assert!(from.mode.0 & Mode::WINDOWS != 0);
    assert_eq!(windows(from).pages(), pages);
}

/// A vCPU that executes the program where another has its window does without, and can have one of its own.
#[test]
fn window_in_use_is_nobody_else_s() {
    let [mut a, mut b] = two(LOAD);
    put(&a, LOW, 1);
    assert_eq!(load(&mut a, LOW), 1);
    b.load_cr3(TABLES).unwrap();
    assert_eq!(load(&mut b, LOW), 1);
    assert!(b.mode.0 & Mode::WINDOWS == 0);
    b.give_window();
    assert_eq!((load(&mut b, LOW), load(&mut a, LOW)), (1, 1));
    assert!(a.mode.0 & b.mode.0 & Mode::WINDOWS != 0);
    // Each finds its own again.
    let of = |cpu: &mut Cpu| windows(cpu).addend_of(LOW);
    let own = [of(&mut a), of(&mut b)];
    a.go_idle();
    b.go_idle();
    b.load_cr3(TABLES).unwrap();
    a.load_cr3(TABLES).unwrap();
    assert_eq!((load(&mut a, LOW), load(&mut b, LOW)), (1, 1));
    assert_eq!([of(&mut a), of(&mut b)], own);
}

/// What the one dropped was not dropped by the other, whose the window is by then.
#[test]
fn pages_are_looked_at_again_where_a_window_changes_hands() {
    let [mut a, mut b] = two(LOAD);
    (0..3u64).for_each(|n| put(&a, LOW + n * 0x1000, n));
    assert_eq!(load(&mut a, LOW), 0);
    hand_over(&mut a, &mut b);
    assert_eq!(load(&mut b, LOW), 0);
    // By the vCPU that had it, by the one that has it parked, and by the one that uses it.
    put(&a, entry(LOW), (LOW + 0x1000) | ALL);
    a.flush_page(LOW);
    hand_over(&mut b, &mut a);
    assert_eq!(load(&mut a, LOW), 1);
    a.go_idle();
    put(&a, entry(LOW), (LOW + 0x2000) | ALL);
    a.flush_page(LOW);
    assert_eq!(load(&mut a, LOW), 2);
    hand_over(&mut a, &mut b);
    put(&a, entry(LOW), LOW | ALL);
    b.flush_page(LOW);
    assert_eq!(load(&mut b, LOW), 0);
    // Not at all: it is as good as never looked at by this one.
    b.go_idle();
    put(&a, entry(LOW), 0);
    a.load_cr3(TABLES).unwrap();
    a.go_on();
    a.regs[RDI] = LOW;
    assert!(matches!(run(&mut a), Fault::Exception(e) if e.vector == Vector::PF && e.payload == LOW));
}

/// What is decoded and executed: mov eax, n; hlt
fn execute(cpu: &mut Cpu) -> u64 {
    cpu.go_on();
    cpu.regs[RIP] = LOW;
    while cpu.execute_block().is_ok() {}
    assert!(matches!(cpu.fault.take(), Some(Fault::Exception(_))));
    cpu.regs[RAX]
}
fn store_code(cpu: &mut Cpu, n: u64) {
    cpu.go_on();
    (cpu.regs[RDI], cpu.regs[RAX]) = (LOW, n << 8 | 0xb8 | 0xf4 << 40);
    run_all(cpu);
    // Blocks of other modes are found anew, so that executing it wouldn't tell.
    let page = cpu.shared.memory.page_at(GuestPhys(LOW)).unwrap();
    assert_eq!(page.code(), 0, "the store was noted");
}

/// A page becomes code while the window that lets it be written is nobody's: who takes it stores to it, and who had it.
#[test]
fn page_becomes_code_under_a_parked_window() {
    for back in [false, true] {
        let [mut a, mut b] = two(STORE);
        (0..3).for_each(|n| store_code(&mut a, n));
        a.go_idle();
        assert_eq!(execute(&mut b), 2);
        assert!(!b.tlb.has_window());
        let next = if back { &mut a } else { &mut b };
        if !back {
            next.load_cr3(TABLES).unwrap();
        }
        store_code(next, 3);
        assert!(next.tlb.has_window());
        next.go_idle();
        assert_eq!(execute(&mut b), 3, "{back}");
    }
}

/// The same while it is another's.
#[test]
fn page_becomes_code_under_a_window_that_changed_hands() {
    let [mut a, mut b] = two(STORE);
    (0..3).for_each(|n| store_code(&mut a, n));
    a.go_idle();
    b.load_cr3(TABLES).unwrap();
    b.go_on();
    assert!(b.tlb.has_window());
    // As while it calls a device: nobody waits for it, but it is asked.
    b.remote.leave();
    assert_eq!(execute(&mut a), 2);
    store_code(&mut b, 3);
    b.go_idle();
    assert_eq!(execute(&mut a), 3);
}

/// Every set of pages that change, the others staying mapped.
#[test]
fn comparison_drops_what_changed_and_keeps_the_rest() {
    let [mut a, _] = two(LOAD);
    let pages = [LOW, LOW + 0x1000, LOW + 0x2000, LOW + 0x3000, HIGH];
    let other = 0x60000;
    put(&a, other, 99);
    let frame = |n: usize| if n == 4 { LOW + 0x2000 } else { pages[n] };
    (0..4).for_each(|n| put(&a, pages[n], n as u64));
    for changed in 0..32u32 {
        for (n, linear) in pages.into_iter().enumerate() {
            put(&a, entry(linear), frame(n) | ALL);
        }
        a.load_cr3(TABLES).unwrap();
        pages.iter().for_each(|linear| _ = load(&mut a, *linear));
        let is_changed = |n: usize| changed & 1 << n != 0;
        for (n, linear) in pages.into_iter().enumerate().filter(|(n, _)| is_changed(*n)) {
            put(&a, entry(linear), (other + n as u64 * 0x1000) | ALL);
            put(&a, other + n as u64 * 0x1000, 99 + n as u64);
        }
        a.load_cr3(TABLES).unwrap();
        // The code's own page may be mapped, too.
        let before = windows(&mut a).pages();
        for (n, linear) in pages.into_iter().enumerate() {
            let is = if is_changed(n) { 99 + n as u64 } else { peek(&a, frame(n), 8)[0] as u64 };
            assert_eq!(load(&mut a, linear), is, "{changed:#b}, page {n}");
        }
        assert_eq!(windows(&mut a).pages() - before, changed.count_ones() as usize, "{changed:#b}");
    }
}

#[test]
fn window_of_another_program_is_left_as_it_is_to_be_closed() {
    let [mut a, _] = two(LOAD);
    [LOW, LOW + 0x1000, HIGH].iter().for_each(|linear| _ = load(&mut a, *linear));
    a.tlb.uninstall_window();
    let w = windows(&mut a);
    w.suspect_all();
    w.take_mappings();
    let done = w.compare(true, |_, _| ());
    assert!(done.dropped >= 3 && done.kept == 0);
    assert_eq!((w.suspected(), w.take_mappings()), (true, 0));
    a.tlb.close_window();
    a.give_window();
    assert_eq!(load(&mut a, LOW), peek(&a, LOW, 8)[0] as u64);
}
