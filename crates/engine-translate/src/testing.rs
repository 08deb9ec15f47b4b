//! vCPUs with a little memory and no paging, for unit tests.

use crate::cpu::{CS, Cpu, Mode, RIP, RSP};
use crate::fault::Fault;
use crate::op::Flow;
use crate::placed::Placed;
use crate::remote::{Remote, Shared};
use address::GuestPhys;
use memory::{GuestMemory, Kind, RegionConfig};
use std::sync::Arc;
use x86::{Cr0, Efer, Segment};

/// Where [`cpu64`] and its like put the code.
pub const CODE: u64 = 0x1000;
/// Zeroed memory for operands; two pages and more.
pub const DATA: u64 = 0x10000;
/// The initial stack pointer: one 64 KiB further.
pub const STACK: u64 = 0x20000;
/// Bytes of memory.
pub const MEMORY: u64 = 1 << 20;

/// A vCPU at CPL 0 in 64-bit code, about to execute `code`. Long mode without paging isn't legal, but handy: linear is physical.
pub fn cpu64(code: &[u8]) -> Placed {
    let mut cpu = bare(code);
    cpu.efer = Efer::LME | Efer::LMA;
    cpu.seg[CS].attributes = 0x209b;
    cpu.update_mode();
    assert!(cpu.mode.is64());
    cpu
}

/// The same in flat 32-bit protected mode.
pub fn cpu32(code: &[u8]) -> Placed {
    let mut cpu = bare(code);
    cpu.update_mode();
    assert_eq!(cpu.mode, Mode(Mode::CODE32 | Mode::STACK32 | Mode::FLAT));
    cpu
}

/// The same in real mode; all segment bases 0, limits 64 KiB.
pub fn cpu16(code: &[u8]) -> Placed {
    let mut cpu = bare(code);
    cpu.cr0 = Cr0::ET;
    for s in &mut cpu.seg {
        *s = Segment::real_mode(0, false);
    }
    cpu.seg[CS] = Segment::real_mode(0, true);
    cpu.regs[RSP] = 0xfff0;
    cpu.update_mode();
    assert!(cpu.mode.is16());
    cpu
}

/// Several vCPUs of one VM, each as [`cpu64`] gives it.
pub fn cpus64(count: u32, code: &[u8]) -> Vec<Placed> {
    let shared = Arc::new(Shared::new(memory(code), count, 1_000_000));
    let cpus = (0..count).map(|id| {
        let mut cpu = with_shared(id, shared.clone());
        assert!(shared.register(id, cpu.remote.clone()));
        cpu.efer = Efer::LME | Efer::LMA;
        cpu.seg[CS].attributes = 0x209b;
        cpu.update_mode();
        cpu.regs[RSP] = STACK + id as u64 * 0x1000;
        cpu
    });
    cpus.collect()
}

fn bare(code: &[u8]) -> Placed {
    with_shared(0, Arc::new(Shared::new(memory(code), 1, 1_000_000)))
}

fn memory(code: &[u8]) -> Arc<GuestMemory> {
    let config = RegionConfig { base: GuestPhys(0), len: MEMORY, kind: Kind::Ram };
    let memory = Arc::new(GuestMemory::new(&[config]).unwrap());
    memory.load(GuestPhys(CODE), code).unwrap();
    memory
}

fn with_shared(id: u32, shared: Arc<Shared>) -> Placed {
    let remote = Arc::new(Remote::new(Default::default()));
    let mut cpu = Placed::new(Cpu::new(id, shared, remote));
    cpu.cr0 = Cr0::PE | Cr0::ET;
    let data = Segment { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xc093, unusable: false };
    cpu.seg = [data; 6];
    cpu.seg[CS] = Segment { selector: 8, attributes: 0xc09b, ..data };
    cpu.regs[..16].fill(0);
    cpu.regs[RSP] = STACK;
    cpu.regs[RIP] = CODE;
    cpu
}

/// Executes one instruction; on a fault RIP is the instruction's.
pub fn step(cpu: &mut Cpu) -> Result<(), Fault> {
    cpu.single = true;
    loop {
        let block = match cpu.find_block() {
            // SAFETY: good until the next `find_block`.
            Ok(b) => unsafe { &*b },
            Err(_) => return Err(cpu.fault.take().unwrap()),
        };
        let op = &block.ops[0];
        if (op.exec)(cpu, op).is_err() {
            let fault = cpu.fault.take().unwrap();
            if fault == Fault::Restart {
                continue;
            }
            return Err(fault);
        }
        if op.flow != Flow::EndSet {
            cpu.regs[RIP] = cpu.next_rip(op);
        }
        return Ok(());
    }
}

/// Executes instructions until RIP is `end`, at most a million.
pub fn run_until(cpu: &mut Cpu, end: u64) -> Result<(), Fault> {
    for _ in 0..1_000_000 {
        if cpu.regs[RIP] == end {
            return Ok(());
        }
        step(cpu)?;
    }
    panic!("RIP never became {end:#x}; it is {:#x}", cpu.regs[RIP]);
}

/// Executes all of the code given, as far as it runs straight to its end.
pub fn run(cpu: &mut Cpu, code: &[u8]) -> Result<(), Fault> {
    run_until(cpu, CODE + code.len() as u64)
}

/// Reads memory past the vCPU.
pub fn peek(cpu: &Cpu, at: u64, len: usize) -> Vec<u8> {
    let mut b = vec![0; len];
    cpu.shared.memory.read(GuestPhys(at), &mut b).unwrap();
    b
}

/// Writes memory past the vCPU.
pub fn poke(cpu: &Cpu, at: u64, data: &[u8]) {
    cpu.shared.memory.load(GuestPhys(at), data).unwrap();
}
