//! Vector and x87 state in translated code: where it is at each exit, and what is there of the host's.

use super::testing::{fault, program, run_to, vectors};
use super::tests::{same, translating};
use crate::cpu::{Cpu, RAX, RCX, RDI, RDX, RIP, RSI};
use crate::fault::Fault;
use crate::placed::Placed;
use crate::run::Done;
use crate::testing::{CODE, DATA, peek, poke};
use std::arch::asm;
use x86::{Cr0, Cr4, Exception, Vector};

/// Whether FP is as Rust code wants it: MXCSR but for its sticky flags, x87's control word, and an empty stack.
fn host_is_itself() -> bool {
    let mut mxcsr = 0u32;
    let mut environment = [0u16; 14];
    // SAFETY: STMXCSR and FNSTENV store 4 and 28 bytes; FLDENV undoes the latter's masking.
    unsafe {
        asm!("stmxcsr [{}]", in(reg) &mut mxcsr);
        asm!("fnstenv [{0}]", "fldenv [{0}]", in(reg) &mut environment);
    }
    mxcsr & !0x3f == 0x1f80 && environment[0] == 0x37f && environment[4] == 0xffff
}

/// Lets SSE's and, where the host has them, AVX's instructions pass.
fn enable(cpu: &mut Cpu) {
    cpu.cr4 |= Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    cpu.vector.set_xcr0(crate::vector::host_features().xcr0).unwrap();
}

/// A vCPU about to execute `code`, with an endless loop behind it.
fn ready(code: &[u8]) -> Placed {
    let mut cpu = translating(&[code, &[0xeb, 0xfe]].concat());
    enable(&mut cpu);
    (cpu.regs[RSI], cpu.regs[RDI]) = (DATA, DATA + 0x2000);
    cpu
}

fn double(cpu: &Cpu, n: usize) -> f64 {
    f64::from_bits(cpu.vector.xmm(n) as u64)
}

#[test]
fn mix_of_integer_vector_and_x87_over_blocks_is_the_interpreters() {
    let code = program!(
        t1_mix t1_mix_end,
        "mov ecx, 300",
        "mov r12d, 0x3f800000",
        "2: cvtsi2sd xmm1, rcx",
        "movd xmm9, r12d",
        "addsd xmm1, [rsi + rcx*8]",
        "fild dword ptr [rsi + rcx*4]",
        "fmul qword ptr [rsi + rcx*8 + 4]",
        "call 3f",
        // Across pages now and then: in T0, with everything live.
        "movups [rdi + rcx*4 - 2], xmm1",
        "fstp tbyte ptr [rdi + rcx*8 + 3]",
        "ucomisd xmm1, xmm2",
        "jp 5f",
        "jae 4f",
        "fldpi",
        "fstp st(1)",
        "4: cvttsd2si r13, xmm2",
        "pextrw eax, xmm1, 3",
        "add rbx, rax",
        "fnstsw ax",
        "movmskpd r14d, xmm2",
        "cvttss2si r15d, [rsi + rcx*4]",
        "5: dec ecx",
        "jne 2b",
        "jmp 6f",
        "3: sqrtpd xmm2, xmm1",
        "mulps xmm3, xmm9",
        "fld st(0)",
        "fabs",
        "fsqrt",
        "faddp",
        "paddq xmm4, xmm1",
        "fnstcw [rdi - 16]",
        "fldcw [rdi - 16]",
        "stmxcsr [rdi - 12]",
        "ldmxcsr [rdi - 12]",
        "ret",
        "6: movq2dq xmm5, mm3",
        "movq mm1, [rsi + 8]",
        "pmaddwd mm1, mm3",
        "pinsrw mm1, r13d, 2",
        "movq [rdi], mm1",
        "movdq2q mm2, xmm2",
        "cvtpi2ps xmm6, mm2",
        "emms",
        "nop",
    );
    let cpu = same(code, |cpu| {
        enable(cpu);
        (cpu.regs[RSI], cpu.regs[RDI]) = (DATA, DATA + 0x2000);
        for n in 0..1024u64 {
            poke(cpu, DATA + n * 8, &(n as f64 * 1.7 - 300.0).to_le_bytes());
        }
    });
    assert!(cpu.vector.mxcsr() & 0x20 != 0, "something was rounded");
    assert!(host_is_itself());
}

