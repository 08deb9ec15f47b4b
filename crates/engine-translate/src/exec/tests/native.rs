//! Every integer instruction of 64-bit code with registers and memory of random contents, here and on the processor.

use crate::cpu::{RAX, RCX, RDI, RIP, RSI, RSP};
use crate::fault::Fault;
use crate::placed::Placed;
use crate::testing::{self, CODE, DATA};
use crate::vendor;
use iced_x86::{Code, CpuidFeature, Encoder, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register};
use std::arch::asm;
use std::sync::Mutex;

/// Bytes of memory both sides see; operands lie around its middle.
const BUFFER: usize = 4096;
const MIDDLE: usize = BUFFER / 2;

/// Registers and flags, in and out; what the thunk needs beside.
#[repr(C)]
struct Thunk {
    regs: [u64; 16],
    flags: u64,
    host_sp: u64,
    entry: u64,
}
static mut THUNK: Thunk = Thunk { regs: [0; 16], flags: 0, host_sp: 0, entry: 0 };
static LOCK: Mutex<()> = Mutex::new(());

/// A page for code, readable, writable and executable.
fn code_page() -> *mut u8 {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    // SAFETY: a new mapping, never unmapped.
    unsafe {
        let all = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
        mmap_anonymous(std::ptr::null_mut(), 4096, all, MapFlags::PRIVATE).unwrap().cast()
    }
}

/// Runs one instruction on the processor.
///
/// # Safety
/// The instruction touches nothing but registers and the memory that they point to.
unsafe fn on_host(page: *mut u8, code: &[u8], regs: &mut [u64; 16], flags: &mut u64) {
    // SAFETY: the caller's instruction, between loads and stores of all registers; THUNK is under LOCK.
    unsafe {
        page.copy_from(code.as_ptr(), code.len());
        // jmp [rip+0], to the address behind it.
        let slot = page.add(code.len());
        slot.copy_from([0xff, 0x25, 0, 0, 0, 0].as_ptr(), 6);
        let thunk = &raw mut THUNK;
        (*thunk).regs = *regs;
        (*thunk).flags = *flags;
        (*thunk).entry = page as u64;
        asm!(
            "push rbx", "push rbp",
            "lea rax, [rip + 2f]", "mov [rdi], rax",
            "mov [rip + {t} + 136], rsp",
            "push qword ptr [rip + {t} + 128]", "popfq",
            "mov rax, [rip + {t}]", "mov rcx, [rip + {t} + 8]", "mov rdx, [rip + {t} + 16]",
            "mov rbx, [rip + {t} + 24]", "mov rsp, [rip + {t} + 32]", "mov rbp, [rip + {t} + 40]",
            "mov rsi, [rip + {t} + 48]", "mov rdi, [rip + {t} + 56]", "mov r8, [rip + {t} + 64]",
            "mov r9, [rip + {t} + 72]", "mov r10, [rip + {t} + 80]", "mov r11, [rip + {t} + 88]",
            "mov r12, [rip + {t} + 96]", "mov r13, [rip + {t} + 104]", "mov r14, [rip + {t} + 112]",
            "mov r15, [rip + {t} + 120]",
            "jmp qword ptr [rip + {t} + 144]",
            "2:",
            "mov [rip + {t}], rax", "mov [rip + {t} + 8], rcx", "mov [rip + {t} + 16], rdx",
            "mov [rip + {t} + 24], rbx", "mov [rip + {t} + 32], rsp", "mov [rip + {t} + 40], rbp",
            "mov [rip + {t} + 48], rsi", "mov [rip + {t} + 56], rdi", "mov [rip + {t} + 64], r8",
            "mov [rip + {t} + 72], r9", "mov [rip + {t} + 80], r10", "mov [rip + {t} + 88], r11",
            "mov [rip + {t} + 96], r12", "mov [rip + {t} + 104], r13", "mov [rip + {t} + 112], r14",
            "mov [rip + {t} + 120], r15",
            "mov rsp, [rip + {t} + 136]",
            "pushfq", "pop qword ptr [rip + {t} + 128]",
            "cld", "pop rbp", "pop rbx",
            t = sym THUNK,
            inout("rdi") slot.add(6) => _,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
        *regs = (*thunk).regs;
        *flags = (*thunk).flags;
    }
}

/// Xorshift64*: the same numbers in every run.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// Interesting values more often than not.
    fn value(&mut self) -> u64 {
        let v = self.next();
        match self.next() % 8 {
            0 => v & 0x3f,
            1 => (v as i8) as u64,
            2 => [0, 1, u64::MAX, 1 << 63, 1 << 31, 0x7fff_ffff, 0x80, 0x7f, 0x8000, 0xffff][v as usize % 10],
            3 => 1 << (v & 63),
            4 => (v as u32) as u64,
            5 => (v as i32) as u64,
            _ => v,
        }
    }
}

