//! Which system calls a VM's process may make, held by seccomp(2).
//!
//! Two filters: the calls of [`ALLOWED`] and [`conditional`] are done, those of [`HOSTILE`] kill the process, and all
//! others fail with ENOSYS, so that a C library that tries a newer call falls back to an older one.

use libc::c_long;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{BackendError, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
use std::collections::BTreeMap;

/// Calls that act only on what the process has already, whatever their arguments.
const ALLOWED: &[c_long] = &[
    // Memory. Guest memory and translated code lie in memfds, made as they are needed.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Open files.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_sync_file_range,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets that are connected: none can be made but pairs.
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    // Time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // Threads, signals, the process's end.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // The host and the process themselves.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Translated code finds the soft TLB by GS.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    // Older forms, which other architectures never had.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// Calls that nothing of Auberge's, nor of a C library's, would make in a VM's process: whoever makes one is the guest.
const HOSTILE: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_setuid,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// New namespaces; a thread needs none.
const NEW_NAMESPACES: i32 = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

/// IORING_REGISTER_BUFFERS (io_uring_register(2)).
#[cfg(target_arch = "aarch64")]
const REGISTER_BUFFERS: u64 = 0;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Holds this thread, and those that it starts later, to the list. New privileges have been given up before.
pub fn restrict() -> Result<(), seccompiler::Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    let allowed = SeccompFilter::new(allowed()?, enosys, SeccompAction::Allow, arch)?;
    let hostile = SeccompFilter::new(hostile()?, SeccompAction::Allow, SeccompAction::KillProcess, arch)?;
    // Of two filters' answers the stricter one holds. This one first: the other allows no seccomp(2) any more.
    for filter in [hostile, allowed] {
        let program: seccompiler::BpfProgram = filter.try_into()?;
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

/// Calls that are allowed.
fn allowed() -> Result<Rules, BackendError> {
    let mut rules: Rules = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    rules.extend(conditional()?);
    Ok(rules)
}

/// Calls that are allowed with some arguments. A condition sees an argument's lower 32 bits, as the kernel does with
/// these.
fn conditional() -> Result<Rules, BackendError> {
    let own = std::process::id();
    let thread = libc::CLONE_THREAD as u64;
    Ok(BTreeMap::from([
        // Threads only. clone3(2) hides its flags from filters: C libraries come here after its ENOSYS.
        (libc::SYS_clone, vec![only(0, MaskedEq(thread | NEW_NAMESPACES as u64), thread)?]),
        // A signal to a thread of this process, as abort(3) sends.
        (libc::SYS_tgkill, vec![only(0, Eq, own.into())?]),
        (libc::SYS_socketpair, vec![only(0, Eq, libc::AF_UNIX as u64)?]),
        // By descriptor, not by path.
        (libc::SYS_newfstatat, vec![flag(3, libc::AT_EMPTY_PATH)?]),
        (libc::SYS_statx, vec![flag(2, libc::AT_EMPTY_PATH)?]),
        // Whether reads wait. Nothing of a terminal: standard error may be the user's.
        // A request has 32 bits, of a type that differs between C libraries.
        (
            libc::SYS_ioctl,
            vec![only(1, Eq, (libc::FIONBIO as u32).into())?, only(1, Eq, (libc::FIONREAD as u32).into())?],
        ),
        // Names of threads and mappings.
        (
            libc::SYS_prctl,
            vec![only(0, Eq, libc::PR_SET_NAME as u64)?, only(0, Eq, libc::PR_SET_VMA as u64)?],
        ),
        // A guest's memory is kept in its place for the hypervisor. Rings were made before: making one kills.
        #[cfg(target_arch = "aarch64")]
        (libc::SYS_io_uring_register, vec![only(1, Eq, REGISTER_BUFFERS)?]),
        // Reading this process's limits.
        (libc::SYS_prlimit64, vec![reads_own_limit()?]),
    ]))
}

/// Calls that kill.
fn hostile() -> Result<Rules, BackendError> {
    let mut rules: Rules = HOSTILE.iter().map(|&call| (call, Vec::new())).collect();
    // syslog(3) and its like make local ones, which fail with ENOSYS.
    rules.insert(libc::SYS_socket, vec![only(0, Ne, libc::AF_UNIX as u64)?]);
    Ok(rules)
}

fn flag(argument: u8, flag: i32) -> Result<SeccompRule, BackendError> {
    only(argument, MaskedEq(flag as u64), flag as u64)
}

fn only(argument: u8, operation: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, Dword, operation, value)?])
}

/// prlimit64(2) that reads a limit of this process: no process named, no new limit given.
fn reads_own_limit() -> Result<SeccompRule, BackendError> {
    let no_process = SeccompCondition::new(0, Dword, Eq, 0)?;
    let no_new_limit = SeccompCondition::new(2, Qword, Eq, 0)?;
    SeccompRule::new(vec![no_process, no_new_limit])
}

