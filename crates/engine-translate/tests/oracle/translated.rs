//! Sequences in one of the tiers: a vCPU at CPL 3 whose page tables map the window as the native process does.

use crate::descriptors::Entry;
use crate::state::{END, Ending, Outcome, Registers, place};
use address::GuestPhys;
use engine_translate::cpu::{Cpu, RIP, SS};
use engine_translate::decode::decode;
use engine_translate::fault::Fault;
use engine_translate::op::Flow;
use engine_translate::remote::{Remote, Shared};
use memory::{GuestMemory, Kind, RegionConfig};
use std::sync::{Arc, OnceLock};
use x86::segment::Table;
use x86::{Cr0, Cr4, Descriptor, Efer, Segment, Vector};

/// Guest-physical places.
const TABLES: u64 = 0x1000;
const DATA: u64 = 0x10000;
const READ_ONLY: u64 = DATA + place::DATA_LEN as u64;
const CODE: u64 = 0x20000;
/// The LDT, 64 KiB, then an empty GDT; in linear addresses as far behind the window's base.
const LDT: u64 = 0x40000;
const GDT: u64 = 0x50000;
/// Sequences a vCPU runs before a new one takes its place: its memory for stubs is bounded.
const LIFE: u32 = 2000;

/// What executes the sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// The interpreter.
    T0,
    /// Every block translated before it is executed.
    T1,
    /// The same with a window: the host's own MMU finds the pages.
    Windows,
}

pub const TIERS: [Tier; 3] = [Tier::T0, Tier::T1, Tier::Windows];

pub struct Translated {
    tier: Tier,
    base: u64,
    memory: Arc<GuestMemory>,
    cpu: Cpu,
    age: u32,
    exact_flags: bool,
}

impl Translated {
    pub fn new(tier: Tier, base: u64, read_only: &[u8], pool: &[Entry]) -> Self {
        let config = RegionConfig { base: GuestPhys(0), len: 1 << 20, kind: Kind::Ram };
        let memory = Arc::new(GuestMemory::new(&[config]).unwrap());
        let entry = |table: u64, index: u64, value: u64| {
            memory.write_u64(GuestPhys(table + index * 8), value).unwrap()
        };
        // Present, writable, user, accessed, dirty.
        const RW: u64 = 0x67;
        entry(TABLES, base >> 39 & 511, (TABLES + 0x1000) | RW);
        entry(TABLES + 0x1000, base >> 30 & 511, (TABLES + 0x2000) | RW);
        entry(TABLES + 0x2000, base >> 21 & 511, (TABLES + 0x3000) | RW);
        let page =
            |linear: u64, physical: u64, bits| entry(TABLES + 0x3000, linear >> 12 & 511, physical | bits);
        page(base + place::DATA, DATA, RW);
        page(base + place::DATA + 0x1000, DATA + 0x1000, RW);
        page(base + place::READ_ONLY, READ_ONLY, RW & !2);
        page(base + place::CODE, CODE, RW & !2);
        // The supervisor's.
        (LDT..GDT + 0x1000).step_by(0x1000).for_each(|at| page(base + at, at, RW & !4));
        for e in pool {
            memory.write_u64(GuestPhys(LDT + e.number as u64 * 8), e.descriptor()).unwrap();
        }
        memory.load(GuestPhys(READ_ONLY), read_only).unwrap();
        let cpu = vcpu(&memory, base, tier);
        Self { tier, base, memory, cpu, age: 0, exact_flags: true }
    }

    /// Whether status flags are right at a fault though nothing reads them. They are in every other vCPU.
    pub fn exact_flags(&self) -> bool {
        self.tier == Tier::T0 || self.exact_flags
    }

    /// As `Native::run`.
    pub fn run(&mut self, code: &[u8], start: &Registers, data: &[u8]) -> Outcome {
        self.age += 1;
        if self.age > LIFE {
            self.age = 0;
            self.cpu = vcpu(&self.memory, self.base, self.tier);
            self.exact_flags = !self.exact_flags;
        }
        self.memory.load(GuestPhys(DATA), data).unwrap();
        let mut page = code.to_vec();
        page.push(END);
        page.resize(0x1000, 0xcc);
        self.memory.load(GuestPhys(CODE), &page).unwrap();
        self.cpu.t1.exact_flags = self.exact_flags;
        let cpu = &mut self.cpu;
        let memory = &self.memory;
        cpu.seg = start.seg.map(|selector| segment(memory, selector));
        cpu.regs[..16].copy_from_slice(&start.gpr);
        cpu.regs[RIP] = start.rip;
        cpu.set_rflags(start.rflags | 0x202);
        cpu.update_mode();
        let mut image = start.xsave;
        image[512..576].fill(0);
        image[512] = 7;
        cpu.vector.load_bytes(&image).unwrap();
        let ending = match self.tier {
            Tier::T0 => execute(cpu, code, start.rip),
            Tier::Windows => {
                let _ours = Handled::by_the_engine();
                execute_blocks(cpu, start.rip + code.len() as u64)
            }
            Tier::T1 => execute_blocks(cpu, start.rip + code.len() as u64),
        };
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&cpu.regs[..16]);
        let xsave = cpu.vector.to_bytes().try_into().unwrap();
        let registers = Registers {
            gpr,
            rip: cpu.regs[RIP],
            rflags: cpu.rflags(),
            seg: cpu.seg.map(|s| s.selector),
            xsave,
        }
        .canonical();
        let mut after = vec![0; data.len()];
        self.memory.read(GuestPhys(DATA), &mut after).unwrap();
        Outcome { ending, registers, data: after }
    }
}

