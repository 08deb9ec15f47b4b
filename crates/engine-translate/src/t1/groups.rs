//! Accesses of a block that lie close together, looked up once.
//!
//! Where several accesses of a block use the same value of a register with constant displacements (a stack frame, a
//! structure), the first looks up the range of them all and leaves the addend in [`T1::groups`]; the others take it from there. If
//! the range is not in one page, or the page not in the TLB, it leaves 0 there, and each looks up its own. Handlers may change
//! mappings, so all are 0 after any.

#[cfg(doc)]
use super::T1;
use super::access::{Base, Ea};
use super::compile::Compiler;
use super::kit::Encoding;
use super::registers::STACK;
use super::special::FRAME;
use crate::op::Op;
use iced_x86::{Code, Instruction, Mnemonic, OpAccess, OpKind, Register};

/// Groups of one block.
pub const GROUPS: usize = 8;
/// Bytes that a group's range may have. The longer it is, the more often it lies in two pages.
const RANGE: i64 = 256;

const RSP: usize = 4;
const RBP: usize = 5;

/// An access of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub ea: Ea,
    pub size: usize,
    pub write: bool,
}

/// What an access has to do with its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It looks up `len` bytes from `disp` on, for stores or not.
    First {
        group: usize,
        disp: i32,
        len: usize,
        write: bool,
    },
    Other {
        group: usize,
    },
}

/// What is the same for all of a group: a value that one of the registers had, the code's page, or a segment's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Number(u32),
    Page,
    /// With how often segments may have changed before.
    Segment(u8, u32),
}

/// Values of the registers while the block runs, as far as they can be told.
pub struct Values {
    /// A value, and what was added to it since.
    pub now: [(u32, i64); 16],
    next: u32,
    /// Counts instructions that change segments' bases in place.
    segments: u32,
}

impl Default for Values {
    fn default() -> Self {
        Self { now: std::array::from_fn(|n| (n as u32, 0)), next: 16, segments: 0 }
    }
}

impl Values {
    fn unknown(&mut self, r: usize) {
        self.now[r] = (self.next, 0);
        self.next += 1;
    }
    fn add(&mut self, r: usize, n: i64) {
        self.now[r].1 = self.now[r].1.wrapping_add(n);
    }
    /// Follows an instruction.
    pub fn step(&mut self, i: &Instruction, encoding: &mut Encoding) {
        let wide = |n| {
            let r: Register = i.op_register(n);
            (i.op_kind(n) == OpKind::Register && r.is_gpr64()).then(|| r.number())
        };
        let immediate =
            i.op_count() == 2 && matches!(i.op_kind(1), OpKind::Immediate8to64 | OpKind::Immediate32to64);
        match (i.mnemonic(), wide(0)) {
            (Mnemonic::Add, Some(r)) if immediate => return self.add(r, i.immediate(1) as i64),
            (Mnemonic::Sub, Some(r)) if immediate => {
                return self.add(r, (i.immediate(1) as i64).wrapping_neg());
            }
            (Mnemonic::Inc, Some(r)) => return self.add(r, 1),
            (Mnemonic::Dec, Some(r)) => return self.add(r, -1),
            (Mnemonic::Mov, Some(r)) => {
                if let Some(from) = wide(1) {
                    self.now[r] = self.now[from];
                    return;
                }
            }
            (Mnemonic::Lea, Some(r)) if i.memory_index() == Register::None && i.memory_base().is_gpr64() => {
                self.now[r] = self.now[i.memory_base().number()];
                return self.add(r, i.memory_displacement64() as i64);
            }
            (Mnemonic::Push, _)
                if matches!(i.code(), Code::Push_r64 | Code::Pushq_imm8 | Code::Pushq_imm32) =>
            {
                return self.add(RSP, -8);
            }
            (Mnemonic::Pop, Some(r)) if i.code() == Code::Pop_r64 => {
                self.add(RSP, 8);
                return self.unknown(r);
            }
            (Mnemonic::Leave, _) if i.code() == Code::Leaveq => {
                self.now[RSP] = self.now[RBP];
                self.add(RSP, 8);
                return self.unknown(RBP);
            }
            _ => {}
        }
        if matches!(
            i.mnemonic(),
            Mnemonic::Swapgs | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase | Mnemonic::Wrmsr
        ) {
            self.segments += 1;
        }
        for u in encoding.info(i).used_registers() {
            let r = u.register().full_register();
            if r.is_gpr64() && u.access() != OpAccess::Read && u.access() != OpAccess::CondRead {
                self.unknown(r.number());
            }
        }
    }
}

