//! Stack, branches, flags and what else depends on the mode.

use crate::cpu::{CS, Cpu, Mode, RAX, RBP, RBX, RCX, RDX, RIP, RSP, SS};
use crate::fault::Fault;
use crate::testing::{self, CODE, DATA, STACK};
use x86::{Cr0, Exception, Rflags, Vector};

fn fault(cpu: &mut Cpu) -> Exception {
    match testing::step(cpu) {
        Err(Fault::Exception(e)) => e,
        other => panic!("{other:?}"),
    }
}

#[test]
fn call_and_ret_64_return_behind_the_call() {
    // call +1; nop; ret 8
    let mut cpu = testing::cpu64(&[0xe8, 1, 0, 0, 0, 0x90, 0xc2, 8, 0]);
    testing::step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (CODE + 6, STACK - 8));
    assert_eq!(testing::peek(&cpu, STACK - 8, 8), (CODE + 5).to_le_bytes());
    testing::step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (CODE + 5, STACK + 8));
}

#[test]
fn branch_to_non_canonical_target_is_gp_at_the_branch() {
    for code in [&[0xff, 0xe0][..], &[0xff, 0xd0], &[0xc3]] {
        let mut cpu = testing::cpu64(code);
        cpu.regs[RAX] = 1 << 47;
        testing::poke(&cpu, STACK, &(1u64 << 47).to_le_bytes());
        assert_eq!(fault(&mut cpu), Exception::gp(0));
        assert_eq!((cpu.regs[RIP], cpu.regs[RSP]), (CODE, STACK));
    }
}

#[test]
fn pushes_that_fault_leave_the_stack_pointer() {
    // push rax; push [rdi]; call; enter 16, 0
    for code in [&[0x50][..], &[0xff, 0x37], &[0xe8, 0, 0, 0, 0], &[0xc8, 16, 0, 0], &[0x9c]] {
        let mut cpu = testing::cpu64(code);
        cpu.regs[7] = DATA;
        cpu.regs[RSP] = 1 << 60;
        assert_eq!(testing::step(&mut cpu), Err(Fault::NonCanonical), "{code:x?}");
        assert_eq!((cpu.regs[RSP], cpu.regs[RIP], cpu.regs[RBP]), (1 << 60, CODE, 0));
    }
}

#[test]
fn pop_to_memory_based_on_rsp_uses_the_new_rsp() {
    let mut cpu = testing::cpu64(&[0x8f, 0x04, 0x24]); // pop [rsp]
    testing::poke(&cpu, STACK, &7u64.to_le_bytes());
    testing::step(&mut cpu).unwrap();
    assert_eq!(testing::peek(&cpu, STACK + 8, 8), 7u64.to_le_bytes());
    let mut cpu = testing::cpu64(&[0x8f, 0x00]); // pop [rax]
    cpu.regs[RAX] = 1 << 60;
    assert_eq!(testing::step(&mut cpu), Err(Fault::NonCanonical));
    assert_eq!(cpu.regs[RSP], STACK);
}

#[test]
fn push_and_pop_of_rsp_use_the_old_and_the_popped_value() {
    let code = [0x54, 0x5c]; // push rsp; pop rsp
    let mut cpu = testing::cpu64(&code);
    testing::step(&mut cpu).unwrap();
    assert_eq!(testing::peek(&cpu, STACK - 8, 8), STACK.to_le_bytes());
    testing::poke(&cpu, STACK - 8, &0x1234u64.to_le_bytes());
    testing::step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RSP], 0x1234);
}

