//! The stubs at work. That they compute what the processor does is the oracle's business (`tests/`).

use super::state::StateError;
use super::*;
use crate::cpu::{CS, RAX, RCX, RDI};
use crate::fault::Fault;
use crate::placed::Placed;
use crate::testing::{DATA, cpu16, cpu32, cpu64, peek, poke, run, step};
use x86::{Cr0, Cr4, Exception, Vector};

fn enabled(code: &[u8]) -> Placed {
    let mut cpu = cpu64(code);
    cpu.cr0 |= Cr0::MP | Cr0::NE;
    cpu.cr4 = Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    cpu.vector.set_xcr0(host_features().xcr0).unwrap();
    cpu
}

fn exception(v: Vector) -> Fault {
    Fault::Exception(Exception::plain(v))
}

#[test]
fn addps_memory_operand_adds() {
    let code = [0x0f, 0x58, 0x07]; // addps xmm0, [rdi]
    let mut cpu = enabled(&code);
    cpu.regs[RDI] = DATA;
    poke(&cpu, DATA, &[1.5f32, 2.0, -3.0, 0.25].map(f32::to_le_bytes).concat());
    cpu.vector
        .set_xmm(0, u128::from_le_bytes([1.0f32; 4].map(f32::to_le_bytes).concat().try_into().unwrap()));
    run(&mut cpu, &code).unwrap();
    let got = cpu.vector.xmm(0).to_le_bytes();
    assert_eq!(got[..], [2.5f32, 3.0, -2.0, 1.25].map(f32::to_le_bytes).concat()[..]);
}

#[test]
fn addps_misaligned_operand_raises_gp() {
    let code = [0x0f, 0x58, 0x07];
    let mut cpu = enabled(&code);
    cpu.regs[RDI] = DATA + 4;
    assert_eq!(step(&mut cpu), Err(Fault::Exception(Exception::gp(0))));
}

#[test]
fn cvtsi2sd_any_general_register_is_read() {
    // cvtsi2sd xmm9, r13
    let code = [0xf2, 0x4d, 0x0f, 0x2a, 0xcd];
    let mut cpu = enabled(&code);
    cpu.regs[13] = -7i64 as u64;
    run(&mut cpu, &code).unwrap();
    assert_eq!(cpu.vector.xmm(9) as u64, (-7.0f64).to_bits());
}

#[test]
fn pcmpestri_lengths_in_registers_give_index_and_flags() {
    let code = [0x66, 0x0f, 0x3a, 0x61, 0xc1, 0x08]; // pcmpestri xmm0, xmm1, 8 (equal each)
    let mut cpu = enabled(&code);
    cpu.vector.set_xmm(0, u128::from_le_bytes(*b"auberge........."));
    cpu.vector.set_xmm(1, u128::from_le_bytes(*b"xxbxxxx........."));
    cpu.regs[RAX] = 16;
    cpu.regs[2] = 16;
    cpu.regs[RCX] = 0x1234_5678_9abc_def0;
    run(&mut cpu, &code).unwrap();
    assert_eq!(cpu.regs[RCX], 2);
    assert_eq!(cpu.rflags() & 0x8d5, 1);
}

#[test]
fn divsd_by_zero_unmasked_raises_xm_and_changes_only_the_flag() {
    let code = [0xf2, 0x0f, 0x5e, 0xc1]; // divsd xmm0, xmm1
    let mut cpu = enabled(&code);
    cpu.vector.set_xmm(0, 1.0f64.to_bits() as u128);
    cpu.vector.set_mxcsr(0x1f80 & !(1 << 9));
    assert_eq!(step(&mut cpu), Err(exception(Vector::XM)));
    assert_eq!(cpu.vector.xmm(0), 1.0f64.to_bits() as u128);
    assert_eq!(cpu.vector.mxcsr(), 0x1d84);
    cpu.cr4.remove(Cr4::OSXMMEXCPT);
    assert_eq!(step(&mut cpu), Err(exception(Vector::UD)));
}

