//! The memory of translated code, and the code that all blocks share.

use super::asm::{Asm, EQUAL, Mem, NOT_EQUAL, R14, R15, RAX, RDI, RSI};
use super::registers::{MAPPED, slot};
use super::{T1, dispatch, live};
use crate::cpu::{Cpu, RIP};
use crate::vector::arena::Arena;
use std::io;
use std::mem::offset_of;

/// Bytes of translated code a vCPU may have.
const SIZE: usize = if cfg!(test) { 1 << 20 } else { 32 << 20 };
/// Kept free for one more block.
const RESERVE: usize = 64 << 10;
/// Entries of the jump cache, a power of two.
pub const JUMPS: usize = 1 << 14;

/// Why translated code returned.
pub const CONTINUE: u32 = 0;
/// An instruction raised a fault.
pub const FAULT: u32 = 1;
/// The fuel is out.
pub const FUEL: u32 = 2;
/// A jump wants to be led to its target.
pub const LINK: u32 = 3;

/// An entry of the jump cache: a linear address whose code is known while the guard stands.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub struct Jump {
    pub rip: u64,
    pub guard: u64,
    pub code: u64,
}
const NO_JUMP: Jump = Jump { rip: 0, guard: u64::MAX, code: 0 };
const _: () = assert!(size_of::<Jump>() == 32);

/// Offsets in a [`Jump`].
pub const JUMP_GUARD: i32 = offset_of!(Jump, guard) as i32;
pub const JUMP_CODE: i32 = offset_of!(Jump, code) as i32;

/// A field of [`T1`] in the vCPU.
macro_rules! field {
    ($name:ident) => {
        $crate::t1::asm::Mem::cpu(
            std::mem::offset_of!($crate::cpu::Cpu, t1) + std::mem::offset_of!($crate::t1::T1, $name),
        )
    };
}
pub(super) use field;

/// Addresses of the shared code.
#[derive(Clone, Copy, Default)]
pub struct Shared {
    /// `extern "sysv64" fn(*mut Cpu, code) -> u32`: loads the registers and goes to `code`, with RAX = RIP.
    pub enter: u64,
    /// Called with RAX = the op and R14 = see [`dispatch::run_op`]: runs T0's handler. Clobbers RAX, R14 and flags.
    pub call_op: u64,
    /// The same for a memory operand that missed, of an instruction that isn't x87's or MMX's: x87's registers stay.
    pub call_miss: u64,
    /// See [`live::Entries`].
    pub begin_vectors: u64,
    pub begin_fpu: u64,
    /// Goes to the block at the linear address in RAX, or leaves.
    pub lookup: u64,
    /// Leave with RIP in RAX.
    pub leave: u64,
    pub leave_for_fuel: u64,
    /// The same with the address of the jump's displacement in R14.
    pub leave_to_link: u64,
}

/// A vCPU's translated code.
pub struct Runtime {
    arena: Arena,
    pub shared: Shared,
    /// Bytes of the shared code, which stays.
    kept: usize,
    pub jumps: Box<[Jump]>,
}

impl Runtime {
    pub fn new() -> io::Result<Self> {
        let mut r = Self {
            arena: Arena::new("auberge-translated", SIZE)?,
            shared: Shared::default(),
            kept: 0,
            jumps: vec![NO_JUMP; JUMPS].into(),
        };
        let (code, mut shared) = shared_code();
        let origin = r.add(&code).unwrap_or_default();
        let fields = [
            &mut shared.enter,
            &mut shared.call_op,
            &mut shared.call_miss,
            &mut shared.begin_vectors,
            &mut shared.begin_fpu,
            &mut shared.lookup,
            &mut shared.leave,
            &mut shared.leave_for_fuel,
            &mut shared.leave_to_link,
        ];
        fields.into_iter().for_each(|f| *f += origin);
        r.shared = shared;
        r.kept = r.arena.used;
        Ok(r)
    }

    /// Where the next code will be.
    pub fn origin(&self) -> u64 {
        self.arena.execute.as_ptr() as u64 + self.arena.used as u64
    }
    /// Copies code in; its address.
    pub fn add(&mut self, code: &[u8]) -> Option<u64> {
        let at = self.arena.used;
        let end = at.checked_add(code.len()).filter(|end| *end <= SIZE)?;
        let address = self.origin();
        // SAFETY: `at..end` lies in the mapping, and nothing that was handed out lies there.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.arena.write.as_ptr().add(at), code.len())
        };
        self.arena.used = end.next_multiple_of(16).min(SIZE);
        Some(address)
    }
    /// Leads the jump whose displacement is at `site` to `target`, both addresses in this memory.
    pub fn link(&mut self, site: u64, target: u64) {
        let start = self.arena.execute.as_ptr() as u64;
        let Some(at) = site.checked_sub(start).map(|at| at as usize) else { return };
        if at < self.kept || at + 4 > self.arena.used {
            return;
        }
        let distance = target.wrapping_sub(site + 4) as u32;
        // SAFETY: checked above. Only this thread executes the code, and it isn't in it now.
        unsafe { self.arena.write.as_ptr().add(at).cast::<u32>().write_unaligned(distance.to_le()) };
    }
    /// Bytes in use.
    #[cfg(test)]
    pub fn used(&self) -> usize {
        self.arena.used
    }
    pub fn full(&self) -> bool {
        self.arena.used > SIZE - RESERVE
    }
    /// Drops all blocks' code.
    pub fn clear(&mut self) {
        self.arena.used = self.kept;
        self.jumps.fill(NO_JUMP);
    }
}