#[test]
fn upper_halves_are_the_interpreters() {
    if !crate::vector::host_features().avx {
        return;
    }
    let code = program!(
        t1_uppers t1_uppers_end,
        "mov ecx, 50",
        "2: vaddpd ymm1, ymm0, [rsi]",
        "movaps xmm3, xmm1",
        "mulpd xmm4, xmm1",
        "test cl, 1",
        "je 3f",
        "vzeroupper",
        "addpd xmm5, xmm1",
        "vmulpd xmm6, xmm1, xmm5",
        "jmp 4f",
        "3: vxorps ymm7, ymm1, ymm4",
        "vextractf128 [rdi + rcx*8 - 8], ymm1, 1",
        "cpuid",
        "vperm2f128 ymm0, ymm1, ymm7, 0x21",
        "mov ecx, r8d",
        "4: sub ecx, 1",
        "mov r8d, ecx",
        "jne 2b",
        "test r9d, r9d",
        "je 5f",
        "vzeroall",
        "paddd xmm1, [rsi]",
        "5: nop",
    );
    for all in 0..2 {
        same(code, |cpu| {
            enable(cpu);
            (cpu.regs[RSI], cpu.regs[RDI], cpu.regs[9], cpu.regs[8]) = (DATA, DATA + 0x2f00, all, 49);
            (0..16).for_each(|n| cpu.vector.set_xmm(n, (n as u128) << 52 | (n as u128) << 117));
            if all == 0 {
                (0..16).for_each(|n| cpu.vector.set_ymm_high(n, (n as u128) << 54));
            }
            poke(cpu, DATA, &[1.5f64, -2.0, 7e200, 0.1].map(f64::to_le_bytes).concat());
        });
    }
    assert!(host_is_itself());
}

#[test]
fn upper_halves_stay_where_avx_is_off() {
    let code = program!(t1_noavx t1_noavx_end, "2: addpd xmm1, xmm1", "movaps xmm2, xmm1", "jmp 2b");
    let mut cpu = ready(code);
    cpu.vector.set_xcr0(3).unwrap();
    (0..16).for_each(|n| cpu.vector.set_ymm_high(n, 7 << n));
    for _ in 0..10 {
        cpu.execute_block().unwrap();
    }
    (0..16).for_each(|n| assert_eq!(cpu.vector.ymm_high(n), 7 << n));
}

#[test]
fn vex_where_avx_is_off_is_undefined_while_xmm_registers_are_live() {
    let code = program!(t1_vexoff t1_vexoff_end, "addpd xmm1, xmm1", "jmp 2f", "2: vaddpd xmm1, xmm1, xmm1");
    let mut cpu = ready(code);
    cpu.vector.set_xcr0(3).unwrap();
    assert_eq!(fault(&mut cpu), Some(Fault::Exception(Exception::ud())));
    assert_eq!(cpu.regs[RIP], CODE + 6);
}

#[test]
fn fault_with_live_registers_leaves_everything_before_it_and_nothing_after() {
    let code = program!(
        t1_livefault t1_livefault_end,
        "addsd xmm0, xmm1",
        "fld1",
        "faddp",
        "inc ebx",
        "movaps xmm2, [rdi]",
        "fld1",
        "addsd xmm0, xmm1",
    );
    let mut cpu = ready(code);
    cpu.vector.set_xmm(1, 1f64.to_bits() as u128);
    let fldz = program!(t1_fldz t1_fldz_end, "fldz", "jmp 2f", "2:");
    poke(&cpu, CODE + 0x800, &[fldz, &[0xeb, 0xfe]].concat());
    cpu.regs[RIP] = CODE + 0x800;
    run_to(&mut cpu, CODE + 0x804);
    for n in 1..6 {
        // Not canonical, misaligned.
        for (address, expected) in
            [(1 << 60, Fault::NonCanonical), (DATA + 1, Fault::Exception(Exception::gp(0)))]
        {
            (cpu.regs[RIP], cpu.regs[RDI]) = (CODE, address);
            assert_eq!(fault(&mut cpu), Some(expected));
            assert_eq!(cpu.regs[RIP], CODE + 10);
            assert!(host_is_itself());
        }
        assert_eq!(double(&cpu, 0), 2.0 * n as f64);
        let sum = 2.0 * n as f64;
        let image = cpu.vector.to_bytes();
        let mantissa = u64::from_le_bytes(image[32..40].try_into().unwrap());
        let exponent = u16::from_le_bytes([image[40], image[41]]) as i32 - 16383 - 63;
        assert_eq!(mantissa as f64 * 2f64.powi(exponent), sum);
        assert_eq!((image[3] >> 3 & 7, image[4]), (7, 0x80), "one register");
    }
}