#[test]
fn mulsd_tiny_exact_result_with_underflow_unmasked_raises_xm() {
    let code = [0xf2, 0x0f, 0x59, 0xc1]; // mulsd xmm0, xmm1
    let mut cpu = enabled(&code);
    cpu.vector.set_xmm(0, f64::MIN_POSITIVE.to_bits() as u128);
    cpu.vector.set_xmm(1, 0.5f64.to_bits() as u128);
    cpu.vector.set_mxcsr(0x1f80 & !(1 << 11));
    assert_eq!(step(&mut cpu), Err(exception(Vector::XM)));
}

#[test]
fn vex_128_clears_and_legacy_keeps_the_upper_half() {
    if !host_features().avx {
        return;
    }
    // addpd xmm1, xmm2; vaddpd xmm3, xmm1, xmm2
    let code = [0x66, 0x0f, 0x58, 0xca, 0xc5, 0xf1, 0x58, 0xda];
    let mut cpu = enabled(&code);
    for n in 0..16 {
        cpu.vector.set_ymm_high(n, 99);
    }
    run(&mut cpu, &code).unwrap();
    assert_eq!((cpu.vector.ymm_high(1), cpu.vector.ymm_high(3), cpu.vector.ymm_high(2)), (99, 0, 99));
}

#[test]
fn vector_classes_disabled_raise_ud_or_nm() {
    let sse = [0x0f, 0x58, 0xc1];
    let mmx = [0x0f, 0xfc, 0xc1];
    let avx = [0xc5, 0xf0, 0x58, 0xc2];
    let x87 = [0xd8, 0xc1];
    let check = |code: &[u8], change: &dyn Fn(&mut Cpu), want: Result<(), Vector>| {
        let mut cpu = enabled(code);
        change(&mut cpu);
        assert_eq!(step(&mut cpu), want.map_err(exception), "{code:x?}");
    };
    let em = |c: &mut Cpu| c.cr0 |= Cr0::EM;
    let ts = |c: &mut Cpu| c.cr0 |= Cr0::TS;
    let no_fxsr = |c: &mut Cpu| c.cr4.remove(Cr4::OSFXSR);
    check(&sse, &em, Err(Vector::UD));
    check(&mmx, &em, Err(Vector::UD));
    check(&x87, &em, Err(Vector::NM));
    for code in [&sse[..], &mmx, &x87, &avx] {
        check(code, &ts, Err(Vector::NM));
    }
    check(&sse, &no_fxsr, Err(Vector::UD));
    check(&mmx, &no_fxsr, Ok(()));
    check(&x87, &no_fxsr, Ok(()));
    check(&avx, &|c| c.cr4.remove(Cr4::OSXSAVE), Err(Vector::UD));
    check(&avx, &|c| c.vector.set_xcr0(3).unwrap(), Err(Vector::UD));
}

#[test]
fn vex_in_real_mode_is_undefined() {
    let mut cpu = cpu16(&[0xc5, 0xf0, 0x58, 0xc2]);
    cpu.cr4 = Cr4::OSFXSR | Cr4::OSXSAVE;
    cpu.vector.set_xcr0(host_features().xcr0).unwrap();
    assert_eq!(step(&mut cpu), Err(exception(Vector::UD)));
}

#[test]
fn evex_and_3dnow_are_undefined() {
    for code in [&[0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2][..], &[0x0f, 0x0f, 0xc1, 0x9e]] {
        assert_eq!(step(&mut enabled(code)), Err(exception(Vector::UD)), "{code:x?}");
    }
}

#[test]
fn x87_pi_times_two_is_stored() {
    // fldpi; fadd st0, st0; fstp qword [rdi]
    let code = [0xd9, 0xeb, 0xdc, 0xc0, 0xdd, 0x1f];
    let mut cpu = enabled(&code);
    cpu.regs[RDI] = DATA;
    run(&mut cpu, &code).unwrap();
    assert_eq!(peek(&cpu, DATA, 8), (2.0 * std::f64::consts::PI).to_le_bytes());
}

