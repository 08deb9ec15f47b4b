//! Programs with a window, and what attacks one.

use crate::cpu::{CS, Cpu, Mode, RAX, RBX, RCX, RDI, RIP, RSI, RSP};
use crate::fault::Fault;
use crate::placed::Placed;
use crate::testing::{CODE, DATA, cpu64, peek, poke};
use crate::tlb::windows::Windows;
use x86::{Cr0, Cr4, Efer, Vector};

/// The program's pages: its code at [`CODE`], data where the first of these is, and the same once more far above.
const LOW: u64 = DATA;
const HIGH: u64 = 0x7ffe_1234_5000;
const TABLES: u64 = 0x40000;
/// Present, writable, user, accessed, dirty.
const ALL: u64 = 0x67;
const WRITABLE: u64 = 2;
const ACCESSED: u64 = 0x20;
const DIRTY: u64 = 0x40;
const LARGE: u64 = 0x80;

/// Where the entry for a page is.
fn entry(linear: u64) -> u64 {
    let table = if linear == HIGH { TABLES + 0x6000 } else { TABLES + 0x3000 };
    table + (linear >> 12 & 511) * 8
}
fn put(cpu: &Cpu, at: u64, value: u64) {
    poke(cpu, at, &value.to_le_bytes());
}

mod several;

/// A vCPU at CPL 3 whose address space has a window, and whose code is translated before it's executed.
fn program(code: &[u8]) -> Placed {
    let mut cpu = cpu64(code);
    begin_program(&mut cpu);
    cpu.give_window();
    assert!(cpu.mode.0 & Mode::WINDOWS != 0, "it has one");
    cpu
}
/// The same without a window.
fn begin_program(cpu: &mut Cpu) {
    for (table, linear) in [(TABLES + 0x1000, 0), (TABLES + 0x4000, HIGH)] {
        put(cpu, TABLES + (linear >> 39 & 511) * 8, table | ALL);
        put(cpu, table + (linear >> 30 & 511) * 8, (table + 0x1000) | ALL);
        put(cpu, table + 0x1000 + (linear >> 21 & 511) * 8, (table + 0x2000) | ALL);
    }
    put(cpu, entry(CODE), CODE | ALL);
    (0..4).for_each(|n| put(cpu, entry(LOW + n * 4096), (LOW + n * 4096) | ALL));
    put(cpu, entry(HIGH), (LOW + 0x2000) | ALL);
    cpu.cr3 = TABLES;
    cpu.cr4 |= Cr4::PAE;
    cpu.cr0 |= Cr0::PG | Cr0::WP;
    cpu.efer |= Efer::NXE;
    cpu.cpl = 3;
    cpu.seg[CS].attributes = 0x20fb;
    cpu.t1.threshold = 0;
    cpu.regs[RSP] = LOW + 0x1000;
    cpu.tlb.flush();
    cpu.update_mode();
}

fn windows(cpu: &mut Cpu) -> &mut Windows {
    cpu.tlb.windows().unwrap()
}

/// Executes the code from its start; the fault that it ends with, all of them ending with HLT, or earlier.
fn run(cpu: &mut Cpu) -> Fault {
    cpu.regs[RIP] = CODE;
    for _ in 0..1000 {
        if cpu.execute_block().is_err() {
            match cpu.fault.take().unwrap() {
                Fault::Restart => cpu.single = true,
                fault => return fault,
            }
        }
    }
    panic!("no end; RIP is {:#x}", cpu.regs[RIP]);
}
/// The same, to its end.
fn run_all(cpu: &mut Cpu) {
    match run(cpu) {
        Fault::Exception(e) if e.vector == Vector::GP => {}
        other => panic!("{other:?} at {:#x}", cpu.regs[RIP]),
    }
}

// mov rax, [rdi]; hlt
const LOAD: &[u8] = &[0x48, 0x8b, 0x07, 0xf4];
// mov [rdi], rax; hlt
const STORE: &[u8] = &[0x48, 0x89, 0x07, 0xf4];