#[test]
fn return_for_fuel_keeps_all_registers() {
    let code = program!(
        t1_livefuel t1_livefuel_end,
        "2: addsd xmm15, xmm1",
        "fld1",
        "faddp",
        "inc rax",
        "jmp 2b",
    );
    let mut cpu = ready(code);
    cpu.vector.set_xmm(1, 1f64.to_bits() as u128);
    poke(&cpu, CODE + 0x800, &[0xd9, 0xee, 0xeb, 0, 0xeb, 0xfe]);
    cpu.regs[RIP] = CODE + 0x800;
    run_to(&mut cpu, CODE + 0x804);
    cpu.regs[RIP] = CODE;
    let mut long = 0;
    for _ in 0..20 {
        long += (cpu.execute_block() == Ok(Done::Many)) as u32;
        assert!(host_is_itself());
        let rounds = cpu.regs[RAX] as f64;
        assert_eq!(double(&cpu, 15), rounds);
        let image = cpu.vector.to_bytes();
        let mantissa = u64::from_le_bytes(image[32..40].try_into().unwrap());
        let exponent = u16::from_le_bytes([image[40], image[41]]) as i32 - 16383 - 63;
        assert_eq!(mantissa as f64 * 2f64.powi(exponent), rounds);
    }
    assert!(long > 5);
}

#[test]
fn guest_rounding_mode_holds_for_the_guest_alone() {
    // Up, for both; T0's cpuid between.
    let code = program!(
        t1_rounding t1_rounding_end,
        "ldmxcsr [rsi]",
        "fldcw [rsi + 4]",
        "cvtsd2si r8, xmm0",
        "fld qword ptr [rsi + 8]",
        "cpuid",
        "cvtsd2si r9, xmm0",
        "fistp qword ptr [rdi]",
        "mov r10, [rdi]",
        "nop",
    );
    let cpu = same(code, |cpu| {
        enable(cpu);
        (cpu.regs[RSI], cpu.regs[RDI]) = (DATA, DATA + 0x2000);
        cpu.vector.set_xmm(0, 2.25f64.to_bits() as u128);
        poke(cpu, DATA, &[0x80, 0x5f, 0, 0, 0x7f, 0x0b, 0, 0]);
        poke(cpu, DATA + 8, &2.25f64.to_le_bytes());
    });
    assert_eq!((cpu.regs[8], cpu.regs[9], cpu.regs[10]), (3, 3, 3));
    assert!(host_is_itself());
}

#[test]
fn exception_unmasked_by_ldmxcsr_is_raised() {
    let code = program!(
        t1_xm t1_xm_end, "addsd xmm2, xmm2", "ldmxcsr [rsi]", "divsd xmm0, xmm1", "addsd xmm0, xmm0");
    let mut cpu = ready(code);
    cpu.vector.set_xmm(0, 1f64.to_bits() as u128);
    // Not the division by zero, then everything but it, then that alone.
    for (mxcsr, raised) in [(0x1f80u32, false), (0x200, false), (0x1d80, true)] {
        poke(&cpu, DATA, &mxcsr.to_le_bytes());
        (cpu.regs[RIP], cpu.regs[RAX]) = (CODE, 0);
        cpu.vector.set_xmm(0, 1f64.to_bits() as u128);
        if raised {
            assert_eq!(fault(&mut cpu), Some(Fault::Exception(Exception::plain(Vector::XM))));
            assert_eq!((cpu.regs[RIP], double(&cpu, 0)), (CODE + 7, 1.0));
            assert_eq!(cpu.vector.mxcsr(), 0x1d84);
        } else {
            run_to(&mut cpu, CODE + 15);
            assert_eq!(double(&cpu, 0), f64::INFINITY);
        }
        assert!(host_is_itself());
    }
}

