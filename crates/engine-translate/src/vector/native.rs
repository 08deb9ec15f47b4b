//! SSE and AVX instructions that run in a stub.

use super::stub::{self, Kind};
use crate::cache::{No, Stub};
use crate::cpu::Cpu;
use crate::decode::Lowered;
use crate::fault::{Fault, Guest};
use crate::op::{Exec, Op};
use crate::vendor;
use engine::Exit;
use iced_x86::{Code, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess};
use x86::{Cr4, Exception, Vector};

/// Which checks come first.
pub(super) const SSE: u8 = 0;
pub(super) const AVX: u8 = 1;

/// Finds or makes the stub for an instruction. `None` if the host can't encode it.
pub(super) fn stub_for(cpu: &mut Cpu, i: &Instruction, kind: Kind) -> Option<Result<Stub, Fault>> {
    let key = stub::normalise(i);
    Some(cpu.shared.code.stub(key, || stub::build(&key, kind))?.map_err(|no| match no {
        No::Refused(e) => no_room(&format!("the host gives no executable memory: {e}")),
        _ => {
            cpu.vector.refused = true;
            no_room("its memory for native vector instructions is full")
        }
    }))
}

fn no_room(why: &str) -> Fault {
    Fault::Exit(Exit::Failed(format!("the translate engine can't run a vector instruction: {why}")))
}

/// Stands for an instruction whose stub can't be made; says so when it is executed.
pub(super) fn without_stub(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.raise(no_room("the host gives no executable memory, or not enough of it"))
}

/// Conversions of a memory operand to a general register: SSE or AVX, though they name no vector register.
pub(crate) fn is_conversion(i: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        i.mnemonic(),
        Cvtsd2si | Cvtss2si | Cvttsd2si | Cvttss2si | Vcvtsd2si | Vcvtss2si | Vcvttsd2si | Vcvttss2si
    )
}

/// Chooses the handler for an SSE or AVX instruction without specialities of its own.
pub(super) fn select(cpu: &mut Cpu, i: &Instruction, op: &mut Op) -> Option<Lowered> {
    let stub = match stub_for(cpu, i, Kind::Vector)? {
        Ok(s) => s,
        Err(_) => return Lowered::next(without_stub),
    };
    op.imm = stub.entry as u64;
    let vex = i.encoding() == EncodingKind::VEX;
    if !stub::has_memory(i) {
        return Lowered::next(if vex { plain::<AVX> } else { plain::<SSE> });
    }
    op.size = i.memory_size().size() as u8;
    op.extra = alignment(i) as u32;
    let mut factory = InstructionInfoFactory::new();
    let access = factory.info(i).used_memory().first().map_or(OpAccess::Read, |m| m.access());
    let exec: Exec = match (vex, access) {
        (_, OpAccess::NoMemAccess | OpAccess::None) => return None,
        (true, OpAccess::Write) if i.mnemonic() == Mnemonic::Vcvtps2ph && vendor::amd() => convert_and_store,
        (true, OpAccess::Write) => store::<AVX>,
        (false, OpAccess::Write) => store::<SSE>,
        (true, _) => load::<AVX>,
        (false, _) => load::<SSE>,
    };
    Lowered::next(exec)
}

/// What the address of the memory operand has to be a multiple of, less one (SDM 2A 2.4, 2B 4.1 "MOVDQU"; SDM 1 10.8.4).
pub(crate) fn alignment(i: &Instruction) -> u8 {
    let size = i.memory_size().size() as u8;
    let name = format!("{:?}", i.mnemonic());
    if i.encoding() == EncodingKind::VEX {
        let aligned = name.starts_with("Vmovap") || name.starts_with("Vmovdqa") || name.starts_with("Vmovnt");
        return if aligned { size - 1 } else { 0 };
    }
    let unaligned = matches!(
        i.code(),
        Code::Movups_xmm_xmmm128
            | Code::Movups_xmmm128_xmm
            | Code::Movupd_xmm_xmmm128
            | Code::Movupd_xmmm128_xmm
            | Code::Movdqu_xmm_xmmm128
            | Code::Movdqu_xmmm128_xmm
            | Code::Lddqu_xmm_m128
    ) || name.starts_with("Pcmpest")
        || name.starts_with("Pcmpist")
        // Intel's processors want SHA's aligned (SDM 2B "SHA1MSG1", type 4), AMD's don't (measured on Zen 3).
        || name.starts_with("Sha") && vendor::amd();
    if size == 16 && !unaligned { 15 } else { 0 }
}

impl Cpu {
    #[inline]
    fn guard<const CLASS: u8>(&mut self) -> Guest<()> {
        if CLASS == AVX { self.guard_avx() } else { self.guard_sse() }
    }