#[test]
fn pages_are_mapped_once_and_found_after_that() {
    let mut cpu = program(LOAD);
    for linear in [LOW, LOW + 0x1ff8, HIGH, HIGH + 0xff8] {
        let physical = if linear >= HIGH { linear - HIGH + LOW + 0x2000 } else { linear };
        for value in [1u64, 2] {
            put(&cpu, physical, value);
            cpu.regs[RDI] = linear;
            run_all(&mut cpu);
            assert_eq!(cpu.regs[RAX], value);
        }
    }
    assert!(windows(&mut cpu).pages() >= 3);
    // What is mapped is loaded from without asking anybody.
    let before = windows(&mut cpu).pages();
    cpu.tlb.uninstall_window();
    cpu.update_mode();
    cpu.regs[RDI] = LOW;
    put(&cpu, LOW, 3);
    run_all(&mut cpu);
    assert_eq!((cpu.regs[RAX], windows(&mut cpu).pages()), (3, before));
}

/// Every address that isn't the program's faults as it would, wherever in the host it may be.
#[test]
fn no_address_reaches_anything_of_the_hosts() {
    let secret = Box::new(0x5ec2_e7e7_5ec2_e7e7u64);
    let host =
        [&raw const *secret as u64, &raw const secret as u64, run as fn(&mut Cpu) -> Fault as usize as u64];
    let shapes: [(&str, &[u8]); 7] = [
        ("mov rax, [rdi]", LOAD),
        ("mov [rdi], rax", STORE),
        ("mov rax, [rdi + 7fffffffh]", &[0x48, 0x8b, 0x87, 0xff, 0xff, 0xff, 0x7f, 0xf4]),
        ("mov rax, [rdi - 80000000h]", &[0x48, 0x8b, 0x87, 0, 0, 0, 0x80, 0xf4]),
        ("mov rax, [rdi + rbx*8]", &[0x48, 0x8b, 0x04, 0xdf, 0xf4]),
        ("mov rax, [rdi]; mov rax, [rdi + 8]", &[0x48, 0x8b, 0x07, 0x48, 0x8b, 0x47, 0x08, 0xf4]),
        ("mov r8, rdi; mov rax, [r8]", &[0x49, 0x89, 0xf8, 0x49, 0x8b, 0x00, 0xf4]),
    ];
    for (text, code) in shapes {
        let mut cpu = program(code);
        // With a slot of its own for each unit.
        for linear in [LOW, HIGH] {
            (cpu.regs[RDI], cpu.regs[RBX]) = (linear, 0);
            let _ = run(&mut cpu);
        }
        let slots = 0x0100_0000_0000u64;
        // The arrays of vCPUs beside it lead to slots too.
        let beside = [(); 3].map(|()| {
            let mut other = program(LOAD);
            for linear in [LOW, HIGH] {
                other.regs[RDI] = linear;
                run_all(&mut other);
            }
            other
        });
        let mut wild: Vec<u64> = host.to_vec();
        wild.extend((0..64).map(|n| 1u64 << n));
        wild.extend((0..64).map(|n| u64::MAX << n));
        wild.extend((0..8u64).map(|n| n << 61 | HIGH));
        wild.extend((0..8u64).map(|n| n << 61 | 1 << 60 | HIGH));
        wild.extend((0..16).map(|n| slots + (n << 31)));
        let at = |cpu: &Placed| cpu.windows.units.unwrap().address();
        for other in &beside {
            let between = at(other).wrapping_sub(at(&cpu)) as i64 / 8;
            let units = [0, 1, HIGH >> 32, 0x7fff].map(|unit| (between + unit as i64) as u64);
            wild.extend(units.iter().flat_map(|unit| {
                (0..8u64).flat_map(move |n| {
                    [LOW, HIGH, 0].map(|linear| unit << 32 ^ n << 61 | linear & 0xffff_ffff)
                })
            }));
        }
        // Around its own.
        wild.extend((-1024..0i64).map(|unit| (unit << 32) as u64 | LOW));
        wild.extend((0x8000..0x8800u64).map(|unit| unit << 32 | LOW));
        // What leads from the program's units to the host's own addresses.
        for to in host {
            wild.extend((0..16).flat_map(|n| {
                [LOW, HIGH].map(|unit| to.wrapping_sub(slots + (n << 31)).wrapping_add(unit & !0xffff_ffff))
            }));
        }
        for address in wild {
            let displacement = match text {
                t if t.ends_with("7fffffffh]") => 0x7fff_ffff,
                t if t.ends_with("80000000h]") => (-0x8000_0000i64) as u64,
                _ => 0,
            };
            for rbx in [0, 1, 1 << 29, u64::MAX, 1 << 58] {
                let indexed = if text.contains("rbx") { rbx.wrapping_mul(8) } else { 0 };
                let linear = address.wrapping_add(displacement).wrapping_add(indexed);
                let mapped = |at: u64| {
                    (LOW..LOW + 0x4000).contains(&at)
                        || (CODE..CODE + 0x1000).contains(&at)
                        || at & !0xfff == HIGH
                };
                if mapped(linear) || mapped(linear.wrapping_add(15)) {
                    continue;
                }
                (cpu.regs[RDI], cpu.regs[RBX], cpu.regs[RAX]) = (address, rbx, 77);
                let fault = run(&mut cpu);
                assert_eq!(
                    (cpu.regs[RIP], cpu.regs[RAX]),
                    (cpu.regs[RIP], 77),
                    "{text} at {address:#x}, {rbx:#x}"
                );
                match fault {
                    Fault::NonCanonical => assert_ne!((linear as i64) << 16 >> 16, linear as i64),
                    Fault::Exception(e) => {
                        assert_eq!((e.vector, e.payload), (Vector::PF, linear), "{text} at {address:#x}")
                    }
                    other => panic!("{text} at {address:#x}: {other:?}"),
                }
                if !text.contains("rbx") {
                    break;
                }
            }
        }
    }
    assert_eq!(*secret, 0x5ec2_e7e7_5ec2_e7e7);
}