/// The one access of an instruction that may be part of a group.
fn access(c: &mut Compiler, k: usize, i: &Instruction) -> Option<(Access, Option<usize>)> {
    let stack = |r: usize, disp, write| {
        let ea = c.stack(if r == RSP { STACK } else { FRAME }, disp);
        Some((Access { ea, size: 8, write }, Some(r)))
    };
    match i.code() {
        Code::Push_r64 | Code::Pushq_imm8 | Code::Pushq_imm32 | Code::Call_rel32_64 | Code::Call_rm64 => {
            return stack(RSP, -8, true);
        }
        Code::Pop_r64 | Code::Retnq | Code::Retnq_imm16 => return stack(RSP, 0, false),
        Code::Leaveq => return stack(RBP, 0, false),
        _ => {}
    }
    let n = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory)?;
    let size = i.memory_size().size();
    if i.mnemonic() == Mnemonic::Lea || !(1..=64).contains(&size) {
        return None;
    }
    let op: &Op = &c.ops[k];
    let ea = c.ea(i, op).filter(|ea| ea.index.is_none() && ea.size == 8)?;
    let register = matches!(ea.base, Base::Register(_)).then(|| i.memory_base().number());
    let write = super::lower::writes(c.accesses(i)[n as usize]);
    Some((Access { ea, size, write }, register))
}

/// The accesses that have to do with a group, for each op. Of 64-bit code; other code's addresses are sums of more parts.
pub fn plan(c: &mut Compiler, instructions: &[Instruction]) -> Vec<Option<(Access, Role)>> {
    if !c.mode.is64() {
        return Vec::new();
    }
    struct Group {
        value: Value,
        /// From the value.
        low: i64,
        high: i64,
        write: bool,
        first: usize,
        members: usize,
    }
    let mut values = Values::default();
    let mut groups: Vec<Group> = Vec::new();
    // The access, its group, and where it is from the group's value.
    let mut found: Vec<Option<(Access, usize, i64)>> = Vec::with_capacity(instructions.len());
    for (k, i) in instructions.iter().enumerate() {
        let access = access(c, k, i).and_then(|(a, register)| {
            let (value, from) = match (a.ea.base, a.ea.seg, register) {
                (Base::Register(_), None, Some(r)) => {
                    let (number, from) = values.now[r & 15];
                    (Value::Number(number), from)
                }
                (Base::Page, None, _) => (Value::Page, 0),
                (Base::None, Some(seg), _) => (Value::Segment(seg, values.segments), 0),
                _ => return None,
            };
            Some((a, value, from.checked_add(a.ea.disp as i64)?))
        });
        found.push(access.and_then(|(a, value, low)| {
            let high = low.checked_add(a.size as i64)?;
            let at = groups
                .iter()
                .position(|g| g.value == value && g.high.max(high).saturating_sub(g.low.min(low)) <= RANGE);
            let at = at.unwrap_or(groups.len());
            if at == groups.len() {
                groups.push(Group { value, low, high, write: a.write, first: k, members: 0 });
            }
            let g = &mut groups[at];
            (g.low, g.high) = (g.low.min(low), g.high.max(high));
            g.write |= a.write;
            g.members += 1;
            Some((a, at, low))
        }));
        values.step(i, c.encoding);
    }
    let mut numbers = 0;
    let numbered: Vec<Option<usize>> = groups
        .iter()
        .map(|g| {
            let taken = g.members > 1 && numbers < GROUPS;
            numbers += taken as usize;
            taken.then(|| numbers - 1)
        })
        .collect();
    let role = |k: usize, (a, at, low): (Access, usize, i64)| {
        let (g, group) = (&groups[at], numbered[at]?);
        if g.first != k {
            return Some((a, Role::Other { group }));
        }
        let disp = i32::try_from(a.ea.disp as i64 + (g.low - low)).ok()?;
        Some((a, Role::First { group, disp, len: (g.high - g.low) as usize, write: g.write }))
    };
    found.into_iter().enumerate().map(|(k, f)| role(k, f?)).collect()
}
