//! The machine code of one stub (see [`super`] for what it does).
//!
//! A stub is `extern "sysv64" fn(*mut Cpu) -> u32`. RDI points at the [`Cpu`] throughout; the guest's explicit general
//! registers travel in R8 to R10, implicit ones (string comparisons) in their own; RAX, RCX, RDX and R11 are scratch. No
//! register that the ABI wants preserved is touched.

use super::state::{MXCSR, VectorState, XMM0, YMM_HIGH};
use crate::cpu::Cpu;
use iced_x86::{
    Code, Encoder, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use std::mem::offset_of;

const REGS: usize = offset_of!(Cpu, regs);
const STATUS: usize = offset_of!(Cpu, status);
const AREA: usize = offset_of!(Cpu, vector) + offset_of!(VectorState, area);
const BOUNCE: usize = offset_of!(Cpu, vector) + offset_of!(VectorState, bounce);
const RUN: usize = offset_of!(Cpu, vector) + offset_of!(VectorState, mxcsr_run);
const HOST: usize = offset_of!(Cpu, vector) + offset_of!(VectorState, mxcsr_host);

/// How a stub gets at the registers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The vector registers used are loaded and stored one by one.
    Vector,
    /// FXRSTOR before, FXSAVE behind: x87 and MMX.
    Fpu,
}

/// A stub's code.
pub(crate) struct Built {
    pub code: Vec<u8>,
    /// Offset of the guest's instruction in it.
    pub instruction: usize,
    /// x87: the instruction's opcode as encoded here, eleven bits as in FOP.
    pub opcode: u16,
}

/// The instruction with its memory operand moved to the bounce buffer: what two places that need the same stub agree on.
pub(super) fn normalise(i: &Instruction) -> Instruction {
    let mut n = *i;
    if has_memory(i) {
        n.set_segment_prefix(Register::None);
        n.set_memory_base(Register::RDI);
        n.set_memory_index(Register::None);
        n.set_memory_index_scale(1);
        n.set_memory_displ_size(8);
        n.set_memory_displacement64(BOUNCE as u64);
    }
    n
}

pub(super) fn has_memory(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
}