#[test]
fn pages_that_are_mapped_elsewhere_are_seen_after_a_flush() {
    let mut cpu = program(LOAD);
    (0..3u64).for_each(|n| put(&cpu, LOW + n * 0x1000, n));
    let flushes: [fn(&mut Cpu); 3] = [
        |cpu| cpu.flush_page(LOW),
        |cpu| cpu.load_cr3(TABLES).unwrap(),
        |cpu| {
            cpu.tlb.flush();
            cpu.update_mode();
        },
    ];
    for flush in flushes {
        for n in [1u64, 2, 0, 2] {
            put(&cpu, entry(LOW), (LOW + n * 0x1000) | ALL);
            flush(&mut cpu);
            cpu.regs[RDI] = LOW;
            run_all(&mut cpu);
            assert_eq!(cpu.regs[RAX], n);
        }
        put(&cpu, entry(LOW), 0);
        flush(&mut cpu);
        assert!(matches!(run(&mut cpu), Fault::Exception(e) if e.vector == Vector::PF && e.payload == LOW));
    }
}

#[test]
fn accessed_and_dirty_bits_are_set_and_rights_are_looked_at() {
    let mut cpu = program(&[LOAD, STORE].concat());
    let bits = |cpu: &Cpu| u64::from_le_bytes(peek(cpu, entry(LOW), 8).try_into().unwrap()) & 0xfff;
    let at = |cpu: &mut Cpu, offset: u64| {
        cpu.regs[RIP] = CODE + offset;
        cpu.regs[RDI] = LOW;
        loop {
            if cpu.execute_block().is_err() {
                return cpu.fault.take().unwrap();
            }
        }
    };
    let store = LOAD.len() as u64;
    for _ in 0..3 {
        put(&cpu, entry(LOW), LOW | ALL & !ACCESSED & !DIRTY);
        cpu.load_cr3(TABLES).unwrap();
        at(&mut cpu, 0);
        assert_eq!(bits(&cpu), ALL & !DIRTY, "a load");
        at(&mut cpu, store);
        assert_eq!(bits(&cpu), ALL, "a store");
        at(&mut cpu, store);
        // Read-only from now on; and only the supervisor's.
        for (rights, code) in [(ALL & !WRITABLE, 7), (ALL & !4, 7)] {
            put(&cpu, entry(LOW), LOW | rights);
            cpu.load_cr3(TABLES).unwrap();
            let fault = at(&mut cpu, store);
            assert!(
                matches!(fault, Fault::Exception(e) if e.vector == Vector::PF && e.error_code == code),
                "{fault:?}"
            );
        }
        assert!(matches!(at(&mut cpu, 0), Fault::Exception(e) if e.error_code == 5));
    }
}

