//! Sequences on the host processor, in this process: a signal handler exchanges the whole register file, twice.
//!
//! `ud2` enters the handler, which keeps the interrupted registers and returns into the sequence with its registers; an
//! exception, or the HLT behind the sequence, enters it again: it notes the registers and returns behind the `ud2`.

use crate::descriptors::Entry;
use crate::state::{END, Ending, LINUX64, Outcome, Registers, XSAVE, place};
use std::arch::{asm, naked_asm};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Enter,
    Running,
    Done,
}

/// What the handler works on.
struct Session {
    phase: Phase,
    start: *const Registers,
    host: [i64; 23],
    host_fp: Vec<u8>,
    end: Registers,
    trap: (u64, u64, u64),
}

thread_local! {
    static SESSION: Cell<*mut Session> = const { Cell::new(null_mut()) };
}

/// The native side's memory: the window at its fixed address.
pub struct Native {
    base: u64,
    /// The code page, to write.
    code: *mut u8,
    session: Box<Session>,
    _stack: Vec<u8>,
}

const SIGNALS: [c_int; 5] = [libc::SIGILL, libc::SIGTRAP, libc::SIGFPE, libc::SIGSEGV, libc::SIGBUS];

impl Native {
    /// Maps the window at `base` and readies this thread.
    pub fn new(base: u64, read_only: &[u8], pool: &[Entry]) -> Self {
        // SAFETY: fixed mappings fail where something is mapped; the handler is installed for signals whose default is
        // to die; the alternate stack lives as long as this value, which stays on its thread.
        unsafe {
            let map = |at: u64, len: usize, prot, flags, fd| {
                let p = libc::mmap(at as *mut c_void, len, prot, flags, fd, 0);
                assert_ne!(p, libc::MAP_FAILED, "mmap at {at:#x}: {}", std::io::Error::last_os_error());
                p.cast::<u8>()
            };
            let anonymous =
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE;
            let (r, w, x) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
            map(base + place::DATA, place::DATA_LEN + 0x1000, r | w, anonymous, -1);
            std::ptr::copy_nonoverlapping(read_only.as_ptr(), (base + place::READ_ONLY) as *mut u8, 0x1000);
            assert_eq!(libc::mprotect((base + place::READ_ONLY) as *mut c_void, 0x1000, r), 0);
            let fd = libc::memfd_create(c"oracle".as_ptr(), 0);
            assert!(fd >= 0 && libc::ftruncate(fd, 0x1000) == 0);
            let code = map(0, 0x1000, r | w, libc::MAP_SHARED, fd);
            map(base + place::CODE, 0x1000, r | x, libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE, fd);
            libc::close(fd);
            let mut stack = vec![0u8; 256 << 10];
            let alternate =
                libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
            assert_eq!(libc::sigaltstack(&alternate, null_mut()), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = entry as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            for signal in SIGNALS {
                assert_eq!(libc::sigaction(signal, &action, null_mut()), 0);
            }
            pool.iter().for_each(Entry::install);
            let empty = Registers { gpr: [0; 16], rip: 0, rflags: 0, seg: LINUX64, xsave: [0; XSAVE] };
            let session = Box::new(Session {
                phase: Phase::Done,
                start: null(),
                host: [0; 23],
                host_fp: Vec::with_capacity(64 << 10),
                end: empty,
                trap: (0, 0, 0),
            });
            Self { base, code, session, _stack: stack }
        }
    }

    /// Runs `code`, followed by HLT, from `start`, with `data` in the two writable pages.
    pub fn run(&mut self, code: &[u8], start: &Registers, data: &[u8]) -> Outcome {
        let at = (self.base + place::DATA) as *mut u8;
        assert!(code.len() < 0xfff && data.len() == place::DATA_LEN);
        // SAFETY: both pages belong to this value. The sequence touches only the window (the generator's promise).
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.code, code.len());
            // Code may read what is behind it.
            self.code.add(code.len()).write(END);
            self.code.add(code.len() + 1).write_bytes(0xcc, 0xfff - code.len());
            std::ptr::copy_nonoverlapping(data.as_ptr(), at, data.len());
            self.session.phase = Phase::Enter;
            self.session.start = start;
            SESSION.set(&mut *self.session);
            // Linux's return from a signal leaves NT and ID as the sequence before had them.
            asm!("pushfq", "and dword ptr [rsp], {}", "popfq", const !0x20_4000i32);
            asm!("ud2");
            SESSION.set(null_mut());
        }
        engine_translate::t1::forget_gs_base();
        assert!(self.session.phase == Phase::Done, "the handler was not reached");
        let mut after = vec![0; data.len()];
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(at, after.as_mut_ptr(), after.len()) };
        let registers = self.session.end.clone();
        let end = start.rip + code.len() as u64;
        let (vector, code, address) = self.session.trap;
        let ending = if vector == 13 && registers.rip == end {
            Ending::Ran
        } else {
            let address = if vector == 14 { address } else { 0 };
            // Traps (#BP, #OF) and #DE have no code; the kernel may leave an old one.
            let code = if matches!(vector, 8 | 10..=14 | 17) { code as u32 } else { 0 };
            Ending::Exception { vector: vector as u8, code, address }
        };
        Outcome { ending, registers: registers.canonical(), data: after }
    }
}

