//! Several VMs under a daemon.
#![cfg(target_arch = "x86_64")]

mod common;

use common::{Daemon, Place, Terminal, end, lives, signal, until};
use std::time::{Duration, Instant};

#[test]
fn three_vms_are_listed_answer_and_outlive_one_anothers_death() {
    let daemon = Daemon::new();
    for name in ["one", "two", "three"] {
        daemon.place.good(&format!("start -b $K -m 16M {name}"));
    }
    let list = daemon.place.good("status");
    assert_eq!(list.lines().count(), 4, "{list}");
    for (id, name) in [(1, "one"), (2, "two"), (3, "three")] {
        assert!(
            list.lines()
                .any(|l| l.starts_with(&format!("{id:>5} ")) && l.ends_with(&format!(" running {name}")))
        );
        let mut console = daemon.place.spawn(&format!("console {name}"));
        // What the guest said while nobody listened is there.
        console.expect("hello\r\n");
        console.send(&format!("<{id}>"));
        console.expect(&format!("<{id}>"));
        signal(console.child.id() as i32, "TERM");
        let _ = console.finish();
    }

    signal(daemon.pid("two"), "KILL");
    until("the dead VM is gone from the list", || daemon.place.vmctl("status two").status.code() == Some(1));
    let wait = daemon.place.vmctl("wait two");
    assert_eq!(wait.status.code(), Some(102));
    for name in ["one", "three"] {
        assert_eq!(daemon.field(name, "state").as_deref(), Some("running"));
        let mut console = daemon.place.spawn(&format!("console {name}"));
        console.send("<again>");
        console.expect("<again>");
        signal(console.child.id() as i32, "TERM");
        let _ = console.finish();
    }
    // The name's next VM has the same number.
    daemon.place.good("start -b $K two");
    assert_eq!(daemon.field("two", "id").as_deref(), Some("2"));
}

#[test]
fn stop_presses_the_power_button_and_waits() {
    let daemon = Daemon::new();
    daemon.place.good("start -b $K -m 16M a");
    let mut console = daemon.place.spawn("console a");
    console.expect("hello\r\n");
    console.send("B");
    let wait = daemon.place.spawn("wait a");
    daemon.place.good("stop -w a");
    // The guest's last word reaches the console.
    let (status, rest, _) = console.finish();
    assert_eq!((status.code(), rest.as_str()), (Some(0), "bye\r\n"));
    assert_eq!(wait.finish().0.code(), Some(0));
    assert_eq!(daemon.place.vmctl("status").status.code(), Some(1));
}

#[test]
fn stop_deaf_guest_is_stopping_until_forced() {
    let daemon = Daemon::new();
    daemon.place.good("start -b $K -m 16M a");
    daemon.place.good("stop a");
    assert_eq!(daemon.field("a", "state").as_deref(), Some("stopping"));
    assert!(daemon.place.bad("pause a").contains("stopping"));
    let pid = daemon.pid("a");
    daemon.place.good("stop -f a");
    assert!(!lives(pid));
    assert_eq!(daemon.place.vmctl("wait a").status.code(), Some(104));
    assert!(daemon.place.bad("stop -f a").contains("no VM a"));
}

#[test]
fn wait_gives_the_guests_own_status() {
    let daemon = Daemon::new();
    daemon.place.good("start -b $K --debug-exit -m 16M a");
    let wait = daemon.place.spawn("wait 1");
    let mut console = daemon.place.spawn("console a");
    console.send("q");
    assert_eq!(console.finish().0.code(), Some(0));
    assert_eq!(wait.finish().0.code(), Some(33));
    assert_eq!(daemon.place.vmctl("wait a").status.code(), Some(33));
}

#[test]
fn pause_holds_the_guest_and_unpause_lets_it_go_on() {
    let daemon = Daemon::new();
    daemon.place.good("start -b $K -m 16M a");
    let mut console = daemon.place.spawn("console a");
    console.expect("hello\r\n");
    daemon.place.good("pause a");
    assert_eq!(daemon.field("a", "state").as_deref(), Some("paused"));
    assert!(daemon.place.bad("pause a").contains("paused already"));
    console.send("x");
    std::thread::sleep(Duration::from_millis(300));
    daemon.place.good("unpause a");
    assert!(daemon.place.bad("unpause a").contains("not paused"));
    assert_eq!(console.expect("x"), "hello\r\nx");
    console.send("B");
    // A paused guest that is told to stop goes on to do so.
    console.send("y");
    console.expect("y");
    daemon.place.good("pause a");
    daemon.place.good("stop -w a");
    assert_eq!(console.finish().1, "bye\r\n");
}