/// Stores to what a return that is foreseen goes on to, by the function that returns: the last before the return, and one before it.
#[test]
fn code_behind_a_call_is_what_it_is_at_the_return() {
    // 1: cmp rcx, 1; cmove rdi, rsi; call f; mov eax, imm32; dec rcx; jnz 1b; hlt
    const CALLER: [u8; 24] = [
        0x48, 0x83, 0xf9, 1, 0x48, 0x0f, 0x44, 0xfe, 0xe8, 0, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0x48, 0xff, 0xc9,
        0x75, 0xe9, 0xf4,
    ];
    // f: inc dword [rdi]; ret; or f: push [rdi]; inc dword [rsp]; pop [rdi]; ret
    let functions: [&[u8]; 2] = [&[0xff, 0x07, 0xc3], &[0xff, 0x37, 0xff, 0x04, 0x24, 0x8f, 0x07, 0xc3]];
    for (function, window) in functions.into_iter().flat_map(|f| [(f, true), (f, false)]) {
        for at in [CODE + CALLER.len() as u64, LOW + 0x3000] {
            let mut code = CALLER;
            code[9..13].copy_from_slice(&(at as u32).wrapping_sub(CODE as u32 + 13).to_le_bytes());
            let mut cpu = program(&code);
            poke(&cpu, at, function);
            if !window {
                cpu.tlb.close_windows();
            }
            put(&cpu, entry(LOW + 0x1000), CODE | ALL);
            cpu.load_cr3(TABLES).unwrap();
            assert_eq!(cpu.mode.0 & Mode::WINDOWS != 0, window);
            for n in 1..50u64 {
                // The last of the calls: by the page's own address, and by another.
                cpu.regs[RSI] = if n % 2 == 0 { CODE } else { LOW + 0x1000 } + 14;
                (cpu.regs[RCX], cpu.regs[RDI], cpu.regs[RSP]) = (5, LOW + 0x10, LOW + 0x800);
                run_all(&mut cpu);
                assert_eq!(cpu.regs[RAX], n);
            }
        }
    }
}

