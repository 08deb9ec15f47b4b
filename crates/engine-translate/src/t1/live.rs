//! Guest vector and x87 registers in the host's own while translated code runs.
//!
//! They are loaded by the first block that needs them and stay from then on, whatever is jumped to: in [`T1::live`] and
//! [`T1::fpu`] is what is there. A block looks once, and knows from then on. T0's handlers are Rust code, which uses XMM
//! registers and the host's MXCSR but never x87's: before one the vector registers go back to the vCPU, x87's registers only
//! if the handler is about them, and where the block goes on both are loaded again. Leaving saves everything.
//!
//! The guest's MXCSR is the host's while [`T1::live`]. That, and x87's control word, mask every exception, else nothing is
//! loaded and T0 does the instructions.
//!
//! x87's pointers to the last instruction and operand are cleared by saving: they would be the host's. T0 clears them too,
//! where every exception is masked.

use super::asm::{ABOVE_OR_EQUAL, Asm, BELOW, EQUAL, Mem, NOT_EQUAL, R14, R15, RAX, RDX};
use super::compile::Compiler;
use super::flags::Flags;
use super::runtime::field;
use super::tails::Tail;
use super::vector::kind;
use crate::cpu::Cpu;
use crate::vector::VectorState;
use crate::vector::host_features;
use crate::vector::state::{FDP, FIP, FOP, MXCSR, XMM0, XSTATE_BV, YMM_HIGH};
use iced_x86::Instruction;
use std::mem::offset_of;

#[cfg(doc)]
use super::T1;

/// Values of [`T1::live`] above 0, nothing: XMM registers, where VEX-encoded instructions aren't allowed.
pub const SSE: u8 = 1;
/// XMM registers; the upper halves are zero, and known to be by the processor.
pub const AVX: u8 = 2;
/// YMM registers.
pub const YMM: u8 = 3;

const AREA: usize = offset_of!(Cpu, vector) + offset_of!(VectorState, area);
const GUEST_MXCSR: Mem = Mem::cpu(AREA + MXCSR);
const HOST_MXCSR: Mem = Mem::cpu(offset_of!(Cpu, vector) + offset_of!(VectorState, mxcsr_host));

const VZEROUPPER: [u8; 3] = [0xc5, 0xf8, 0x77];

/// A guest vector register's low and high half in the vCPU.
const fn low(n: u8) -> Mem {
    Mem::cpu(AREA + XMM0 + n as usize * 16)
}
const fn high(n: u8) -> Mem {
    Mem::cpu(AREA + YMM_HIGH + n as usize * 16)
}

/// What a block knows to be in the host's registers at some point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// At least this much: [`SSE`], [`AVX`], [`YMM`], or 0.
    pub vectors: u8,
    /// x87's registers.
    pub fpu: bool,
}

impl Compiler<'_> {
    /// Makes sure of vector registers of the kind `need`, or leaves op `k` to T0: #UD, #NM, and unmasked exceptions.
    pub fn need_vectors(&mut self, k: usize, need: u8) {
        if self.live.vectors < need {
            self.save_flags();
            let from = self.a.label();
            // cmp byte [live], need
            self.a.rm(false, &[0x80], 7, field!(live));
            self.a.bytes(&[need]);
            self.a.jump_if(BELOW, from);
            self.flags = Flags::Saved;
            self.live.vectors = need;
            let resume = self.a.bound();
            let need = Live { vectors: need, fpu: false };
            self.tails.push(Tail::Begin { from, resume, ops: (self.current, k), need });
        }
    }
    /// The same for x87's registers.
    pub fn need_fpu(&mut self, k: usize) {
        if !std::mem::replace(&mut self.live.fpu, true) {
            self.save_flags();
            let from = self.a.label();
            self.a.rm(false, &[0x80], 7, field!(fpu));
            self.a.bytes(&[0]);
            self.a.jump_if(EQUAL, from);
            self.flags = Flags::Saved;
            let resume = self.a.bound();
            let need = Live { vectors: 0, fpu: true };
            self.tails.push(Tail::Begin { from, resume, ops: (self.current, k), need });
        }
    }

    /// Where the blocks lead back to the first and that has to do with vector or x87 registers: makes sure of these once, and
    /// jumps back go behind that.
    pub fn prepare_loop(&mut self, instructions: &[Instruction]) {
        // What T0 does, one after the other, where the registers can't be loaded.
        const EARLY: usize = 8;
        let leads_back = |i: &Instruction| {
            (i.is_jcc_short_or_near() || i.is_jmp_short_or_near())
                && self.delta(i).is_some_and(|delta| delta as u32 == self.offset)
        };
        let first = self.first_block();
        let needs: Vec<_> = instructions[..first].iter().map(kind).collect();
        let Some(k) = needs.iter().position(Option::is_some).filter(|k| *k < EARLY) else { return };
        if !instructions.iter().any(leads_back) {
            return;
        }
        let needs = || needs.iter().flatten();
        if needs().any(|need| need.fpu) {
            self.need_fpu(k);
        }
        self.need_vectors(k, needs().map(|need| need.vectors).max().unwrap_or(0));
        (self.looped, self.loop_live) = (self.a.bound(), self.live);
    }
    /// Where a jump back to the first block goes.
    pub fn back_to_first(&self) -> super::asm::Label {
        let ready = self.live.vectors >= self.loop_live.vectors && (self.live.fpu || !self.loop_live.fpu);
        if ready { self.looped } else { self.linked }
    }

    /// Loads what is to be there, or goes to `refused`.
    pub fn begin(&mut self, need: Live, refused: super::asm::Label) {
        if need.fpu {
            self.a.far(0xe8, self.shared.begin_fpu);
            self.a.jump_if(EQUAL, refused);
        }
        if need.vectors != 0 {
            self.a.load_immediate(R14, need.vectors as u64);
            self.a.far(0xe8, self.shared.begin_vectors);
            self.a.jump_if(EQUAL, refused);
        }
    }

    /// VZEROUPPER or VZEROALL was executed.
    pub fn upper_cleared(&mut self) {
        self.a.rm(false, &[0xc6], 0, field!(live));
        self.a.bytes(&[AVX]);
        self.live.vectors = AVX;
    }
}

