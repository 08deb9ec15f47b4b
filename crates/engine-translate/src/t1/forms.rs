//! Which instructions are taken as they are, with registers and memory operand replaced.

use crate::vendor;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, RflagsBits};
use std::sync::OnceLock;

/// What an instruction does with the status flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The flags have to be right before it: it reads some, or leaves some as they are.
    pub needs_flags: bool,
    pub writes_flags: bool,
}

/// The status flags (SDM 1 3.4.3.1).
pub const STATUS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Extensions of the host's that instructions taken need.
struct Host {
    popcnt: bool,
    lzcnt: bool,
    bmi1: bool,
    bmi2: bool,
    adx: bool,
    sse4_2: bool,
    movbe: bool,
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| Host {
        popcnt: std::is_x86_feature_detected!("popcnt"),
        lzcnt: std::is_x86_feature_detected!("lzcnt"),
        bmi1: std::is_x86_feature_detected!("bmi1"),
        bmi2: std::is_x86_feature_detected!("bmi2"),
        adx: std::is_x86_feature_detected!("adx"),
        sse4_2: std::is_x86_feature_detected!("sse4.2"),
        movbe: std::is_x86_feature_detected!("movbe"),
    })
}

/// How a taken instruction treats the flags; `None` if it isn't taken.
pub fn plain(i: &Instruction) -> Option<Form> {
    use Mnemonic::*;
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    let taken = match i.mnemonic() {
        // To 16 bits, MOVSXD's source is of 16 bits or 32, as the vendor has it.
        Movsxd => i.op0_register().size() > 2,
        Mov | Movzx | Movsx | Add | Or | Adc | Sbb | And | Sub | Xor | Cmp | Test | Inc | Dec | Neg | Not
        | Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd | Bsf | Bsr => true,
        Imul => i.op_count() > 1,
        Cmova | Cmovae | Cmovb | Cmovbe | Cmove | Cmovg | Cmovge | Cmovl | Cmovle | Cmovne | Cmovno
        | Cmovnp | Cmovns | Cmovo | Cmovp | Cmovs => true,
        Seta | Setae | Setb | Setbe | Sete | Setg | Setge | Setl | Setle | Setne | Setno | Setnp | Setns
        | Seto | Setp | Sets => true,
        // With a register as bit offset in memory they reach beyond their operand.
        Bt | Bts | Btr | Btc => !memory || i.op_kind(1) != OpKind::Register,
        Xchg | Xadd => true,
        // Of 16 bits it is undefined.
        Bswap => i.op0_register().size() >= 4,
        Popcnt => host().popcnt,
        Lzcnt => host().lzcnt,
        Tzcnt | Andn | Bextr | Blsi | Blsmsk | Blsr => {
            host().bmi1 && i.op_kind(1) != OpKind::Immediate32 && i.op_kind(2) != OpKind::Immediate32
        }
        Bzhi | Pdep | Pext | Rorx | Sarx | Shlx | Shrx => host().bmi2,
        Adcx | Adox => host().adx,
        Crc32 => host().sse4_2,
        Movbe => host().movbe,
        Clc | Stc | Cmc => true,
        _ => false,
    };
    if !taken {
        return None;
    }
    // Without memory LOCK is #UD, which is T0's.
    if i.has_lock_prefix() && !memory {
        return None;
    }
    let modified = i.rflags_modified() & STATUS;
    let keeps_some = match i.mnemonic() {
        // A count of zero changes nothing, and what is undefined may be left as it is.
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd | Bt | Bts | Btr | Btc | Bsf | Bsr => {
            true
        }
        // AMD's processors leave what is undefined as it is.
        Imul | Lzcnt | Tzcnt => vendor::amd(),
        _ => modified != 0 && modified != STATUS,
    };
    // By a multiple of operand and CF's bits nothing moves, but OF, which is undefined, may change.
    let through_carry = matches!(i.mnemonic(), Rcl | Rcr);
    Some(Form {
        needs_flags: keeps_some || i.rflags_read() & STATUS != 0,
        writes_flags: modified != 0 || through_carry,
    })
}

/// What the address of a memory operand of `size` bytes has to be a multiple of here: a locked access must not cross a
/// cache line, which T0 sees to.
pub fn alignment(i: &Instruction, size: usize) -> u32 {
    if i.has_lock_prefix() || matches!(i.mnemonic(), Mnemonic::Xchg) { size as u32 } else { 1 }
}

