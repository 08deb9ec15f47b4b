//! SSE and AVX instructions.
//!
//! Each loads the registers it uses from the vCPU and stores those it wrote, so the guest's state is always in its place.
//! Upper halves of the host's registers are clear around every one. Floating-point instructions run with the guest's
//! own MXCSR, loaded for a run of them, if it masks every exception; else T0 does them.

use super::asm::{EQUAL, Mem, R14, R15, RAX};
use super::compile::Compiler;
use super::flags::Flags;
use super::lower::{lend, replace_memory, writes};
use super::runtime::field;
use crate::cpu::Cpu;
use crate::vector::VectorState;
use crate::vector::native::alignment;
use crate::vector::state::{MXCSR, XMM0, YMM_HIGH};
use crate::vector::stub::uses_mxcsr;
use iced_x86::{EncodingKind, Instruction, Mnemonic, OpAccess, OpKind, RflagsBits};
use std::mem::offset_of;

const AREA: usize = offset_of!(Cpu, vector) + offset_of!(VectorState, area);

const GUEST_MXCSR: Mem = Mem::cpu(AREA + MXCSR);
const HOST_MXCSR: Mem = Mem::cpu(offset_of!(Cpu, vector) + offset_of!(VectorState, mxcsr_host));

/// A guest vector register's low and high half in the vCPU.
const fn low(n: u8) -> Mem {
    Mem::cpu(AREA + XMM0 + n as usize * 16)
}
const fn high(n: u8) -> Mem {
    Mem::cpu(AREA + YMM_HIGH + n as usize * 16)
}

/// A vector register that an instruction uses.
#[derive(Clone, Copy)]
struct Used {
    number: u8,
    read: bool,
    written: bool,
}

/// Whether an instruction names a vector register, or is VZEROUPPER.
pub fn is_vector(i: &Instruction) -> bool {
    i.mnemonic() == Mnemonic::Vzeroupper || (0..i.op_count()).any(|n| i.op_register(n).is_vector_register())
}

/// Whether it is taken.
fn taken(i: &Instruction) -> bool {
    if !matches!(i.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return false;
    }
    // Implied operands, and elements that are selected.
    let name = format!("{:?}", i.mnemonic()).to_lowercase();
    let root = name.strip_prefix('v').unwrap_or(&name);
    !root.contains("maskmov")
        && !root.contains("gather")
        && !root.starts_with("pcmpestr")
        && !root.starts_with("pcmpistr")
}

/// Legacy instructions that write all of their destination register's low half; others may keep part of it.
fn overwrites(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(m, Movups | Movupd | Movdqu | Movaps | Movapd | Movdqa | Lddqu | Pshufd | Pshuflw | Pshufhw)
}