#[test]
fn enter_with_levels_copies_the_outer_frames() {
    let code = [0xc8, 0x20, 0, 3, 0xc9]; // enter 32, 3; leave
    let mut cpu = testing::cpu64(&code);
    cpu.regs[RBP] = DATA + 0x100;
    testing::poke(&cpu, DATA + 0x100 - 8, &0x11u64.to_le_bytes());
    testing::poke(&cpu, DATA + 0x100 - 16, &0x22u64.to_le_bytes());
    testing::step(&mut cpu).unwrap();
    let frame = STACK - 8;
    assert_eq!((cpu.regs[RBP], cpu.regs[RSP]), (frame, STACK - 32 - 32));
    for (n, v) in [DATA + 0x100, 0x11, 0x22, frame].into_iter().enumerate() {
        assert_eq!(testing::peek(&cpu, frame - n as u64 * 8, 8), v.to_le_bytes(), "{n}");
    }
    testing::step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RBP], cpu.regs[RSP]), (DATA + 0x100, STACK));
}

#[test]
fn loop_and_jrcxz_count_in_the_address_size() {
    // 67 loop -3: counts in ECX and clears the upper half.
    let mut cpu = testing::cpu64(&[0x67, 0xe2, 0xfd]);
    cpu.regs[RCX] = 0xffff_ffff_0000_0003;
    testing::step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RCX]), (CODE, 2));
    testing::step(&mut cpu).unwrap();
    testing::step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RCX]), (CODE + 3, 0));
    let mut cpu = testing::cpu64(&[0xe3, 0x10, 0x67, 0xe3, 0x10]); // jrcxz; jecxz
    cpu.regs[RCX] = 1 << 32;
    testing::step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RIP], CODE + 2);
    testing::step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RIP], CODE + 5 + 0x10);
    // loop in 16-bit code: CX only.
    let mut cpu = testing::cpu16(&[0xe2, 0xfe]);
    cpu.regs[RCX] = 0x1_0000;
    testing::step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RIP], cpu.regs[RCX]), (CODE, 0x1_ffff));
}

#[test]
fn every_condition_follows_its_flags() {
    for flags in 0..64u64 {
        let bit = |n: u64, at: u64| (flags >> n & 1) << at;
        let (cf, zf, sf, of, pf) =
            (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 8 != 0, flags & 16 != 0);
        let image = bit(0, 0) | bit(1, 6) | bit(2, 7) | bit(3, 11) | bit(4, 2) | bit(5, 4) | 2;
        let expected = [of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of];
        for c in 0..16u8 {
            let holds = expected[c as usize / 2] != (c & 1 != 0);
            let mut cpu = testing::cpu64(&[0x70 + c, 0x20]);
            cpu.set_rflags(image);
            testing::step(&mut cpu).unwrap();
            assert_eq!(cpu.regs[RIP] == CODE + 0x22, holds, "jcc {c:x} {image:x}");
        }
    }
}

#[test]
fn addresses_absolute_and_rip_relative_reach_their_byte() {
    // mov al, [moffs64]; mov bl, [rip+0x100]; xlatb; lea rcx, [rip-1]; lea ecx, [rax+rdx*8-1]
    let mut code = vec![0xa0];
    code.extend(DATA.to_le_bytes());
    code.extend([
        0x8a, 0x1d, 0, 1, 0, 0, 0x48, 0x8d, 0x0d, 0xff, 0xff, 0xff, 0xff, 0x67, 0x8d, 0x6c, 0xd0, 0xff,
    ]);
    let mut cpu = testing::cpu64(&code);
    testing::poke(&cpu, DATA, &[0x5a]);
    testing::poke(&cpu, CODE + 15 + 0x100, &[0xa5]);
    cpu.regs[RDX] = 0xffff_ffff_2000_0001;
    testing::run(&mut cpu, &code).unwrap();
    assert_eq!((cpu.regs[RAX], cpu.regs[RBX]), (0x5a, 0xa5));
    assert_eq!(cpu.regs[RCX], CODE + 22 - 1);
    assert_eq!(cpu.regs[RBP], 0x61);
    let mut cpu = testing::cpu64(&[0xd7]);
    (cpu.regs[RBX], cpu.regs[RAX]) = (DATA, 0x1_0010);
    testing::poke(&cpu, DATA + 0x10, &[0x77]);
    testing::step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RAX], 0x1_0077);
}

