//! System instructions that kernels execute at every turn, done in place where nothing is odd about them.

use super::asm::{EQUAL, Label, Mem, NOT_EQUAL, R14, RAX};
use super::compile::Compiler;
use super::flags::{Flags, STATUS};
use super::registers::{ACCUMULATOR, STACK};
use super::runtime::field;
use crate::cpu::{Cpu, GS, RCX, RDX};
use crate::system::SystemState;
use iced_x86::{Code, Instruction};
use std::mem::offset_of;
use x86::{Cr4, Rflags, Segment};

const SYSTEM_FLAGS: Mem = Mem::cpu(offset_of!(Cpu, system_flags));
const INTERRUPTS: u32 = Rflags::IF.bits() as u32;
/// What POPF changes and has consequences, IF apart.
const ODD: u32 = Rflags::TF
    .union(Rflags::DF)
    .union(Rflags::IOPL)
    .union(Rflags::NT)
    .union(Rflags::RF)
    .union(Rflags::VM)
    .union(Rflags::AC)
    .union(Rflags::VIF)
    .union(Rflags::VIP)
    .union(Rflags::ID)
    .bits() as u32;

/// A field of [`SystemState`] in the vCPU.
macro_rules! system {
    ($name:ident) => {
        Mem::cpu(offset_of!(Cpu, sys) + offset_of!(SystemState, $name))
    };
}