/// However the stack pointer gets there, what is above another slot faults.
#[test]
fn stack_pointer_reaches_no_other_slot() {
    let access: [(&str, &[u8]); 4] = [
        ("mov rax, [rsp]", &[0x48, 0x8b, 0x04, 0x24]),
        ("pop rax", &[0x58]),
        ("push [rsp]", &[0xff, 0x34, 0x24]),
        ("mov [rsp + 8], rax", &[0x48, 0x89, 0x44, 0x24, 0x08]),
    ];
    // RDI is where to, RSI how far that is, RBX and RCX the same in steps of 1 GiB and of 32 KiB; R8 is what these leave over.
    let moves: [(&str, &[u8]); 9] = [
        ("mov rsp, rdi", &[0x48, 0x89, 0xfc]),
        ("add rsp, rsi", &[0x48, 0x01, 0xf4]),
        ("lea rsp, [rsp + rsi]", &[0x48, 0x8d, 0x24, 0x34]),
        ("xchg rsp, rdi", &[0x48, 0x87, 0xfc]),
        ("push rdi; pop rsp", &[0x57, 0x5c]),
        (
            "mov rbp, rdi; sub rbp, 8; lea rsp, [rbp + 8]",
            &[0x48, 0x89, 0xfd, 0x48, 0x83, 0xed, 8, 0x48, 0x8d, 0x65, 8],
        ),
        (
            "1: add rsp, 40000000h; dec rbx; jnz 1b",
            &[0x48, 0x81, 0xc4, 0, 0, 0, 0x40, 0x48, 0xff, 0xcb, 0x75, 0xf4],
        ),
        (
            "1: add rsp, 8000h; dec rcx; jnz 1b",
            &[0x48, 0x81, 0xc4, 0, 0x80, 0, 0, 0x48, 0xff, 0xc9, 0x75, 0xf4],
        ),
        (
            "1: add rsp, 8000h; dec rcx; jmp 2f; 2: jnz 1b",
            &[0x48, 0x81, 0xc4, 0, 0x80, 0, 0, 0x48, 0xff, 0xc9, 0xeb, 0, 0x75, 0xf2],
        ),
    ];
    for (how, first) in moves {
        for (what, second) in access {
            // mov rax, [rsp] before, so that the stack's unit is known; add rsp, r8 behind.
            let code = [&[0x48, 0x8b, 0x04, 0x24], first, &[0x4c, 0x01, 0xc4], second, &[0xf4]].concat();
            let mut cpu = program(&code);
            for linear in [LOW, HIGH] {
                assert!(has_slot(&mut cpu, linear), "{linear:#x} has a slot");
            }
            let between = windows(&mut cpu).addend_of(HIGH).wrapping_sub(windows(&mut cpu).addend_of(LOW));
            // From each of the two in turn, as if its slot went on to the other's.
            for (from, to) in [(LOW, HIGH.wrapping_add(between)), (HIGH, LOW.wrapping_sub(between))] {
                let (from, to) = (from + 0x800, to.wrapping_add(0x800));
                let distance = to.wrapping_sub(from);
                for target in [to, to ^ 1 << 63, to ^ 1 << 47, 0u64.wrapping_sub(0x1000), 1 << 47] {
                    let far = target.wrapping_sub(from);
                    let steps = how.starts_with("1:");
                    if steps && (target != to || distance >> 63 != 0 || distance > 1 << 35) {
                        continue;
                    }
                    let by = if how.contains("40000000h") { 30 } else { 15 };
                    (cpu.regs[RBX], cpu.regs[RCX]) = (distance >> 30, distance >> 15);
                    (cpu.regs[RDI], cpu.regs[RSI], cpu.regs[RSP]) = (target, far, from);
                    cpu.regs[8] = if steps { distance & ((1 << by) - 1) } else { 0 };
                    cpu.regs[RAX] = 77;
                    let at = target.wrapping_add(if what.contains("rsp + 8") { 8 } else { 0 });
                    match run(&mut cpu) {
                        Fault::NonCanonical | Fault::Exception(_) if (at as i64) << 16 >> 16 != at as i64 => {
                        }
                        Fault::Exception(e) => {
                            assert_eq!(
                                (e.vector, e.payload),
                                (Vector::PF, at),
                                "{how}; {what} from {from:#x}"
                            )
                        }
                        other => panic!("{how}; {what} from {from:#x}: {other:?}"),
                    }
                }
            }
        }
    }
}

