//! Control registers, MSRs, paging as instructions see it.

use super::*;
use crate::cpu::{CS, RAX, RCX, RDX, RIP};
use x86::{Cr0, Cr4, Efer, msr};

#[test]
fn cr0_values_that_make_no_sense_are_gp() {
    for (value, ok) in [
        (0x11, true),
        (0x8000_0010, false),
        (0x2000_0011, false),
        (0x6000_0011, true),
        (1 << 32 | 0x11, false),
    ] {
        let mut cpu = cpu32(&[]);
        assert_eq!(cpu.load_cr0(value).is_ok(), ok, "{value:#x}");
    }
}

#[test]
fn long_mode_is_entered_by_the_book_only() {
    let ready = || {
        let mut cpu = cpu32(&[]);
        cpu.cr4 = Cr4::PAE;
        cpu.efer = Efer::LME;
        cpu.tr.attributes = 0x8b;
        cpu
    };
    let mut cpu = ready();
    cpu.load_cr0(0x8000_0011).unwrap();
    assert!(cpu.long_mode() && !cpu.mode.is64());
    assert!(cpu.load_cr4(0).is_err(), "PAE can't go in long mode");
    assert!(cpu.load_efer(0).is_err(), "nor can LME");
    cpu.load_cr0(0x11).unwrap();
    assert!(!cpu.long_mode());

    let mut cpu = ready();
    cpu.cr4 = Cr4::empty();
    assert!(cpu.load_cr0(0x8000_0011).is_err());
    let mut cpu = ready();
    cpu.seg[CS].attributes |= 1 << 13;
    assert!(cpu.load_cr0(0x8000_0011).is_err());
    let mut cpu = ready();
    cpu.tr.attributes = 0x83;
    assert!(cpu.load_cr0(0x8000_0011).is_err(), "a 16-bit TSS");
}

#[test]
fn cr4_reserved_bits_and_pcide_are_checked() {
    let mut cpu = cpu32(&[]);
    for bit in [12, 13, 14, 15, 19, 22, 23, 24, 32, 63] {
        assert!(cpu.load_cr4(1 << bit).is_err(), "bit {bit}");
    }
    assert!(cpu.load_cr4(Cr4::PCIDE.bits()).is_err(), "outside long mode");
    let mut cpu = cpu64(&[]);
    cpu.cr3 = 1;
    assert!(cpu.load_cr4((Cr4::PCIDE | Cr4::PAE).bits()).is_err(), "CR3 has a PCID already");
    cpu.cr3 = 0;
    cpu.load_cr4((Cr4::PCIDE | Cr4::PAE).bits()).unwrap();
    cpu.load_cr3(1 << 63 | 0x5007).unwrap();
    assert_eq!(cpu.cr3, 0x5007);
    assert!(cpu.load_cr3(1 << 52).is_err());
}

#[test]
fn pae_entries_are_checked_when_cr3_is_loaded() {
    let mut cpu = cpu32(&[]);
    poke64(&cpu, 0x8000, 0x9001);
    poke64(&cpu, 0x8008, 0x9003);
    cpu.cr4 = Cr4::PAE;
    cpu.cr3 = 0x8000;
    assert!(cpu.load_cr0(0x8000_0011).is_err(), "entry 1 has R/W set");
    poke64(&cpu, 0x8008, 0x9002);
    cpu.load_cr0(0x8000_0011).unwrap();
    assert_eq!(cpu.sys.pdpte[0], 0x9001);
    assert!(cpu.load_cr3(1 << 30).is_err(), "no memory there");
}