/// Stores the guest's registers to the vCPU.
fn spill(a: &mut Asm) {
    MAPPED.into_iter().for_each(|(guest, host)| a.store(slot(guest), host));
}
/// Loads them.
fn reload(a: &mut Asm) {
    MAPPED.into_iter().for_each(|(guest, host)| a.load(host, slot(guest)));
}

const CALLEE_SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

/// Calls `save`, an offset in this code, if `flag` isn't 0.
fn save_live(a: &mut Asm, save: u64, flag: Mem) {
    let skip = a.label();
    // cmp byte [flag], 0
    a.rm(false, &[0x80], 7, flag);
    a.bytes(&[0]);
    a.jump_if(EQUAL, skip);
    a.far(0xe8, 0, save);
    a.bind(skip);
}

/// Looks up the linear address in RAX: R14 points at its entry, or it goes to `miss` with RAX as it was. Clobbers flags.
pub fn probe_jump(a: &mut Asm, miss: super::asm::Label) {
    // mov r14d, eax; and r14d, JUMPS - 1; shl r14d, 5
    a.rr(false, &[0x8b], R14, RAX);
    a.rr(false, &[0x81], 4, R14);
    a.bytes(&(JUMPS as u32 - 1).to_le_bytes());
    a.rr(false, &[0xc1], 4, R14);
    a.bytes(&[5]);
    a.rm(true, &[0x03], R14, field!(jumps));
    a.rm(true, &[0x3b], RAX, Mem::at(R14, 0));
    a.jump_if(NOT_EQUAL, miss);
    a.load(RAX, field!(guard));
    a.rm(true, &[0x3b], RAX, Mem::at(R14, JUMP_GUARD));
    // The address once more: moves leave flags alone.
    a.load(RAX, Mem::at(R14, 0));
    a.jump_if(NOT_EQUAL, miss);
}

/// The shared code, and its entries as offsets.
fn shared_code() -> (Vec<u8>, Shared) {
    let mut a = Asm::default();
    let mut s = Shared { enter: a.here() as u64, ..Default::default() };
    for r in CALLEE_SAVED {
        if r >= 8 {
            a.bytes(&[0x41]);
        }
        a.bytes(&[0x50 | r & 7]);
    }
    // sub rsp, 8: a multiple of 16 from here on.
    a.bytes(&[0x48, 0x83, 0xec, 8]);
    a.copy(R15, RDI);
    a.copy(R14, RSI);
    reload(&mut a);
    a.load(RAX, slot(RIP as u8));
    a.rr(false, &[0xff], 4, R14);

    let live = live::shared_code(&mut a);
    (s.begin_vectors, s.begin_fpu) = (live.begin_vectors, live.begin_fpu);

    // The general registers are in the vCPU; EAX says why.
    let epilogue = a.bound();
    a.rr(false, &[0x8b], R14, RAX);
    save_live(&mut a, live.save_vectors, field!(live));
    save_live(&mut a, live.save_fpu, field!(fpu));
    a.rr(false, &[0x8b], RAX, R14);
    a.bytes(&[0x48, 0x83, 0xc4, 8]);
    for r in CALLEE_SAVED.into_iter().rev() {
        if r >= 8 {
            a.bytes(&[0x41]);
        }
        a.bytes(&[0x58 | r & 7]);
    }
    a.bytes(&[0xc3]);

    let (raised, both) = (a.label(), a.label());
    s.call_miss = a.here() as u64;
    spill(&mut a);
    a.copy(RSI, RAX);
    a.jump(both);
    s.call_op = a.here() as u64;
    spill(&mut a);
    a.copy(RSI, RAX);
    save_live(&mut a, live.save_fpu, field!(fpu));
    a.bind(both);
    save_live(&mut a, live.save_vectors, field!(live));
    a.copy(RDI, R15);
    // mov edx, r14d
    a.rr(false, &[0x8b], 2, R14);
    a.bytes(&[0x48, 0x83, 0xec, 8]);
    let run_op: extern "sysv64" fn(*mut Cpu, *const crate::op::Op, u32) -> u32 = dispatch::run_op;
    a.load_immediate(RAX, run_op as usize as u64);
    a.rr(false, &[0xff], 2, RAX);
    a.bytes(&[0x48, 0x83, 0xc4, 8]);
    // test eax, eax
    a.rr(false, &[0x85], RAX, RAX);
    a.jump_if(NOT_EQUAL, raised);
    reload(&mut a);
    a.bytes(&[0xc3]);
    a.bind(raised);
    // Not back to the block.
    a.bytes(&[0x48, 0x83, 0xc4, 8]);
    a.jump(epilogue);

    s.lookup = a.here() as u64;
    let miss = a.label();
    probe_jump(&mut a, miss);
    a.rm(false, &[0xff], 4, Mem::at(R14, JUMP_CODE));
    a.bind(miss);
    let mut leave = |why: u32, link: bool| {
        let at = a.here() as u64;
        if link {
            a.store(field!(link_site), R14);
            a.store(field!(link_rip), RAX);
        }
        a.store(slot(RIP as u8), RAX);
        spill(&mut a);
        a.load_immediate(RAX, why as u64);
        a.jump(epilogue);
        at
    };
    s.leave = leave(CONTINUE, false);
    s.leave_for_fuel = leave(FUEL, false);
    s.leave_to_link = leave(LINK, true);
    (a.finish().unwrap_or_default(), s)
}

const _: () = assert!(size_of::<T1>() < 4096);