#[test]
fn reserved_bits_of_mxcsr_are_gp() {
    let mut cpu = ready(program!(t1_gp t1_gp_end, "addsd xmm2, xmm2", "ldmxcsr [rsi]"));
    poke(&cpu, DATA, &0x8000_1f80u32.to_le_bytes());
    assert_eq!(fault(&mut cpu), Some(Fault::Exception(Exception::gp(0))));
    assert_eq!((cpu.regs[RIP], cpu.vector.mxcsr()), (CODE + 4, 0x1f80));
}

#[test]
fn exception_unmasked_by_fldcw_is_raised_by_the_next_instruction() {
    let code = program!(
        t1_mf t1_mf_end,
        "fninit", "fld1", "fldz", "fldcw [rsi]", "fdivp", "nop", "fld1", "fnstsw ax");
    let mut cpu = ready(code);
    poke(&cpu, DATA, &0x37bu16.to_le_bytes());
    for _ in 0..3 {
        cpu.regs[RIP] = CODE;
        assert_eq!(fault(&mut cpu), Some(Fault::Exception(Exception::plain(Vector::MF))));
        assert_eq!(cpu.regs[RIP], CODE + 11);
        assert!(host_is_itself());
    }
    // Masked again, and cleared.
    poke(&cpu, DATA, &0x37fu16.to_le_bytes());
    cpu.regs[RIP] = CODE;
    run_to(&mut cpu, CODE + code.len() as u64);
    assert_eq!(cpu.regs[RAX] & 4, 4, "the division by zero was noted");
}

#[test]
fn task_switched_is_nm_whatever_is_live() {
    let code = program!(
        t1_ts t1_ts_end, "addsd xmm0, xmm0", "fld1", "mov cr0, rax", "inc ebx", "test dl, dl", "je 2f", "fld1",
        "2: addsd xmm0, xmm0");
    for x87 in [0, 1] {
        let mut cpu = ready(code);
        cpu.regs[RDX] = x87;
        cpu.regs[RAX] = (cpu.cr0 | Cr0::TS).bits();
        assert_eq!(fault(&mut cpu), Some(Fault::Exception(Exception::plain(Vector::NM))));
        assert_eq!((cpu.regs[RIP] < CODE + 17, x87), (x87 == 1, x87));
        assert!(host_is_itself());
        assert_eq!(vectors(&cpu)[4], 0x80, "the first FLD1's");
    }
}

#[test]
fn pointers_to_x87_instructions_are_never_the_hosts() {
    let code = program!(
        t1_fip t1_fip_end,
        "fld qword ptr [rsi]", "fsqrt", "fnstenv [rdi]", "fstp qword ptr [rsi]", "fxsave64 [rdi + 64]", "nop");
    for _ in 0..2 {
        let mut cpu = ready(code);
        run_to(&mut cpu, CODE + code.len() as u64);
        let image = peek(&cpu, DATA + 0x2000, 640);
        // FIP, FOP and FDP of both formats.
        assert!(image[12..18].iter().chain(&image[20..24]).all(|b| *b == 0), "{:x?}", &image[..28]);
        assert!(image[64 + 6..64 + 24].iter().all(|b| *b == 0), "{:x?}", &image[64..96]);
        assert!(cpu.vector.to_bytes()[6..24].iter().all(|b| *b == 0));
    }
}

#[test]
fn string_comparison_takes_its_lengths_from_eax_and_edx() {
    let code = program!(
        t1_pcmp t1_pcmp_end,
        "mov ecx, 77", "movups xmm1, [rsi]", "pcmpestri xmm1, [rsi + 3], 0x0c", "setc bl", "mov r8, rcx",
        "pcmpestrm xmm1, xmm1, 0x40", "mov r12d, 5", "crc32 r12, r8", "movbe r13, [rsi]", "nop");
    let cpu = same(code, |cpu| {
        enable(cpu);
        (cpu.regs[RSI], cpu.regs[RAX], cpu.regs[RDX], cpu.regs[RCX]) = (DATA, 3, 9, 1);
        poke(cpu, DATA, b"abcabcdefghijklmnopq");
    });
    assert_eq!(cpu.regs[8], 0);
}
