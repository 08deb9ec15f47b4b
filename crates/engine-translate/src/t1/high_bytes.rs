//! AH, CH, DH and BH, which instructions with a REX prefix can't name.

use super::asm::{RAX, register};
use super::compile::Compiler;
use super::flags::Flags;
use super::forms::{self, Form};
use super::lower::{replace_memory, writes};
use super::registers::{self, ACCUMULATOR, Place};
use iced_x86::{Instruction, OpAccess, OpKind, Register};

/// The number of the register that a high byte is part of.
fn high(r: Register) -> Option<u8> {
    Some(match r {
        Register::AH => 0,
        Register::CH => 1,
        Register::DH => 2,
        Register::BH => 3,
        _ => return None,
    })
}

/// Whether an instruction names one of them.
pub fn uses(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && high(i.op_register(n)).is_some())
}

impl Compiler<'_> {
    /// An instruction with a high byte among its operands. `None` if T0 is to do it.
    pub fn high_bytes(&mut self, k: usize, i: &Instruction, form: Form) -> Option<()> {
        let access = self.accesses(i);
        let memory = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory);
        match memory {
            Some(n) => self.high_byte_and_memory(k, i, form, access, n),
            None => self.high_bytes_of_registers(i, form, access),
        }
    }

    /// Without memory nothing needs REX, if RAX is where it always was.
    fn high_bytes_of_registers(&mut self, i: &Instruction, form: Form, access: [OpAccess; 5]) -> Option<()> {
        let mut out = *i;
        if let Some(code) = forms::general(i.code()) {
            out.set_code(code);
        }
        let (mut accumulator, mut written) = (false, false);
        for n in (0..i.op_count()).filter(|n| i.op_kind(*n) == OpKind::Register) {
            let r = i.op_register(n);
            let number = high(r).or_else(|| registers::number(r))?;
            match registers::place(number) {
                _ if number == 0 => {
                    accumulator = true;
                    written |= writes(access[n as usize]);
                }
                Place::Host(h) if h == number && number < 8 => {}
                _ => return None,
            }
        }
        if form.needs_flags {
            self.need_flags();
        }
        if accumulator {
            self.a.copy(RAX, ACCUMULATOR);
        }
        self.encode(&out)?;
        if written {
            self.a.copy(ACCUMULATOR, RAX);
        }
        if form.writes_flags {
            self.flags = Flags::Native;
        }
        Some(())
    }

    /// The register's copy in RAX, its bytes exchanged, which changes no flags.
    fn high_byte_and_memory(
        &mut self,
        k: usize,
        i: &Instruction,
        form: Form,
        access: [OpAccess; 5],
        memory: u32,
    ) -> Option<()> {
        let n = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Register)?;
        let Place::Host(host) = registers::place(high(i.op_register(n))?) else { return None };
        let mut out = *i;
        out.set_op_register(n, register(RAX, 1));
        let ea = self.ea(i, &self.ops[k])?;
        self.save_flags();
        let slow = self.slow(k);
        let size = i.memory_size().size();
        let write = writes(access[memory as usize]);
        self.check(&ea, size, forms::alignment(i, size), write, slow);
        let m = self.host(&ea, true);
        self.flags = Flags::Saved;
        replace_memory(&mut out, m);
        if form.needs_flags {
            self.need_flags();
        }
        // mov rax, host; xchg al, ah
        self.a.copy(RAX, host);
        self.a.bytes(&[0x86, 0xc4]);
        self.encode(&out)?;
        if writes(access[n as usize]) {
            self.a.bytes(&[0x86, 0xc4]);
            self.a.copy(host, RAX);
        }
        if form.writes_flags {
            self.flags = Flags::Native;
        }
        self.resume(slow);
        Some(())
    }
}