impl Compiler<'_> {
    /// An instruction with one behind it. `None` if it is none of these.
    pub fn system(&mut self, k: usize, i: &Instruction) -> Option<()> {
        match i.code() {
            Code::Swapgs => {
                let slow = self.begin_system(k);
                self.require_cpl0(slow);
                let active = [
                    Mem::cpu(offset_of!(Cpu, seg_base) + GS * 8),
                    Mem::cpu(offset_of!(Cpu, seg) + GS * size_of::<Segment>() + offset_of!(Segment, base)),
                ];
                self.a.load(RAX, active[0]);
                self.a.load(R14, system!(kernel_gs_base));
                active.into_iter().for_each(|m| self.a.store(m, R14));
                self.a.store(system!(kernel_gs_base), RAX);
                self.finish_system(slow);
            }
            Code::Cli => {
                let slow = self.begin_system(k);
                self.require_cpl0(slow);
                // and dword [system_flags], ~IF
                self.a.rm(false, &[0x81], 4, SYSTEM_FLAGS);
                self.a.bytes(&(!INTERRUPTS).to_le_bytes());
                self.finish_system(slow);
            }
            // Where code counts, it may be to be compared with the interpreter's.
            Code::Rdtsc | Code::Rdtscp if !self.shared.counting => self.read_counter(k, i),
            Code::Pushfq => {
                let slow = self.begin_system(k);
                // From STATUS's order: the low byte is in its high one, OF in bit 0.
                self.a.rm(false, &[0x0f, 0xb7], RAX, STATUS);
                self.a.rr(false, &[0x8b], R14, RAX);
                // and eax, 1; shl eax, 11; shr r14d, 8; or eax, r14d
                self.a.bytes(&[0x83, 0xe0, 1, 0xc1, 0xe0, 11]);
                self.a.rr(false, &[0xc1], 5, R14);
                self.a.bytes(&[8]);
                self.a.rr(false, &[0x0b], RAX, R14);
                self.a.rm(false, &[0x8b], R14, SYSTEM_FLAGS);
                self.a.rr(false, &[0x81], 4, R14);
                self.a.bytes(&(!(Rflags::VM | Rflags::RF).bits() as u32).to_le_bytes());
                self.a.rr(false, &[0x0b], RAX, R14);
                self.a.store(field!(target_rip), RAX);
                let ea = self.stack(STACK, -8);
                self.check(&ea, 8, 1, true, slow);
                let m = self.host(&ea, true);
                self.a.load(RAX, field!(target_rip));
                self.a.store(m, RAX);
                self.a.lea(STACK, Mem::at(STACK, -8));
                self.finish_system(slow);
            }
            _ => return None,
        }
        Some(())
    }

    /// A block's last instruction. `None` if it is none of these.
    pub fn system_end(&mut self, k: usize, i: &Instruction, next: i32) -> Option<()> {
        match i.code() {
            Code::Sti => {
                let slow = self.begin_system(k);
                self.require_cpl0(slow);
                let done = self.a.label();
                // test dword [system_flags], IF
                self.a.rm(false, &[0xf7], 0, SYSTEM_FLAGS);
                self.a.bytes(&INTERRUPTS.to_le_bytes());
                self.a.jump_if(NOT_EQUAL, done);
                self.require_nothing_waiting(slow);
                self.a.rm(false, &[0x81], 1, SYSTEM_FLAGS);
                self.a.bytes(&INTERRUPTS.to_le_bytes());
                // mov byte [interrupt_shadow], 1
                self.a.rm(false, &[0xc6], 0, Mem::cpu(offset_of!(Cpu, interrupt_shadow)));
                self.a.bytes(&[1]);
                self.a.bind(done);
            }
            Code::Popfq => {
                let slow = self.begin_system(k);
                self.require_cpl0(slow);
                let ea = self.stack(STACK, 0);
                self.check(&ea, 8, 1, false, slow);
                let m = self.host(&ea, false);
                self.a.load(RAX, m);
                self.a.rm(false, &[0x8b], R14, SYSTEM_FLAGS);
                self.a.rr(false, &[0x33], R14, RAX);
                // test r14d, ODD
                self.a.rr(false, &[0xf7], 0, R14);
                self.a.bytes(&ODD.to_le_bytes());
                self.a.jump_if(NOT_EQUAL, slow);
                let same = self.a.label();
                self.a.rr(false, &[0xf7], 0, R14);
                self.a.bytes(&INTERRUPTS.to_le_bytes());
                self.a.jump_if(EQUAL, same);
                self.require_nothing_waiting(slow);
                // xor dword [system_flags], IF
                self.a.rm(false, &[0x81], 6, SYSTEM_FLAGS);
                self.a.bytes(&INTERRUPTS.to_le_bytes());
                self.a.bind(same);
                // To STATUS's order. mov r14d, eax; shr r14d, 11; and r14d, 1
                self.a.rr(false, &[0x8b], R14, RAX);
                self.a.rr(false, &[0xc1], 5, R14);
                self.a.bytes(&[11]);
                self.a.rr(false, &[0x83], 4, R14);
                self.a.bytes(&[1]);
                // and eax, 0xd5; or eax, 2; shl eax, 8; or eax, r14d; mov [status], ax
                self.a.bytes(&[0x25, 0xd5, 0, 0, 0, 0x83, 0xc8, 2, 0xc1, 0xe0, 8]);
                self.a.rr(false, &[0x0b], RAX, R14);
                self.a.bytes(&[0x66]);
                self.a.rm(false, &[0x89], RAX, STATUS);
                self.a.lea(STACK, Mem::at(STACK, 8));
            }
            _ => return None,
        }
        self.flags = Flags::Saved;
        self.edge(next);
        Some(())
    }

    /// RDTSC and RDTSCP, unless CR4.TSD has a say.
    fn read_counter(&mut self, k: usize, i: &Instruction) {
        let slow = self.begin_system(k);
        // test byte [cr4], TSD
        self.a.rm(false, &[0xf6], 0, Mem::cpu(offset_of!(Cpu, cr4)));
        self.a.bytes(&[Cr4::TSD.bits() as u8]);
        self.a.jump_if(NOT_EQUAL, slow);
        // rdtsc, the guest's RDX and RCX being the host's; shl rdx, 32; or rdx, rax
        self.a.bytes(&[0x0f, 0x31, 0x48, 0xc1, 0xe2, 32]);
        self.a.rr(true, &[0x0b], RDX as u8, RAX);
        self.a.rm(true, &[0x03], RDX as u8, system!(tsc_offset));
        // mov r12d, edx; shr rdx, 32
        self.a.rr(false, &[0x8b], ACCUMULATOR, RDX as u8);
        self.a.bytes(&[0x48, 0xc1, 0xea, 32]);
        if i.code() == Code::Rdtscp {
            self.a.load(RCX as u8, system!(tsc_aux));
        }
        self.finish_system(slow);
    }

    fn begin_system(&mut self, k: usize) -> Label {
        self.save_flags();
        self.slow(k)
    }
    fn finish_system(&mut self, slow: Label) {
        self.flags = Flags::Saved;
        self.resume(slow);
    }

    /// Goes to `slow` but at CPL 0.
    fn require_cpl0(&mut self, slow: Label) {
        // cmp byte [cpl], 0
        self.a.rm(false, &[0x80], 7, Mem::cpu(offset_of!(Cpu, cpl)));
        self.a.bytes(&[0]);
        self.a.jump_if(NOT_EQUAL, slow);
    }

    /// Goes to `slow` where an event waits for interrupts to be allowed.
    fn require_nothing_waiting(&mut self, slow: Label) {
        self.a.rm(false, &[0x83], 7, system!(waiting));
        self.a.bytes(&[0]);
        self.a.jump_if(NOT_EQUAL, slow);
    }
}

const _: () = assert!(size_of::<Rflags>() == 8 && Cr4::TSD.bits() < 256);