/// Registers that aren't pointers in these tests.
const FREE: [usize; 12] = [0, 1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 15];
const POINTER: Register = Register::R14;

fn register(random: &mut Random, size: u32, no_high: bool) -> Register {
    let n = FREE[random.next() as usize % FREE.len()] as u32;
    match size {
        1 if n < 4 && !no_high && random.next() & 1 != 0 => Register::AH + n,
        1 if n < 4 => Register::AL + n,
        1 => Register::AL + n + 4,
        2 => Register::AX + n,
        4 => Register::EAX + n,
        _ => Register::RAX + n,
    }
}

fn set_memory(i: &mut Instruction, n: u32, random: &mut Random) {
    i.set_op_kind(n, OpKind::Memory);
    i.set_memory_base(POINTER);
    i.set_memory_displacement64(((random.next() % 64) as i64 - 32) as u64);
    i.set_memory_displ_size(1);
}

/// An instance of `code` with random operands; `None` for operands these tests don't know.
fn instance(code: Code, random: &mut Random) -> Option<Instruction> {
    use OpCodeOperandKind as K;
    let info = code.op_code();
    let mut i = Instruction::default();
    i.set_code(code);
    let memory = random.next() & 1 != 0;
    for n in 0..info.op_count() {
        let reg_or_mem = |i: &mut Instruction, size, random: &mut Random| {
            if memory {
                set_memory(i, n, random);
            } else {
                i.set_op_kind(n, OpKind::Register);
                i.set_op_register(n, register(random, size, true));
            }
        };
        let reg = |i: &mut Instruction, r| {
            i.set_op_kind(n, OpKind::Register);
            i.set_op_register(n, r);
        };
        let imm = random.value();
        match info.op_kind(n) {
            K::r8_or_mem => reg_or_mem(&mut i, 1, random),
            K::r16_or_mem => reg_or_mem(&mut i, 2, random),
            K::r32_or_mem => reg_or_mem(&mut i, 4, random),
            K::r64_or_mem => reg_or_mem(&mut i, 8, random),
            K::mem => set_memory(&mut i, n, random),
            K::r8_reg | K::r8_opcode => reg(&mut i, register(random, 1, memory)),
            K::r16_reg | K::r16_opcode => reg(&mut i, register(random, 2, true)),
            K::r32_reg | K::r32_opcode | K::r32_vvvv | K::r32_rm => reg(&mut i, register(random, 4, true)),
            K::r64_reg | K::r64_opcode | K::r64_vvvv | K::r64_rm => reg(&mut i, register(random, 8, true)),
            K::al => reg(&mut i, Register::AL),
            K::cl => reg(&mut i, Register::CL),
            K::ax => reg(&mut i, Register::AX),
            K::eax => reg(&mut i, Register::EAX),
            K::rax => reg(&mut i, Register::RAX),
            K::imm8_const_1 | K::imm8 => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(if info.op_kind(n) == K::imm8 { imm as u8 } else { 1 });
            }
            K::imm8sex16 => {
                i.set_op_kind(n, OpKind::Immediate8to16);
                i.set_immediate8to16(imm as i8 as i16);
            }
            K::imm8sex32 => {
                i.set_op_kind(n, OpKind::Immediate8to32);
                i.set_immediate8to32(imm as i8 as i32);
            }
            K::imm8sex64 => {
                i.set_op_kind(n, OpKind::Immediate8to64);
                i.set_immediate8to64(imm as i8 as i64);
            }
            K::imm16 => {
                i.set_op_kind(n, OpKind::Immediate16);
                i.set_immediate16(imm as u16);
            }
            K::imm32 => {
                i.set_op_kind(n, OpKind::Immediate32);
                i.set_immediate32(imm as u32);
            }
            K::imm32sex64 => {
                i.set_op_kind(n, OpKind::Immediate32to64);
                i.set_immediate32to64(imm as i32 as i64);
            }
            K::imm64 => {
                i.set_op_kind(n, OpKind::Immediate64);
                i.set_immediate64(imm);
            }
            K::seg_rSI => i.set_op_kind(n, OpKind::MemorySegRSI),
            K::es_rDI => i.set_op_kind(n, OpKind::MemoryESRDI),
            _ => return None,
        }
    }
    if info.can_use_lock_prefix() && i.op0_kind() == OpKind::Memory && random.next() & 1 != 0 {
        i.set_has_lock_prefix(true);
    }
    if i.has_lock_prefix() || code.mnemonic() == Mnemonic::Xchg {
        // Within a cache line: hosts punish locked accesses across.
        i.set_memory_displacement64(i.memory_displacement64() % 56);
    }
    if i.is_string_instruction() {
        match random.next() % 3 {
            0 if info.can_use_rep_prefix() || info.can_use_repne_prefix() => i.set_has_rep_prefix(true),
            1 if info.can_use_repne_prefix() => i.set_has_repne_prefix(true),
            _ => {}
        }
    }
    Some(i)
}

