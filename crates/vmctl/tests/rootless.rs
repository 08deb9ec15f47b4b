//! An ordinary user's VMs: none of it needs root. Run by root, the tests become somebody else first.
#![cfg(target_arch = "x86_64")]

mod common;

use common::{Place, Session, child_of, lives, session, signal, text, until};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Who the tests become where root runs them: nobody.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// A place that belongs to an ordinary user, with the programs in it: the user may not reach where they were built.
struct User {
    place: Place,
    uid: u32,
    /// `XDG_RUNTIME_DIR`, where there is one.
    runtime: Option<PathBuf>,
    /// The directory of the daemon's socket.
    socket_dir: PathBuf,
}

impl User {
    /// As a login leaves a user.
    fn new() -> Self {
        let mut user = Self::without_runtime_directory(NOBODY);
        let runtime = user.own_dir("run");
        user.socket_dir = runtime.join("auberge");
        user.runtime = Some(runtime);
        user
    }

    /// As `su` or a container leaves a user. The number counts only where root runs the test.
    fn without_runtime_directory(uid: u32) -> Self {
        let uid = if is_root() { uid } else { rustix::process::getuid().as_raw() };
        let socket_dir = format!("/tmp/auberge-{uid}").into();
        let user = User { place: Place::new(), uid, runtime: None, socket_dir };
        for program in [common::vmctl_program(), common::vmd_program()] {
            fs::copy(program, user.place.path(program.file_name().unwrap().to_str().unwrap())).unwrap();
        }
        user.own(&user.place.path("kernel"));
        user.own(user.place.dir.path());
        user
    }

    fn own(&self, path: &Path) {
        if is_root() {
            chown(path, Some(self.uid), Some(self.uid)).unwrap();
        }
    }

    fn own_dir(&self, name: &str) -> PathBuf {
        let path = self.place.path(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        self.own(&path);
        path
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(self.place.path("vmctl"));
        command.args(words.split_whitespace()).current_dir(self.place.dir.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.place.dir.path()).env("PATH", "/usr/bin:/bin");
        if let Some(runtime) = &self.runtime {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        if is_root() {
            command.uid(self.uid).gid(self.uid);
        }
        command
    }

    fn spawn(&self, words: &str) -> Session {
        session(self.command(words))
    }

    fn vmctl(&self, words: &str) -> Output {
        self.command(words).output().unwrap()
    }

    fn good(&self, words: &str) -> String {
        let output = self.vmctl(words);
        assert!(output.status.success(), "vmctl {words}: {} {}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    fn bad(&self, words: &str) -> String {
        let output = self.vmctl(words);
        assert_eq!(output.status.code(), Some(1), "vmctl {words}: {}", text(&output.stderr));
        text(&output.stderr)
    }

    /// The process of a VM under the daemon.
    fn pid(&self, vm: &str) -> i32 {
        let json: serde_json::Value =
            serde_json::from_str(&self.good(&format!("status --json {vm}"))).unwrap();
        json[0]["pid"].as_i64().unwrap() as i32
    }

    /// Ends the daemon that `vmctl start` left behind.
    fn end_daemon(&self) {
        let Ok(pid) = fs::read_to_string(self.socket_dir.join("vmd.sock.lock")) else { return };
        let Ok(pid) = pid.trim().parse() else { return };
        signal(pid, "TERM");
        signal(pid, "TERM");
        until("the daemon is gone", || !lives(pid));
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.end_daemon();
    }
}

#[test]
fn run_by_an_ordinary_user_boots_and_gives_the_guests_status() {
    let user = User::new();
    let mut session = user.spawn("run -b kernel --debug-exit -m 16M");
    session.expect("hello\r\n");
    session.send("abcq");
    let (status, rest, errors) = session.finish();
    assert_eq!((status.code(), rest.as_str(), errors.as_str()), (Some(33), "abc", ""));
}

#[test]
fn daemon_of_an_ordinary_user_does_all_that_a_vm_needs() {
    let user = User::new();
    user.good("create -s 1M disk");
    user.good("start -b kernel -m 16M -d disk one");
    user.good("start -b kernel -m 16M two");
    for (path, mode) in [(user.socket_dir.clone(), 0o700), (user.socket_dir.join("vmd.sock"), 0o600)] {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (user.uid, mode), "{}", path.display());
    }
    let list = user.good("status");
    assert_eq!(list.lines().count(), 3, "{list}");
    for pid in [user.pid("one"), user.pid("two")] {
        assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), user.uid);
    }

    assert!(user.bad("start -b kernel -d disk three").contains("in use"));
    let mut console = user.spawn("console one");
    console.expect("hello\r\n");
    console.send("Bx");
    console.expect("x");
    user.good("pause one");
    user.good("unpause one");
    user.good("stop -w one");
    assert_eq!(console.finish().1, "bye\r\n");
    assert_eq!(user.vmctl("wait one").status.code(), Some(0));

