//! What AMD's processors do otherwise than Intel's.
//!
//! A guest's processor is of the host's vendor: CPUID says so ([`crate::system`]), and much runs natively. Where the vendors
//! differ, the interpreter asks [`amd`] and does as that vendor's processors do. What the manuals leave undefined, status
//! flags above all, is the host's own.

use core::arch::x86_64::__cpuid;
use iced_x86::{Code, Decoder, Instruction, OpKind, Register};
use std::sync::OnceLock;

/// Whether the processor is AMD's or a relative.
pub fn amd() -> bool {
    static AMD: OnceLock<bool> = OnceLock::new();
    *AMD.get_or_init(|| {
        // "AuthenticAMD" or "HygonGenuine".
        matches!(__cpuid(0).ebx, 0x6874_7541 | 0x6f67_7948)
    })
}

/// Decodes the next instruction of `bytes`, which are `decoder`'s, as the guest's processor does.
pub(crate) fn decode(decoder: &mut Decoder, bytes: &[u8], instruction: &mut Instruction) {
    let start = decoder.position();
    decoder.decode_out(instruction);
    if amd() {
        as_amd(instruction, &bytes[start..decoder.position()]);
    }
}

/// Makes an instruction as Intel's processors take it one as AMD's do.
fn as_amd(i: &mut Instruction, bytes: &[u8]) {
    match i.code() {
        // With REX.B, F3 90 is XCHG with R8 all the same (measured on Zen 3); on Intel's REX.B doesn't count.
        Code::Pause => {
            let Some(rex) = bytes.iter().rev().nth(1).filter(|b| **b & 0xf1 == 0x41) else { return };
            let word = bytes.contains(&0x66);
            let (code, own, accumulator) = match (rex & 8 != 0, word) {
                (true, _) => (Code::Xchg_r64_RAX, Register::R8, Register::RAX),
                (false, true) => (Code::Xchg_r16_AX, Register::R8W, Register::AX),
                (false, false) => (Code::Xchg_r32_EAX, Register::R8D, Register::EAX),
            };
            i.set_code(code);
            i.set_op0_kind(OpKind::Register);
            i.set_op0_register(own);
            i.set_op1_kind(OpKind::Register);
            i.set_op1_register(accumulator);
        }
        // With VEX.W they are VPEXTRQ and VPINSRQ, which only 64-bit mode has (APM 4, "VPEXTRQ", "VPINSRQ"; measured on Zen
        // 3); on Intel's W doesn't count outside (SDM 2B "PEXTRB").
        Code::VEX_Vpextrd_rm32_xmm_imm8 | Code::VEX_Vpinsrd_xmm_xmm_rm32_imm8 => {
            let vex = bytes.iter().position(|b| *b == 0xc4);
            if vex.and_then(|at| bytes.get(at + 2)).is_some_and(|b| b & 0x80 != 0) {
                undefine(i);
            }
        }
        // PREFETCH of a register is #UD (APM 3 "PREFETCH" has memory operands only; measured on Zen 3), on Intel's a NOP.
        Code::Reservednop_rm16_r16_0F0D
        | Code::Reservednop_rm32_r32_0F0D
        | Code::Reservednop_rm64_r64_0F0D
            if i.op0_kind() == OpKind::Register =>
        {
            undefine(i);
        }
        _ => {}
    }
}

/// An instruction of the same length that no processor has.
fn undefine(i: &mut Instruction) {
    let len = i.len();
    *i = Instruction::default();
    i.set_len(len);
}

#[cfg(test)]
mod tests;
