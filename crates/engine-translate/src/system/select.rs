//! From a decoded system instruction to its handler.

use super::*;
use crate::cpu::Mode;
use crate::decode::Lowered;
use crate::op::{Exec, Op};
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// Chooses the handler for a system instruction; `None` if it isn't one.
pub fn select(i: &Instruction, op: &mut Op, _: Mode) -> Option<Lowered> {
    use Mnemonic as M;
    // Register operands by number: the first in `a`, the second in `b`.
    let register = |n: u32| (i.op_count() > n && i.op_kind(n) == OpKind::Register).then(|| i.op_register(n));
    if let Some(r) = register(0) {
        op.a = r.number() as u8;
        op.size = r.size() as u8;
    }
    if let Some(r) = register(1) {
        op.b = r.number() as u8;
    }
    let m = i.mnemonic();
    match m {
        M::Mov => return select_mov(op, register(0)?, register(1)),
        M::Push | M::Pop => {
            register(0).filter(|r| r.is_segment_register())?;
            op.size = i.stack_pointer_increment().unsigned_abs() as u8;
            if m == M::Push {
                return Lowered::next(segments::push);
            }
            // What follows may run in another mode, or in SS's shadow.
            return Lowered::end(segments::pop);
        }
        M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs => {
            op.extra = match m {
                M::Les => 0,
                M::Lss => 2,
                M::Lds => 3,
                M::Lfs => 4,
                _ => 5,
            };
            return Lowered::end(segments::load_far);
        }
        M::Lgdt | M::Lidt => {
            op.size = match i.code() {
                Code::Lgdt_m1664 | Code::Lidt_m1664 => 8,
                Code::Lgdt_m1632 | Code::Lidt_m1632 => 4,
                _ => 2,
            };
            op.extra = if m == M::Lgdt { tables::GDT } else { tables::IDT };
            return Lowered::end(tables::load_table);
        }
        M::Sgdt | M::Sidt => {
            op.extra = if m == M::Sgdt { tables::GDT } else { tables::IDT };
            return Lowered::next(tables::store_table);
        }
        M::Sldt | M::Str => {
            op.extra = (m == M::Str) as u32;
            return Lowered::next(tables::store_selector);
        }
        M::Verr | M::Verw => {
            op.extra = (m == M::Verw) as u32;
            return Lowered::next(tables::verify);
        }
        M::Lldt => return Lowered::end(tables::lldt),
        M::Ltr => return Lowered::end(tables::ltr),
        M::Lar => return Lowered::next(tables::lar),
        M::Lsl => return Lowered::next(tables::lsl),
        M::Arpl => return Lowered::next(tables::arpl),
        M::Lmsw => return Lowered::end(control::lmsw),
        M::Smsw => return Lowered::next(control::smsw),
        M::Clts => return Lowered::next(control::clts),
        M::Invlpg => return Lowered::end(control::invlpg),
        M::Invpcid => return Lowered::end(control::invpcid),
        // Caches are coherent with everything.
        M::Invd | M::Wbinvd => return Lowered::end(privileged_nothing),
        M::Jmp | M::Call => return select_far(i, op, m == M::Call),
        M::Retf => {
            op.size = item_size(i.code());
            op.imm = if i.op_count() > 0 { i.immediate16() as u64 } else { 0 };
            return Lowered::set(returns::ret_far);
        }
        M::Iret | M::Iretd | M::Iretq => {
            op.size = item_size(i.code());
            return Lowered::set(returns::iret);
        }
        M::Int => op.imm = i.immediate8() as u64,
        M::Int3 => (op.imm, op.extra) = (3, 1),
        M::Into => (op.imm, op.extra) = (4, 1),
        M::Syscall => return Lowered::set(fast_call::syscall),
        M::Sysret | M::Sysretq => {
            op.size = if i.code() == Code::Sysretq { 8 } else { 4 };
            return Lowered::set(fast_call::sysret);
        }
        M::Sysenter => return Lowered::set(fast_call::sysenter),
        M::Sysexit | M::Sysexitq => {
            op.size = if i.code() == Code::Sysexitq { 8 } else { 4 };
            return Lowered::set(fast_call::sysexit);
        }
        M::Swapgs => return Lowered::next(fast_call::swapgs),
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => {
            op.extra = if matches!(m, M::Rdfsbase | M::Wrfsbase) { 4 } else { 5 };
            let read = matches!(m, M::Rdfsbase | M::Rdgsbase);
            return Lowered::next(if read { fast_call::read_base } else { fast_call::write_base });
        }
        M::Cli => return Lowered::next(flags::cli),
        M::Sti => return Lowered::end(flags::sti),
        M::Hlt => return Lowered::end(flags::hlt),
        M::Stac | M::Clac => {
            op.imm = (m == M::Stac) as u64;
            return Lowered::next(flags::set_ac);
        }
        M::In => return select_io(i, op, io::input, register(0)?, register(1)),
        M::Out => return select_io(i, op, io::output, register(1)?, register(0)),
        M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => return select_string(i, op, m),
        M::Rdtsc | M::Rdtscp => {
            op.imm = (m == M::Rdtscp) as u64;
            return Lowered::next(time::rdtsc);
        }
        M::Rdpid => return Lowered::next(time::rdpid),
        M::Rdpmc => return Lowered::next(time::rdpmc),
        M::Rdmsr => return Lowered::next(msrs::rdmsr),
        M::Wrmsr => return Lowered::end(msrs::wrmsr),
        M::Cpuid => return Lowered::end(cpuid::cpuid),
        M::Vmcall | M::Vmmcall => return Lowered::end(hypercall),
        _ => {}
    }
    match m {
        M::Int | M::Int3 => Lowered::set(interrupts::int),
        M::Into => Lowered::set(interrupts::into),
        M::Int1 => Lowered::set(interrupts::int1),
        M::Ud0 | M::Ud1 | M::Ud2 => Lowered::end(interrupts::undefined),
        _ => None,
    }
}