#[test]
fn division_that_overflows_is_de_and_changes_nothing() {
    for (code, dx, ax, cx) in
        [(0xf1u8, 1, 0, 1), (0xf1, 0, 1, 0), (0xf9, 1 << 63, 0, 1), (0xf9, u64::MAX, 1 << 63, u64::MAX)]
    {
        let mut cpu = testing::cpu64(&[0x48, 0xf7, code]); // div/idiv rcx
        (cpu.regs[RDX], cpu.regs[RAX], cpu.regs[RCX]) = (dx, ax, cx);
        assert_eq!(fault(&mut cpu), Exception::plain(Vector::DE));
        assert_eq!((cpu.regs[RDX], cpu.regs[RAX]), (dx, ax));
    }
}

#[test]
fn popf_at_cpl_3_keeps_if_and_iopl() {
    let code = [0x9d];
    let all =
        (Rflags::IF | Rflags::IOPL | Rflags::DF | Rflags::AC | Rflags::VM | Rflags::VIP | Rflags::CF).bits();
    for (cpl, iopl, if_, new_iopl) in [(0, 0, true, 3), (3, 0, false, 0), (3, 3, true, 3)] {
        let mut cpu = testing::cpu64(&code);
        cpu.cpl = cpl;
        cpu.set_rflags((iopl << 12) | 2);
        cpu.update_mode();
        testing::poke(&cpu, STACK, &all.to_le_bytes());
        testing::step(&mut cpu).unwrap();
        let f = Rflags::from_bits_truncate(cpu.rflags());
        assert_eq!((f.contains(Rflags::IF), f.iopl()), (if_, new_iopl), "cpl {cpl} iopl {iopl}");
        assert!(f.contains(Rflags::DF | Rflags::AC | Rflags::CF) && !f.intersects(Rflags::VM | Rflags::VIP));
    }
}

#[test]
fn pushf_in_virtual_8086_mode_below_iopl_3_is_gp() {
    let mut cpu = testing::cpu16(&[0x9c]);
    cpu.cr0 |= Cr0::PE;
    cpu.cpl = 3;
    cpu.set_rflags((Rflags::VM | Rflags::IF).bits() | 2);
    cpu.update_mode();
    assert_eq!(fault(&mut cpu), Exception::gp(0));
    cpu.set_rflags((Rflags::VM | Rflags::IF | Rflags::IOPL).bits() | 2);
    testing::step(&mut cpu).unwrap();
    assert_eq!(testing::peek(&cpu, 0xffee, 2), 0x3202u16.to_le_bytes());
}

#[test]
fn pusha_and_popa_skip_the_stack_pointer() {
    let code = [0x60, 0x61];
    let mut cpu = testing::cpu32(&code);
    for r in (0..8).filter(|r| *r != RSP) {
        cpu.regs[r] = 0x100 + r as u64;
    }
    testing::step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RSP], STACK - 32);
    assert_eq!(testing::peek(&cpu, STACK - 20, 4), (STACK as u32).to_le_bytes());
    assert_eq!(testing::peek(&cpu, STACK - 4, 4), 0x100u32.to_le_bytes());
    cpu.regs[RBX] = 0;
    testing::step(&mut cpu).unwrap();
    assert_eq!((cpu.regs[RSP], cpu.regs[RBX]), (STACK, 0x103));
}

#[test]
fn stack_16_wraps_within_64_kib() {
    let mut cpu = testing::cpu16(&[0x50]);
    cpu.regs[RSP] = 0xabcd_0000;
    cpu.regs[RAX] = 0x1234;
    testing::step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RSP], 0xabcd_fffe);
    assert_eq!(testing::peek(&cpu, 0xfffe, 2), 0x1234u16.to_le_bytes());
}

