//! Instructions that run as they are, with registers and memory operand replaced.

use super::asm::{Mem, R14, RAX, register};
use super::compile::Compiler;
use super::flags::Flags;
use super::forms;
use super::high_bytes;
use super::registers::{self, Place, slot};
use super::runtime::field;
use super::vector::kind;
use crate::op::Op;
use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};

/// A guest register that is in the vCPU, and the scratch register that stands for it during an instruction.
#[derive(Clone, Copy)]
pub struct Loan {
    guest: u8,
    host: u8,
    /// Its value matters before.
    load: bool,
    written: bool,
}

/// At most two a time.
pub type Loans = [Option<Loan>; 2];

/// Gives the general registers among an instruction's operands their places, those in the vCPU one of `pool`'s scratch
/// registers. `None` if the pool is too small or a register is one of AH, CH, DH and BH.
pub fn lend(i: &Instruction, access: &[OpAccess; 5], pool: &[u8], out: &mut Instruction) -> Option<Loans> {
    let mut loans: Loans = [None; 2];
    for n in (0..i.op_count()).filter(|n| i.op_kind(*n) == OpKind::Register) {
        let r = i.op_register(n);
        if r.is_vector_register() || r.is_mm() || r.is_st() {
            continue;
        }
        let guest = registers::number(r)?;
        let access = access[n as usize];
        let load = access != OpAccess::Write || r.size() < 4;
        let host = match registers::place(guest) {
            Place::Host(h) => h,
            Place::Slot(_) => {
                let at = loans.iter().position(|l| l.is_none_or(|l| l.guest == guest))?;
                let new = Loan { guest, host: *pool.get(at)?, load: false, written: false };
                let loan = loans[at].get_or_insert(new);
                loan.load |= load;
                loan.written |= writes(access);
                loan.host
            }
        };
        out.set_op_register(n, register(host, r.size()));
    }
    Some(loans)
}

/// Whether an access may write.
pub fn writes(a: OpAccess) -> bool {
    matches!(a, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

impl Compiler<'_> {
    /// An instruction with one behind it. `None` if T0 is to do it.
    pub fn instruction(&mut self, k: usize, i: &Instruction) -> Option<()> {
        if forms::is_nop(i) {
            self.units.keep();
            return Some(());
        }
        if let Some(kind) = kind(i) {
            return self.vector(k, i, kind);
        }
        match i.mnemonic() {
            Mnemonic::Lea => self.lea(i, k),
            _ if self.system(k, i).is_some() => Some(()),
            _ => self.special(k, i).unwrap_or_else(|| self.plain(k, i)),
        }
    }

    fn plain(&mut self, k: usize, i: &Instruction) -> Option<()> {
        let form = forms::plain(i)?;
        let op: &Op = &self.ops[k];
        let mut out = *i;
        if let Some(code) = forms::general(i.code()) {
            out.set_code(code);
        }
        if high_bytes::uses(i) {
            return self.high_bytes(k, i, form);
        }
        let access = self.accesses(i);
        let memory = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory);
        // R14 is part of a memory operand's address.
        let pool: &[u8] = if memory.is_some() { &[RAX] } else { &[RAX, R14] };
        let loans = lend(i, &access, pool, &mut out)?;
        let mut slow = None;
        if let Some(n) = memory {
            let ea = self.ea(i, op)?;
            let miss = self.slow(k);
            let size = i.memory_size().size();
            let (align, write) = (forms::alignment(i, size), writes(access[n as usize]));
            let free = form.needs_flags && self.flags_live[k] || loans[0].is_some();
            let m = self.reach(k, &ea, size, align, write, free, miss);
            replace_memory(&mut out, m);
            slow = Some(miss);
        }
        if form.needs_flags && self.flags_live[k] {
            self.need_flags();
        }
        self.load_loans(&loans);
        self.encode(&out)?;
        self.store_loans(&loans);
        if form.writes_flags {
            self.flags = Flags::Native;
        }
        if let Some(slow) = slow {
            self.resume(slow);
        }
        if loans[1].is_none() {
            self.units.keep();
        }
        Some(())
    }

    /// How each operand is used.
    pub fn accesses(&mut self, i: &Instruction) -> [OpAccess; 5] {
        self.encoding.accesses(i)
    }
    pub fn load_loans(&mut self, loans: &Loans) {
        for l in loans.iter().flatten().filter(|l| l.load) {
            self.a.load(l.host, slot(l.guest));
        }
    }
    pub fn store_loans(&mut self, loans: &Loans) {
        for l in loans.iter().flatten().filter(|l| l.written) {
            self.a.store(slot(l.guest), l.host);
        }
    }

    /// No access and no flags: the address is computed with moves and LEA only.
    fn lea(&mut self, i: &Instruction, k: usize) -> Option<()> {
        use super::access::Base;
        let r = i.op0_register();
        let guest = registers::number(r)?;
        let ea = self.ea(i, &self.ops[k])?;
        let base = match ea.base {
            Base::None => None,
            Base::Register(Place::Host(h)) => Some(h),
            Base::Register(Place::Slot(n)) => {
                self.a.load(RAX, slot(n));
                Some(RAX)
            }
            Base::Page => {
                self.a.load(RAX, field!(page_rip));
                Some(RAX)
            }
        };
        let index = match ea.index {
            None => None,
            Some(Place::Host(h)) => Some(h),
            Some(Place::Slot(n)) => {
                self.a.load(R14, slot(n));
                Some(R14)
            }
        };
        let m = Mem { base, index, scale: ea.scale, disp: ea.disp };
        // Cut to the address size, then to the operand's.
        let wide = ea.size == 8 && r.size() == 8;
        match (registers::place(guest), r.size()) {
            (Place::Host(h), 4 | 8) if ea.size != 2 => self.a.rm(wide, &[0x8d], h, m),
            (to, size) => {
                self.a.rm(wide, &[0x8d], RAX, m);
                if ea.size == 2 {
                    self.a.rr(false, &[0x0f, 0xb7], RAX, RAX);
                }
                match to {
                    Place::Host(h) => self.a.copy_sized(size, h, RAX),
                    Place::Slot(n) if size == 2 => self.a.store_sized(2, slot(n), RAX),
                    Place::Slot(n) => self.a.store(slot(n), RAX),
                }
            }
        }
        if index != Some(R14) {
            self.units.keep();
        }
        Some(())
    }
}

/// Puts a host address in the place of an instruction's memory operand.
pub fn replace_memory(i: &mut Instruction, m: Mem) {
    let part = |r: Option<u8>| r.map_or(Register::None, |n| register(n, 8));
    i.set_segment_prefix(Register::None);
    i.set_memory_base(part(m.base));
    i.set_memory_index(part(m.index));
    i.set_memory_index_scale(1 << m.scale);
    i.set_memory_displacement64(m.disp as i64 as u64);
    i.set_memory_displ_size(match m.disp {
        0 => 0,
        d if i8::try_from(d).is_ok() => 1,
        _ => 8,
    });
}