#[test]
fn page_fault_loads_cr2_and_its_error_code_and_a_mapped_page_does_not() {
    // mov eax, [ecx]; mov [ecx], eax
    let mut cpu = cpu32(&[0x8b, 0x01, 0x89, 0x01]);
    tables(&mut cpu);
    poke(&cpu, 0x8000, &0x9007u32.to_le_bytes());
    for page in 0..32u32 {
        poke(&cpu, 0x9000 + 4 * page as u64, &(page << 12 | 3).to_le_bytes());
    }
    poke(&cpu, 0x9000 + 4 * 0x10, &0x1_0001u32.to_le_bytes());
    cpu.cr3 = 0x8000;
    cpu.load_cr0(0x8001_0011).unwrap();
    cpu.regs[RCX] = DATA + 4;
    step(&mut cpu).unwrap();
    assert_eq!(peek(&cpu, 0x9040, 1), [0x21], "accessed");
    assert_eq!(fault(&mut cpu), Exception::page_fault(3, DATA + 4), "read-only, and CR0.WP");
    assert_eq!(peek(&cpu, 0x9040, 1), [0x21], "not dirty");
    cpu.load_cr0(0x8000_0011).unwrap();
    step(&mut cpu).unwrap();
    assert_eq!(peek(&cpu, 0x9040, 1), [0x61]);
    cpu.regs[RIP] = CODE;
    cpu.regs[RCX] = 0x40_0000;
    assert_eq!(fault(&mut cpu), Exception::page_fault(0, 0x40_0000));
    cpu.regs[RCX] = 0x1f_fffe;
    cpu.cpl = 3;
    cpu.update_mode();
    assert!(
        matches!(step(&mut cpu), Err(Fault::Exception(e)) if e.vector == Vector::PF && e.error_code & 4 != 0)
    );
}

#[test]
fn address_mapping_is_known_again_with_a_kept_pcid() {
    let mut cpu = cpu64(&[]);
    let tlb = &mut cpu.tlb;
    let a = tlb.flushes(true);
    tlb.switch(1, false);
    let one = tlb.flushes(true);
    assert_ne!(a, one);
    tlb.switch(2, false);
    tlb.switch(1, true);
    assert_eq!(tlb.flushes(true), one, "the same address space again");
    tlb.forget(2);
    tlb.switch(2, true);
    let two = tlb.flushes(true);
    tlb.switch(1, false);
    assert_ne!(tlb.flushes(true), one);
    tlb.flush();
    tlb.switch(2, true);
    assert_ne!(tlb.flushes(true), two, "a flush drops every address space");
}

#[test]
fn code_below_cpl_3_is_looked_for_again_where_it_is_not_global() {
    let mut tlb = crate::tlb::Tlb::default();
    tlb.note_code_page(0xffff_8000_0000_1000, false, true);
    let global = tlb.flushes(false);
    tlb.switch(1, false);
    tlb.flush_local();
    assert_eq!(tlb.flushes(false), global, "global code is where it was");
    tlb.note_code_page(0x5000, true, false);
    tlb.flush_page(0x5000);
    assert_eq!(tlb.flushes(false), global, "a program's page");
    tlb.note_code_page(0x2000, false, false);
    tlb.switch(2, false);
    let local = tlb.flushes(false);
    assert_ne!(local, global);
    tlb.switch(1, true);
    assert_eq!(tlb.flushes(false), local, "nothing was found since");
    tlb.note_code_page(0x2000, false, false);
    tlb.flush_local();
    assert_ne!(tlb.flushes(false), local);
    let before = tlb.flushes(false);
    tlb.flush();
    assert_ne!(tlb.flushes(false), before);
}