/// The shared code's part: what is found at these offsets is called.
pub struct Entries {
    /// R14: what is needed, as in [`T1::live`]. The zero flag is set if it can't be. Clobbers RAX.
    pub begin_vectors: u64,
    /// The same for x87; clobbers RAX and R14.
    pub begin_fpu: u64,
    /// Puts what is live back. Clobbers RAX; the second RDX too.
    pub save_vectors: u64,
    pub save_fpu: u64,
}

pub fn shared_code(a: &mut Asm) -> Entries {
    let avx = host_features().avx;
    let begin_vectors = a.here() as u64;
    begin(a, avx);
    let begin_fpu = a.here() as u64;
    let refuse = a.label();
    a.rm(false, &[0x80], 7, field!(x87));
    a.bytes(&[0]);
    a.jump_if(EQUAL, refuse);
    // XRSTOR of component 0; the header isn't kept.
    a.rm(true, &[0xc7], 0, Mem::cpu(AREA + XSTATE_BV));
    a.bytes(&1u32.to_le_bytes());
    a.copy(R14, RDX);
    a.load_immediate(RAX, 1);
    a.load_immediate(RDX, 0);
    a.rm(true, &[0x0f, 0xae], 5, Mem::cpu(AREA));
    a.copy(RDX, R14);
    a.rm(false, &[0xc6], 0, field!(fpu));
    a.bytes(&[1]);
    // test eax, eax
    a.rr(false, &[0x85], RAX, RAX);
    a.bind(refuse);
    a.bytes(&[0xc3]);

    let save_vectors = a.here() as u64;
    save(a, avx);
    let save_fpu = a.here() as u64;
    a.load_immediate(RAX, 1);
    a.load_immediate(RDX, 0);
    a.rm(true, &[0x0f, 0xae], 4, Mem::cpu(AREA));
    // fninit; xor eax, eax; the three pointers
    a.bytes(&[0xdb, 0xe3]);
    a.rr(false, &[0x33], RAX, RAX);
    a.bytes(&[0x66]);
    a.rm(false, &[0x89], RAX, Mem::cpu(AREA + FOP));
    a.store(Mem::cpu(AREA + FIP), RAX);
    a.store(Mem::cpu(AREA + FDP), RAX);
    a.rm(false, &[0xc6], 0, field!(fpu));
    a.bytes(&[0]);
    a.bytes(&[0xc3]);
    Entries { begin_vectors, begin_fpu, save_vectors, save_fpu }
}

