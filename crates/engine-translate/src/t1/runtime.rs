//! The code that all blocks share.
//!
//! A guest's call is a host's call too, so that the processor foresees where returns go. On the host's stack are the return
//! addresses in translated code and, above each, the guest's that it stands for. A guest's return is a host's: it arrives
//! behind some call, where the guest's address is compared, and goes on or is looked up. Below all there is an address
//! that looks every return up. All of them are dropped when the address mapping changes, when they become too many, and
//! when the chain ends; the page of code behind a call is looked at as on every way into a page.

use super::asm::{ABOVE, Asm, BIAS, EQUAL, Mem, NOT_EQUAL, R14, R15, RAX, RDI, RDX, RSI, RSP, Room};
use super::jumps::{JUMP_CODE, JUMPS_SHIFT, Jump, SPREAD};
use super::registers::{MAPPED, slot};
use super::{T1, dispatch, live, segments};
use crate::cpu::{CS, Cpu, RIP};

/// Why translated code returned.
pub const CONTINUE: u32 = 0;
/// An instruction raised a fault.
pub const FAULT: u32 = 1;
/// The fuel is out.
pub const FUEL: u32 = 2;
/// A jump wants to be led to its target.
pub const LINK: u32 = 3;
/// Something is to be seen to before the next instruction, which RIP names.
pub const LOOK: u32 = 4;
/// Not why it returned: it goes on under another address mapping.
pub const MOVED: u32 = 5;
/// [`T1::returned`] went to an address that is not canonical.
pub const ASTRAY: u32 = 6;
/// Not why it returned: an exception was delivered, and its handler, which RIP names, goes on in the chain.
pub const DELIVERED: u32 = 7;

/// Bytes of host stack for returns that are foreseen, 16 each.
const RETURNS: i32 = 16 << 10;

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
pub struct SharedCode {
    /// `extern "sysv64" fn(*mut Cpu, code) -> u32`: loads the registers and goes to `code`, with RAX = RIP.
    pub enter: u64,
    /// Called with AL = the op's number and R14 = its block: runs T0's handler. Clobbers RAX, R14 and flags.
    pub call_op: u64,
    /// The same for a memory operand that missed, of an instruction that isn't x87's or MMX's: x87's registers stay.
    pub call_miss: u64,
    /// See [`live::Entries`].
    pub begin_vectors: u64,
    pub begin_fpu: u64,
    /// Goes to the block at the linear address in RAX, or leaves.
    pub lookup: u64,
    /// The same for a return that came to the wrong place.
    pub lookup_return: u64,
    /// Leave with RIP in RAX.
    pub leave: u64,
    pub leave_for_fuel: u64,
    /// The same with where the jump led in R14: see [`crate::cache`].
    pub leave_to_link: u64,
    /// Whether blocks count their instructions.
    pub counting: bool,
}