    let pid = user.pid("two");
    user.good("stop -f two");
    assert!(!lives(pid));
    user.good("start -b kernel -m 16M -d disk one");
    user.good("stop -f -a");
    assert_eq!(user.vmctl("status").status.code(), Some(1));
}

#[test]
fn start_by_many_at_once_leaves_one_daemon_behind() {
    let user = User::new();
    let starts: Vec<_> = (0..6).map(|i| user.spawn(&format!("start -b kernel -m 16M vm{i}"))).collect();
    for start in starts {
        let (status, _, errors) = start.finish();
        assert!(status.success() && errors.lines().count() == 1, "{status} {errors}");
    }
    assert_eq!(user.good("status").lines().count(), 7);
    user.good("stop -f -a");
}

#[test]
fn stop_of_a_deaf_guest_tells_who_waits_why() {
    let user = User::new();
    user.good("start -b kernel -m 16M deaf");
    let stop = user.spawn("stop -w deaf");
    // The notice comes after 5 seconds.
    std::thread::sleep(std::time::Duration::from_secs(7));
    user.good("stop -f deaf");
    let (status, _, errors) = stop.finish();
    assert!(
        status.success() && errors.contains("power button") && errors.contains("stop -f deaf"),
        "{errors}"
    );
    assert!(errors.trim_end().ends_with("(deaf): killed"), "{errors}");
}

#[test]
fn vms_process_is_confined_in_every_thread_and_holds_only_its_own_files() {
    let user = User::new();
    user.good("create -s 1M disk");
    let mut session = user.spawn("run -b kernel -m 16M -p 2 -d disk");
    session.expect("hello\r\n");
    let pid = child_of(session.child.id());
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|l| l.split(':').next() == Some(name)).unwrap();
            line.split_once(':').unwrap().1.trim().to_string()
        };
        // Seccomp 2 is a filter (proc(5)).
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "{status}");
        assert_eq!(u64::from_str_radix(&field("CapEff"), 16), Ok(0));
        let own = user.uid.to_string();
        assert!(field("Uid").split_whitespace().all(|uid| uid == own), "{status}");
        threads += 1;
    }
    assert!(threads >= 3, "{threads}");

    let (kernel, disk) = (user.place.path("kernel"), user.place.path("disk"));
    let mut files = Vec::new();
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let fd = fd.unwrap();
        let file = fs::read_link(fd.path()).unwrap();
        let own = ["/dev/null", "/memfd:", "anon_inode:", "socket:", "pipe:"];
        let is_own = own.iter().any(|o| file.to_str().unwrap().starts_with(o));
        assert!(is_own || file == disk || file == kernel, "{}", file.display());
        if file == kernel {
            // It is read anew when the guest resets, and never written.
            let number = fd.file_name().into_string().unwrap();
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
            let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap();
            assert_eq!(i32::from_str_radix(flags.trim(), 8).unwrap() & 3, 0, "{info}");
        }
        files.push(file);
    }
    assert_eq!(files.iter().filter(|file| **file == disk).count(), 1, "{files:?}");

    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    session.send("p");
    assert_eq!(session.finish().0.code(), Some(0));
}

/// The user's directory in /tmp is made by the test, which only root can do without being in a real daemon's way.
#[test]
fn socket_directory_in_tmp_that_others_made_is_refused() {
    if !is_root() {
        eprintln!("passed over: it takes root to become two users");
        return;
    }
    // Nobody's real number, and this test's alone.
    let uid = 1_000_000_000 + std::process::id();
    let user = User::without_runtime_directory(uid);
    let dir = user.socket_dir.clone();
    let home = user.own_dir("home");
    let refused = |user: &User, part: &str| {
        let error = user.bad("start -b kernel -m 16M a");
        assert!(error.contains(part), "{error}");
        assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
    };

    // A link to a directory of the user's own, in which a stranger wants files made.
    symlink(&home, &dir).unwrap();
    refused(&user, "not this user's own");
    fs::remove_file(&dir).unwrap();

    fs::create_dir(&dir).unwrap();
    refused(&user, "not this user's own");

    // A stranger's daemon, which would get to know the user's files.
    let mut stranger = Command::new(user.place.path("vmd"));
    stranger.arg("-d").env("VMD_SOCKET", dir.join("vmd.sock")).uid(NOBODY).gid(NOBODY);
    chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(user.place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut stranger = stranger.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the stranger listens", || dir.join("vmd.sock").exists());
    fs::set_permissions(dir.join("vmd.sock"), fs::Permissions::from_mode(0o777)).unwrap();
    refused(&user, "belongs to another user");
    signal(stranger.id() as i32, "TERM");
    common::end(&mut stranger);
    let _ = fs::remove_file(dir.join("vmd.sock.lock"));

    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    chown(&dir, Some(uid), None).unwrap();
    refused(&user, "others may write to it");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    user.good("start -b kernel -m 16M a");
    user.good("stop -f a");
    user.end_daemon();
    fs::remove_dir_all(&dir).unwrap();
}