/// Codes these tests can run: 64-bit code, integer, no branch, nothing privileged or that isn't repeatable.
fn codes() -> impl Iterator<Item = Code> {
    use CpuidFeature as F;
    use Mnemonic::*;
    Code::values().filter(|c| {
        let info = c.op_code();
        let features = c.cpuid_features();
        let known = features.iter().all(|f| {
            let intel = matches!(
                f,
                F::INTEL8086
                    | F::INTEL186
                    | F::INTEL386
                    | F::INTEL486
                    | F::X64
                    | F::CMOV
                    | F::CX8
                    | F::CMPXCHG16B
                    | F::MOVBE
                    | F::POPCNT
                    | F::LZCNT
                    | F::BMI1
                    | F::BMI2
                    | F::ADX
                    | F::MULTIBYTENOP
                    | F::SSE4_2
            );
            intel
        });
        let excluded = matches!(
            c.mnemonic(),
            Pcmpgtq | Popf | Popfq | Pushf | Pushfq | Enter | Leave
                // Its result is an address, which isn't the same on both sides.
                | Lea
                // Descriptor tables and segments are the host's own.
                | Sldt | Str | Verr | Verw | Sgdt | Sidt | Smsw | Lar | Lsl | Lss | Lfs | Lgs
        );
        known
            && info.is_instruction()
            && info.mode64()
            && !excluded
            && !info.is_privileged()
            && matches!(c.flow_control(), iced_x86::FlowControl::Next)
            && info.address_size() != 32
    })
}

#[repr(align(4096))]
struct Buffer([u8; BUFFER]);

struct Case {
    cpu: Placed,
    page: *mut u8,
    host: Box<Buffer>,
    encoder: Encoder,
    random: Random,
}

