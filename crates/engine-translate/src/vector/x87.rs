//! x87 and MMX instructions: run natively between FXRSTOR and FXSAVE.

use super::native::{stub_for, without_stub};
use super::state::{FDP, FIP, FOP, FSW, FTW, ST0};
use super::stub::{self, Kind};
use crate::cpu::{Cpu, RAX};
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::{Exec, Op};
use crate::vendor;
use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register};
use x86::{Cr0, Cr4, Exception, Vector};

/// FSW's exception summary.
const ES: u16 = 0x80;
/// What the bounce buffer holds before a store: still there behind one that an unmasked exception kept from storing.
const UNTOUCHED: [u8; 16] = *b"\x9e\x37\x79\xb9\x7f\x4a\x7c\x15\xf3\x9c\xc0\x60\x5c\xed\xc8\x34";

/// Chooses the handler for an x87 instruction that is not in `environment`.
pub(super) fn select(cpu: &mut Cpu, i: &Instruction, code: &[u8], op: &mut Op) -> Option<Lowered> {
    match i.code() {
        Code::Wait => return Lowered::next(wait),
        Code::Fnstsw_AX => return Lowered::next(fnstsw_ax),
        _ => {}
    }
    let stub = match stub_for(cpu, i, Kind::Fpu)? {
        Ok(s) => s,
        Err(_) => return Lowered::next(without_stub),
    };
    op.imm = stub.entry as u64;
    let guest_opcode = match code.iter().position(|b| (0xd8..=0xdf).contains(b)) {
        Some(at) => stub::fop(&code[at..]),
        None => 0,
    };
    let start = stub.instruction - stub.entry as u64;
    op.extra = guest_opcode as u32 | (stub.opcode as u32) << 11 | (start as u32) << 22;
    let waits =
        !matches!(i.mnemonic(), Mnemonic::Fnstcw | Mnemonic::Fnstsw | Mnemonic::Fnclex | Mnemonic::Fninit);
    let exec: Exec = match (memory(i, op), waits) {
        (None, true) => plain::<true>,
        (None, false) => plain::<false>,
        (Some(false), _) => load,
        (Some(true), true) => store::<true>,
        (Some(true), false) => store::<false>,
    };
    Lowered::next(exec)
}

/// Chooses the handler for an instruction with an MMX register.
pub(super) fn select_mmx(cpu: &mut Cpu, i: &Instruction, op: &mut Op) -> Option<Lowered> {
    let stub = match stub_for(cpu, i, Kind::Fpu)? {
        Ok(s) => s,
        Err(_) => return Lowered::next(without_stub),
    };
    op.imm = stub.entry as u64;
    use Mnemonic::{Cvtpd2pi, Cvtpi2pd, Cvtpi2ps, Cvtps2pi, Cvttpd2pi, Cvttps2pi};
    let converts = matches!(i.mnemonic(), Cvtpd2pi | Cvtpi2pd | Cvtpi2ps | Cvtps2pi | Cvttpd2pi | Cvttps2pi);
    let xmm = converts || (0..i.op_count()).any(|n| i.op_register(n).is_xmm());
    let aligned = i.memory_size().size() == 16;
    // From memory to an XMM register, no MMX register is touched.
    let enters = !(matches!(i.mnemonic(), Cvtpi2pd | Cvtpi2ps) && stub::has_memory(i));
    op.extra = xmm as u32 | (aligned as u32) << 1 | (enters as u32) << 2;
    let exec: Exec = match (memory(i, op), converts) {
        (None, false) => mmx,
        (Some(false), false) => mmx_load,
        (Some(true), _) => mmx_store,
        (None, true) => convert,
        (Some(false), true) => convert_load,
    };
    Lowered::next(exec)
}

