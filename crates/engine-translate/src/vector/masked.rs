//! Instructions that touch selected elements of memory only, one access an element: masked moves and gathers. And those
//! that clear all registers, which would be long stubs.

use crate::cpu::{Cpu, RDI};
use crate::decode::{Lowered, segment};
use crate::fault::Guest;
use crate::op::{Exec, Op};
use crate::vendor;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// VZEROALL and VZEROUPPER.
pub(super) fn is_zeroing(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Vzeroall | Mnemonic::Vzeroupper)
}

/// Chooses the handler; `None` if it isn't one of these.
pub(super) fn select(i: &Instruction, op: &mut Op) -> Option<Lowered> {
    use Mnemonic::*;
    let number = |n: u32| i.op_register(n).number() as u8;
    match i.mnemonic() {
        Vzeroall => Lowered::next(zero_all),
        Vzeroupper => Lowered::next(zero_upper),
        Maskmovq | Maskmovdqu | Vmaskmovdqu => {
            (op.a, op.b) = (number(1), number(2));
            op.base = RDI as u8;
            op.seg = segment(i.memory_segment());
            op.addr_size = match i.op_kind(0) {
                OpKind::MemorySegDI => 2,
                OpKind::MemorySegEDI => 4,
                _ => 8,
            };
            Lowered::next(match i.mnemonic() {
                Maskmovq => maskmovq,
                Maskmovdqu => maskmovdqu::<false>,
                _ => maskmovdqu::<true>,
            })
        }
        Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq => {
            let element = if matches!(i.mnemonic(), Vmaskmovps | Vpmaskmovd) { 4 } else { 8 };
            let store = i.op_kind(0) == OpKind::Memory;
            // Register, mask.
            (op.a, op.b) = if store { (number(2), number(1)) } else { (number(0), number(1)) };
            let register = i.op_register(if store { 2 } else { 0 });
            op.size = register.size() as u8;
            let exec: Exec = match (store, element) {
                (false, 4) => masked_load::<4>,
                (false, _) => masked_load::<8>,
                (true, 4) => masked_store::<4>,
                (true, _) => masked_store::<8>,
            };
            Lowered::next(exec)
        }
        Vgatherdps | Vgatherdpd | Vgatherqps | Vgatherqpd | Vpgatherdd | Vpgatherdq | Vpgatherqd
        | Vpgatherqq => {
            let index = i.memory_index();
            (op.a, op.b) = (number(0), number(2));
            op.extra = index.number() as u32;
            // Two the same: #UD (SDM 2C "VPGATHERDD").
            if op.a == op.b || op.a as u32 == op.extra || op.b as u32 == op.extra {
                return None;
            }
            op.size = i.op_register(0).size().max(index.size()) as u8;
            let data4 = matches!(i.mnemonic(), Vgatherdps | Vgatherqps | Vpgatherdd | Vpgatherqd);
            let index4 = matches!(i.mnemonic(), Vgatherdps | Vgatherdpd | Vpgatherdd | Vpgatherdq);
            let exec: Exec = match (data4, index4) {
                (true, true) => gather::<4, 4>,
                (true, false) => gather::<4, 8>,
                (false, true) => gather::<8, 4>,
                (false, false) => gather::<8, 8>,
            };
            Lowered::next(exec)
        }
        _ => None,
    }
}

impl Cpu {
    fn ymm(&self, n: u8) -> [u8; 32] {
        let mut b = [0; 32];
        b[..16].copy_from_slice(&self.vector.xmm(n as usize).to_le_bytes());
        b[16..].copy_from_slice(&self.vector.ymm_high(n as usize).to_le_bytes());
        b
    }
    fn set_ymm(&mut self, n: u8, b: &[u8; 32]) {
        let half = |at: usize| u128::from_le_bytes(std::array::from_fn(|i| b[at + i]));
        self.vector.set_xmm(n as usize, half(0));
        self.vector.set_ymm_high(n as usize, half(16));
    }

    fn read_element<const N: usize>(&mut self, linear: u64) -> Guest<[u8; N]> {
        let mut b = [0u8; N];
        if N == 4 {
            b.copy_from_slice(&self.read::<u32>(linear)?.to_le_bytes());
        } else {
            b.copy_from_slice(&self.read::<u64>(linear)?.to_le_bytes());
        }
        Ok(b)
    }

    /// Stores the bytes of `data` whose mask byte has its top bit set; all or nothing.
    fn store_bytes_masked(&mut self, op: &Op, data: &[u8], mask: &[u8]) -> Guest<()> {
        let start = self.vector_offset(op);
        let offset_mask = match op.addr_size {
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        };
        let mut places = [None; 16];
        for (n, place) in places.iter_mut().enumerate().take(data.len()) {
            if mask[n] & 0x80 != 0 {
                let linear = self.vector_segment(op, start.wrapping_add(n as u64) & offset_mask, 1, true)?;
                self.host_pointer(linear, 1, true)?;
                *place = Some(linear);
            }
        }
        for (place, byte) in places.iter().zip(data) {
            if let Some(linear) = place {
                self.write(*linear, *byte)?;
            }
        }
        Ok(())
    }
}

