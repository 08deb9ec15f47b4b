//! Plain moves between XMM registers and memory, and clearing a register: too frequent for a stub.

use super::native::alignment;
use crate::cpu::Cpu;
use crate::decode::Lowered;
use crate::fault::Guest;
use crate::op::Op;
use iced_x86::{Code, Instruction, OpKind};

/// Chooses a direct handler; `None` if a stub has to do it.
pub(super) fn select(i: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Code::*;
    let memory = |n| i.op_kind(n) == OpKind::Memory;
    let xmm = |n| i.op_register(n).number() as u8;
    match i.code() {
        Movups_xmm_xmmm128 | Movupd_xmm_xmmm128 | Movdqu_xmm_xmmm128 | Movaps_xmm_xmmm128
        | Movapd_xmm_xmmm128 | Movdqa_xmm_xmmm128 | Lddqu_xmm_m128 => {
            op.a = xmm(0);
            if memory(1) {
                op.extra = alignment(i) as u32;
                Lowered::next(load128)
            } else {
                op.b = xmm(1);
                Lowered::next(copy)
            }
        }
        Movups_xmmm128_xmm | Movupd_xmmm128_xmm | Movdqu_xmmm128_xmm | Movaps_xmmm128_xmm
        | Movapd_xmmm128_xmm | Movdqa_xmmm128_xmm | Movntps_m128_xmm | Movntpd_m128_xmm
        | Movntdq_m128_xmm => {
            op.b = xmm(1);
            if memory(0) {
                op.extra = alignment(i) as u32;
                Lowered::next(store128)
            } else {
                op.a = xmm(0);
                Lowered::next(copy)
            }
        }
        Movq_xmm_xmmm64 | Movsd_xmm_xmmm64 if memory(1) => {
            op.a = xmm(0);
            Lowered::next(load64)
        }
        Movq_xmm_rm64 if memory(1) => {
            op.a = xmm(0);
            Lowered::next(load64)
        }
        Movd_xmm_rm32 | Movss_xmm_xmmm32 if memory(1) => {
            op.a = xmm(0);
            Lowered::next(load32)
        }
        Movd_xmm_rm32 => {
            (op.a, op.b) = (xmm(0), xmm(1));
            Lowered::next(from32)
        }
        Movq_xmm_rm64 => {
            (op.a, op.b) = (xmm(0), xmm(1));
            Lowered::next(from64)
        }
        Movq_xmmm64_xmm | Movsd_xmmm64_xmm | Movq_rm64_xmm | Movlps_m64_xmm | Movlpd_m64_xmm if memory(0) => {
            op.b = xmm(1);
            Lowered::next(store64)
        }
        Movd_rm32_xmm | Movss_xmmm32_xmm if memory(0) => {
            op.b = xmm(1);
            Lowered::next(store32)
        }
        Movd_rm32_xmm => {
            (op.a, op.b) = (xmm(0), xmm(1));
            Lowered::next(to32)
        }
        Movq_rm64_xmm => {
            (op.a, op.b) = (xmm(0), xmm(1));
            Lowered::next(to64)
        }
        Pxor_xmm_xmmm128 | Xorps_xmm_xmmm128 | Xorpd_xmm_xmmm128 if !memory(1) => {
            (op.a, op.b) = (xmm(0), xmm(1));
            Lowered::next(xor)
        }
        _ => None,
    }
}

fn load128(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    let linear = cpu.vector_aligned(op, 16, false)?;
    let v = cpu.read(linear)?;
    cpu.vector.set_xmm(op.a as usize, v);
    Ok(())
}
fn store128(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    let linear = cpu.vector_aligned(op, 16, true)?;
    cpu.write(linear, cpu.vector.xmm(op.b as usize))
}
fn load64(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    let linear = cpu.vector_linear(op, 8, false)?;
    let v: u64 = cpu.read(linear)?;
    cpu.vector.set_xmm(op.a as usize, v as u128);
    Ok(())
}
fn load32(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    let linear = cpu.vector_linear(op, 4, false)?;
    let v: u32 = cpu.read(linear)?;
    cpu.vector.set_xmm(op.a as usize, v as u128);
    Ok(())
}
fn store64(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    let linear = cpu.vector_linear(op, 8, true)?;
    cpu.write(linear, cpu.vector.xmm(op.b as usize) as u64)
}
fn store32(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    let linear = cpu.vector_linear(op, 4, true)?;
    cpu.write(linear, cpu.vector.xmm(op.b as usize) as u32)
}
fn copy(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    let v = cpu.vector.xmm(op.b as usize);
    cpu.vector.set_xmm(op.a as usize, v);
    Ok(())
}
fn xor(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    let v = cpu.vector.xmm(op.a as usize) ^ cpu.vector.xmm(op.b as usize);
    cpu.vector.set_xmm(op.a as usize, v);
    Ok(())
}
fn from32(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    cpu.vector.set_xmm(op.a as usize, cpu.regs[op.b as usize & 15] as u32 as u128);
    Ok(())
}
fn from64(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    cpu.vector.set_xmm(op.a as usize, cpu.regs[op.b as usize & 15] as u128);
    Ok(())
}
fn to32(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    cpu.regs[op.a as usize & 15] = cpu.vector.xmm(op.b as usize) as u32 as u64;
    Ok(())
}
fn to64(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_sse()?;
    cpu.regs[op.a as usize & 15] = cpu.vector.xmm(op.b as usize) as u64;
    Ok(())
}
