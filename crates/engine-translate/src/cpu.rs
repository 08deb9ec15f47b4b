//! The state of one vCPU.

use crate::fault::{Fault, Guest, Raised};
use crate::op::Op;
use crate::remote::{Remote, Shared};
use crate::tlb::Tlb;
use crate::vector::VectorState;
use engine::Bus;
use std::ptr::NonNull;
use std::sync::Arc;
use x86::segment::Table;
use x86::{Cr0, Cr4, Efer, Exception, Rflags, Segment};

/// Indices into [`Cpu::regs`].
pub const RAX: usize = 0;
pub const RCX: usize = 1;
pub const RDX: usize = 2;
pub const RBX: usize = 3;
pub const RSP: usize = 4;
pub const RBP: usize = 5;
pub const RSI: usize = 6;
pub const RDI: usize = 7;
/// Always zero: the base or index of an address that has none.
pub const ZERO: usize = 16;
/// While a block runs: the RIP of its first instruction. Between blocks: RIP.
pub const RIP: usize = 17;

/// Indices into [`Cpu::seg_base`] and [`Cpu::seg`], as instructions encode them.
pub const ES: usize = 0;
pub const CS: usize = 1;
pub const SS: usize = 2;
pub const DS: usize = 3;
pub const FS: usize = 4;
pub const GS: usize = 5;

/// What a block's code depends on beyond its bytes: part of the block's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Mode(pub u8);

impl Mode {
    /// Default operand and address size of code: exactly one of these three.
    pub const CODE16: u8 = 1;
    pub const CODE32: u8 = 2;
    pub const CODE64: u8 = 4;
    /// SS.B in 16- and 32-bit code: the stack pointer is ESP.
    pub const STACK32: u8 = 8;
    /// 16/32-bit code: CS, DS, ES and SS all have base 0, limit 4 GiB, and are present, readable and (but for CS) writable: no
    /// segment checks are needed through those four. Always set in 64-bit code.
    pub const FLAT: u8 = 16;
    /// 64-bit code at CPL 3 whose address space has a [window](crate::tlb::windows), which is installed.
    pub const WINDOWS: u8 = 32;

    pub fn is64(self) -> bool {
        self.0 & Self::CODE64 != 0
    }
    pub fn is16(self) -> bool {
        self.0 & Self::CODE16 != 0
    }
    /// Code size in bits, as a decoder wants it.
    pub fn bits(self) -> u32 {
        if self.is64() {
            64
        } else if self.is16() {
            16
        } else {
            32
        }
    }
    /// Mask of the stack pointer's width.
    pub fn stack_mask(self) -> u64 {
        if self.is64() {
            u64::MAX
        } else if self.0 & Self::STACK32 != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }
    /// Mask of the instruction pointer's width.
    pub fn rip_mask(self) -> u64 {
        if self.is64() { u64::MAX } else { 0xffff_ffff }
    }
}

/// One vCPU. Owned by its thread; everything other threads touch is in [`Remote`].
#[repr(C, align(64))]
pub struct Cpu {
    /// RAX to R15, [`ZERO`], [`RIP`].
    pub regs: [u64; 18],
    /// CF, PF, AF, ZF, SF as LAHF gives them in bits 15:8; OF in bit 0. See [`crate::exec::flags`].
    pub status: u16,
    /// Current privilege level.
    pub cpl: u8,
    /// Derived; [`Cpu::update_mode`] after any change of CS, SS, DS, ES, CR0.PE, EFER.LMA, RFLAGS.VM.
    pub mode: Mode,
    /// The TLB entries that data accesses look at: those of `tlb_select`, or ones that never match where alignment is checked.
    pub(crate) tlb_entries: crate::tlb::Entries,
    /// Which TLB data accesses use; [`Cpu::update_tlb_select`] after any change of CPL, AC, CR0.AM, CR4.SMAP.
    pub tlb_select: u8,
    /// Data accesses at CPL 3 check alignment (CR0.AM and RFLAGS.AC); derived like `tlb_select`.
    pub alignment_check: bool,
    /// CS's limit when 16- or 32-bit code last ran: what the jump cache's blocks of such code were decoded within.
    pub code_limit: u32,
    /// Interrupts wait one more instruction (after STI, MOV SS, POP SS).
    pub interrupt_shadow: bool,
    /// RFLAGS but for the status flags: TF, IF, DF, IOPL, NT, RF, VM, AC, VIF, VIP, ID.
    pub system_flags: Rflags,
    /// Linear bases added to offsets: ES, CS, SS, DS, FS, GS, and index 6 always 0. In 64-bit code only FS and GS are not 0.
    pub seg_base: [u64; 8],
    /// What translated code and its surroundings share.
    pub t1: crate::t1::T1,
    pub tlb: Box<Tlb>,
    /// Why the last `Err(Raised)`.
    pub fault: Option<Fault>,

    /// Segment registers with hidden parts; after a change call [`Cpu::update_mode`].
    pub seg: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: Table,
    pub idtr: Table,
    pub cr0: Cr0,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: Cr4,
    pub efer: Efer,
    /// DR0 to DR3, DR6, DR7.
    pub dr: [u64; 6],
    /// The FPU and vector state.
    pub vector: VectorState,
    /// MSRs and what else only `system/` looks at.
    pub sys: crate::system::SystemState,