#[test]
fn access_beyond_the_limit_is_gp_or_ss() {
    let mut cpu = testing::cpu16(&[0x8b, 0x07]); // mov ax, [bx]
    cpu.regs[RBX] = 0xffff;
    assert_eq!(fault(&mut cpu), Exception::gp(0));
    let mut cpu = testing::cpu16(&[0x8b, 0x46, 0]); // mov ax, [bp]
    cpu.regs[RBP] = 0xffff;
    assert_eq!(fault(&mut cpu), Exception::with_code(Vector::SS, 0));
    let mut cpu = testing::cpu16(&[0xff, 0xe0]); // jmp ax, with a short CS
    cpu.seg[CS].limit = 0x1fff;
    cpu.update_mode();
    cpu.regs[RAX] = 0x2000;
    assert_eq!(fault(&mut cpu), Exception::gp(0));
}

#[test]
fn expand_down_segment_allows_only_above_its_limit() {
    let mut cpu = testing::cpu32(&[0x8b, 0x45, 0]); // mov eax, [ebp]
    cpu.seg[SS].attributes = 0xc097;
    cpu.seg[SS].limit = 0xfff;
    cpu.update_mode();
    assert_eq!(cpu.mode.0 & Mode::FLAT, 0);
    cpu.regs[RBP] = 0xfff;
    assert_eq!(fault(&mut cpu), Exception::with_code(Vector::SS, 0));
    cpu.regs[RBP] = 0x1000;
    testing::step(&mut cpu).unwrap();
    cpu.regs[RIP] = CODE;
    cpu.regs[RBP] = 0xffff_fffd;
    assert_eq!(fault(&mut cpu), Exception::with_code(Vector::SS, 0));
}

#[test]
fn segment_base_and_16_bit_address_wrap_before_adding() {
    let mut cpu = testing::cpu16(&[0x8a, 0x40, 0x10]); // mov al, [bx+si+0x10]
    cpu.seg[3].base = DATA;
    cpu.update_mode();
    (cpu.regs[RBX], cpu.regs[6]) = (0xfff8, 4);
    testing::poke(&cpu, DATA + 0xc, &[9]);
    testing::step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RAX], 9);
}

#[test]
fn bound_outside_is_br() {
    let mut cpu = testing::cpu32(&[0x62, 0x03]); // bound eax, [ebx]
    cpu.regs[RBX] = DATA;
    testing::poke(&cpu, DATA, &[0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0]);
    for (eax, ok) in [(0u32, true), (5, true), (u32::MAX, true), (6, false), (0xffff_fffe, false)] {
        cpu.regs[RAX] = eax as u64;
        cpu.regs[RIP] = CODE;
        let r = testing::step(&mut cpu);
        assert_eq!(r, if ok { Ok(()) } else { Err(Fault::Exception(Exception::plain(Vector::BR))) });
    }
}

#[test]
fn decimal_adjustments_match_the_manual() {
    // (opcode, AX, CF and AF in) -> (AX, CF and AF out)
    for (code, ax, flags, ax_out, flags_out) in [
        (&[0x27][..], 0x00ae, 0, 0x0014, 0x11), // daa
        (&[0x27], 0x0099, 0x11, 0x00ff, 0x11),  // daa with both carries in
        (&[0x2f], 0x00ee, 0x10, 0x0088, 0x11),  // das
        (&[0x2f], 0x0003, 0x10, 0x00fd, 0x11),  // das that borrows in the first step
        (&[0x37], 0x00fa, 0, 0x0200, 0x11),     // aaa that carries into AH twice
        (&[0x3f], 0x0203, 0x10, 0x000d, 0x11),  // aas
        (&[0xd4, 10], 0x003f, 0, 0x0603, 0),    // aam
        (&[0xd5, 10], 0x0603, 0, 0x003f, 0),    // aad
    ] {
        let mut cpu = testing::cpu32(code);
        cpu.regs[RAX] = ax;
        cpu.set_rflags(flags | 2);
        testing::step(&mut cpu).unwrap();
        assert_eq!((cpu.regs[RAX], cpu.rflags() & 0x11), (ax_out, flags_out), "{code:x?} {ax:x}");
    }
    let mut cpu = testing::cpu32(&[0xd4, 0]);
    assert_eq!(fault(&mut cpu), Exception::plain(Vector::DE));
}