/// Runs the program with a page's address wherever it takes one; whether the window leads there then.
fn has_slot(cpu: &mut Cpu, linear: u64) -> bool {
    (cpu.regs[RSP], cpu.regs[RDI], cpu.regs[RSI]) = (linear, linear, 0);
    (cpu.regs[RBX], cpu.regs[RCX], cpu.regs[8]) = (1, 1, 0);
    let _ = run(cpu);
    let unit = windows(cpu).addend_of(linear).wrapping_add(linear & !0xffff_ffff);
    unit != crate::tlb::windows::NOWHERE
}

/// A page that the program executes and stores to: what it stores is executed.
#[test]
fn stores_to_code_are_executed() {
    // inc dword [rdi]; mov eax, imm32 (what RDI points at); hlt
    let mut cpu = program(&[0xff, 0x07, 0xb8, 0, 0, 0, 0, 0xf4]);
    cpu.regs[RDI] = CODE + 3;
    for n in 1..50u64 {
        run_all(&mut cpu);
        assert_eq!(cpu.regs[RAX], n);
    }
    // Through another address, which was data before.
    put(&cpu, entry(LOW), CODE | ALL);
    cpu.load_cr3(TABLES).unwrap();
    cpu.regs[RDI] = LOW + 3;
    for n in 50..80u64 {
        run_all(&mut cpu);
        assert_eq!(cpu.regs[RAX], n);
    }
}

/// Code that is announced while a window lets its page be written.
#[test]
fn a_page_becomes_code_under_the_window() {
    let mut cpu = program(STORE);
    cpu.regs[RDI] = LOW;
    run_all(&mut cpu);
    run_all(&mut cpu);
    for everything in [false, true] {
        // mov eax, imm32; hlt, decoded and executed where it was written.
        for n in 0..20u64 {
            for (at, value) in [(LOW, n << 8 | 0xb8), (LOW + 8, 0)] {
                cpu.regs[RDI] = at;
                cpu.regs[RAX] = if at == LOW { value | 0xf4 << 40 } else { value };
                run_all(&mut cpu);
            }
            if everything {
                // As where too many pages are asked for at once.
                cpu.tlb.flush();
                cpu.update_mode();
            }
            cpu.regs[RIP] = LOW;
            while cpu.execute_block().is_ok() {}
            assert!(matches!(cpu.fault.take(), Some(Fault::Exception(_))));
            assert_eq!(cpu.regs[RAX], n, "{everything}");
        }
    }
}

/// R14 holds a unit's addend over several instructions, with misses, other units and changed registers in between.
#[test]
fn addends_are_what_they_were_behind_misses() {
    let code = [
        &[0x48, 0x8b, 0x07][..],               // mov rax, [rdi]
        &[0x48, 0x8b, 0x5f, 0x08],             // mov rbx, [rdi + 8]
        &[0x48, 0x8b, 0x8f, 0x00, 0x10, 0, 0], // mov rcx, [rdi + 1000h]
        &[0x48, 0x03, 0x06],                   // add rax, [rsi]
        &[0x48, 0x03, 0x5f, 0x10],             // add rbx, [rdi + 10h]
        &[0x50, 0x53],                         // push rax; push rbx
        &[0x48, 0x83, 0xc7, 0x08],             // add rdi, 8
        &[0x48, 0x03, 0x0f],                   // add rcx, [rdi]
        &[0x5b, 0x58],                         // pop rbx; pop rax
        &[0xf4],
    ]
    .concat();
    let mut cpu = program(&code);
    for round in 0..4u64 {
        for n in 0..0x800u64 {
            put(&cpu, LOW + n * 8, n * 3 + round);
        }
        let at = |linear: u64| (linear - LOW) / 8 * 3 + round;
        (cpu.regs[RDI], cpu.regs[6]) = (LOW + 0x800, HIGH + 0x20);
        if round == 2 {
            // All of them miss again.
            cpu.tlb.windows().unwrap().drop_page(LOW);
            cpu.tlb.windows().unwrap().drop_page(LOW + 0x1000);
            cpu.tlb.windows().unwrap().drop_page(HIGH);
        }
        run_all(&mut cpu);
        let (a, b) = (at(LOW + 0x800), at(LOW + 0x808));
        assert_eq!(cpu.regs[RAX], a + at(LOW + 0x2020));
        assert_eq!(cpu.regs[RBX], b + at(LOW + 0x810));
        assert_eq!(cpu.regs[RCX], at(LOW + 0x1800) + b);
        assert_eq!((cpu.regs[RDI], cpu.regs[RSP]), (LOW + 0x808, LOW + 0x1000));
    }
}

