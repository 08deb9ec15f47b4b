//! What a VM's process gives up before it meets its guest.

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use rustix::process::{Resource, Rlimit};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// Takes the control socket from descriptor 0 and puts /dev/null there and on standard output.
pub fn take_over_stdin() -> io::Result<OwnedFd> {
    let channel = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    close_inherited(&channel)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(channel)
}

/// Leaves the terminal and the group of whoever started this process, gives up new privileges and core dumps.
pub fn detach() -> io::Result<()> {
    // Refused only where this process leads a group already, which is as good.
    let _ = rustix::process::setsid();
    rustix::thread::set_no_new_privs(true)?;
    // A dump would hold the guest's memory.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Names the process for ps(1): the first 15 bytes of `vm-NAME`.
pub fn name(vm: &str) {
    let name: Vec<u8> = format!("vm-{vm}").into_bytes().into_iter().filter(|&b| b != 0).take(15).collect();
    if let Ok(name) = std::ffi::CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// Gives up what a VM's process can do without. Holds for this thread and those it starts later. A kernel without
/// Landlock or seccomp, or with less of them, is accepted: the daemon then relies on the process opening nothing.
pub fn confine() {
    give_up_paths();
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
    if let Err(e) = super::syscalls::restrict() {
        eprintln!("a filter of system calls can't be had, the VM's process runs without it: {e}");
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    eprintln!("there is no filter of system calls for this processor, the VM's process runs without it");
}

/// Gives up, with Landlock, every file by path, every TCP port, and signals and abstract sockets outside this process.
pub fn give_up_paths() {
    let confined = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|r| r.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|r| r.scope(Scope::from_all(ABI::V6)))
        .and_then(|r| r.create())
        .and_then(|r| r.restrict_self());
    if let Err(e) = confined {
        eprintln!("Landlock can't be had, the VM's process runs without it: {e}");
    }
}

/// Closes what whoever started the daemon left open: all but the standard three and `channel`.
fn close_inherited(channel: &OwnedFd) -> io::Result<()> {
    use std::os::fd::{AsRawFd, FromRawFd};
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2 && fd != channel.as_raw_fd())
        .collect();
    for fd in open {
        // The directory's own descriptor is in the list, and closed by now: leave what is not open alone.
        if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
            continue;
        }
        // SAFETY: this is the beginning of the process: nothing but `channel` and the standard three, which are left out,
        // was opened by it, so no Rust object owns `fd`.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(())
}
