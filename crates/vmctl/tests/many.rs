//! Several Linux guests under one daemon: each answers, and what happens to one does not happen to another.
#![cfg(target_arch = "x86_64")]

mod common;
mod guest;

use common::{Daemon, lives, signal, until};
use guest::console::Console;
use guest::{Kernel, Linux, kernel_log};
use std::time::{Duration, Instant};

/// A guest's shell on its console.
struct Shell {
    console: Console,
}

impl Shell {
    fn open(daemon: &Daemon, name: &str) -> Shell {
        let mut console = Console::of(daemon.place.command(&format!("console {name}")));
        console.send("\n");
        console.expect("auberge:");
        console.expect("# ");
        Shell { console }
    }

    /// What a command prints.
    fn run(&mut self, command: &str) -> String {
        // The shell's echo of the line does not hold the marks that the line makes.
        self.console.send(&format!("echo be''gin; {command}; echo en''d\n"));
        self.console.expect("begin\r\n");
        self.console.expect("end\r\n").replace('\r', "")
    }

    fn uptime(&mut self) -> f64 {
        self.run("cut -d' ' -f1 /proc/uptime").trim().parse().unwrap()
    }
}

/// Seconds of processor time that a process has used.
fn processor_time(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime of proc(5), in hundredths.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[test]
fn three_linux_vms_answer_pause_power_off_and_die_each_by_itself() {
    let daemon = Daemon::new();
    let place = &daemon.place;
    place.file("disk", &[0; 1 << 20]);
    for (name, options) in [("one", "-m 128M"), ("two", "-m 128M"), ("three", "-m 128M -d disk")] {
        Linux::new(Kernel::Amd64).options(options).start(place, name);
    }
    let list = place.good("status");
    for name in ["one", "two", "three"] {
        let line = list.lines().find(|line| line.ends_with(&format!(" running {name}")));
        assert!(line.is_some_and(|line| line.contains(" 128M ")), "{list}");
    }
    let mut shells: Vec<Shell> = ["one", "two", "three"].map(|name| Shell::open(&daemon, name)).into();
    for (shell, number) in shells.iter_mut().zip(1..) {
        assert_eq!(
            shell.run(&format!("echo I am $(({number} * 111)); hostname")),
            format!("I am {}\nauberge\n", number * 111)
        );
    }

    pause(&daemon, "two", &mut shells[1]);

    // One dies.
    let pid = daemon.pid("one");
    signal(pid, "KILL");
    until("the process is gone", || !lives(pid));
    assert_eq!(place.vmctl("wait one").status.code(), Some(102));
    assert_eq!(shells[1].run("echo still"), "still\n");
    assert_eq!(shells[2].run("echo still"), "still\n");

    // One is asked to power off, with data that it has not yet written to its disk.
    assert_eq!(shells[2].run("echo kept >/dev/vda"), "");
    kernel_log::check(&shells[2].run("dmesg"));
    place.good("stop -w three");
    let (status, console, _) = shells.pop().unwrap().console.finish();
    assert!(status.success() && console.contains("Power down"), "{console}");
    assert_eq!(place.vmctl("wait three").status.code(), Some(0));
    assert!(std::fs::read(place.path("disk")).unwrap().starts_with(b"kept\n"));

    let list = place.good("status");
    assert!(list.lines().count() == 2 && list.ends_with(" running two\n"), "{list}");
    assert_eq!(shells[1].run("echo still"), "still\n");
    place.good("stop -f two");
}

/// Pauses the guest for some seconds: it does nothing then and goes on as if nothing had been.
fn pause(daemon: &Daemon, name: &str, shell: &mut Shell) {
    let (began, before) = (Instant::now(), shell.uptime());
    daemon.place.good(&format!("pause {name}"));
    assert_eq!(daemon.field(name, "state").as_deref(), Some("paused"));
    let used = processor_time(daemon.pid(name));
    std::thread::sleep(Duration::from_secs(5));
    assert!(processor_time(daemon.pid(name)) - used < 0.1);
    daemon.place.good(&format!("unpause {name}"));
    // Its clock stood still or went on, but it did not go back nor leap.
    let passed = shell.uptime() - before;
    assert!((0.0..began.elapsed().as_secs_f64() + 1.0).contains(&passed), "{passed} s");
    assert_eq!(shell.run("sleep 1; echo slept"), "slept\n");
    kernel_log::check(&shell.run("dmesg"));
}