fn begin(a: &mut Asm, avx: bool) {
    let (have, refuse, ready, done) = (a.label(), a.label(), a.label(), a.label());
    let zero = |a: &mut Asm, field: Mem| {
        a.rm(false, &[0x80], 7, field);
        a.bytes(&[0]);
    };
    // movzx eax, byte [live]; test eax, eax
    a.rm(false, &[0x0f, 0xb6], RAX, field!(live));
    a.rr(false, &[0x85], RAX, RAX);
    a.jump_if(NOT_EQUAL, have);
    zero(a, field!(sse));
    a.jump_if(EQUAL, refuse);
    zero(a, field!(masked));
    a.jump_if(EQUAL, refuse);
    a.load_immediate(RAX, SSE as u64);
    if avx {
        let clear = a.label();
        zero(a, field!(avx));
        a.jump_if(EQUAL, ready);
        a.load_immediate(RAX, AVX as u64);
        // Loading zeros would make the processor take the upper halves for used: slower SSE code.
        upper_ymm(a, 0x10, 0);
        (1..8).for_each(|pair| upper_ymm(a, 0x56, pair * 2));
        // vptest ymm0, ymm0; vzeroupper
        a.bytes(&[0xc4, 0xe2, 0x7d, 0x17, 0xc0]);
        a.bytes(&VZEROUPPER);
        a.jump_if(EQUAL, clear);
        a.load_immediate(RAX, YMM as u64);
        (0..16).for_each(|n| {
            // Legacy SSE instructions among VEX-encoded ones of 256 bits cost some 70 cycles each.
            lower(a, 0x10, n);
            // vinsertf128 ymm, ymm, [high], 1
            upper(a, 0x18, n, !n & 15, high(n));
        });
        a.jump(done);
        a.bind(clear);
    }
    a.bind(ready);
    (0..16).for_each(|n| a.rm(false, &[0x0f, 0x10], n, low(n)));
    a.bind(done);
    a.rm(false, &[0x0f, 0xae], 2, GUEST_MXCSR);
    a.rm(false, &[0x88], RAX, field!(live));
    a.bind(have);
    // cmp eax, r14d
    let enough = a.label();
    a.rr(false, &[0x3b], RAX, R14);
    a.jump_if(ABOVE_OR_EQUAL, enough);
    // VEX-encoded ones aren't allowed, or only the upper halves are new.
    a.rr(false, &[0x83], 7, RAX);
    a.bytes(&[SSE]);
    a.jump_if(EQUAL, refuse);
    a.rm(false, &[0xc6], 0, field!(live));
    a.bytes(&[YMM]);
    a.bind(enough);
    a.rr(false, &[0x85], RAX, RAX);
    a.bytes(&[0xc3]);
    a.bind(refuse);
    a.rr(false, &[0x33], RAX, RAX);
    a.bytes(&[0xc3]);
}

fn save(a: &mut Asm, avx: bool) {
    let done = a.label();
    (0..16).for_each(|n| match avx {
        true => lower(a, 0x11, n),
        false => a.rm(false, &[0x0f, 0x11], n, low(n)),
    });
    if avx {
        let full = a.label();
        a.rm(false, &[0x80], 7, field!(live));
        a.bytes(&[AVX]);
        a.jump_if(BELOW, done);
        a.jump_if(NOT_EQUAL, full);
        // vxorps xmm0, xmm0, xmm0
        a.bytes(&[0xc5, 0xf8, 0x57, 0xc0]);
        (0..8).for_each(|pair| upper_ymm(a, 0x11, pair * 2));
        a.jump(done);
        a.bind(full);
        // vextractf128 [high], ymm, 1
        (0..16).for_each(|n| upper(a, 0x19, n, 15, high(n)));
        a.bytes(&VZEROUPPER);
    }
    a.bind(done);
    a.rm(false, &[0x0f, 0xae], 3, GUEST_MXCSR);
    a.rm(false, &[0x0f, 0xae], 2, HOST_MXCSR);
    a.rm(false, &[0xc6], 0, field!(live));
    a.bytes(&[0, 0xc3]);
}

/// VINSERTF128 or VEXTRACTF128 with a field of the vCPU and the upper half of YMM `n`.
fn upper(a: &mut Asm, opcode: u8, n: u8, vvvv: u8, m: Mem) {
    let r = if n >= 8 { 0 } else { 0x80 };
    // X isn't used; B, inverted, is R15's.
    a.bytes(&[0xc4, r | 0x43, vvvv << 3 | 5, opcode, 0x80 | (n & 7) << 3 | R15 & 7]);
    a.bytes(&m.disp.to_le_bytes());
    a.bytes(&[1]);
}

/// VMOVUPS of the lower half of YMM `n`, from (0x10) or to (0x11) its place in the vCPU.
fn lower(a: &mut Asm, opcode: u8, n: u8) {
    let r = if n >= 8 { 0 } else { 0x80 };
    a.bytes(&[0xc4, r | 0x41, 0x78, opcode, 0x80 | (n & 7) << 3 | R15 & 7]);
    a.bytes(&low(n).disp.to_le_bytes());
}

/// VMOVUPS or VORPS of YMM0 with the upper halves of registers `n` and `n + 1`.
fn upper_ymm(a: &mut Asm, opcode: u8, n: u8) {
    a.bytes(&[0xc4, 0xc1, 0x7c, opcode, 0x80 | R15 & 7]);
    a.bytes(&high(n).disp.to_le_bytes());
}