/// Notes the size of the memory operand; whether it is stored to.
fn memory(i: &Instruction, op: &mut Op) -> Option<bool> {
    if !stub::has_memory(i) {
        return None;
    }
    op.size = i.memory_size().size() as u8;
    let mut factory = InstructionInfoFactory::new();
    let access = factory.info(i).used_memory().first().map_or(OpAccess::Read, |m| m.access());
    Some(stub::writes(access))
}

/// Whether an operand is an MMX register, or the instruction leaves MMX.
pub(crate) fn is_mmx(i: &Instruction) -> bool {
    i.code() == Code::Emms || (0..i.op_count()).any(|n| i.op_register(n).is_mm())
}

fn wait(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    if cpu.cr0.contains(Cr0::MP | Cr0::TS) {
        return cpu.exception(Exception::plain(Vector::NM));
    }
    cpu.forget_pointers();
    cpu.pending_x87()
}

fn fnstsw_ax(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.guard_x87()?;
    cpu.forget_pointers();
    let status = cpu.vector.get16(FSW);
    cpu.regs[RAX] = cpu.regs[RAX] & !0xffff | status as u64;
    Ok(())
}

impl Cpu {
    /// Register MMn.
    pub(super) fn mm(&self, n: u8) -> [u8; 8] {
        // MM registers are physical ones; FXSAVE's image begins with ST(0).
        let top = self.vector.get16(FSW) >> 11 & 7;
        self.vector.get(ST0 + ((n as u16).wrapping_sub(top) & 7) as usize * 16)
    }

    /// What every MMX instruction but EMMS does to the x87 state: TOP 0, all tags valid (SDM 1 9.5.1).
    pub(super) fn enter_mmx(&mut self) {
        let status = self.vector.get16(FSW);
        self.set_status(status & !0x3800);
        self.vector.put(FTW, &[0xff, 0]);
    }

    /// Replaces FSW. The registers stay where they are, so that those of the image, counted from TOP, change places.
    pub(super) fn set_status(&mut self, status: u16) {
        let top = |status: u16| (status >> 11 & 7) as usize;
        let turn = top(self.vector.get16(FSW)).wrapping_sub(top(status)) & 7;
        self.vector.put(FSW, &status.to_le_bytes());
        if turn != 0 {
            let registers: [[u8; 16]; 8] = std::array::from_fn(|n| self.vector.get(ST0 + n * 16));
            for (n, r) in registers.iter().enumerate() {
                self.vector.put(ST0 + ((n + turn) & 7) * 16, r);
            }
        }
    }

    /// Clears FOP, FIP and FDP where no exception can be pending, as x87 and MMX instructions do in both tiers: translated
    /// code doesn't know them. AMD's processors show zeros then, too.
    fn forget_pointers(&mut self) {
        if self.x87_masked() {
            self.vector.put(FOP, &[0; FDP + 8 - FOP]);
        }
    }

    /// Runs the stub, then puts the guest's addresses and opcode where the processor left the stub's.
    fn run_x87(&mut self, op: &Op) -> Guest<()> {
        let masked = self.x87_masked();
        self.call_stub(op.imm)?;
        if masked {
            self.vector.put(FOP, &[0; FDP + 8 - FOP]);
            return Ok(());
        }
        if self.vector.get64(FIP) == op.imm + (op.extra >> 22) as u64 {
            let rip = self.this_rip(op);
            self.vector.put(FIP, &rip.to_le_bytes());
            if self.vector.get16(FOP) == (op.extra >> 11 & 0x7ff) as u16 {
                self.vector.put(FOP, &((op.extra & 0x7ff) as u16).to_le_bytes());
            }
        }
        if op.addr_size != 0 && self.vector.get64(FDP) == self.vector.bounce.0.as_ptr() as u64 {
            let offset = self.vector_offset(op);
            self.vector.put(FDP, &offset.to_le_bytes());
        }
        Ok(())
    }
}

fn plain<const WAITS: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_x87()?;
    cpu.forget_pointers();
    if WAITS {
        cpu.pending_x87()?;
    }
    cpu.run_x87(op)
}