/// Whether access writes.
pub(super) fn writes(a: OpAccess) -> bool {
    matches!(a, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Assembles the stub for a normalised instruction. `None` if it can't be encoded in 64-bit code.
pub(super) fn build(normal: &Instruction, kind: Kind) -> Option<Built> {
    let mut native = *normal;
    let mut gprs: Vec<(u8, u8, bool)> = Vec::new();
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(normal);
    for n in 0..normal.op_count() {
        let r = normal.op_register(n);
        if normal.op_kind(n) != OpKind::Register || !r.is_gpr() {
            continue;
        }
        let number = r.full_register().number() as u8;
        let host = match gprs.iter_mut().find(|(guest, ..)| *guest == number) {
            Some((_, host, written)) => {
                *written |= writes(info.op_access(n));
                *host
            }
            None => {
                let host = 8 + gprs.len() as u8;
                gprs.push((number, host, writes(info.op_access(n))));
                host
            }
        };
        native.set_op_register(n, host_register(r, host)?);
    }
    if gprs.len() > 3 {
        return None;
    }
    match normal.mnemonic() {
        Mnemonic::Pcmpestri | Mnemonic::Vpcmpestri | Mnemonic::Pcmpestri64 | Mnemonic::Vpcmpestri64 => {
            gprs.extend([(0, 0, false), (2, 2, false), (1, 1, true)]);
        }
        Mnemonic::Pcmpestrm | Mnemonic::Vpcmpestrm | Mnemonic::Pcmpestrm64 | Mnemonic::Vpcmpestrm64 => {
            gprs.extend([(0, 0, false), (2, 2, false)]);
        }
        Mnemonic::Pcmpistri | Mnemonic::Vpcmpistri => gprs.push((1, 1, true)),
        _ => {}
    }
    let mut encoder = Encoder::new(64);
    encoder.encode(&native, 0).ok()?;
    let bytes = encoder.take_buffer();

    let mut a = Assembler::default();
    for &(guest, host, _) in &gprs {
        a.mem(&[0x48 | host >> 3 << 2, 0x8b], host, REGS + guest as usize * 8);
    }
    let flags = normal.rflags_read() != 0 || normal.rflags_modified() != 0;
    let vex = normal.encoding() == EncodingKind::VEX;
    let start;
    match kind {
        Kind::Vector => {
            let mut vectors: Vec<(u8, bool)> = Vec::new();
            for used in info.used_registers() {
                let r = used.register();
                if !(r.is_xmm() || r.is_ymm() || r.is_zmm()) {
                    continue;
                }
                let (n, written) = (r.number() as u8, writes(used.access()));
                match vectors.iter_mut().find(|(m, _)| *m == n) {
                    Some((_, w)) => *w |= written,
                    None => vectors.push((n, written)),
                }
            }
            for &(n, _) in &vectors {
                a.load_vector(n, vex);
            }
            let fp = uses_mxcsr(normal.code());
            if fp {
                a.enter_fp();
            }
            start = a.code.len();
            a.bytes(&bytes);
            if flags {
                // lahf; seto al; mov r11d, eax
                a.bytes(&[0x9f, 0x0f, 0x90, 0xc0, 0x41, 0x89, 0xc3]);
            }
            if fp {
                a.leave_fp(vex);
            }
            if flags {
                a.mem(&[0x66, 0x44, 0x89], 11, STATUS);
            }
            for &(n, written) in &vectors {
                if written {
                    a.store_vector(n, vex);
                }
            }
        }
        Kind::Fpu => {
            a.mem(&[0x48, 0x0f, 0xae], 1, AREA);
            if flags {
                // movzx eax, word [status]; add al, 0x7f (OF from AL = 1); sahf
                a.mem(&[0x0f, 0xb7], 0, STATUS);
                a.bytes(&[0x04, 0x7f, 0x9e]);
            }
            start = a.code.len();
            a.bytes(&bytes);
            if flags {
                a.bytes(&[0x9f, 0x0f, 0x90, 0xc0]);
                a.mem(&[0x66, 0x89], 0, STATUS);
            }
            a.mem(&[0x48, 0x0f, 0xae], 0, AREA);
            a.bytes(&[0xdb, 0xe3]);
            a.mem(&[0x0f, 0xae], 2, HOST);
        }
    }
    for &(guest, host, written) in &gprs {
        if written {
            a.mem(&[0x48 | host >> 3 << 2, 0x89], host, REGS + guest as usize * 8);
        }
    }
    a.bytes(&[0x31, 0xc0]);
    if vex {
        a.bytes(VZEROUPPER);
    }
    a.bytes(&[0xc3]);
    let opcode = match bytes.iter().position(|b| (0xd8..=0xdf).contains(b)) {
        Some(at) if kind == Kind::Fpu => fop(&bytes[at..]),
        _ => 0,
    };
    Some(Built { code: a.code, instruction: start, opcode })
}

/// FOP of an x87 instruction that starts with its escape byte (SDM 1 8.1.9).
pub(super) fn fop(bytes: &[u8]) -> u16 {
    match bytes {
        [escape, modrm, ..] => ((*escape & 7) as u16) << 8 | *modrm as u16,
        _ => 0,
    }
}

/// The general register of the same size with another number.
fn host_register(r: Register, host: u8) -> Option<Register> {
    let base = match r.size() {
        1 => Register::R8L,
        2 => Register::R8W,
        4 => Register::R8D,
        8 => Register::R8,
        _ => return None,
    };
    Some(base + (host as u32 - 8))
}

/// Whether the instruction reads or raises anything in MXCSR. Wrongly yes costs time only.
pub(crate) fn uses_mxcsr(code: Code) -> bool {
    let name = format!("{:?}", code.mnemonic()).to_lowercase();
    let root = name.strip_prefix('v').unwrap_or(&name);
    // Packed integers, moves, logic, permutations, cryptography.
    const NEITHER: [&str; 17] = [
        "p",
        "mov",
        "aes",
        "sha",
        "and",
        "or",
        "xor",
        "shuf",
        "unpck",
        "blend",
        "broadcast",
        "extract",
        "insert",
        "test",
        "lddqu",
        "gf2p8",
        "maskmov",
    ];
    !NEITHER.iter().any(|n| root.starts_with(n))
}

const VZEROUPPER: &[u8] = &[0xc5, 0xf8, 0x77];

#[derive(Default)]
struct Assembler {
    code: Vec<u8>,
}

impl Assembler {
    fn bytes(&mut self, b: &[u8]) {
        self.code.extend_from_slice(b);
    }
    /// Opcode, then ModRM for `reg` and [rdi + offset].
    fn mem(&mut self, opcode: &[u8], reg: u8, offset: usize) {
        self.bytes(opcode);
        self.code.push(0x87 | (reg & 7) << 3);
        self.bytes(&(offset as u32).to_le_bytes());
    }
    fn load_vector(&mut self, n: u8, vex: bool) {
        self.half(0x10, n, AREA + XMM0 + n as usize * 16);
        if vex {
            // vinsertf128 ymm, ymm, [..], 1
            self.upper(0x18, n, !n & 15, AREA + YMM_HIGH + n as usize * 16);
        }
    }
    fn store_vector(&mut self, n: u8, vex: bool) {
        self.half(0x11, n, AREA + XMM0 + n as usize * 16);
        if vex {
            // vextractf128 [..], ymm, 1
            self.upper(0x19, n, 15, AREA + YMM_HIGH + n as usize * 16);
        }
    }
    /// movups, either way.
    fn half(&mut self, opcode: u8, n: u8, offset: usize) {
        if n >= 8 {
            self.bytes(&[0x44]);
        }
        self.mem(&[0x0f, opcode], n, offset);
    }
    fn upper(&mut self, opcode: u8, n: u8, vvvv: u8, offset: usize) {
        let r = if n >= 8 { 0 } else { 0x80 };
        self.mem(&[0xc4, r | 0x63, vvvv << 3 | 5, opcode], n, offset);
        self.code.push(1);
    }
    /// Loads the guest's MXCSR with every exception masked and no flags, and keeps the guest's in ECX. Where the guest
    /// unmasked underflow, tiny results are to be reported even if exact: FTZ makes the processor do so.
    fn enter_fp(&mut self) {
        self.mem(&[0x8b], 0, AREA + MXCSR);
        self.bytes(&[0x89, 0xc1]); // mov ecx, eax
        self.bytes(&[0x83, 0xe0, 0xc0]); // and eax, ~0x3f
        self.bytes(&[0x0d, 0x80, 0x1f, 0, 0]); // or eax, 0x1f80
        self.bytes(&[0x0f, 0xba, 0xe1, 11]); // bt ecx, 11 (UM)
        self.bytes(&[0x72, 5]); // jc over the next
        self.bytes(&[0x0d, 0, 0x80, 0, 0]); // or eax, 0x8000 (FTZ)
        self.mem(&[0x89], 0, RUN);
        self.mem(&[0x0f, 0xae], 2, RUN);
    }
    /// Restores MXCSR; returns the flags raised if one of them is unmasked, else notes them.
    fn leave_fp(&mut self, vex: bool) {
        self.mem(&[0x0f, 0xae], 3, RUN);
        self.mem(&[0x0f, 0xae], 2, HOST);
        self.mem(&[0x8b], 0, RUN);
        self.bytes(&[0x83, 0xe0, 0x3f]); // and eax, 0x3f
        self.bytes(&[0x89, 0xca, 0xc1, 0xea, 7, 0xf7, 0xd2, 0x21, 0xc2]); // edx = ~(ecx >> 7) & eax
        self.bytes(&[0x74, if vex { 4 } else { 1 }]); // jz over the return
        if vex {
            self.bytes(VZEROUPPER);
        }
        self.bytes(&[0xc3]);
        self.mem(&[0x09], 0, AREA + MXCSR);
    }
}
