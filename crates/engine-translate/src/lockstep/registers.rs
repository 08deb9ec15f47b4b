//! What a program or a kernel can see of a vCPU, but for the time and the local APIC.

use crate::cpu::Cpu;
use crate::system::SystemState;
use x86::segment::Table;
use x86::{Cr0, Cr4, Efer, Segment};

#[derive(Clone, PartialEq)]
pub struct Registers {
    /// As [`Cpu::regs`].
    regs: [u64; 18],
    rflags: u64,
    cpl: u8,
    interrupt_shadow: bool,
    seg: [Segment; 6],
    ldtr: Segment,
    tr: Segment,
    gdtr: Table,
    idtr: Table,
    cr0: Cr0,
    cr2: u64,
    cr3: u64,
    cr4: Cr4,
    efer: Efer,
    dr: [u64; 6],
    xcr0: u64,
    /// XSAVE's standard format.
    vector: Vec<u8>,
    sys: SystemState,
}

const GENERAL: [&str; 18] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15", "zero", "rip",
];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

impl Registers {
    pub fn of(cpu: &Cpu) -> Self {
        let mut sys = cpu.sys.clone();
        // Events, and what is told once: not the instructions'.
        sys.waiting = 0;
        sys.deadline = u64::MAX;
        sys.told_outside_tables = false;
        Self {
            regs: cpu.regs,
            rflags: cpu.rflags(),
            cpl: cpu.cpl,
            interrupt_shadow: cpu.interrupt_shadow,
            seg: cpu.seg,
            ldtr: cpu.ldtr,
            tr: cpu.tr,
            gdtr: cpu.gdtr,
            idtr: cpu.idtr,
            cr0: cpu.cr0,
            cr2: cpu.cr2,
            cr3: cpu.cr3,
            cr4: cpu.cr4,
            efer: cpu.efer,
            dr: cpu.dr,
            xcr0: cpu.vector.xcr0,
            vector: cpu.vector.to_bytes(),
            sys,
        }
    }

    /// Makes all of it a vCPU's. Nothing that was derived from older registers or memory is left.
    pub fn put(&self, cpu: &mut Cpu) {
        cpu.regs = self.regs;
        cpu.set_rflags(self.rflags);
        cpu.cpl = self.cpl;
        cpu.interrupt_shadow = self.interrupt_shadow;
        cpu.seg = self.seg;
        cpu.ldtr = self.ldtr;
        cpu.tr = self.tr;
        cpu.gdtr = self.gdtr;
        cpu.idtr = self.idtr;
        cpu.cr0 = self.cr0;
        cpu.cr2 = self.cr2;
        cpu.cr3 = self.cr3;
        cpu.cr4 = self.cr4;
        cpu.efer = self.efer;
        cpu.dr = self.dr;
        // Both are what a vCPU of this host had.
        let loaded = cpu.vector.load_bytes(&self.vector).and_then(|()| cpu.vector.set_xcr0(self.xcr0));
        debug_assert_eq!(loaded, Ok(()));
        let events = (cpu.sys.waiting, cpu.sys.deadline);
        cpu.sys = self.sys.clone();
        (cpu.sys.waiting, cpu.sys.deadline) = events;
        cpu.single = false;
        cpu.fault = None;
        cpu.executing = [u64::MAX; 2];
        cpu.tlb.flush();
        cpu.update_mode();
    }

    /// A general register, by its number.
    pub fn general_register(&self, number: usize) -> u64 {
        self.regs[number & 15]
    }
    /// RIP.
    pub fn rip(&self) -> u64 {
        self.regs[crate::cpu::RIP]
    }

    /// A line for each register in which the interpreter's `other` differs, with its value at the start.
    pub fn differences(&self, other: &Self, start: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let (ours, others, starts) = (self.fields(), other.fields(), start.fields());
        for ((o, t), (_, s)) in ours.iter().zip(&others).zip(&starts) {
            if o.1 != t.1 {
                lines.push(format!("{:>12}: T1 {:#x}, T0 {:#x}, at the start {s:#x}", o.0, o.1, t.1));
            }
        }
        if lines.is_empty() {
            // The hidden parts, and MSRs.
            for (name, o, t) in [
                ("segments", format!("{:x?}", self.seg), format!("{:x?}", other.seg)),
                ("ldtr", format!("{:x?}", self.ldtr), format!("{:x?}", other.ldtr)),
                ("tr", format!("{:x?}", self.tr), format!("{:x?}", other.tr)),
                ("gdtr", format!("{:x?}", self.gdtr), format!("{:x?}", other.gdtr)),
                ("idtr", format!("{:x?}", self.idtr), format!("{:x?}", other.idtr)),
                ("MSRs and such", format!("{:x?}", self.sys), format!("{:x?}", other.sys)),
            ] {
                if o != t {
                    lines.push(format!("{name:>12}: T1 {o}\n{:>12}  T0 {t}", ""));
                }
            }
        }
        lines
    }

    /// All general registers, for the text.
    pub fn general(&self) -> String {
        let mut s = String::new();
        let (names, values) = (GENERAL.iter(), self.regs.iter());
        for (k, (name, value)) in names.zip(values).filter(|(n, _)| **n != "zero").enumerate() {
            s += &format!("{}{name:>4} {value:#018x}", if k % 4 == 0 { "\n" } else { " " });
        }
        s += &format!(" rflags {:#x} cpl {} cs base {:#x}", self.rflags, self.cpl, self.seg[1].base);
        s
    }

    fn fields(&self) -> Vec<(String, u128)> {
        let mut f: Vec<(String, u128)> =
            GENERAL.iter().zip(self.regs).map(|(n, v)| (n.to_string(), v as u128)).collect();
        f.push(("rflags".into(), self.rflags as u128));
        f.push(("cpl".into(), self.cpl as u128));
        f.push(("shadow".into(), self.interrupt_shadow as u128));
        for (name, s) in SEGMENTS.iter().zip(&self.seg) {
            f.push((name.to_string(), s.selector as u128));
            f.push((format!("{name} base"), s.base as u128));
        }
        let control = [
            ("cr0", self.cr0.bits()),
            ("cr2", self.cr2),
            ("cr3", self.cr3),
            ("cr4", self.cr4.bits()),
            ("efer", self.efer.bits()),
            ("xcr0", self.xcr0),
        ];
        f.extend(control.map(|(n, v)| (n.to_string(), v as u128)));
        f.extend(self.dr.iter().zip([0, 1, 2, 3, 6, 7]).map(|(v, n)| (format!("dr{n}"), *v as u128)));
        // SDM 1 table 10-2.
        for (name, at, len) in [
            ("fcw", 0, 2),
            ("fsw", 2, 2),
            ("ftw", 4, 1),
            ("fop", 6, 2),
            ("fip", 8, 8),
            ("fdp", 16, 8),
            ("mxcsr", 24, 4),
        ] {
            f.push((name.into(), self.part(at, len)));
        }
        f.extend((0..8).map(|n| (format!("st{n}"), self.part(32 + n * 16, 16))));
        f.extend((0..16).map(|n| (format!("xmm{n}"), self.part(160 + n * 16, 16))));
        f.extend((0..16).map(|n| (format!("ymm{n} high"), self.part(576 + n * 16, 16))));
        f
    }

    fn part(&self, at: usize, len: usize) -> u128 {
        self.vector.iter().skip(at).take(len).rev().fold(0, |v, b| v << 8 | *b as u128)
    }
}