/// SIGSEGV is the engine's while this lives; the native side's otherwise.
struct Handled(libc::sigaction);

impl Handled {
    fn by_the_engine() -> Self {
        static OURS: OnceLock<libc::sigaction> = OnceLock::new();
        // SAFETY: asks for what is installed, and installs what the engine had installed.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            assert_eq!(libc::sigaction(libc::SIGSEGV, std::ptr::null(), &mut before), 0);
            let ours = OURS.get_or_init(|| {
                engine_translate::t1::handle_faults().unwrap();
                let mut ours: libc::sigaction = std::mem::zeroed();
                assert_eq!(libc::sigaction(libc::SIGSEGV, std::ptr::null(), &mut ours), 0);
                assert_ne!(ours.sa_sigaction, before.sa_sigaction);
                ours
            });
            assert_eq!(libc::sigaction(libc::SIGSEGV, ours, std::ptr::null_mut()), 0);
            Self(before)
        }
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        // SAFETY: installs what was installed before.
        assert_eq!(unsafe { libc::sigaction(libc::SIGSEGV, &self.0, std::ptr::null_mut()) }, 0);
    }
}

fn vcpu(memory: &Arc<GuestMemory>, base: u64, tier: Tier) -> Cpu {
    let remote = Arc::new(Remote::new(Default::default()));
    let mut cpu = Cpu::new(0, Arc::new(Shared::new(memory.clone(), 1, 1_000_000)), remote);
    cpu.cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG;
    cpu.cr3 = TABLES;
    cpu.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    cpu.efer = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    cpu.cpl = 3;
    cpu.ldtr = Segment { selector: 8, base: base + LDT, limit: 0xffff, attributes: 0x82, unusable: false };
    cpu.gdtr = Table { base: base + GDT, limit: 0x7f };
    cpu.vector.set_xcr0(engine_translate::vector::host_features().xcr0).unwrap();
    if tier == Tier::Windows {
        let _ours = Handled::by_the_engine();
        cpu.give_window();
    }
    cpu
}

/// What the selector loads: from the LDT, or one of the segments that Linux gives its processes.
fn segment(memory: &GuestMemory, selector: u16) -> Segment {
    let attributes = match selector {
        0x23 => 0xc0fb,
        0x2b => 0xc0f3,
        0x33 => 0xa0fb,
        _ if selector & 4 != 0 => {
            let mut bytes = [0; 8];
            memory.read(GuestPhys(LDT + (selector & !7) as u64), &mut bytes).unwrap();
            return Descriptor(u64::from_le_bytes(bytes)).segment(selector);
        }
        _ => return Segment { selector, unusable: true, ..Default::default() },
    };
    Segment { selector, base: 0, limit: u32::MAX, attributes, unusable: false }
}

/// The blocks at RIP, translated, until one faults.
fn execute_blocks(cpu: &mut Cpu, end: u64) -> Ending {
    cpu.t1.threshold = 0;
    for _ in 0..100_000 {
        let Err(seg) = cpu.execute_block() else { continue };
        let fault = cpu.fault.take();
        if fault == Some(Fault::Restart) {
            cpu.single = true;
            continue;
        }
        if cpu.regs[RIP] == end {
            return Ending::Ran;
        }
        return ending(fault, seg);
    }
    panic!("the sequence does not end");
}

/// What a fault of an instruction that accesses memory through segment `seg` is to a program.
fn ending(fault: Option<Fault>, seg: u8) -> Ending {
    match fault {
        Some(Fault::Exception(e)) => {
            let address = if e.vector == Vector::PF { e.payload } else { 0 };
            Ending::Exception { vector: e.vector as u8, code: e.error_code, address }
        }
        Some(Fault::NonCanonical) => {
            let vector = if seg as usize == SS { 12 } else { 13 };
            Ending::Exception { vector, code: 0, address: 0 }
        }
        other => panic!("the engine failed with {other:?}"),
    }
}

fn execute(cpu: &mut Cpu, code: &[u8], base: u64) -> Ending {
    let end = base + code.len() as u64;
    for _ in 0..100_000 {
        let rip = cpu.regs[RIP];
        if rip == end {
            return Ending::Ran;
        }
        assert!((base..end).contains(&rip), "RIP {rip:#x} is outside the sequence");
        let ops = decode(cpu, &code[(rip - base) as usize..], rip, 16);
        assert!(!ops.is_empty(), "nothing decoded at {rip:#x}");
        for op in &ops {
            if (op.exec)(cpu, op).is_err() {
                cpu.regs[RIP] = cpu.this_rip(op);
                return ending(cpu.fault.take(), op.seg);
            }
        }
        if let Some(last) = ops.last().filter(|op| op.flow != Flow::EndSet) {
            cpu.regs[RIP] = cpu.next_rip(last);
        }
    }
    panic!("the sequence does not end");
}