#[test]
fn msrs_take_what_they_may_and_refuse_the_rest() {
    let noncanonical = 1u64 << 47;
    let table = [
        (msr::STAR, u64::MAX, true),
        (msr::LSTAR, noncanonical, false),
        (msr::LSTAR, u64::MAX, true),
        (msr::KERNEL_GS_BASE, noncanonical, false),
        (msr::SYSENTER_EIP, noncanonical, false),
        (msr::PAT, 0x0007_0406_0007_0406, true),
        (msr::PAT, 0x02, false),
        (msr::PAT, 0x08, false),
        (msr::MTRR_DEF_TYPE, 0xc06, true),
        (msr::MTRR_DEF_TYPE, 0xc07, false),
        (msr::MTRR_DEF_TYPE, 0x1006, false),
        (msr::MTRR_PHYSBASE0, 0x8000_0006, true),
        (msr::MTRR_PHYSBASE0, 1 << 46, false),
        (msr::MTRR_PHYSBASE0 + 1, 0x3fff_8000_0800, true),
        (msr::MTRR_FIX4K_C0000, 0x0505_0505_0505_0505, true),
        (msr::MTRR_FIX4K_C0000, 0x0505_0505_0505_0502, false),
        (msr::MTRRCAP, 0, false),
        (msr::ARCH_CAPABILITIES, 0, false),
        (msr::EFER, 1 << 12, false),
        (msr::EFER, 0x801, true),
        (msr::APIC_BASE, 1 << 46, false),
        (msr::TSC_AUX, 1 << 32, false),
        (0xdead_0000, 0, false),
    ];
    for (index, value, ok) in table {
        let mut cpu = cpu32(&[0x0f, 0x30, 0x0f, 0x32]);
        cpu.regs[RCX] = index as u64;
        cpu.regs[RAX] = value & 0xffff_ffff;
        cpu.regs[RDX] = value >> 32;
        if ok {
            step(&mut cpu).unwrap();
            step(&mut cpu).unwrap();
            assert_eq!(cpu.regs[RDX] << 32 | cpu.regs[RAX], value, "{index:#x}");
        } else {
            assert_eq!(fault(&mut cpu), gp(0), "{index:#x} {value:#x}");
        }
    }
}

#[test]
fn tsc_written_moves_the_counter_and_the_adjustment() {
    let mut cpu = cpu32(&[]);
    cpu.write_msr(msr::TSC, 1 << 50).unwrap();
    assert!(cpu.tsc() - (1 << 50) < 1 << 40);
    assert_ne!(cpu.read_msr(msr::TSC_ADJUST), Some(0));
    cpu.write_msr(msr::TSC_ADJUST, 0).unwrap();
    assert!(cpu.tsc() < 1 << 45);
}

#[test]
fn paravirtual_clock_tells_the_time_of_the_tsc() {
    let mut cpu = cpu32(&[]);
    cpu.write_msr(msr::KVM_SYSTEM_TIME_NEW, DATA | 1).unwrap();
    let s = peek(&cpu, DATA, 32);
    let u64_at = |i: usize| u64::from_le_bytes(s[i..i + 8].try_into().unwrap());
    let u32_at = |i: usize| u32::from_le_bytes(s[i..i + 4].try_into().unwrap());
    let (tsc, time) = (u64_at(8), u64_at(16));
    // 1 GHz: a tick is a nanosecond.
    assert_eq!((u32_at(0) & 1, time), (0, tsc));
    let shift = s[28] as i8;
    let scaled = |ticks: u64| {
        let t = if shift < 0 { ticks >> -shift } else { ticks << shift };
        ((t as u128 * u32_at(24) as u128) >> 32) as u64
    };
    assert!(scaled(1_000_000_000).abs_diff(1_000_000_000) < 2);
    assert_eq!(s[29], 1, "stable");
    cpu.write_msr(msr::KVM_SYSTEM_TIME_NEW, 0xffff_f001).unwrap();
    cpu.write_msr(msr::KVM_WALL_CLOCK_NEW, 0xffff_f000).unwrap();
}

#[test]
fn stac_and_clac_choose_the_tlb() {
    let mut cpu = cpu64(&[0x0f, 0x01, 0xcb, 0x0f, 0x01, 0xca]);
    assert_eq!(fault(&mut cpu), Exception::ud(), "without CR4.SMAP");
    cpu.cr4 |= Cr4::SMAP;
    cpu.update_tlb_select();
    step(&mut cpu).unwrap();
    assert_eq!(cpu.tlb_select, crate::tlb::SUPERVISOR_ANY);
    step(&mut cpu).unwrap();
    assert_eq!(cpu.tlb_select, crate::tlb::SUPERVISOR);
}

#[test]
fn lmsw_sets_pe_and_never_clears_it() {
    let mut cpu = cpu16(&[0x0f, 0x01, 0xf0, 0x0f, 0x01, 0xf0]);
    cpu.regs[RAX] = 1;
    step(&mut cpu).unwrap();
    assert!(cpu.cr0.contains(Cr0::PE));
    cpu.regs[RAX] = 0;
    step(&mut cpu).unwrap();
    assert!(cpu.cr0.contains(Cr0::PE));
}