/// The same of the code's own page.
#[test]
fn addends_of_the_code_s_page_are_what_they_were_behind_misses() {
    let rip = |opcode: &[u8], to: u64, from: u64| {
        let next = from + opcode.len() as u64 + 4;
        [opcode, &((to.wrapping_sub(CODE + next)) as i32).to_le_bytes()].concat()
    };
    let mut code = Vec::new();
    for (opcode, to) in [
        (&[0x48, 0x8b, 0x05][..], LOW),      // mov rax, [rip + ...]
        (&[0x48, 0x03, 0x05], LOW + 0x1008), // add rax, [rip + ...]
        (&[0x48, 0x01, 0x05], LOW + 0x2010), // add [rip + ...], rax
        (&[0x48, 0x8b, 0x1d], LOW + 0x2010), // mov rbx, [rip + ...]
    ] {
        code.extend(rip(opcode, to, code.len() as u64));
    }
    code.push(0xf4);
    let mut cpu = program(&code);
    for round in 0..4u64 {
        for (at, value) in [(LOW, 3), (LOW + 0x1008, 5), (LOW + 0x2010, round)] {
            put(&cpu, at, value);
        }
        if round == 2 {
            (0..3).for_each(|n| windows(&mut cpu).drop_page(LOW + n * 0x1000));
        }
        run_all(&mut cpu);
        assert_eq!((cpu.regs[RAX], cpu.regs[RBX]), (8, 8 + round));
    }
}

/// A branch that reads flags set before accesses that miss.
#[test]
fn flags_survive_faults_in_the_host() {
    // cmp rbx, rcx; mov rax, [rdi]; setb al; adc [rdi + 1000h], rbx; hlt
    let code = [0x48, 0x39, 0xcb, 0x48, 0x8b, 0x07, 0x0f, 0x92, 0xc0, 0x48, 0x11, 0x9f, 0, 0x10, 0, 0, 0xf4];
    for (rbx, rcx) in [(1u64, 2u64), (2, 1)] {
        let mut cpu = program(&code);
        for round in 0..3u64 {
            put(&cpu, LOW, 0xff00);
            put(&cpu, LOW + 0x1000, 10);
            (cpu.regs[RDI], cpu.regs[RBX], cpu.regs[RCX]) = (LOW, rbx, rcx);
            run_all(&mut cpu);
            let below = (rbx < rcx) as u64;
            assert_eq!(cpu.regs[RAX], 0xff00 + below, "round {round}");
            assert_eq!(peek(&cpu, LOW + 0x1000, 8), (10 + rbx + below).to_le_bytes());
        }
    }
}

#[test]
fn all_of_a_large_page_goes_with_one_of_its_addresses() {
    let mut cpu = program(LOAD);
    // 2 MiB at 4000_0000h; memory ends at 1 MiB, so that only the first half is there.
    let linear = 0x4000_0000u64;
    put(&cpu, TABLES + 0x1000 + 8, (TABLES + 0x8000) | ALL);
    let load = |cpu: &mut Cpu, at: u64| {
        cpu.regs[RDI] = at;
        run(cpu);
        cpu.regs[RAX]
    };
    put(&cpu, 0x30000, 5);
    put(&cpu, 0x31000, 6);
    for window in [true, false] {
        if !window {
            cpu.tlb.close_windows();
            cpu.update_mode();
        }
        put(&cpu, TABLES + 0x8000, ALL | LARGE);
        cpu.load_cr3(TABLES).unwrap();
        assert_eq!((load(&mut cpu, linear + 0x30000), load(&mut cpu, linear + 0x31000)), (5, 6));
        put(&cpu, TABLES + 0x8000, 0);
        cpu.flush_page(linear + 0x77000);
        for at in [0x30000, 0x31000] {
            cpu.regs[RDI] = linear + at;
            assert!(matches!(run(&mut cpu), Fault::Exception(e) if e.vector == Vector::PF), "{window}");
        }
    }
}