/// The same instruction without the accumulator as implied operand.
pub fn general(code: Code) -> Option<Code> {
    use Code::*;
    Some(match code {
        Add_AL_imm8 => Add_rm8_imm8,
        Add_AX_imm16 => Add_rm16_imm16,
        Add_EAX_imm32 => Add_rm32_imm32,
        Add_RAX_imm32 => Add_rm64_imm32,
        Or_AL_imm8 => Or_rm8_imm8,
        Or_AX_imm16 => Or_rm16_imm16,
        Or_EAX_imm32 => Or_rm32_imm32,
        Or_RAX_imm32 => Or_rm64_imm32,
        Adc_AL_imm8 => Adc_rm8_imm8,
        Adc_AX_imm16 => Adc_rm16_imm16,
        Adc_EAX_imm32 => Adc_rm32_imm32,
        Adc_RAX_imm32 => Adc_rm64_imm32,
        Sbb_AL_imm8 => Sbb_rm8_imm8,
        Sbb_AX_imm16 => Sbb_rm16_imm16,
        Sbb_EAX_imm32 => Sbb_rm32_imm32,
        Sbb_RAX_imm32 => Sbb_rm64_imm32,
        And_AL_imm8 => And_rm8_imm8,
        And_AX_imm16 => And_rm16_imm16,
        And_EAX_imm32 => And_rm32_imm32,
        And_RAX_imm32 => And_rm64_imm32,
        Sub_AL_imm8 => Sub_rm8_imm8,
        Sub_AX_imm16 => Sub_rm16_imm16,
        Sub_EAX_imm32 => Sub_rm32_imm32,
        Sub_RAX_imm32 => Sub_rm64_imm32,
        Xor_AL_imm8 => Xor_rm8_imm8,
        Xor_AX_imm16 => Xor_rm16_imm16,
        Xor_EAX_imm32 => Xor_rm32_imm32,
        Xor_RAX_imm32 => Xor_rm64_imm32,
        Cmp_AL_imm8 => Cmp_rm8_imm8,
        Cmp_AX_imm16 => Cmp_rm16_imm16,
        Cmp_EAX_imm32 => Cmp_rm32_imm32,
        Cmp_RAX_imm32 => Cmp_rm64_imm32,
        Test_AL_imm8 => Test_rm8_imm8,
        Test_AX_imm16 => Test_rm16_imm16,
        Test_EAX_imm32 => Test_rm32_imm32,
        Test_RAX_imm32 => Test_rm64_imm32,
        Mov_AL_moffs8 => Mov_r8_rm8,
        Mov_AX_moffs16 => Mov_r16_rm16,
        Mov_EAX_moffs32 => Mov_r32_rm32,
        Mov_RAX_moffs64 => Mov_r64_rm64,
        Mov_moffs8_AL => Mov_rm8_r8,
        Mov_moffs16_AX => Mov_rm16_r16,
        Mov_moffs32_EAX => Mov_rm32_r32,
        Mov_moffs64_RAX => Mov_rm64_r64,
        // What 64-bit code has no such short forms of.
        Inc_r16 => Inc_rm16,
        Inc_r32 => Inc_rm32,
        Dec_r16 => Dec_rm16,
        Dec_r32 => Dec_rm32,
        Add_rm8_imm8_82 => Add_rm8_imm8,
        Or_rm8_imm8_82 => Or_rm8_imm8,
        Adc_rm8_imm8_82 => Adc_rm8_imm8,
        Sbb_rm8_imm8_82 => Sbb_rm8_imm8,
        And_rm8_imm8_82 => And_rm8_imm8,
        Sub_rm8_imm8_82 => Sub_rm8_imm8,
        Xor_rm8_imm8_82 => Xor_rm8_imm8,
        Cmp_rm8_imm8_82 => Cmp_rm8_imm8,
        Xchg_r16_AX => Xchg_rm16_r16,
        Xchg_r32_EAX => Xchg_rm32_r32,
        Xchg_r64_RAX => Xchg_rm64_r64,
        _ => return None,
    })
}

/// Whether it does nothing at all.
pub fn is_nop(i: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        i.mnemonic(),
        Nop | Reservednop
            | Endbr32
            | Endbr64
            | Lfence
            | Prefetch
            | Prefetchw
            | Prefetchwt1
            | Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn form(code: &[u8]) -> Option<Form> {
        plain(&Decoder::new(64, code, DecoderOptions::NONE).decode())
    }

    #[test]
    fn flags_are_needed_where_some_are_read_or_kept() {
        let f = |needs_flags, writes_flags| Some(Form { needs_flags, writes_flags });
        assert_eq!(form(&[0x01, 0xd8]), f(false, true), "add eax, ebx");
        assert_eq!(form(&[0x11, 0xd8]), f(true, true), "adc eax, ebx");
        assert_eq!(form(&[0xff, 0xc0]), f(true, true), "inc eax");
        assert_eq!(form(&[0x89, 0xd8]), f(false, false), "mov eax, ebx");
        assert_eq!(form(&[0x0f, 0x44, 0xc3]), f(true, false), "cmove eax, ebx");
        assert_eq!(form(&[0xd3, 0xe0]), f(true, true), "shl eax, cl");
        assert_eq!(form(&[0xf7, 0xd0]), f(false, false), "not eax");
        assert_eq!(form(&[0x0f, 0xaf, 0xc3]), f(vendor::amd(), true), "imul eax, ebx");
        assert_eq!(form(&[0xf7, 0xe3]), None, "mul ebx has implied operands");
        assert_eq!(form(&[0xf0, 0x01, 0x18]), f(false, true), "lock add [rax], ebx");
        assert_eq!(form(&[0xf0, 0x01, 0xd8]), None, "lock add eax, ebx");
        assert_eq!(form(&[0x0f, 0xa3, 0x18]), None, "bt [rax], ebx");
        assert_eq!(form(&[0x0f, 0xba, 0x20, 3]), f(true, true), "bt dword [rax], 3");
    }
}