impl Case {
    /// Runs an instruction here and there; what differs, as text.
    fn run(&mut self, i: &Instruction) -> Result<bool, String> {
        let (cpu, random) = (&mut self.cpu, &mut self.random);
        let encoded = self.encoder.encode(i, CODE);
        let code = self.encoder.take_buffer();
        // AH and its like have no encoding beside R8 to R15.
        if encoded.is_err() {
            return Ok(false);
        }
        let host = self.host.0.as_mut_ptr() as u64;
        let mut regs = [0u64; 16];
        regs.fill_with(|| random.value());
        if i.is_string_instruction() {
            regs[RCX] %= 20;
        }
        // Bit strings: a register's offset stays within the buffer.
        if matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
            && i.op0_kind() == OpKind::Memory
            && i.op1_kind() == OpKind::Register
        {
            let r = i.op1_register().full_register().number();
            regs[r] = (regs[r] as i64 % 4000) as u64;
        }
        let pointers = [
            (14, MIDDLE as u64),
            (RSI, MIDDLE as u64 + 300),
            (RDI, MIDDLE as u64 + 250 + random.next() % 100),
            (RSP, MIDDLE as u64 + 1024),
        ];
        let mut memory = [0u8; BUFFER];
        for chunk in memory.chunks_mut(8) {
            let v = random.value();
            chunk.copy_from_slice(&v.to_le_bytes());
        }
        let flags = random.next() & 0xcd5 | 0x202;
        // CMPXCHG should succeed now and then.
        if matches!(i.mnemonic(), Mnemonic::Cmpxchg)
            && i.op0_kind() == OpKind::Memory
            && random.next() & 1 != 0
        {
            let at = MIDDLE.wrapping_add(i.memory_displacement64() as usize);
            regs[RAX] = u64::from_le_bytes(memory[at..at + 8].try_into().unwrap());
        }
        if matches!(i.mnemonic(), Mnemonic::Cmpxchg16b) && !i.memory_displacement64().is_multiple_of(16) {
            return Ok(false);
        }
        for (r, at) in pointers {
            regs[r] = at;
        }
        cpu.regs[..16].copy_from_slice(&regs);
        for (r, _) in pointers {
            cpu.regs[r] += DATA;
            regs[r] += host;
        }
        cpu.regs[RIP] = CODE;
        cpu.set_rflags(flags);
        testing::poke(cpu, CODE, &code);
        testing::poke(cpu, DATA, &memory);
        self.host.0.copy_from_slice(&memory);
        // #UD on AMD's processors, so that there is nothing to run.
        let not_on_amd = matches!(
            i.code(),
            Code::Reservednop_rm16_r16_0F0D
                | Code::Reservednop_rm32_r32_0F0D
                | Code::Reservednop_rm64_r64_0F0D
        );
        if not_on_amd && i.op0_kind() == OpKind::Register && vendor::amd() {
            return match testing::step(cpu) {
                Err(Fault::Exception(e)) if e.vector == x86::Vector::UD => Ok(true),
                other => Err(format!("{i}: {other:?} should be #UD")),
            };
        }
        let mut steps = 0;
        loop {
            match testing::step(cpu) {
                // The same would be a signal here.
                Err(Fault::Exception(e)) if e.vector == x86::Vector::DE => return Ok(true),
                Err(e) => return Err(format!("{i}: {e:?}")),
                Ok(()) if cpu.regs[RIP] == CODE + code.len() as u64 => break,
                Ok(()) => steps += 1,
            }
            assert!(steps < 100, "{i}");
        }
        let mut host_flags = flags;
        let before = regs;
        // SAFETY: codes() lets nothing else pass.
        unsafe { on_host(self.page, &code, &mut regs, &mut host_flags) };
        let mut wrong = String::new();
        for n in 0..16 {
            let pointer = pointers.iter().any(|(r, _)| *r == n);
            let there = if pointer { regs[n].wrapping_sub(host).wrapping_add(DATA) } else { regs[n] };
            if cpu.regs[n] != there {
                wrong += &format!(" r{n} {:#x} should be {there:#x} (was {:#x});", cpu.regs[n], before[n]);
            }
        }
        let mut mask = 0x8d5 | 0x400;
        if matches!(i.mnemonic(), Mnemonic::Rol | Mnemonic::Ror) && i.op1_kind() == OpKind::Immediate8 {
            // Undefined but for a count of one, and not the same as for a count in CL.
            mask &= !0x800;
        }
        if cpu.rflags() & mask != host_flags & mask {
            wrong += &format!(
                " flags {:#x} should be {:#x} (were {flags:#x});",
                cpu.rflags() & mask,
                host_flags & mask
            );
        }
        let mine = testing::peek(cpu, DATA, BUFFER);
        if let Some(at) = (0..BUFFER).find(|n| mine[*n] != self.host.0[*n]) {
            wrong += &format!(" memory at {at:#x} {:#x} should be {:#x};", mine[at], self.host.0[at]);
        }
        if wrong.is_empty() { Ok(true) } else { Err(format!("{i} [{code:02x?}]:{wrong}")) }
    }
}

#[test]
fn integer_instructions_with_random_operands_match_the_processor() {
    let _guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    let mut case = Case {
        cpu: testing::cpu64(&[]),
        page: code_page(),
        host: Box::new(Buffer([0; BUFFER])),
        encoder: Encoder::new(64),
        random: Random(0x9e37_79b9_7f4a_7c15),
    };
    let (mut tried, mut instructions) = (0, 0);
    let mut failures: Vec<String> = Vec::new();
    for code in codes() {
        let mut here = 0;
        for _ in 0..150 {
            let Some(i) = instance(code, &mut case.random) else { break };
            match case.run(&i) {
                Ok(ran) => here += ran as u32,
                Err(e) => {
                    failures.push(format!("{code:?}: {e}"));
                    break;
                }
            }
        }
        tried += here;
        instructions += (here > 0) as u32;
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
    // Guards the generator: if it stops making cases, this test says nothing.
    assert!(instructions > 400, "only {instructions} instructions, {tried} cases");
}
