//! Which instructions are compared: everything that user code may run and whose effect is its operands' alone.

use iced_x86::{
    Code, CpuidFeature, EncodingKind, FlowControl, Mnemonic, OpCodeInfo, OpCodeOperandKind as Kind,
    OpCodeTableKind,
};

/// A part of the catalogue, tested on its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Integer,
    X87,
    /// MMX and SSE to SSE4.2, AES, SHA and so on, without VEX.
    Sse,
    /// VEX-encoded.
    Avx,
}

/// All codes of a class that exist in 32- or 64-bit code.
pub fn codes(class: Class, bits: u32, segments: bool) -> Vec<Code> {
    Code::values().filter(|c| class_of(*c) == Some(class) && allowed(*c, bits, segments)).collect()
}

fn class_of(code: Code) -> Option<Class> {
    use CpuidFeature::*;
    let info = code.op_code();
    if info.encoding() == EncodingKind::VEX {
        let general = code.cpuid_features().iter().all(|f| matches!(f, BMI1 | BMI2));
        return Some(if general { Class::Integer } else { Class::Avx });
    }
    if info.encoding() != EncodingKind::Legacy {
        return None;
    }
    let features = code.cpuid_features();
    if features.iter().any(|f| matches!(f, FPU | FPU287 | FPU387)) || code == Code::Wait {
        return Some(Class::X87);
    }
    let vector = |k| {
        matches!(
            k,
            Kind::mm_reg | Kind::mm_rm | Kind::mm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_or_mem
        )
    };
    let ops = (0..info.op_count()).any(|n| vector(info.op_kind(n)));
    if ops || matches!(code, Code::Emms | Code::Ldmxcsr_m32 | Code::Stmxcsr_m32) {
        return Some(Class::Sse);
    }
    Some(Class::Integer)
}

fn allowed(code: Code, bits: u32, segments: bool) -> bool {
    let info = code.op_code();
    let exists = info.is_instruction()
        && !info.fwait()
        && (if bits == 64 {
            info.mode64() && info.long_mode()
        } else {
            (if bits == 32 { info.mode32() } else { info.mode16() }) && info.compatibility_mode()
        })
        && (info.intel_decoder64()
            || bits == 32 && info.intel_decoder32()
            || bits == 16 && info.intel_decoder16());
    exists
        && info.cpl3()
        && !info.is_privileged()
        && features_here(code)
        && flow(code, segments)
        && !excluded(code, info, segments)
}

fn features_here(code: Code) -> bool {
    use CpuidFeature::*;
    let has = |name: bool| name;
    code.cpuid_features().iter().all(|f| match f {
        INTEL8086 | INTEL186 | INTEL286 | INTEL386 | INTEL486 | X64 | FPU | FPU287 | FPU387 | CMOV | CX8
        | FXSR | MMX | SSE | SSE2 | PAUSE | MULTIBYTENOP => true,
        CMPXCHG16B => has(is_x86_feature_detected!("cmpxchg16b")),
        SSE3 => has(is_x86_feature_detected!("sse3")),
        SSSE3 => has(is_x86_feature_detected!("ssse3")),
        SSE4_1 => has(is_x86_feature_detected!("sse4.1")),
        SSE4_2 => has(is_x86_feature_detected!("sse4.2")),
        POPCNT => has(is_x86_feature_detected!("popcnt")),
        LZCNT => has(is_x86_feature_detected!("lzcnt")),
        MOVBE => has(is_x86_feature_detected!("movbe")),
        BMI1 => has(is_x86_feature_detected!("bmi1")),
        BMI2 => has(is_x86_feature_detected!("bmi2")),
        ADX => has(is_x86_feature_detected!("adx")),
        AES => has(is_x86_feature_detected!("aes")),
        PCLMULQDQ => has(is_x86_feature_detected!("pclmulqdq")),
        SHA => has(is_x86_feature_detected!("sha")),
        GFNI => has(is_x86_feature_detected!("gfni")),
        AVX => has(is_x86_feature_detected!("avx")),
        AVX2 => has(is_x86_feature_detected!("avx2")),
        FMA => has(is_x86_feature_detected!("fma")),
        F16C => has(is_x86_feature_detected!("f16c")),
        VAES => has(is_x86_feature_detected!("vaes")),
        VPCLMULQDQ => has(is_x86_feature_detected!("vpclmulqdq")),
        AVX_VNNI => has(is_x86_feature_detected!("avxvnni")),
        _ => false,
    })
}

/// Straight on, or to a place that the generator chooses.
fn flow(code: Code, segments: bool) -> bool {
    match code.flow_control() {
        FlowControl::Next => true,
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call => {
            let info = code.op_code();
            // The 16-bit ones cut RIP.
            info.op_count() == 1
                && (matches!(info.op0_kind(), Kind::br32_1 | Kind::br32_4 | Kind::br64_1 | Kind::br64_4)
                    || segments && matches!(info.op0_kind(), Kind::br16_1 | Kind::br16_2))
        }
        _ => false,
    }
}

/// What depends on more than the operands, or has tests of its own.
fn excluded(code: Code, info: &OpCodeInfo, segments: bool) -> bool {
    use Mnemonic::*;
    let segment = (0..info.op_count()).any(|n| {
        matches!(
            info.op_kind(n),
            Kind::seg_reg
                | Kind::es
                | Kind::cs
                | Kind::ss
                | Kind::ds
                | Kind::fs
                | Kind::gs
                | Kind::cr_reg
                | Kind::dr_reg
        )
    });
    let loads = |k| matches!(k, Kind::mem_offs);
    let name = format!("{code:?}");
    segment
        || info.is_input_output()
        || info.table() == OpCodeTableKind::T0F && info.op_code() == 0x0f
        || name.starts_with("Reservednop")
        || !segments && (0..info.op_count()).any(|n| loads(info.op_kind(n)))
        || matches!(
            code.mnemonic(),
            Rdtsc | Rdtscp | Rdpmc | Cpuid | Xgetbv | Rdrand | Rdseed | Rdpid
                // Sets TF.
                | Popf | Popfd | Popfq
                | Sgdt | Sidt | Sldt | Str | Smsw | Lar | Lsl | Verr | Verw | Arpl
                | Les | Lds | Lss | Lfs | Lgs
                | Cli | Sti | Hlt | Salc
                // State images: what of them is written differs between processors; they have tests of their own.
                | Fxsave | Fxsave64 | Fxrstor | Fxrstor64
                | Bndmov | Bndmk | Bndcl | Bndcu | Bndcn | Bndldx | Bndstx
                | Ud0 | Ud1 | Ud2
                // Depend on the processor's generation: old aliases.
                | Fstpnce | Fneni | Fndisi | Fnsetpm | Frstpm
        )
        || matches!(info.op_code(), 0x100..) && name.contains("Cyrix")
}
