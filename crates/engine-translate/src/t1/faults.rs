//! SIGSEGV in translated code: an access through a [window](crate::tlb::windows) that the host's MMU has no page for goes on where a
//! miss of the soft TLB would.

use super::asm::BIAS;
use crate::cache::faults::Faults;
use crate::cpu::Cpu;
use libc::{REG_R15, REG_RIP, SIGSEGV, c_int, c_void, siginfo_t, ucontext_t};
use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

thread_local! {
    /// What the code that this thread executes knows of its faults.
    static FAULTS: Cell<*const Faults> = const { Cell::new(null()) };
}

/// What handled the signal before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Has the process's SIGSEGV handled here, once.
pub fn handle() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    DONE.get_or_init(|| {
        let mut before = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: all zeroes are a valid sigaction; its fields are set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_fault as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: asks only. What was there before is known before the new handler is.
        let asked = unsafe { libc::sigaction(SIGSEGV, null(), before.as_mut_ptr()) };
        if asked == 0 {
            // SAFETY: just filled in.
            let _ = BEFORE.set(unsafe { before.assume_init() });
            // SAFETY: the handler does what handlers may: it reads atomics and changes its own context.
            if unsafe { libc::sigaction(SIGSEGV, &action, null_mut()) } == 0 {
                return Ok(());
            }
        }
        Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    })
    .map_err(io::Error::from_raw_os_error)
}

/// This thread is about to execute code whose faults are in `faults`, which outlive that.
#[inline]
pub fn expect(faults: &Faults) {
    FAULTS.set(faults);
}

/// It doesn't any more.
#[inline]
pub fn expect_none() {
    FAULTS.set(null());
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives both; nobody else has them.
    let (info, registers) = unsafe { (&*info, &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs) };
    let faults = FAULTS.get();
    if !faults.is_null() {
        // SAFETY: `expect` was given it by this thread, which executes code.
        let tail = unsafe { &*faults }.find(registers[REG_RIP as usize] as u64);
        if let Some(tail) = tail {
            let cpu = (registers[REG_R15 as usize] - BIAS as i64) as *mut Cpu;
            // SAFETY: in translated code R15 is the vCPU, which is this thread's; a signal says where it faulted, or 0.
            unsafe { (&raw mut (*cpu).t1.faulted).write((info.si_addr() as u64).max(1)) };
            registers[REG_RIP as usize] = tail as i64;
            return;
        }
    }
    otherwise(signal, info, context);
}

/// A fault that is none of ours.
fn otherwise(signal: c_int, info: &siginfo_t, context: *mut c_void) {
    let before = BEFORE.get().filter(|b| b.sa_sigaction != libc::SIG_DFL && b.sa_sigaction != libc::SIG_IGN);
    match before {
        Some(b) if b.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: a handler with SA_SIGINFO has this form.
            let f: extern "C" fn(c_int, *const siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(b.sa_sigaction) };
            f(signal, info, context);
        }
        Some(b) => {
            // SAFETY: a handler without SA_SIGINFO has this form.
            let f: extern "C" fn(c_int) = unsafe { std::mem::transmute(b.sa_sigaction) };
            f(signal);
        }
        None => {
            // It faults again, and the process ends as it would have.
            // SAFETY: sets the default action.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}
