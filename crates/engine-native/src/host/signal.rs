//! The signal that makes a thread leave the guest: its delivery is an interrupt, which the hypervisor passes on to this Linux, and
//! the run ends. Its handler has nothing to do.

use std::sync::Once;

/// Nothing else in `vmd` uses it.
const SIGNAL: i32 = libc::SIGUSR1;

extern "C" fn nothing(_: i32) {}

/// Makes the signal harmless, once in the process's life; to be called before any is sent.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid one (no flags, no signals masked); its handler is set right below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as *const () as usize;
        // Waits in the middle of which it comes go on.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler does nothing, which is safe at any moment; the pointers are valid for the call.
        let done = unsafe { libc::sigaction(SIGNAL, &action, std::ptr::null_mut()) };
        if done != 0 {
            log::error!("a signal handler can't be had: {}", std::io::Error::last_os_error());
        }
    });
}

/// The current thread, for [`interrupt`].
pub fn this_thread() -> i32 {
    install();
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Sends the signal to a thread of this process. One that is gone is left alone.
pub fn interrupt(thread: i32) {
    install();
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: it reads no memory; the signal's handler is installed and does nothing.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGNAL) };
}
