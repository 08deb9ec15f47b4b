//! Debian on a disk, as `cargo xtask guests` makes it: the disk for a guest, its tree for this machine, and a login on
//! the guest's serial line.

use super::console::Console;
use super::file;
use crate::common::{Place, text};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A copy of the disk, for one guest to write to.
pub fn disk(place: &Place, name: &str) -> PathBuf {
    let copy = place.path(name);
    let output = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .arg(file("amd64/debian.img"))
        .arg(&copy)
        .output()
        .unwrap();
    assert!(output.status.success(), "cp: {}", text(&output.stderr));
    copy
}

/// Enters the tree on this machine.
const ENTER: &str = include_str!("../../../../guests/debian/enter");

/// Runs `sh -c SCRIPT` on this machine in the same tree, with the folder `files` as `/root/files`. Neither the tree nor
/// anything outside changes.
pub fn native(files: &Path, script: &str) -> Output {
    let tree = std::fs::canonicalize(file("amd64/debian")).unwrap();
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["sh", "-c", ENTER, "sh"]).arg(tree).args(["sh", "-c", script]).current_dir(files);
    let output = command.output().expect("there is no unshare: install util-linux");
    let said = text(&output.stderr);
    assert!(
        !said.contains("unshare:") && !said.contains("mount:"),
        "Debian's tree can't be entered on this machine, which takes root, or user namespaces that an ordinary user may \
         make (see unshare(1)): {said}"
    );
    output
}

/// Root's shell on the serial line of a Debian that boots with systemd.
pub struct Login {
    pub console: Console,
}

impl Login {
    /// Waits for the login prompt and logs in.
    pub fn open(mut console: Console) -> Login {
        console.expect("auberge login: ");
        console.send("root\n");
        // The prompt of root's shell, behind what login says.
        console.expect("root@auberge:~# ");
        let mut login = Login { console };
        // What it prints is to come as it is, and by itself.
        login.console.send("stty -echo -onlcr; dmesg -n 1; PS1=; PS2=; echo rea''dy\n");
        login.console.expect("ready\n");
        login
    }

    /// What a command prints, and its status.
    pub fn run(&mut self, command: &str) -> (String, u8) {
        self.console.send(&format!("echo '<run>'; {command}; echo \"<end $?>\"\n"));
        self.console.expect("<run>\n");
        let output = self.console.expect("<end ");
        let status = self.console.expect(">\n").parse().unwrap();
        (output, status)
    }

    /// The same for a command that takes long: each of its lines that begin with `mark` shows that it goes on.
    pub fn long_run(&mut self, command: &str, mark: &str, marks: usize) -> (String, u8) {
        self.console.send(&format!("echo '<run>'; {command}; echo \"<end $?>\"\n"));
        self.console.expect("<run>\n");
        let mark = format!("\n{mark}");
        let mut output = String::new();
        for _ in 0..marks {
            output += &self.console.expect(&mark);
            output += &mark;
        }
        output += &self.console.expect("<end ");
        let status = self.console.expect(">\n").parse().unwrap();
        (output, status)
    }

    /// What a command prints that has to succeed.
    pub fn good(&mut self, command: &str) -> String {
        let (output, status) = self.run(command);
        assert_eq!(status, 0, "{command}: {output}");
        output
    }
}
