//! What a sequence starts from and ends with.

use crate::translated::Tier;
use std::fmt::Write;

/// Where things are in the guest's (and the native process's) linear addresses, from the window's base.
pub mod place {
    /// Two pages to read and write; the page below is not mapped.
    pub const DATA: u64 = 0x1000;
    pub const DATA_LEN: usize = 0x2000;
    /// One to read; the page behind it is not mapped.
    pub const READ_ONLY: u64 = 0x3000;
    pub const END: u64 = 0x4000;
    /// One page of code.
    pub const CODE: u64 = 0x10000;
}

/// RFLAGS bits that are compared: status, DF, NT, AC, ID.
pub const FLAGS: u64 = 0x24_4cd5;

/// What stands behind a sequence: HLT, which programs may not execute.
pub const END: u8 = 0xf4;

/// Bytes of XSAVE image that are kept.
pub const XSAVE: usize = 832;

/// Registers. RSP is plain data.
#[derive(Clone, PartialEq, Eq)]
pub struct Registers {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// Selectors: ES, CS, SS, DS, FS, GS. FS stays null: the native process needs its base.
    pub seg: [u16; 6],
    /// Standard format; the header is ignored, all components present.
    pub xsave: [u8; XSAVE],
}

/// How a sequence ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Behind its last instruction.
    Ran,
    /// With an exception: vector, error code, and for #PF the address.
    Exception { vector: u8, code: u32, address: u64 },
}

/// Everything there is to compare.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    pub ending: Ending,
    pub registers: Registers,
    pub data: Vec<u8>,
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// Linux's selectors for 64-bit code, and for 32-bit code.
pub const LINUX64: [u16; 6] = [0x2b, 0x33, 0x2b, 0x2b, 0, 0];
pub const LINUX32: [u16; 6] = [0x2b, 0x23, 0x2b, 0x2b, 0, 0];

impl Registers {
    /// The x87 part and reserved fields as every processor has them: unused bytes cleared.
    pub fn canonical(mut self) -> Self {
        self.rflags &= FLAGS;
        // Processors differ in whether a return from the kernel leaves a null selector's RPL.
        self.seg.iter_mut().filter(|s| **s < 4).for_each(|s| *s = 0);
        if self.seg[1] != LINUX64[1] {
            // The upper half of RSP isn't 32-bit code's.
            self.gpr[4] &= 0xffff_ffff;
        }
        self.xsave[5] = 0;
        self.xsave[28..32].fill(0);
        for n in 0..8 {
            self.xsave[32 + n * 16 + 10..32 + n * 16 + 16].fill(0);
        }
        self.xsave[416..576].fill(0);
        self
    }
    pub fn half(&self, at: usize) -> u128 {
        u128::from_le_bytes(self.xsave[at..at + 16].try_into().unwrap())
    }
}

/// The fields that differ, one a line: name, native, the tier's, and where it started.
pub fn differences(start: &Registers, data: &[u8], native: &Outcome, tier: Tier, ours: &Outcome) -> String {
    let mut s = String::new();
    let (n, o) = (&native.registers, &ours.registers);
    let _ = writeln!(s, "{:>14} {:>34} {:>34} {:>34}", "", "native", format!("{tier:?}"), "at start");
    if native.ending != ours.ending {
        let _ = writeln!(s, "ending: native {:x?}, {tier:?} {:x?}", native.ending, ours.ending);
    }
    let mut line = |name: &str, native: u128, ours: u128, start: u128| {
        if native != ours {
            let _ = writeln!(s, "{name:>14} {native:>#34x} {ours:>#34x} {start:>#34x}");
        }
    };
    for (i, name) in NAMES.iter().enumerate() {
        line(name, n.gpr[i] as u128, o.gpr[i] as u128, start.gpr[i] as u128);
    }
    line("rip", n.rip as u128, o.rip as u128, start.rip as u128);
    for (i, name) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().enumerate() {
        line(name, n.seg[i] as u128, o.seg[i] as u128, start.seg[i] as u128);
    }
    line("rflags", n.rflags as u128, o.rflags as u128, (start.rflags & FLAGS) as u128);
    let field = |r: &Registers, at: usize, len: usize| {
        (0..len).fold(0u128, |v, i| v | (r.xsave[at + i] as u128) << (8 * i))
    };
    for (name, at, len) in [
        ("fcw", 0, 2),
        ("fsw", 2, 2),
        ("ftw", 4, 1),
        ("fop", 6, 2),
        ("fip", 8, 8),
        ("fdp", 16, 8),
        ("mxcsr", 24, 4),
    ] {
        line(name, field(n, at, len), field(o, at, len), field(start, at, len));
    }
    for i in 0..8 {
        line(&format!("st{i}"), n.half(32 + i * 16), o.half(32 + i * 16), start.half(32 + i * 16));
    }
    for i in 0..16 {
        line(&format!("xmm{i}"), n.half(160 + i * 16), o.half(160 + i * 16), start.half(160 + i * 16));
        line(&format!("ymm{i} high"), n.half(576 + i * 16), o.half(576 + i * 16), start.half(576 + i * 16));
    }
    for (i, start) in data.iter().enumerate() {
        if native.data[i] != ours.data[i] {
            line(&format!("data+{i:#x}"), native.data[i] as u128, ours.data[i] as u128, *start as u128);
        }
    }
    s
}