impl Compiler<'_> {
    /// `None` if T0 is to do it.
    pub fn vector(&mut self, k: usize, i: &Instruction) -> Option<()> {
        let vex = i.encoding() == EncodingKind::VEX;
        if i.mnemonic() == Mnemonic::Vzeroupper {
            self.vector_guard(k, true);
            // pxor xmm0, xmm0
            self.a.bytes(&[0x66, 0x0f, 0xef, 0xc0]);
            (0..16).for_each(|n| self.a.rm(false, &[0x0f, 0x11], 0, high(n)));
            return Some(());
        }
        if !taken(i) {
            return None;
        }
        let op = &self.ops[k];
        let mut out = *i;
        let access = self.accesses(i);
        let (mut used, mut count) = ([Used { number: 0, read: false, written: false }; 5], 0);
        let wide = (0..i.op_count()).any(|n| i.op_register(n).is_ymm());
        for u in self.factory.info(i).used_registers() {
            let r = u.register();
            if !r.is_vector_register() {
                continue;
            }
            let number = r.number() as u8;
            let read = u.access() != OpAccess::Write || !vex && !overwrites(i.mnemonic());
            let at = used[..count].iter().position(|u| u.number == number).unwrap_or(count);
            if at == count {
                *used.get_mut(at)? = Used { number, read: false, written: false };
                count += 1;
            }
            used[at].read |= read;
            used[at].written |= writes(u.access());
        }
        let used = &used[..count];
        let memory = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory);
        let pool: &[u8] = if memory.is_some() { &[RAX] } else { &[R14, RAX] };
        let loans = lend(i, &access, pool, &mut out)?;
        self.vector_guard(k, vex);
        if uses_mxcsr(i.code()) {
            self.guard_mxcsr(k);
            self.load_mxcsr();
        }
        let mut slow = None;
        if let Some(n) = memory {
            let ea = self.ea(i, op)?;
            self.save_flags();
            let miss = self.slow(k);
            let align = alignment(i) as u32 + 1;
            self.check(&ea, i.memory_size().size(), align, writes(access[n as usize]), miss);
            let m = self.host(&ea, loans[0].is_some());
            self.flags = Flags::Saved;
            replace_memory(&mut out, m);
            slow = Some(miss);
        }
        self.load_loans(&loans);
        for u in used.iter().filter(|u| u.read) {
            self.a.rm(false, &[0x0f, 0x10], u.number, low(u.number));
            if wide {
                // vinsertf128 ymm, ymm, [high], 1
                self.upper(0x18, u.number, !u.number & 15, high(u.number));
            }
        }
        self.encode(&out)?;
        for u in used.iter().filter(|u| u.written) {
            self.a.rm(false, &[0x0f, 0x11], u.number, low(u.number));
            if vex {
                // vextractf128 [high], ymm, 1: zero, if the instruction was one of 128 bits.
                self.upper(0x19, u.number, 15, high(u.number));
            }
        }
        if vex {
            // vzeroupper
            self.a.bytes(&[0xc5, 0xf8, 0x77]);
        }
        self.store_loans(&loans);
        if i.rflags_modified() & (RflagsBits::ZF | RflagsBits::CF) != 0 {
            self.flags = Flags::Native;
        }
        if let Some(slow) = slow {
            self.resume(slow);
        }
        Some(())
    }

    /// #UD and #NM are T0's. What decides about them changes at ends of blocks only.
    fn vector_guard(&mut self, k: usize, vex: bool) {
        let known = if vex { &mut self.avx_checked } else { &mut self.sse_checked };
        if !std::mem::replace(known, true) {
            self.require(k, if vex { field!(avx) } else { field!(sse) });
        }
    }

    /// Goes to op `k`'s handler if a byte of the vCPU is 0.
    fn require(&mut self, k: usize, allowed: Mem) {
        self.save_flags();
        let slow = self.slow(k);
        // cmp byte [allowed], 0
        self.a.rm(false, &[0x80], 7, allowed);
        self.a.bytes(&[0]);
        self.a.jump_if(EQUAL, slow);
        self.flags = Flags::Saved;
    }

    /// T0 does instructions that may raise #XM.
    fn guard_mxcsr(&mut self, k: usize) {
        if !std::mem::replace(&mut self.mxcsr_checked, true) {
            self.require(k, field!(masked));
        }
    }

    /// Gives the processor the guest's MXCSR.
    pub fn load_mxcsr(&mut self) {
        if !std::mem::replace(&mut self.mxcsr_loaded, true) {
            self.a.rm(false, &[0x0f, 0xae], 2, GUEST_MXCSR);
        }
    }
    /// Puts the guest's MXCSR, with the exceptions it noted, in its place, and loads the host's.
    pub fn unload_mxcsr(&mut self) {
        if std::mem::replace(&mut self.mxcsr_loaded, false) {
            self.a.rm(false, &[0x0f, 0xae], 3, GUEST_MXCSR);
            self.a.rm(false, &[0x0f, 0xae], 2, HOST_MXCSR);
        }
    }

    /// VINSERTF128 or VEXTRACTF128 with a field of the vCPU and the upper half of YMM `n`.
    fn upper(&mut self, opcode: u8, n: u8, vvvv: u8, m: Mem) {
        let r = if n >= 8 { 0 } else { 0x80 };
        // X isn't used; B, inverted, is R15's.
        self.a.bytes(&[0xc4, r | 0x43, vvvv << 3 | 5, opcode, 0x80 | (n & 7) << 3 | R15 & 7]);
        self.a.bytes(&m.disp.to_le_bytes());
        self.a.bytes(&[1]);
    }
}