#[test]
fn console_is_for_one_at_a_time_and_survives_a_reset() {
    let daemon = Daemon::new();
    let mut terminal = Terminal::new(daemon.place.command("start -c -b $K -m 16M a"));
    terminal.expect("hello\r\n");
    assert!(daemon.place.bad("console a").contains("~."));
    terminal.send("r");
    terminal.expect("hello\r\n");
    terminal.send("\r~.");
    assert_eq!(end(&mut terminal.child).code(), Some(0));
    assert!(terminal.is_cooked());
    assert_eq!(daemon.field("a", "state").as_deref(), Some("running"));
}

#[test]
fn console_flood_with_nobody_there_keeps_its_end_and_the_guest_going() {
    let daemon = Daemon::new();
    daemon.place.good("start -b $K -m 16M a");
    let mut console = daemon.place.spawn("console a");
    console.expect("hello\r\n");
    console.send("fz");
    // By then the guest's serial port has both.
    console.expect("flood\r\n");
    signal(console.child.id() as i32, "KILL");
    let _ = console.finish();
    // 70,000 bytes in nobody's sight.
    std::thread::sleep(Duration::from_secs(1));
    let mut console = daemon.place.spawn("console a");
    let seen = console.expect("z");
    assert!(seen.ends_with("flood\r\nz") && seen.len() < 150_000, "{} bytes", seen.len());
}

#[test]
fn start_failures_are_sentences_and_leave_nothing() {
    let daemon = Daemon::new();
    daemon.place.file("text", b"this is no kernel, whatever its name says, and it is long enough to look at");
    daemon.place.file("disk", &[0; 4096]);
    for (words, part) in [
        ("start -b text a", "text"),
        ("start -b nowhere a", "No such file"),
        ("start -b $K -m 400G a", "memory"),
        ("start -b $K --debugcon a", "--debugcon=FILE"),
        ("start -b $K -d disk -d disk a", "in use"),
    ] {
        let errors = daemon.place.bad(words);
        assert!(errors.contains(part), "vmctl {words}: {errors}");
    }
    assert_eq!(daemon.place.vmctl("status").status.code(), Some(1));
    daemon.place.good("start -b $K -d disk a");
    assert!(daemon.place.bad("start -b $K -d disk b").contains("in use"));
    assert!(daemon.place.bad("start -b $K a").contains("runs already"));
    daemon.place.good("stop -f a");
    daemon.place.good("start -b $K -d disk b");
}

#[test]
fn daemon_killed_ends_its_vms() {
    let mut daemon = Daemon::new();
    daemon.place.good("start -b $K -m 16M a");
    let vm = daemon.pid("a");
    signal(daemon.child.id() as i32, "KILL");
    end(&mut daemon.child);
    until("the VM's process is gone", || !lives(vm));
}

#[test]
fn daemon_told_to_end_stops_its_vms_first() {
    let mut daemon = Daemon::new();
    daemon.place.good("start -b $K -m 16M listens");
    let mut console = daemon.place.spawn("console listens");
    console.expect("hello\r\n");
    console.send("Bx");
    console.expect("x");
    let vm = daemon.pid("listens");
    let began = Instant::now();
    signal(daemon.child.id() as i32, "TERM");
    assert_eq!(console.finish().1, "bye\r\n");
    assert_eq!(end(&mut daemon.child).code(), Some(0));
    assert!(!lives(vm) && began.elapsed() < Duration::from_secs(15));
    assert!(!daemon.place.socket().exists());
}

#[test]
fn start_where_no_daemon_runs_leaves_one_behind() {
    let _ = common::vmd_program();
    let place = Place::new();
    assert!(place.bad("stop a").contains("no vmd listens"));
    assert_eq!(place.vmctl("status").status.code(), Some(1));
    place.good("start -b $K -m 16M a");
    let list = place.good("status");
    assert!(list.contains("running a"), "{list}");
    let pid: i32 = std::fs::read_to_string(place.path("vmd.sock.lock")).unwrap().trim().parse().unwrap();
    place.good("stop -f a");
    signal(pid, "TERM");
    until("the daemon is gone", || !place.socket().exists());
}