fn select_mov(op: &mut Op, first: Register, second: Option<Register>) -> Option<Lowered> {
    if first.is_cr() {
        op.size = second?.size() as u8;
        return Lowered::end(control::write_cr);
    }
    if first.is_dr() {
        op.size = second?.size() as u8;
        return Lowered::end(debug::write_dr);
    }
    if first.is_segment_register() {
        if first == Register::CS {
            return None;
        }
        return Lowered::end(segments::load);
    }
    let second = second?;
    if second.is_cr() {
        return Lowered::next(control::read_cr);
    }
    if second.is_dr() {
        return Lowered::next(debug::read_dr);
    }
    second.is_segment_register().then_some(())?;
    Lowered::next(segments::store)
}

/// Bytes an item of RET far and IRET.
fn item_size(code: Code) -> u8 {
    match code {
        Code::Retfw | Code::Retfw_imm16 | Code::Iretw => 2,
        Code::Retfq | Code::Retfq_imm16 | Code::Iretq => 8,
        _ => 4,
    }
}

fn select_far(i: &Instruction, op: &mut Op, call: bool) -> Option<Lowered> {
    op.size = match i.code() {
        Code::Jmp_ptr1616 | Code::Call_ptr1616 | Code::Jmp_m1616 | Code::Call_m1616 => 2,
        Code::Jmp_ptr1632 | Code::Call_ptr1632 | Code::Jmp_m1632 | Code::Call_m1632 => 4,
        Code::Jmp_m1664 | Code::Call_m1664 => 8,
        _ => return None,
    };
    if op.addr_size == 0 {
        op.extra = i.far_branch_selector() as u32;
        op.imm = if op.size == 2 { i.far_branch16() as u64 } else { i.far_branch32() as u64 };
    }
    Lowered::set(if call { far::call_far } else { far::jmp_far })
}

fn select_io(
    i: &Instruction,
    op: &mut Op,
    exec: Exec,
    data: Register,
    port: Option<Register>,
) -> Option<Lowered> {
    op.size = data.size() as u8;
    match port {
        Some(_) => op.extra = 1,
        None => op.imm = i.immediate8() as u64,
    }
    // A device may have kicked: the block ends, so that the board's decision is seen at once.
    Lowered::end(exec)
}

fn select_string(i: &Instruction, op: &mut Op, m: Mnemonic) -> Option<Lowered> {
    use Mnemonic as M;
    let out = matches!(m, M::Outsb | M::Outsw | M::Outsd);
    op.size = match m {
        M::Insb | M::Outsb => 1,
        M::Insw | M::Outsw => 2,
        _ => 4,
    };
    let memory = if out { i.op_kind(1) } else { i.op_kind(0) };
    op.b = match memory {
        OpKind::MemorySegSI | OpKind::MemoryESDI => 2,
        OpKind::MemorySegESI | OpKind::MemoryESEDI => 4,
        _ => 8,
    };
    op.seg = if out { crate::decode::segment(i.memory_segment()) } else { 0 };
    op.imm = (i.has_rep_prefix() || i.has_repne_prefix()) as u64 | (out as u64) << 1;
    Lowered::set(io::string)
}

/// INVD, WBINVD.
fn privileged_nothing(cpu: &mut crate::cpu::Cpu, _: &Op) -> crate::fault::Guest<()> {
    cpu.require_cpl0()
}

/// KVM_ENOSYS, as KVM answers calls that it doesn't know.
const UNKNOWN_HYPERCALL: u64 = (-1000i64) as u64;

/// VMCALL and VMMCALL, by KVM's convention: number in RAX, arguments in RBX, RCX, RDX, RSI, result in RAX.
fn hypercall(cpu: &mut crate::cpu::Cpu, _: &Op) -> crate::fault::Guest<()> {
    use crate::cpu::{RAX, RBX, RCX, RDX, RSI};
    if !cpu.protected() {
        return cpu.ud();
    }
    let mask = if cpu.mode.is64() { u64::MAX } else { 0xffff_ffff };
    let number = cpu.regs[RAX] & mask;
    let arguments = [RBX, RCX, RDX, RSI].map(|r| cpu.regs[r] & mask);
    let result = if cpu.cpl == 0 {
        cpu.outside(|bus| bus.hypercall(number, arguments)).flatten()
    } else {
        Some((-1i64) as u64)
    };
    cpu.regs[RAX] = result.unwrap_or(UNKNOWN_HYPERCALL) & mask;
    Ok(())
}