impl SharedCode {
    /// The code, to be put at `origin`, and its addresses there.
    pub fn make(origin: u64) -> (Box<[u8]>, Self) {
        let (code, mut shared) = shared_code();
        let fields = [
            &mut shared.enter,
            &mut shared.call_op,
            &mut shared.call_miss,
            &mut shared.begin_vectors,
            &mut shared.begin_fpu,
            &mut shared.lookup,
            &mut shared.lookup_return,
            &mut shared.leave,
            &mut shared.leave_for_fuel,
            &mut shared.leave_to_link,
        ];
        fields.into_iter().for_each(|f| *f += origin);
        (code, shared)
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

/// Drops all returns that are foreseen.
pub fn drop_returns(a: &mut Asm) {
    a.load(RSP, field!(host_stack));
    a.lea(RSP, Mem::at(RSP, -8));
}

const RBX: u8 = 3;
const CALLEE_SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

/// Calls `save`, an offset in this code, if `flag` isn't 0.
fn save_live(a: &mut Asm, save: u64, flag: Mem) {
    let skip = a.label();
    // cmp byte [flag], 0
    a.rm(false, &[0x80], 7, flag);
    a.bytes(&[0]);
    a.jump_if(EQUAL, skip);
    a.far(0xe8, save);
    a.bind(skip);
}

/// Goes to `leave` where something is pending. Clobbers R14 and flags.
///
/// Every cycle of blocks has one of these in it: they are where a jump goes back or to a computed address, where a return comes
/// to another place than was foreseen, and where too many returns are foreseen.
pub fn poll(a: &mut Asm, leave: super::asm::Label) {
    a.load(R14, field!(pending));
    // cmp dword [r14], 0
    a.rm(false, &[0x83], 7, Mem::at(R14, 0));
    a.bytes(&[0]);
    a.jump_if(NOT_EQUAL, leave);
}

/// Looks up the linear address in RAX: R14 points at its entry, or it goes to `miss`. Clobbers flags.
pub fn probe_jump(a: &mut Asm, miss: super::asm::Label) {
    // imul r14d, eax, SPREAD; shr r14d, to where the index is, times an entry's size; and r14d, -16
    a.rr(false, &[0x69], R14, RAX);
    a.bytes(&SPREAD.to_le_bytes());
    a.rr(false, &[0xc1], 5, R14);
    a.bytes(&[(JUMPS_SHIFT - size_of::<Jump>().ilog2()) as u8]);
    a.rr(false, &[0x83], 4, R14);
    a.bytes(&[(size_of::<Jump>() as u8).wrapping_neg()]);
    a.rm(true, &[0x03], R14, field!(jumps));
    a.rm(true, &[0x3b], RAX, Mem::at(R14, 0));
    a.jump_if(NOT_EQUAL, miss);
}

/// The shared code, and its entries as offsets.
fn shared_code() -> (Box<[u8]>, SharedCode) {
    let mut a = Asm::default();
    let mut s = SharedCode { enter: a.here() as u64, ..Default::default() };
    for r in CALLEE_SAVED {
        if r >= 8 {
            a.bytes(&[0x41]);
        }
        a.bytes(&[0x50 | r & 7]);
    }
    // sub rsp, 8: a multiple of 16 from here on.
    a.bytes(&[0x48, 0x83, 0xec, 8]);
    a.lea(R15, Mem::at(RDI, BIAS));
    a.copy(R14, RSI);
    a.store(field!(host_stack), RSP);
    a.lea(RAX, Mem::at(RSP, -RETURNS));
    a.store(field!(returns_limit), RAX);
    // What the call pushes is where a return goes that none was foreseen for.
    let (begin, lookup_return) = (a.label(), a.label());
    a.call(begin);
    let unforeseen = a.bound();
    a.call(lookup_return);
    a.jump(unforeseen);
    a.bind(begin);
    reload(&mut a);
    a.load(RAX, slot(RIP as u8));
    a.rr(false, &[0xff], 4, R14);

    let live = live::shared_code(&mut a);
    (s.begin_vectors, s.begin_fpu) = (live.begin_vectors, live.begin_fpu);

    // The general registers are in the vCPU; EAX says why.
    let epilogue = a.bound();
    a.rr(false, &[0x8b], R14, RAX);
    a.load(RSP, field!(host_stack));
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

    let (other, both) = (a.label(), a.label());
    s.call_miss = a.here() as u64;
    spill(&mut a);
    // movzx esi, al
    a.rr(false, &[0x0f, 0xb6], RSI, RAX);
    a.jump(both);
    s.call_op = a.here() as u64;
    spill(&mut a);
    a.rr(false, &[0x0f, 0xb6], RSI, RAX);
    save_live(&mut a, live.save_fpu, field!(fpu));
    a.bind(both);
    save_live(&mut a, live.save_vectors, field!(live));
    a.lea(RDI, Mem::at(R15, -BIAS));
    a.copy(RDX, R14);
    // The handler's stack pointer is a multiple of 16: mov rbx, rsp; and rsp, -16
    a.copy(RBX, RSP);
    a.bytes(&[0x48, 0x83, 0xe4, 0xf0]);
    let run_op: extern "sysv64" fn(*mut Cpu, u32, *const crate::block::Block) -> u32 = dispatch::run_op;
    a.load_immediate(RAX, run_op as usize as u64);
    a.rr(false, &[0xff], 2, RAX);
    a.copy(RSP, RBX);
    // test eax, eax
    a.rr(false, &[0x85], RAX, RAX);
    a.jump_if(NOT_EQUAL, other);
    reload(&mut a);
    a.bytes(&[0xc3]);
    a.bind(other);
    // cmp eax, MOVED; what it isn't does not go back to the block.
    let (not_moved, handler) = (a.label(), a.label());
    a.bytes(&[0x83, 0xf8, MOVED as u8]);
    a.jump_if(NOT_EQUAL, not_moved);
    // pop r14
    a.bytes(&[0x41, 0x5e]);
    drop_returns(&mut a);
    reload(&mut a);
    a.rr(false, &[0xff], 4, R14);
    a.bind(not_moved);
    a.bytes(&[0x83, 0xf8, DELIVERED as u8]);
    a.jump_if(NOT_EQUAL, epilogue);
    drop_returns(&mut a);
    reload(&mut a);
    a.load(RAX, slot(RIP as u8));
    a.rm(true, &[0x03], RAX, segments::base(CS as u8));
    a.jump(handler);

    let (miss, return_miss) = (a.label(), a.label());
    s.lookup_return = a.here() as u64;
    a.bind(lookup_return);
    poll(&mut a, return_miss);
    probe_jump(&mut a, return_miss);
    a.rm(false, &[0xff], 4, Mem::at(R14, JUMP_CODE));
    a.bind(return_miss);
    // A canonical address has all of bits 63 to 47 the same. mov r14, rax; sar r14, 47; inc r14; cmp r14, 1
    let astray = a.label();
    a.copy(R14, RAX);
    a.rr(true, &[0xc1], 7, R14);
    a.bytes(&[47]);
    a.rr(true, &[0xff], 0, R14);
    a.rr(true, &[0x83], 7, R14);
    a.bytes(&[1]);
    a.jump_if(ABOVE, astray);
    a.jump(miss);
    a.bind(astray);
    spill(&mut a);
    a.load_immediate(RAX, ASTRAY as u64);
    a.jump(epilogue);

    s.lookup = a.here() as u64;
    a.bind(handler);
    poll(&mut a, miss);
    probe_jump(&mut a, miss);
    a.rm(false, &[0xff], 4, Mem::at(R14, JUMP_CODE));
    a.bind(miss);
    let mut leave = |why: u32, link: bool| {
        let at = a.here() as u64;
        if link {
            a.store(field!(link_tail), R14);
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
    (a.finish(Room::default()).unwrap_or_default().often, s)
}

const _: () = assert!(size_of::<T1>() < 4096);