#[cfg(test)]
mod tests {
    use super::super::sandbox;
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    use std::fs::File;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, ExitStatus};
    use std::ptr::null_mut;

    /// Names the deed for the process that [`confined`] starts.
    const DEED: &str = "AUBERGE_TEST_DEED";

    /// How a process ends that confines itself and then does the deed; status 0 is its success.
    fn confined(deed: &str) -> ExitStatus {
        let mut test = Command::new("/proc/self/exe");
        test.args(["--exact", "process::syscalls::tests::child_confines_itself", "--nocapture"]);
        test.env(DEED, deed).output().unwrap().status
    }

    /// No test by itself: what runs in the process of [`confined`].
    #[test]
    fn child_confines_itself() {
        let Ok(deed) = std::env::var(DEED) else { return };
        let parent = rustix::process::getppid().unwrap();
        sandbox::detach().unwrap();
        if deed == "open-without-filter" {
            sandbox::give_up_paths();
            end(if File::open("/etc/passwd").is_ok() { 0 } else { 9 });
        }
        sandbox::confine();
        let done = match deed.as_str() {
            "nothing" => true,
            "thread" => std::thread::spawn(|| 7).join().unwrap() == 7,
            "thread-inherits" => std::thread::spawn(|| File::open("/dev/null").is_err()).join().unwrap(),
            "code" => makes_code(),
            "panic" => std::thread::spawn(|| panic!("on purpose")).join().is_err(),
            "signal" => signal_hook::iterator::Signals::new([15]).is_ok(),
            "abort" => std::process::abort(),
            "open" => File::open("/etc/passwd").is_ok() || File::create("/tmp/auberge-x").is_ok(),
            "list" => std::fs::read_dir("/").is_ok(),
            "fork" => fork() >= 0,
            "signal-parent" => rustix::process::test_kill_process(parent).is_ok(),
            "terminal" => {
                rustix::termios::tcgetattr(rustix::stdio::stderr()).err() != Some(rustix::io::Errno::NOSYS)
            }
            "filter" => super::restrict().is_ok(),
            "unix-socket" => std::os::unix::net::UnixDatagram::unbound().is_ok(),
            "execute" => Command::new("/bin/true").exec().raw_os_error() != Some(38),
            "socket" => std::net::UdpSocket::bind("127.0.0.1:0").is_ok(),
            "ptrace" => call(libc::SYS_ptrace),
            "mount" => call(libc::SYS_mount),
            "unshare" => call(libc::SYS_unshare),
            "bpf" => call(libc::SYS_bpf),
            other => panic!("{other} is no deed"),
        };
        // At once: the test harness would do things of its own.
        end(if done { 0 } else { 9 })
    }

    fn end(status: i32) -> ! {
        // SAFETY: it only ends the process.
        unsafe { libc::_exit(status) }
    }

    fn makes_code() -> bool {
        let file = rustix::fs::memfd_create("code", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        let protection = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: a new mapping at a place of the kernel's choice.
        unsafe { mmap(null_mut(), 4096, protection, MapFlags::SHARED, &file, 0) }.is_ok()
    }

    fn fork() -> i32 {
        // SAFETY: the child, if there is one, does nothing but end.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            end(0);
        }
        pid
    }

    fn call(number: libc::c_long) -> bool {
        // SAFETY: none of the calls given here touches memory with arguments of 0.
        unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) == 0 }
    }

    #[test]
    fn restrict_what_a_vm_does_is_done() {
        for deed in ["nothing", "thread", "thread-inherits", "code", "panic", "signal"] {
            assert_eq!(confined(deed).code(), Some(0), "{deed}");
        }
        assert_eq!(confined("abort").signal(), Some(libc::SIGABRT));
    }

    #[test]
    fn restrict_what_reaches_outside_fails() {
        for deed in ["open", "list", "fork", "signal-parent", "terminal", "filter", "unix-socket"] {
            assert_eq!(confined(deed).code(), Some(9), "{deed}");
        }
    }

    #[test]
    fn give_up_paths_holds_by_itself_where_the_kernel_has_landlock() {
        // landlock_create_ruleset(2) gives the version when asked with no ruleset and flag 1.
        // SAFETY: it reads no memory.
        let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
        let expected = if version > 0 { 9 } else { 0 };
        assert_eq!(confined("open-without-filter").code(), Some(expected));
    }

    #[test]
    fn restrict_what_is_hostile_kills() {
        for deed in ["execute", "socket", "ptrace", "mount", "unshare", "bpf"] {
            assert_eq!(confined(deed).signal(), Some(libc::SIGSYS), "{deed}");
        }
    }
}