fn load(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_x87()?;
    cpu.forget_pointers();
    cpu.pending_x87()?;
    let linear = cpu.vector_linear(op, op.size as u64, false)?;
    cpu.bounce_in(linear, op.size as usize)?;
    cpu.run_x87(op)
}

fn store<const WAITS: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_x87()?;
    cpu.forget_pointers();
    if WAITS {
        cpu.pending_x87()?;
    }
    let len = op.size as usize;
    // On AMD's processors a fault of the store comes before the exceptions of the instruction (measured on Zen 3).
    if vendor::amd() {
        let linear = cpu.vector_linear(op, len as u64, true)?;
        cpu.probe_write(linear, len as u64)?;
    }
    let before = cpu.vector.area.clone();
    cpu.vector.bounce.0[..16].copy_from_slice(&UNTOUCHED);
    cpu.run_x87(op)?;
    // An unmasked exception before the store keeps it from being tried at all.
    if cpu.vector.get16(FSW) & ES != 0 && len <= 16 && cpu.vector.bounce.0[..len] == UNTOUCHED[..len] {
        return Ok(());
    }
    let stored = match cpu.vector_linear(op, len as u64, true) {
        Ok(linear) => cpu.bounce_out(linear, len),
        Err(raised) => Err(raised),
    };
    if stored.is_err() {
        cpu.vector.area = before;
    }
    stored
}

/// MMX instructions that also touch an XMM register need the system to know of those.
fn guard(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if op.extra & 1 != 0 && !cpu.cr4.contains(Cr4::OSFXSR) {
        return cpu.ud();
    }
    cpu.guard_mmx()?;
    cpu.forget_pointers();
    Ok(())
}

fn mmx(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    guard(cpu, op)?;
    cpu.call_stub(op.imm)
}

fn fetch(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let linear = cpu.vector_linear(op, op.size as u64, false)?;
    if op.extra & 2 != 0 && linear & 15 != 0 {
        return cpu.gp(0);
    }
    cpu.bounce_in(linear, op.size as usize)
}

fn mmx_load(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    guard(cpu, op)?;
    fetch(cpu, op)?;
    cpu.call_stub(op.imm)
}

fn mmx_store(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    guard(cpu, op)?;
    let linear = cpu.vector_linear(op, op.size as u64, true)?;
    cpu.host_pointer(linear, op.size as u64, true)?;
    cpu.call_stub(op.imm)?;
    cpu.bounce_out(linear, op.size as usize)
}

/// CVTPI2PS and its like: MXCSR counts, and may have an exception unmasked.
fn convert(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    guard(cpu, op)?;
    converted(cpu, op)
}

fn convert_load(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    guard(cpu, op)?;
    fetch(cpu, op)?;
    converted(cpu, op)
}

fn converted(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let before = cpu.vector.area.clone();
    let mxcsr = cpu.vector.mxcsr();
    cpu.vector.set_mxcsr(mxcsr & !0x3f | 0x1f80);
    cpu.call_stub(op.imm)?;
    let raised = cpu.vector.mxcsr() & 0x3f;
    if raised & !(mxcsr >> 7) != 0 {
        cpu.vector.area = before;
        if op.extra & 4 != 0 {
            cpu.enter_mmx();
        }
        return cpu.simd_exception(raised);
    }
    cpu.vector.set_mxcsr(mxcsr | raised);
    Ok(())
}

/// Whether the instruction belongs to the x87 FPU.
pub(crate) fn is_x87(i: &Instruction) -> bool {
    use iced_x86::CpuidFeature::{FPU, FPU287, FPU387};
    i.code() == Code::Wait
        || i.cpuid_features().iter().any(|f| matches!(f, FPU | FPU287 | FPU387))
        || (0..i.op_count()).any(|n| (Register::ST0..=Register::ST7).contains(&i.op_register(n)))
}