fn zero_all(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.guard_avx()?;
    // Outside 64-bit mode the upper eight are out of reach.
    for n in 0..if cpu.mode.is64() { 16 } else { 8 } {
        cpu.set_ymm(n, &[0; 32]);
    }
    Ok(())
}

fn zero_upper(cpu: &mut Cpu, _: &Op) -> Guest<()> {
    cpu.guard_avx()?;
    for n in 0..if cpu.mode.is64() { 16 } else { 8 } {
        cpu.vector.set_ymm_high(n, 0);
    }
    Ok(())
}

fn maskmovq(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_mmx()?;
    let (data, mask) = (cpu.mm(op.a), cpu.mm(op.b));
    // Unlike the others it wants all eight bytes writable, selected or not.
    let linear = cpu.vector_linear(op, 8, true)?;
    cpu.host_pointer(linear, 8, true)?;
    cpu.store_bytes_masked(op, &data, &mask)?;
    cpu.enter_mmx();
    Ok(())
}

fn maskmovdqu<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    if VEX {
        cpu.guard_avx()?
    } else {
        cpu.guard_sse()?
    }
    let data = cpu.vector.xmm(op.a as usize).to_le_bytes();
    let mask = cpu.vector.xmm(op.b as usize).to_le_bytes();
    cpu.store_bytes_masked(op, &data, &mask)
}

fn masked_load<const N: usize>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_avx()?;
    let mask = cpu.ymm(op.b);
    let start = cpu.vector_offset(op);
    let mut out = [0u8; 32];
    for at in (0..(op.size as usize).min(32)).step_by(N) {
        if mask[at + N - 1] & 0x80 != 0 {
            let linear = cpu.vector_segment(op, start.wrapping_add(at as u64), N as u64, false)?;
            let element = cpu.read_element::<N>(linear)?;
            out[at..at + N].copy_from_slice(&element);
        }
    }
    cpu.set_ymm(op.a, &out);
    Ok(())
}

fn masked_store<const N: usize>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_avx()?;
    let (data, mask) = (cpu.ymm(op.a), cpu.ymm(op.b));
    let start = cpu.vector_offset(op);
    let mut places = [None; 8];
    for (n, place) in places.iter_mut().enumerate().take((op.size as usize).min(32) / N) {
        if mask[n * N + N - 1] & 0x80 != 0 {
            let linear = cpu.vector_segment(op, start.wrapping_add((n * N) as u64), N as u64, true)?;
            cpu.host_pointer(linear, N as u64, true)?;
            *place = Some(linear);
        }
    }
    for (place, element) in places.iter().zip(data.chunks_exact(N)) {
        if let Some(linear) = place {
            cpu.write_bytes(*linear, element)?;
        }
    }
    Ok(())
}

/// On a fault the elements before it are loaded and their mask bits clear, so that the instruction resumes behind them.
fn gather<const N: usize, const INDEX: usize>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    cpu.guard_avx()?;
    let len = (op.size as usize).min(32);
    let count = len / N.max(INDEX);
    let index = cpu.ymm(op.extra as u8);
    let (mut out, mut mask) = (cpu.ymm(op.a), cpu.ymm(op.b));
    let base = cpu.regs[op.base as usize % 18].wrapping_add(op.disp);
    // The mask's elements become all ones or all zeros first: seen where one faults. On AMD's processors they stay until it
    // is their turn, and so do the upper halves (measured on Zen 3).
    let amd = vendor::amd();
    if !amd {
        for element in mask[..len].chunks_exact_mut(N) {
            element.fill(((element[N - 1] as i8) >> 7) as u8);
        }
        mask[len..].fill(0);
    }
    let mut loaded = false;
    for n in 0..count {
        let at = n * N;
        if mask[at + N - 1] & 0x80 == 0 {
            mask[at..at + N].fill(0);
            continue;
        }
        let i = &index[n * INDEX..(n + 1) * INDEX];
        let i = if INDEX == 4 {
            i32::from_le_bytes(std::array::from_fn(|k| i[k])) as u64
        } else {
            u64::from_le_bytes(std::array::from_fn(|k| i[k]))
        };
        let mut offset = base.wrapping_add(i << (op.scale & 3));
        if op.addr_size != 8 {
            offset &= 0xffff_ffff;
        }
        let element = match cpu.vector_segment(op, offset, N as u64, false) {
            Ok(linear) => cpu.read_element::<N>(linear),
            Err(raised) => Err(raised),
        };
        match element {
            Ok(e) => {
                out[at..at + N].copy_from_slice(&e);
                mask[at..at + N].fill(0);
                loaded = true;
            }
            Err(raised) => {
                if loaded {
                    if !amd {
                        out[len..].fill(0);
                    }
                    cpu.set_ymm(op.a, &out);
                }
                cpu.set_ymm(op.b, &mask);
                return Err(raised);
            }
        }
    }
    // Above its elements the destination is cleared.
    out[count * N..].fill(0);
    cpu.set_ymm(op.a, &out);
    cpu.set_ymm(op.b, &[0; 32]);
    Ok(())
}
