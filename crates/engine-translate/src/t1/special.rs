//! Instructions with implicit operands: the stack's, and the accumulator's.

use super::asm::{ABOVE_OR_EQUAL, BELOW_OR_EQUAL, Mem, NOT_EQUAL, R14, RAX, register};
use super::compile::Compiler;
use super::flags::Flags;
use super::forms::alignment;
use super::lower::replace_memory;
use super::registers::{self, ACCUMULATOR, Place, STACK, slot};
use super::runtime::field;
use crate::vendor;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

/// The host register of the guest's RBP.
pub const FRAME: u8 = 5;
/// That of RDX.
const UPPER: u8 = 2;

impl Compiler<'_> {
    /// `None` if the instruction is none of these, `Some(None)` if T0 is to do it.
    pub fn special(&mut self, k: usize, i: &Instruction) -> Option<Option<()>> {
        Some(match i.mnemonic() {
            Mnemonic::Push => self.push(k, i),
            Mnemonic::Pop => self.pop(k, i),
            Mnemonic::Leave => self.leave(k, i),
            Mnemonic::Div | Mnemonic::Idiv => self.divide(k, i),
            Mnemonic::Cmpxchg => self.compare_exchange(k, i),
            Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => self.compare_exchange_twice(k, i),
            Mnemonic::Mul | Mnemonic::Imul if i.op_count() == 1 => self.multiply(k, i),
            Mnemonic::Cbw
            | Mnemonic::Cwde
            | Mnemonic::Cdqe
            | Mnemonic::Cwd
            | Mnemonic::Cdq
            | Mnemonic::Cqo => {
                // The accumulator's own conversions, in the accumulator. Flags stay.
                self.a.copy(RAX, ACCUMULATOR);
                self.units.keep();
                self.encode(i).map(|()| self.a.copy(ACCUMULATOR, RAX))
            }
            _ => return None,
        })
    }

    fn push(&mut self, k: usize, i: &Instruction) -> Option<()> {
        let size = i.stack_pointer_increment().unsigned_abs() as usize;
        let from = match i.op0_kind() {
            OpKind::Register => Some(registers::place(registers::number(i.op0_register())?)),
            _ => None,
        };
        let slow = self.slow(k);
        let memory = i.op0_kind() == OpKind::Memory;
        if memory {
            // The tail of both accesses finds the flags in one place.
            self.save_live_flags(k);
            let ea = self.ea(i, &self.ops[k])?;
            let m = self.reach(k, &ea, size, 1, false, true, slow);
            self.a.load_sized(size, RAX, m);
            self.a.store(field!(stash), RAX);
        }
        let ea = self.stack(STACK, -(size as i32));
        let m = self.reach(k, &ea, size, 1, true, true, slow);
        match from {
            Some(Place::Host(h)) => self.a.store_sized(size, m, h),
            Some(Place::Slot(n)) => {
                self.a.load(RAX, slot(n));
                self.a.store_sized(size, m, RAX);
            }
            None if memory => {
                self.a.load(RAX, field!(stash));
                self.a.store_sized(size, m, RAX);
            }
            None if size == 2 => {
                self.a.bytes(&[0x66]);
                self.a.rm(false, &[0xc7], 0, m);
                self.a.bytes(&(i.immediate(0) as u16).to_le_bytes());
            }
            None => {
                self.a.rm(size == 8, &[0xc7], 0, m);
                self.a.bytes(&(i.immediate(0) as u32).to_le_bytes());
            }
        }
        self.set_stack(STACK, -(size as i32));
        self.units.keep();
        self.resume(slow);
        Some(())
    }

    fn pop(&mut self, k: usize, i: &Instruction) -> Option<()> {
        if i.op0_kind() != OpKind::Register {
            return None;
        }
        let size = i.stack_pointer_increment() as usize;
        let to = registers::place(registers::number(i.op0_register())?);
        let slow = self.slow(k);
        let ea = self.stack(STACK, 0);
        let m = self.reach(k, &ea, size, 1, false, true, slow);
        match to {
            Place::Host(STACK) => {
                // The value popped replaces the sum, but for bits that it doesn't have.
                self.a.load_sized(size, RAX, m);
                self.set_stack(STACK, size as i32);
                self.a.copy_sized(size, STACK, RAX);
            }
            Place::Host(h) => {
                if size == 2 {
                    self.a.bytes(&[0x66]);
                }
                self.a.rm(size == 8, &[0x8b], h, m);
                self.set_stack(STACK, size as i32);
            }
            Place::Slot(n) => {
                self.a.load_sized(size, RAX, m);
                self.a.store_sized(size, slot(n), RAX);
                self.set_stack(STACK, size as i32);
            }
        }
        self.units.keep();
        self.resume(slow);
        Some(())
    }

    fn leave(&mut self, k: usize, i: &Instruction) -> Option<()> {
        let size = match i.code() {
            Code::Leavew => 2,
            Code::Leaved => 4,
            _ => 8,
        };
        let slow = self.slow(k);
        let ea = self.stack(FRAME, 0);
        let m = self.reach(k, &ea, size, 1, false, true, slow);
        self.a.load_sized(size, RAX, m);
        self.set_stack(FRAME, size as i32);
        self.a.copy_sized(size, FRAME, RAX);
        self.units.keep();
        self.resume(slow);
        Some(())
    }

    /// Appends an instruction that has the accumulator as an implied operand, and sets flags.
    fn encode_with_accumulator(&mut self, i: &Instruction) -> Option<()> {
        self.a.copy(RAX, ACCUMULATOR);
        self.encode(i)?;
        self.a.copy(ACCUMULATOR, RAX);
        self.flags = Flags::Native;
        Some(())
    }

    /// One-operand MUL and IMUL: the accumulator times the operand.
    fn multiply(&mut self, k: usize, i: &Instruction) -> Option<()> {
        let mut out = *i;
        let mut slow = None;
        if i.op0_kind() == OpKind::Memory {
            let ea = self.ea(i, &self.ops[k])?;
            let miss = self.slow(k);
            let m = self.reach(k, &ea, i.memory_size().size(), 1, false, true, miss);
            replace_memory(&mut out, m);
            slow = Some(miss);
        } else {
            let r = i.op0_register();
            let host = match registers::place(registers::number(r)?) {
                Place::Host(h) => h,
                Place::Slot(n) => {
                    self.a.load(R14, slot(n));
                    R14
                }
            };
            out.set_op0_register(register(host, r.size()));
        }
        // AMD's processors leave the undefined ones as they are.
        if vendor::amd() && self.flags_live[k] {
            self.need_flags();
        }
        self.encode_with_accumulator(&out)?;
        if let Some(slow) = slow {
            self.resume(slow);
        }
        Some(())
    }

    /// CMPXCHG with memory.
    fn compare_exchange(&mut self, k: usize, i: &Instruction) -> Option<()> {
        let r = i.op1_register();
        let Place::Host(new) = registers::place(registers::number(r)?) else { return None };
        if i.op0_kind() != OpKind::Memory {
            return None;
        }
        let mut out = *i;
        out.set_op1_register(register(new, r.size()));
        let ea = self.ea(i, &self.ops[k])?;
        let slow = self.slow(k);
        let size = i.memory_size().size();
        let m = self.reach(k, &ea, size, alignment(i, size), true, true, slow);
        replace_memory(&mut out, m);
        self.encode_with_accumulator(&out)?;
        self.resume(slow);
        Some(())
    }

    /// CMPXCHG8B and CMPXCHG16B; the latter faults off a multiple of its size.
    fn compare_exchange_twice(&mut self, k: usize, i: &Instruction) -> Option<()> {
        if !std::is_x86_feature_detected!("cmpxchg16b") || !self.mode.is64() {
            return None;
        }
        let mut out = *i;
        let ea = self.ea(i, &self.ops[k])?;
        self.save_live_flags(k);
        let slow = self.slow(k);
        let size = i.memory_size().size();
        self.check(&ea, size, size as u32, true, slow);
        let m = self.host(&ea, true);
        replace_memory(&mut out, m);
        self.flags = Flags::Saved;
        // All flags but ZF stay.
        if self.flags_live[k] {
            self.need_flags();
        }
        self.encode_with_accumulator(&out)?;
        self.resume(slow);
        Some(())
    }

    /// DIV and IDIV of 32 and 64 bits, where it is plain that the quotient fits.
    fn divide(&mut self, k: usize, i: &Instruction) -> Option<()> {
        let (size, memory) = match i.op0_kind() {
            OpKind::Memory => (i.memory_size().size(), true),
            _ => (i.op0_register().size(), false),
        };
        if size < 4 {
            return None;
        }
        let wide = size == 8;
        self.save_live_flags(k);
        let slow = self.slow(k);
        let divisor = if memory {
            let ea = self.ea(i, &self.ops[k])?;
            let m = self.reach(k, &ea, size, 1, false, false, slow);
            self.a.rm(wide, &[0x8b], R14, m);
            R14
        } else {
            match registers::place(registers::number(i.op0_register())?) {
                Place::Host(h) => h,
                Place::Slot(n) => {
                    self.a.load(R14, slot(n));
                    R14
                }
            }
        };
        self.flags = Flags::Saved;
        if i.mnemonic() == Mnemonic::Div {
            // cmp rdx, divisor
            self.a.rr(wide, &[0x3b], UPPER, divisor);
            self.a.jump_if(ABOVE_OR_EQUAL, slow);
        } else {
            // The upper half is the lower one's sign: mov rax, lower; sar rax, 31 or 63; cmp rax, rdx
            self.a.rr(wide, &[0x8b], RAX, ACCUMULATOR);
            self.a.rr(wide, &[0xc1], 7, RAX);
            self.a.bytes(&[size as u8 * 8 - 1]);
            self.a.rr(wide, &[0x3b], RAX, UPPER);
            self.a.jump_if(NOT_EQUAL, slow);
            // The divisor is neither 0 nor -1: lea rax, [divisor + 1]; cmp rax, 1
            self.a.rm(wide, &[0x8d], RAX, Mem::at(divisor, 1));
            self.a.rr(wide, &[0x83], 7, RAX);
            self.a.bytes(&[1]);
            self.a.jump_if(BELOW_OR_EQUAL, slow);
        }
        // Processors leave flags as they were, or don't.
        if self.flags_live[k] {
            self.need_flags();
        }
        self.a.copy(RAX, ACCUMULATOR);
        let extension = if i.mnemonic() == Mnemonic::Div { 6 } else { 7 };
        self.a.rr(wide, &[0xf7], extension, divisor);
        self.a.copy(ACCUMULATOR, RAX);
        self.flags = Flags::Native;
        self.resume(slow);
        Some(())
    }
}