/// The handler's door: the interrupted code may have set RFLAGS.AC, with which Rust code can't run.
#[unsafe(naked)]
extern "C" fn entry(_signal: c_int, _info: *mut libc::siginfo_t, _context: *mut c_void) {
    naked_asm!("pushfq", "and dword ptr [rsp], {keep}", "popfq", "jmp {go}", keep = const !(1u32 << 18) as i32, go = sym handler)
}

extern "C" fn handler(signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    let session = SESSION.get();
    // SAFETY: the kernel gives a context whose fpregs points at an XSAVE image of the size it tells at byte 464 (Linux,
    // asm/sigcontext.h); `session` is set by `run` for the duration of a sequence.
    unsafe {
        if session.is_null() {
            // Not ours: let it kill the process.
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        let session = &mut *session;
        let context = &mut *context.cast::<libc::ucontext_t>();
        let gregs = &mut context.uc_mcontext.gregs;
        let fp = context.uc_mcontext.fpregs.cast::<u8>();
        let fp_len = fp.add(464 + 16).cast::<u32>().read_unaligned().max(512) as usize;
        match session.phase {
            Phase::Enter => {
                session.host = *gregs;
                session.host_fp.clear();
                session.host_fp.extend_from_slice(std::slice::from_raw_parts(fp, fp_len));
                let start = &*session.start;
                for (i, g) in GREGS.iter().enumerate() {
                    gregs[*g as usize] = start.gpr[i] as i64;
                }
                gregs[libc::REG_RIP as usize] = start.rip as i64;
                gregs[libc::REG_EFL as usize] = (start.rflags | 0x202) as i64;
                let [es, cs, ss, ds, _, gs] = start.seg;
                let selectors = gregs[libc::REG_CSGSFS as usize] as u64 & 0x0000_ffff_ffff_0000;
                gregs[libc::REG_CSGSFS as usize] = (selectors | cs as u64 | (ss as u64) << 48) as i64;
                // 64-bit code uses none of these on Linux.
                asm!("mov es, {0:x}", "mov ds, {1:x}", "mov gs, {2:x}", in(reg) es, in(reg) ds, in(reg) gs);
                std::ptr::copy_nonoverlapping(start.xsave.as_ptr(), fp, 416);
                fp.add(28).cast::<u32>().write_unaligned(0);
                let present = fp.add(512).cast::<u64>();
                present.write_unaligned(present.read_unaligned() | 7);
                std::ptr::copy_nonoverlapping(start.xsave.as_ptr().add(576), fp.add(576), 256);
                session.phase = Phase::Running;
            }
            Phase::Running => {
                for (i, g) in GREGS.iter().enumerate() {
                    session.end.gpr[i] = gregs[*g as usize] as u64;
                }
                session.end.rip = gregs[libc::REG_RIP as usize] as u64;
                let (es, ds, fs, gs): (u16, u16, u16, u16);
                asm!("mov {0:x}, es", "mov {1:x}, ds", "mov {2:x}, fs", "mov {3:x}, gs",
                    out(reg) es, out(reg) ds, out(reg) fs, out(reg) gs);
                let selectors = gregs[libc::REG_CSGSFS as usize] as u64;
                session.end.seg = [es, selectors as u16, (selectors >> 48) as u16, ds, fs, gs];
                session.end.rflags = gregs[libc::REG_EFL as usize] as u64;
                let present = fp.add(512).cast::<u64>().read_unaligned();
                let x = &mut session.end.xsave;
                std::ptr::copy_nonoverlapping(fp, x.as_mut_ptr(), XSAVE);
                if present & 1 == 0 {
                    x[..24].fill(0);
                    x[32..160].fill(0);
                    x[..2].copy_from_slice(&0x37fu16.to_le_bytes());
                }
                if present & 2 == 0 {
                    x[160..416].fill(0);
                }
                if present & 4 == 0 {
                    x[576..].fill(0);
                }
                session.trap = (
                    gregs[libc::REG_TRAPNO as usize] as u64,
                    gregs[libc::REG_ERR as usize] as u64,
                    gregs[libc::REG_CR2 as usize] as u64,
                );
                *gregs = session.host;
                gregs[libc::REG_RIP as usize] += 2;
                std::ptr::copy_nonoverlapping(
                    session.host_fp.as_ptr(),
                    fp,
                    session.host_fp.len().min(fp_len),
                );
                session.phase = Phase::Done;
            }
            Phase::Done => {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

const GREGS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];