#[test]
fn x87_unmasked_exception_is_raised_by_the_next_waiting_instruction() {
    // fldz; fld1; fdiv st0, st1; fnstsw ax; fld1
    let code = [0xd9, 0xee, 0xd9, 0xe8, 0xd8, 0xf1, 0xdf, 0xe0, 0xd9, 0xe8];
    let mut cpu = enabled(&code);
    let mut image = cpu.vector.to_bytes();
    image[..2].copy_from_slice(&0x037bu16.to_le_bytes());
    cpu.vector.load_bytes(&image).unwrap();
    for _ in 0..4 {
        step(&mut cpu).unwrap();
    }
    assert_eq!(cpu.regs[RAX] & 0x80bf, 0x8084);
    assert_eq!(step(&mut cpu), Err(exception(Vector::MF)));
}

#[test]
fn x87_store_that_faults_changes_nothing() {
    // fld1; fstp qword [rdi], with DS too short for it
    let code = [0xd9, 0xe8, 0xdd, 0x1f];
    let mut cpu = cpu32(&code);
    cpu.seg[3].limit = 0xfff;
    cpu.update_mode();
    cpu.regs[RDI] = 0xffc;
    step(&mut cpu).unwrap();
    let before = cpu.vector.to_bytes();
    assert_eq!(step(&mut cpu), Err(Fault::Exception(Exception::gp(0))));
    assert_eq!(cpu.vector.to_bytes(), before);
}

#[test]
fn x87_pointers_are_the_guests() {
    // fldz; fld1; fdiv st0, st1 (zero divide, unmasked: every processor notes it)
    let code = [0xd9, 0xee, 0xdc, 0x37]; // fldz; fdiv qword [rdi]
    let mut cpu = enabled(&code);
    cpu.regs[RDI] = DATA + 0x123;
    let mut image = cpu.vector.to_bytes();
    image[..2].copy_from_slice(&0x0340u16.to_le_bytes());
    cpu.vector.load_bytes(&image).unwrap();
    run(&mut cpu, &code).unwrap();
    let image = cpu.vector.to_bytes();
    let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
    assert_eq!((word(8), word(16)), (crate::testing::CODE + 2, DATA + 0x123));
    assert_eq!(u16::from_le_bytes([image[6], image[7]]), 0x437);
}

#[test]
fn fnsave_then_frstor_keeps_the_registers() {
    // fldpi; fnsave [rdi]; frstor [rdi]
    let code = [0xd9, 0xeb, 0xdd, 0x37, 0xdd, 0x27];
    let mut cpu = enabled(&code);
    cpu.regs[RDI] = DATA;
    step(&mut cpu).unwrap();
    let before = cpu.vector.to_bytes();
    step(&mut cpu).unwrap();
    assert_ne!(cpu.vector.to_bytes(), before);
    step(&mut cpu).unwrap();
    assert_eq!(cpu.vector.to_bytes()[..8], before[..8]);
    assert_eq!(cpu.vector.to_bytes()[32..160], before[32..160]);
}

#[test]
fn xsave_then_xrstor_goes_round() {
    // xsave64 [rdi]; xrstor64 [rdi]
    let code = [0x48, 0x0f, 0xae, 0x27, 0x48, 0x0f, 0xae, 0x2f];
    let mut cpu = enabled(&code);
    cpu.regs[RDI] = DATA;
    cpu.regs[RAX] = 7;
    cpu.vector.set_xmm(5, 0x55);
    step(&mut cpu).unwrap();
    assert_eq!(peek(&cpu, DATA + 512, 8), 2u64.to_le_bytes());
    cpu.vector.set_xmm(5, 0);
    cpu.vector.set_xmm(6, 1);
    step(&mut cpu).unwrap();
    assert_eq!((cpu.vector.xmm(5), cpu.vector.xmm(6)), (0x55, 0));
}

#[test]
fn xrstor_bad_header_raises_gp() {
    let code = [0x48, 0x0f, 0xae, 0x2f];
    for (at, value) in [(512u64, 8u8), (519, 0x80), (520, 1), (527, 0x80), (528, 1), (26, 1)] {
        let mut cpu = enabled(&code);
        cpu.regs[RDI] = DATA;
        cpu.regs[RAX] = 7;
        poke(&cpu, DATA + at, &[value]);
        assert_eq!(step(&mut cpu), Err(Fault::Exception(Exception::gp(0))), "byte {at}");
    }
    let mut cpu = enabled(&code);
    cpu.regs[RDI] = DATA + 16;
    assert_eq!(step(&mut cpu), Err(Fault::Exception(Exception::gp(0))));
}