/// The same for one that was small pages in the same place before.
#[test]
fn all_of_a_page_that_became_large_goes_with_one_of_its_addresses() {
    let mut cpu = program(LOAD);
    let linear = 0x4000_0000u64;
    put(&cpu, TABLES + 0x1000 + 8, (TABLES + 0x8000) | ALL);
    put(&cpu, TABLES + 0x8000, (TABLES + 0x9000) | ALL);
    for at in [0x30000, 0x31000u64] {
        put(&cpu, TABLES + 0x9000 + (at >> 12) * 8, at | ALL);
        put(&cpu, at, at + 5);
    }
    let load = |cpu: &mut Cpu, at: u64| {
        cpu.regs[RDI] = linear + at;
        run(cpu);
        cpu.regs[RAX]
    };
    let both = |cpu: &mut Cpu| assert_eq!((load(cpu, 0x30000), load(cpu, 0x31000)), (0x30005, 0x31005));
    both(&mut cpu);
    put(&cpu, TABLES + 0x8000, ALL | LARGE);
    cpu.load_cr3(TABLES).unwrap();
    both(&mut cpu);
    put(&cpu, TABLES + 0x8000, 0);
    cpu.flush_page(linear + 0x77000);
    for at in [0x30000, 0x31000] {
        cpu.regs[RDI] = linear + at;
        assert!(matches!(run(&mut cpu), Fault::Exception(e) if e.vector == Vector::PF), "{at:#x}");
    }
}

#[test]
fn a_window_without_room_is_emptied_and_goes_on() {
    let mut cpu = program(LOAD);
    cpu.tlb.uninstall_window();
    let memory = cpu.shared.memory.clone();
    let (root, pcid) = cpu.address_space();
    let units = cpu.windows.units.unwrap();
    let mut small = Windows::new(memory, cpu.shared.windows.clone(), 0, units, 16);
    small.open(root, pcid);
    cpu.tlb.put_windows(Box::new(small));
    cpu.update_mode();
    for round in 0..20u64 {
        for linear in [LOW, HIGH] {
            put(&cpu, if linear == HIGH { LOW + 0x2000 } else { LOW }, round);
            cpu.regs[RDI] = linear;
            run_all(&mut cpu);
            assert_eq!(cpu.regs[RAX], round);
            assert!(windows(&mut cpu).pages() <= 16);
        }
    }
}

/// Nothing may be stored unseen while a log is kept, or data breakpoints are armed.
#[test]
fn a_log_sees_stores_of_programs_with_windows() {
    let mut cpu = program(STORE);
    cpu.regs[RDI] = LOW;
    run_all(&mut cpu);
    run_all(&mut cpu);
    let memory = cpu.shared.memory.clone();
    memory.set_logging(true);
    // What `set_dirty_logging` has every vCPU do.
    cpu.tlb.flush();
    memory.take_dirty(0);
    cpu.regs[RDI] = LOW;
    run_all(&mut cpu);
    assert_ne!(memory.take_dirty(0)[(LOW >> 18) as usize] & 1 << (LOW >> 12 & 63), 0);
    memory.set_logging(false);
    cpu.tlb.flush();
    cpu.update_mode();
    assert!(cpu.mode.0 & Mode::WINDOWS != 0);
    run_all(&mut cpu);
}
