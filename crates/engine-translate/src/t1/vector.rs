//! SSE, AVX, MMX and x87 instructions: as they are, on the guest's registers of the same number ([`super::live`]).

use super::asm::{NOT_EQUAL, R14, RAX};
use super::compile::Compiler;
use super::flags::Flags;
use super::live::{AVX, SSE, YMM};
use super::lower::{lend, replace_memory, writes};
use super::registers::ACCUMULATOR;
use super::runtime::field;
use crate::vector::features::offered;
use crate::vector::native::{alignment, is_conversion};
use crate::vector::x87::{is_mmx, is_x87};
use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, RflagsBits};

/// Bits of RFLAGS that are kept apart.
const STATUS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Which registers an instruction needs beside the general ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// As in [`super::live`], or 0.
    pub vectors: u8,
    pub fpu: bool,
}

/// `None` for instructions that are none of these.
pub fn kind(i: &Instruction) -> Option<Kind> {
    use Mnemonic::*;
    let fpu = is_x87(i) || is_mmx(i);
    let registers = (0..i.op_count()).any(|n| i.op_register(n).is_vector_register());
    let zeroing = matches!(i.mnemonic(), Vzeroupper | Vzeroall);
    let control = matches!(i.mnemonic(), Ldmxcsr | Stmxcsr | Vldmxcsr | Vstmxcsr);
    // Of MMX registers: these raise what MXCSR says.
    let converts = matches!(i.mnemonic(), Cvtpd2pi | Cvtpi2pd | Cvtpi2ps | Cvtps2pi | Cvttpd2pi | Cvttps2pi);
    let vectors = if !registers && !zeroing && !control && !converts && !is_conversion(i) {
        0
    } else if i.encoding() != EncodingKind::VEX {
        SSE
    } else if (0..i.op_count()).any(|n| i.op_register(n).is_ymm()) {
        YMM
    } else {
        AVX
    };
    (fpu || vectors != 0).then_some(Kind { vectors, fpu })
}

/// Whether one of these is taken.
fn taken(i: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(i.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && offered(i.cpuid_features())
        && !i.is_vsib()
        && !matches!(
            i.mnemonic(),
            // The operand is at RDI.
            Maskmovq | Maskmovdqu | Vmaskmovdqu
            // Images of the state.
            | Fldenv | Fnstenv | Fnsave | Frstor | Fxsave | Fxsave64 | Fxrstor | Fxrstor64
        )
}

/// Instructions that have EAX and EDX among their operands.
fn lengths(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Pcmpestri
            | Pcmpestrm
            | Vpcmpestri
            | Vpcmpestrm
            | Pcmpestri64
            | Pcmpestrm64
            | Vpcmpestri64
            | Vpcmpestrm64
    )
}

impl Compiler<'_> {
    /// `None` if T0 is to do it.
    pub fn vector(&mut self, k: usize, i: &Instruction, kind: Kind) -> Option<()> {
        if !taken(i) {
            return None;
        }
        let before = self.live;
        if kind.fpu {
            self.need_fpu(k);
        }
        if kind.vectors != 0 {
            self.need_vectors(k, kind.vectors);
        }
        if self.live != before {
            // What loads them clobbers R14.
            self.units.give_up();
        }
        match i.mnemonic() {
            Mnemonic::Vzeroupper | Mnemonic::Vzeroall => {
                self.encode(i)?;
                self.upper_cleared();
                return Some(());
            }
            // Nothing is pending where the registers were loaded.
            Mnemonic::Wait => return Some(()),
            Mnemonic::Fnstsw if i.op0_kind() == OpKind::Register => {
                self.save_flags();
                // fnstsw ax; mov r12w, ax
                self.a.bytes(&[0xdf, 0xe0, 0x66]);
                self.a.rr(false, &[0x8b], ACCUMULATOR, RAX);
                return Some(());
            }
            Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => return self.load_control(k, i, false),
            Mnemonic::Fldcw => return self.load_control(k, i, true),
            _ => {}
        }
        let op = &self.ops[k];
        let mut out = *i;
        let access = self.accesses(i);
        let memory = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory);
        let lengths = lengths(i.mnemonic());
        let pool: &[u8] = match memory {
            _ if lengths => &[],
            Some(_) => &[RAX],
            None => &[RAX, R14],
        };
        let loans = lend(i, &access, pool, &mut out)?;
        let modified = i.rflags_modified() & STATUS;
        let needs_flags = i.rflags_read() & STATUS != 0 || modified != 0 && modified != STATUS;
        let mut slow = None;
        if let Some(n) = memory {
            let ea = self.ea(i, op)?;
            let miss = if kind.fpu { self.slow_fpu(k) } else { self.slow(k) };
            // Through a window the processor looks at it.
            let align = if self.windows_reach(&ea) { 1 } else { alignment(i) as u32 + 1 };
            let (size, write) = (i.memory_size().size(), writes(access[n as usize]));
            let free = needs_flags || lengths || loans[0].is_some();
            if lengths {
                self.save_flags();
            }
            let m = self.reach(k, &ea, size, align, write, free, miss);
            replace_memory(&mut out, m);
            slow = Some(miss);
        }
        if needs_flags {
            self.need_flags();
        }
        self.load_loans(&loans);
        if lengths {
            self.save_flags();
            self.a.copy(RAX, ACCUMULATOR);
        }
        self.encode(&out)?;
        self.store_loans(&loans);
        if modified != 0 {
            self.flags = Flags::Native;
        }
        if let Some(slow) = slow {
            self.resume(slow);
        }
        if loans[1].is_none() {
            self.units.keep();
        }
        Some(())
    }

    /// LDMXCSR and FLDCW, of values that mask every exception. From a copy: the operand may change meanwhile.
    fn load_control(&mut self, k: usize, i: &Instruction, fpu: bool) -> Option<()> {
        let ea = self.ea(i, &self.ops[k])?;
        self.save_flags();
        // T0 may unmask some, so the block ends behind it.
        let slow = self.slow(k);
        let size = if fpu { 2 } else { 4 };
        self.check(&ea, size, 1, false, slow);
        let m = self.host(&ea, false);
        if fpu {
            // movzx r14d, word [m]
            self.a.rm(false, &[0x0f, 0xb7], R14, m);
        } else {
            self.a.rm(false, &[0x8b], R14, m);
        }
        self.a.rm(false, &[0x89], R14, field!(control));
        let masks = if fpu { 0x3f } else { 0x1f80 };
        let reserved = if fpu { 0 } else { !crate::vector::mxcsr_mask() };
        // not r14d; test r14d, masks
        self.a.rr(false, &[0xf7], 2, R14);
        self.a.rr(false, &[0xf7], 0, R14);
        self.a.bytes(&(masks as u32).to_le_bytes());
        self.a.jump_if(NOT_EQUAL, slow);
        if reserved != 0 {
            self.a.rm(false, &[0xf7], 0, field!(control));
            self.a.bytes(&reserved.to_le_bytes());
            self.a.jump_if(NOT_EQUAL, slow);
        }
        if fpu {
            self.a.rm(false, &[0xd9], 5, field!(control));
        } else {
            self.a.rm(false, &[0x0f, 0xae], 2, field!(control));
        }
        self.flags = Flags::Saved;
        Some(())
    }
}