#[test]
fn xsetbv_refuses_what_is_not_offered() {
    let code = [0x0f, 0x01, 0xd1];
    for (value, cpl, ok) in
        [(3u64, 0, true), (1, 0, true), (2, 0, false), (5, 0, false), (0xe7, 0, false), (3, 3, false)]
    {
        let mut cpu = enabled(&code);
        cpu.regs[RAX] = value;
        cpu.cpl = cpl;
        assert_eq!(step(&mut cpu).is_ok(), ok, "{value:#x}");
    }
}

#[test]
fn load_bytes_of_bad_state_is_refused() {
    let mut v = VectorState::new();
    assert_eq!(v.load_bytes(&[0; 100]), Err(StateError::Short(100)));
    let mut image = v.to_bytes();
    image[513] = 1;
    assert_eq!(v.load_bytes(&image), Err(StateError::Components(0x107)));
    image[513] = 0;
    image[27] = 1;
    assert!(matches!(v.load_bytes(&image), Err(StateError::Mxcsr(_))));
    assert!(v.load_bytes(&x86::State::reset().xsave).is_ok());
}

#[test]
fn vpmaskmovd_across_a_limit_touches_selected_elements_only() {
    if !host_features().avx2 {
        return;
    }
    let code = [0xc4, 0xe2, 0x71, 0x8e, 0x17]; // vpmaskmovd [edi], xmm1, xmm2
    let mut cpu = cpu32(&code);
    cpu.cr4 = Cr4::OSFXSR | Cr4::OSXSAVE;
    cpu.vector.set_xcr0(7).unwrap();
    cpu.seg[3].limit = (DATA + 7) as u32;
    cpu.update_mode();
    cpu.regs[RDI] = DATA;
    cpu.vector.set_xmm(1, 0x8000_0000_0000_0000);
    cpu.vector.set_xmm(2, u128::MAX);
    step(&mut cpu).unwrap();
    assert_eq!(peek(&cpu, DATA, 12), [0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0]);
    cpu.regs[crate::cpu::RIP] = crate::testing::CODE;
    cpu.vector.set_xmm(1, u128::MAX);
    assert_eq!(step(&mut cpu), Err(Fault::Exception(Exception::gp(0))));
}

#[test]
fn many_distinct_instructions_never_exhaust_the_stubs() {
    // pinsrw xmm0, [rdi], imm8 and its like: far more stubs than the arena holds, each alone (as under TF).
    let mut cpu = enabled(&[]);
    for round in 0..3u64 {
        for n in 0..20_000u64 {
            // vpblendd/shufps reg, reg, imm: 8 * 8 * 256 forms, twice
            let modrm = 0xc0 | (n >> 8 & 0x3f) as u8;
            let code = [if n >> 14 & 1 == 0 { 0x90 } else { 0x66 }, 0x0f, 0xc6, modrm, n as u8];
            poke(&cpu, crate::testing::CODE + 0x400, &code);
            cpu.regs[crate::cpu::RIP] = crate::testing::CODE + 0x400 + (n >> 14 & 1 == 0) as u64;
            step(&mut cpu).unwrap_or_else(|e| panic!("{round} {n}: {e:?}"));
        }
    }
    assert!(cpu.seg[CS].long());
}

#[test]
fn uses_mxcsr_of_vex_integer_instructions_is_no() {
    use iced_x86::Code;
    let uses = super::stub::uses_mxcsr;
    assert!(!uses(Code::VEX_Vpcmpestri_xmm_xmmm128_imm8) && !uses(Code::Pcmpestri_xmm_xmmm128_imm8));
    assert!(uses(Code::VEX_Vaddps_xmm_xmm_xmmm128) && uses(Code::Addps_xmm_xmmm128));
}