    /// The next block holds one instruction and ignores the block cache: TF, breakpoints, [`Fault::Restart`].
    pub single: bool,
    /// Pages of the block being executed (physical page numbers): writes to them restart as `single`.
    pub executing: [u64; 2],
    pub blocks: Box<crate::block::BlockCache>,
    /// This vCPU's part in freeing evicted code, and the epoch it has shown there ([`crate::cache`]).
    pub(crate) reader: Arc<crate::cache::epoch::Reader>,
    pub(crate) code_epoch: u64,
    /// The epoch that everything in its caches is from.
    pub(crate) caches_epoch: u64,
    /// Which address spaces have windows, and whether that pays.
    pub(crate) windows: crate::windows::Policy,
    /// Instructions executed.
    pub retired: u64,

    pub id: u32,
    pub shared: Arc<Shared>,
    pub remote: Arc<Remote>,
    /// Whether T0 and T1 run in step, and the other side's state.
    pub(crate) in_step: crate::lockstep::Step,
    pub(crate) lockstep: Option<Box<crate::lockstep::Lockstep>>,
    /// What was written where, if that is to be noted.
    pub(crate) journal: Option<Box<crate::lockstep::Journal>>,
    /// The board, while `run` is under way.
    pub(crate) bus: Option<NonNull<dyn Bus>>,
}

// SAFETY: the raw pointers in a Cpu are the board's, set and cleared within one `run` call, and those into guest memory and
// the block cache, which the Cpu itself keeps alive.
unsafe impl Send for Cpu {}

impl Cpu {
    /// Notes why an instruction can't complete.
    #[cold]
    pub fn raise<T>(&mut self, fault: Fault) -> Guest<T> {
        self.fault = Some(fault);
        Err(Raised)
    }
    /// Raises an exception.
    #[cold]
    pub fn exception<T>(&mut self, exception: Exception) -> Guest<T> {
        self.raise(Fault::Exception(exception))
    }
    /// Raises #UD.
    #[cold]
    pub fn ud<T>(&mut self) -> Guest<T> {
        self.exception(Exception::ud())
    }
    /// Raises #GP(code).
    #[cold]
    pub fn gp<T>(&mut self, code: u32) -> Guest<T> {
        self.exception(Exception::gp(code))
    }
    /// RIP of the instruction itself.
    #[inline]
    pub fn this_rip(&self, op: &Op) -> u64 {
        self.regs[RIP].wrapping_add(op.offset as u64) & self.mode.rip_mask()
    }
    /// RIP of the instruction after it.
    #[inline]
    pub fn next_rip(&self, op: &Op) -> u64 {
        self.regs[RIP].wrapping_add(op.offset as u64 + op.len as u64) & self.mode.rip_mask()
    }
    /// In long mode (EFER.LMA), 64-bit or compatibility.
    #[inline]
    pub fn long_mode(&self) -> bool {
        self.efer.contains(Efer::LMA)
    }
    /// Protected mode and not virtual-8086.
    #[inline]
    pub fn protected(&self) -> bool {
        self.cr0.contains(Cr0::PE) && !self.system_flags.contains(Rflags::VM)
    }
    #[inline]
    pub fn v86(&self) -> bool {
        self.system_flags.contains(Rflags::VM)
    }

    /// Recomputes [`Cpu::mode`] and [`Cpu::seg_base`] from the segment registers, then the TLB selection.
    pub fn update_mode(&mut self) {
        let cs = &self.seg[CS];
        let mut m;
        if self.long_mode() && cs.long() {
            m = Mode::CODE64 | Mode::FLAT;
            self.seg_base = [0, 0, 0, 0, self.seg[FS].base, self.seg[GS].base, 0, 0];
        } else {
            m = if cs.big() { Mode::CODE32 } else { Mode::CODE16 };
            if std::mem::replace(&mut self.code_limit, cs.limit) != cs.limit {
                // Blocks found by their address only were decoded within the old limit.
                self.tlb.forget_jumps();
            }
            if self.seg[SS].big() {
                m |= Mode::STACK32;
            }
            for (base, s) in self.seg_base.iter_mut().zip(&self.seg) {
                *base = s.base;
            }
            let flat = |s: &Segment| {
                s.base == 0
                    && s.limit == u32::MAX
                    && s.present()
                    && !s.unusable
                    && (s.is_code() && s.readable_or_writable() || s.attributes & 0x1e == 0x12/* data, writable, expand-up */)
            };
            let data = |s: &Segment| flat(s) && !s.is_code();
            if flat(cs) && data(&self.seg[DS]) && data(&self.seg[ES]) && data(&self.seg[SS]) {
                m |= Mode::FLAT;
            }
        }
        self.mode = Mode(m);
        if !self.mode.is64() {
            self.update_rooms();
        }
        self.update_tlb_select();
    }

    /// Recomputes which TLB data accesses use.
    pub fn update_tlb_select(&mut self) {
        let ac = self.system_flags.contains(Rflags::AC);
        self.alignment_check = self.cpl == 3 && ac && self.cr0.contains(Cr0::AM);
        self.select_tlb(if self.cpl == 3 {
            crate::tlb::USER
        } else if self.cr4.contains(Cr4::SMAP) && !ac {
            crate::tlb::SUPERVISOR
        } else {
            crate::tlb::SUPERVISOR_ANY
        });
    }

    /// Sets which TLB data accesses use.
    #[inline]
    pub fn select_tlb(&mut self, select: u8) {
        self.tlb_select = select;
        self.tlb_entries =
            if self.alignment_check { crate::tlb::Tlb::nothing() } else { self.tlb.set(select) };
        self.mode.0 &= !Mode::WINDOWS;
        if select == crate::tlb::USER {
            if self.tlb.left_window() {
                self.find_window();
            }
            if self.tlb.has_window() && self.ready_window() {
                self.mode.0 |= Mode::WINDOWS;
            }
        }
    }
}
