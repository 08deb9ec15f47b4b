//! What differs by vendor, in the interpreter.

use super::*;
use crate::cpu::{ES, RAX, RBP, RCX, RDI, RIP, RSP};
use crate::fault::Fault;
use crate::placed::Placed;
use crate::testing::{CODE, DATA, STACK, cpu16, cpu32, cpu64, peek, poke, step};
use iced_x86::DecoderOptions;
use x86::{Cr4, Exception};

fn decoded(bits: u32, bytes: &[u8]) -> Instruction {
    let mut i = Decoder::new(bits, bytes, DecoderOptions::NONE).decode();
    as_amd(&mut i, bytes);
    i
}

#[test]
fn pause_with_rex_b_is_xchg_with_r8() {
    for (bytes, code) in [
        (&[0xf3, 0x41, 0x90][..], Code::Xchg_r32_EAX),
        (&[0x65, 0xf3, 0x43, 0x90], Code::Xchg_r32_EAX),
        (&[0xf3, 0x66, 0x45, 0x90], Code::Xchg_r16_AX),
        (&[0xf3, 0x49, 0x90], Code::Xchg_r64_RAX),
        (&[0xf3, 0x48, 0x90], Code::Pause),
        (&[0xf3, 0x90], Code::Pause),
    ] {
        assert_eq!(decoded(64, bytes).code(), code, "{bytes:02x?}");
    }
}

#[test]
fn what_amd_has_not_is_undefined_and_keeps_its_length() {
    for (bits, bytes, undefined) in [
        (32, &[0xc4, 0xe3, 0xf9, 0x16, 0xcd, 1][..], true),
        (32, &[0xc4, 0xe3, 0x79, 0x16, 0xcd, 1], false),
        (32, &[0xc4, 0xe3, 0xc1, 0x22, 0xe6, 0xca], true),
        (64, &[0xc4, 0xe3, 0xf9, 0x16, 0xcd, 1], false),
        (64, &[0x0f, 0x0d, 0xc8], true),
        (64, &[0x0f, 0x0d, 0x08], false),
    ] {
        let i = decoded(bits, bytes);
        assert_eq!((i.code() == Code::INVALID, i.len()), (undefined, bytes.len()), "{bytes:02x?}");
    }
}

/// What the guest's vendor makes of something.
fn by_vendor<T>(amd_has: T, intel_has: T) -> T {
    if amd() { amd_has } else { intel_has }
}

#[test]
fn push_of_a_segment_register_writes_what_the_vendor_does() {
    // push cs
    let mut cpu = cpu32(&[0x0e]);
    poke(&cpu, STACK - 4, &[0xff; 4]);
    step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RSP], STACK - 4);
    assert_eq!(peek(&cpu, STACK - 4, 4), by_vendor([8, 0, 0, 0], [8, 0, 0xff, 0xff]));
}

#[test]
fn enter_of_32_bits_on_a_16_bit_stack_keeps_what_the_vendor_does() {
    // enter 0, 0
    let mut cpu = cpu16(&[0x66, 0xc8, 0, 0, 0]);
    cpu.regs[RSP] = 0xabcd_1000;
    step(&mut cpu).unwrap();
    assert_eq!(cpu.regs[RSP], 0xabcd_0ffc);
    assert_eq!(cpu.regs[RBP], by_vendor(0xabcd_0ffc, 0xffc));
}

#[test]
fn fault_of_a_repeated_comparison_leaves_the_vendors_flags() {
    // repne scasb; the second byte is beyond the limit.
    let mut cpu = cpu32(&[0xf2, 0xae]);
    cpu.seg[ES].limit = DATA as u32;
    cpu.update_mode();
    (cpu.regs[RDI], cpu.regs[RCX], cpu.regs[RAX]) = (DATA, 2, 0x80);
    cpu.set_rflags(0x42);
    assert_eq!(step(&mut cpu), Err(Fault::Exception(Exception::gp(0))));
    assert_eq!((cpu.regs[RDI], cpu.regs[RCX]), (DATA + 1, 1));
    // 80H - 0: SF.
    assert_eq!(cpu.rflags() & 0x8d5, by_vendor(0x80, 0x40));
}

/// With an x87 instruction's operand beyond DS's limit, and exceptions unmasked.
fn x87_at_the_limit(code: &[u8]) -> Placed {
    let mut cpu = cpu32(code);
    cpu.cr4 = Cr4::OSFXSR;
    cpu.seg[3].limit = (DATA - 1) as u32;
    cpu.update_mode();
    cpu.regs[RDI] = DATA;
    let mut image = cpu.vector.to_bytes();
    image[..2].copy_from_slice(&0x0340u16.to_le_bytes());
    cpu.vector.load_bytes(&image).unwrap();
    cpu
}

#[test]
fn fault_of_an_x87_store_comes_before_or_behind_its_exceptions() {
    // fistp dword [edi], of an empty register: invalid.
    let mut cpu = x87_at_the_limit(&[0xdb, 0x1f]);
    let stored = step(&mut cpu);
    assert_eq!(stored, by_vendor(Err(Fault::Exception(Exception::gp(0))), Ok(())));
    let status = u16::from_le_bytes(cpu.vector.to_bytes()[2..4].try_into().unwrap());
    assert_eq!(status & 0x81, by_vendor(0, 0x81));
}

#[test]
fn fxsave_shows_x87s_pointers_as_the_vendor_does() {
    // fxsave64 [rdi], after FXRSTOR of pointers without a pending exception, and with one.
    for (fcw, fsw, shown) in [(0x037fu16, 0u16, by_vendor(0, 0x1234)), (0x037e, 1, 0x1234)] {
        let mut cpu = cpu64(&[0x48, 0x0f, 0xae, 0x0f, 0x48, 0x0f, 0xae, 0x07]);
        cpu.cr4 = Cr4::OSFXSR;
        cpu.regs[RDI] = DATA;
        for (at, value) in [(0, fcw as u64), (2, fsw as u64), (8, 0x1234), (16, 0x1234), (24, 0x1f80)] {
            poke(&cpu, DATA + at, &value.to_le_bytes()[..2]);
        }
        step(&mut cpu).unwrap();
        step(&mut cpu).unwrap();
        assert_eq!(cpu.regs[RIP], CODE + 8);
        let pointers = [shown as u8, (shown >> 8) as u8];
        assert_eq!(peek(&cpu, DATA + 8, 2), pointers);
        assert_eq!(peek(&cpu, DATA + 16, 2), pointers);
    }
}
