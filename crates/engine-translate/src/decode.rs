//! From instruction bytes to [`Op`]s.

use crate::cpu::{Cpu, Mode, RIP, ZERO};
use crate::fault::Guest;
use crate::lockstep::{self, Step};
use crate::op::{Exec, Flow, Op};
use crate::{exec, system, vector, vendor};
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, OpKind, Register};

/// What the owner of an instruction answers.
pub struct Lowered {
    pub exec: Exec,
    pub flow: Flow,
}

impl Lowered {
    /// The block goes on behind it.
    pub fn next(exec: Exec) -> Option<Self> {
        Some(Self { exec, flow: Flow::Next })
    }
    /// The block ends behind it; RIP is advanced by the executor.
    pub fn end(exec: Exec) -> Option<Self> {
        Some(Self { exec, flow: Flow::EndNext })
    }
    /// It sets RIP.
    pub fn set(exec: Exec) -> Option<Self> {
        Some(Self { exec, flow: Flow::EndSet })
    }
}

/// Decodes up to `max` instructions that lie wholly in `bytes`, the first at `rip`. Empty if the first one doesn't.
pub fn decode(cpu: &mut Cpu, bytes: &[u8], rip: u64, max: usize) -> Vec<Op> {
    let mode = cpu.mode;
    let mut decoder = Decoder::with_ip(mode.bits(), bytes, rip, DecoderOptions::NONE);
    let mut ops = Vec::with_capacity(max.min(16));
    let mut instruction = Instruction::default();
    while ops.len() < max {
        let start = decoder.position();
        vendor::decode(&mut decoder, bytes, &mut instruction);
        let (lowered, mut op) = match decoder.last_error() {
            DecoderError::NoMoreBytes => break,
            DecoderError::None => {
                let mut op = prepare(&instruction, rip, start, mode);
                let code = &bytes[start..decoder.position()];
                let alone = !cpu.single && cpu.in_step != Step::Off && lockstep::asks_the_world(&instruction);
                let lowered = if alone { Lowered::end(lockstep::stop) } else { None };
                let lowered = lowered
                    .or_else(|| exec::select(&instruction, &mut op, mode))
                    .or_else(|| system::select(&instruction, &mut op, mode))
                    .or_else(|| vector::select(cpu, &instruction, code, &mut op));
                (lowered, op)
            }
            _ => {
                let mut op = prepare(&instruction, rip, start, mode);
                op.len = (decoder.position() - start).clamp(1, 15) as u8;
                (None, op)
            }
        };
        let Lowered { exec, flow } = lowered.unwrap_or(Lowered { exec: undefined, flow: Flow::EndNext });
        op.exec = exec;
        op.flow = flow;
        ops.push(op);
        if flow != Flow::Next {
            break;
        }
    }
    ops
}

/// What the processor doesn't have: #UD.
fn undefined(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.ud()
}

/// Fills in what is common to all instructions: place, length, memory operand.
fn prepare(i: &Instruction, rip: u64, offset: usize, mode: Mode) -> Op {
    let mut op = Op {
        exec: undefined,
        imm: 0,
        disp: 0,
        base: ZERO as u8,
        index: ZERO as u8,
        scale: 0,
        seg: crate::cpu::DS as u8,
        addr_size: 0,
        a: 0,
        b: 0,
        size: 0,
        len: i.len() as u8,
        flow: Flow::Next,
        offset: offset as u16,
        extra: 0,
    };
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
        let (base, index) = (i.memory_base(), i.memory_index());
        op.disp = i.memory_displacement64();
        op.addr_size = address_size(i, mode);
        if matches!(base, Register::RIP | Register::EIP) {
            op.base = RIP as u8;
            op.disp = op.disp.wrapping_sub(rip);
        } else if base != Register::None {
            op.base = base.number() as u8;
        }
        if index != Register::None && index.is_gpr() {
            op.index = index.number() as u8;
        }
        op.scale = i.memory_index_scale().trailing_zeros() as u8;
        op.seg = segment(i.memory_segment());
    }
    op
}

/// Number of a segment register, as [`Cpu::seg`] is indexed.
pub fn segment(r: Register) -> u8 {
    match r {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => 3,
    }
}

/// Address size of the memory operand in bytes.
fn address_size(i: &Instruction, mode: Mode) -> u8 {
    let of = |r: Register| r.size() as u8;
    match (i.memory_base(), i.memory_index()) {
        (Register::None, Register::None) => match i.memory_displ_size() {
            2 => 2,
            4 => 4,
            8 => 8,
            _ => (mode.bits() / 8) as u8,
        },
        (Register::None, index) if index.is_gpr() => of(index),
        (Register::RIP, _) => 8,
        (Register::EIP, _) => 4,
        (base, _) => of(base),
    }
}