    /// Runs a stub; raises #XM if it met an unmasked exception.
    #[inline]
    pub(super) fn call_stub(&mut self, entry: u64) -> Guest<()> {
        // SAFETY: `entry` is a stub in the code cache, in the same segment as the op that holds it, or looked up since this vCPU
        // last passed (`single`). A stub touches only the Cpu, within `vector`, `regs` and `status`, and
        // keeps what the ABI wants kept.
        let raised = unsafe {
            let f: extern "sysv64" fn(*mut Cpu) -> u32 = std::mem::transmute(entry as *const u8);
            f(self)
        };
        if raised != 0 {
            return self.simd_exception(raised);
        }
        Ok(())
    }

    /// #XM, or #UD where the guest's system doesn't know it (SDM 1 11.5.3). Notes the flags: where an exception before the
    /// computation (IE, DE, ZE) is unmasked, those after it aren't reported.
    #[cold]
    pub(super) fn simd_exception<T>(&mut self, raised: u32) -> Guest<T> {
        let mxcsr = self.vector.mxcsr();
        let unmasked = raised & !(mxcsr >> 7);
        let noted = if unmasked & 7 != 0 { raised & 7 } else { raised };
        self.vector.set_mxcsr(mxcsr | noted);
        if self.cr4.contains(Cr4::OSXMMEXCPT) {
            self.exception(Exception::plain(Vector::XM))
        } else {
            self.ud()
        }
    }

    /// The memory operand's linear address, checked for the alignment in `op.extra`.
    #[inline]
    pub(super) fn vector_aligned(&mut self, op: &Op, len: u64, write: bool) -> Guest<u64> {
        let linear = self.vector_linear(op, len, write)?;
        if linear & op.extra as u64 & 0xff != 0 {
            return self.misaligned(linear, op);
        }
        Ok(linear)
    }

    /// A non-canonical address comes before a misaligned one, with #SS through SS.
    #[cold]
    fn misaligned(&mut self, linear: u64, _op: &Op) -> Guest<u64> {
        if self.mode.is64() && (linear as i64) << 16 >> 16 != linear as i64 {
            return self.raise(Fault::NonCanonical);
        }
        self.gp(0)
    }

    /// Fetches a memory operand of at most 128 bytes into the bounce buffer.
    #[inline]
    pub(super) fn bounce_in(&mut self, linear: u64, len: usize) -> Guest<()> {
        match len {
            4 => {
                let v: u32 = self.read(linear)?;
                self.vector.bounce.0[..4].copy_from_slice(&v.to_le_bytes());
            }
            8 => {
                let v: u64 = self.read(linear)?;
                self.vector.bounce.0[..8].copy_from_slice(&v.to_le_bytes());
            }
            16 => {
                let v: u128 = self.read(linear)?;
                self.vector.bounce.0[..16].copy_from_slice(&v.to_le_bytes());
            }
            _ => {
                let mut b = [0u8; 128];
                let len = len.min(128);
                self.read_bytes(linear, &mut b[..len])?;
                self.vector.bounce.0[..len].copy_from_slice(&b[..len]);
            }
        }
        Ok(())
    }

    /// Stores what a stub left in the bounce buffer.
    #[inline]
    pub(super) fn bounce_out(&mut self, linear: u64, len: usize) -> Guest<()> {
        let b = &self.vector.bounce.0;
        match len {
            4 => {
                let v = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                self.write(linear, v)
            }
            8 => {
                let v = u64::from_le_bytes(std::array::from_fn(|i| b[i]));
                self.write(linear, v)
            }
            16 => {
                let v = u128::from_le_bytes(std::array::from_fn(|i| b[i]));
                self.write(linear, v)
            }
            _ => {
                let b = *b;
                self.write_bytes(linear, &b[..len.min(128)])
            }
        }
    }
}

fn plain<const CLASS: u8>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard::<CLASS>()?;
    cpu.call_stub(op.imm)
}

fn load<const CLASS: u8>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard::<CLASS>()?;
    let linear = cpu.vector_aligned(op, op.size as u64, false)?;
    cpu.bounce_in(linear, op.size as usize)?;
    cpu.call_stub(op.imm)
}

fn store<const CLASS: u8>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard::<CLASS>()?;
    let linear = cpu.vector_aligned(op, op.size as u64, true)?;
    // The one store that sets flags, VCVTPS2PH, sets them even if it can't store.
    cpu.call_stub(op.imm)?;
    cpu.bounce_out(linear, op.size as usize)
}

/// VCVTPS2PH on AMD's processors: if it can't store it sets no flags (measured on Zen 3).
fn convert_and_store(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard::<AVX>()?;
    let linear = cpu.vector_aligned(op, op.size as u64, true)?;
    cpu.probe_write(linear, op.size as u64)?;
    cpu.call_stub(op.imm)?;
    cpu.bounce_out(linear, op.size as usize)
}
