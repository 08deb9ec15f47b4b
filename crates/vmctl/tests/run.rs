//! `vmctl run`: a VM in the foreground.
#![cfg(target_arch = "x86_64")]

mod common;

use common::{Place, Terminal, child_of, end, lives, signal, text, until};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

#[test]
fn run_echo_and_debug_exit_gives_qemus_status() {
    let place = Place::new();
    let mut session = place.spawn("run -b $K --debug-exit -m 16M");
    session.expect("hello\r\n");
    session.send("abc");
    session.expect("abc");
    session.send("q");
    let (status, _, errors) = session.finish();
    assert_eq!((status.code(), errors.as_str()), (Some(33), ""));
}

#[test]
fn run_power_off_is_status_0_and_a_reset_boots_again() {
    let place = Place::new();
    let mut session = place.spawn("run -b $K");
    session.expect("hello\r\n");
    session.send("r");
    session.expect("hello\r\nhello\r\n");
    session.send("p");
    assert_eq!(session.finish().0.code(), Some(0));
}

#[test]
fn run_without_debug_exit_the_port_does_nothing() {
    let place = Place::new();
    let mut session = place.spawn("run -b $K");
    session.expect("hello\r\n");
    session.send("qx");
    session.expect("x");
    session.send("p");
    assert_eq!(session.finish().0.code(), Some(0));
}

#[test]
fn run_triple_fault_again_and_again_is_a_crash_with_a_sentence() {
    let place = Place::new();
    let mut session = place.spawn("run -b $K loop");
    let mut hellos = String::new();
    for _ in 0..3 {
        hellos += "hello\r\n";
        session.expect(&hellos);
        session.send("t");
    }
    let (status, _, errors) = session.finish();
    assert_eq!(status.code(), Some(100), "{errors}");
    assert!(errors.starts_with("vmctl: loop: crashed: "), "{errors}");
}

#[test]
fn run_end_of_input_is_not_the_vms_end() {
    let place = Place::new();
    let mut session = place.spawn("run -b $K");
    session.expect("hello\r\n");
    drop(session.child.stdin.take());
    std::thread::sleep(Duration::from_millis(300));
    assert!(session.child.try_wait().unwrap().is_none());
    signal(session.child.id() as i32, "TERM");
    assert_eq!(session.finish().0.signal(), Some(15));
}

#[test]
fn run_slow_reader_gets_every_byte() {
    let place = Place::new();
    let mut session = place.spawn("run -b $K");
    session.expect("hello\r\n");
    session.send("fp");
    // Long enough for all buffers to fill.
    std::thread::sleep(Duration::from_secs(1));
    let (status, rest, _) = session.finish();
    assert_eq!(status.code(), Some(0));
    assert!(rest == "flood\r\n".repeat(10_000), "{} bytes of 70000", rest.len());
}

#[test]
fn run_reader_that_goes_away_ends_the_vm() {
    let place = Place::new();
    let mut session = place.spawn("run -b $K");
    session.expect("hello\r\n");
    drop(session.child.stdout.take());
    session.send("x");
    assert_eq!(end(&mut session.child).signal(), Some(13));
}

#[test]
fn run_signal_ends_the_vm_and_is_passed_on() {
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let place = Place::new();
        let mut session = place.spawn("run -b $K");
        session.expect("hello\r\n");
        let vm = child_of(session.child.id());
        signal(session.child.id() as i32, name);
        let (status, _, errors) = session.finish();
        assert_eq!((status.signal(), errors.as_str()), (Some(number), ""));
        assert!(!lives(vm));
    }
}

#[test]
fn run_second_signal_kills_a_vm_that_does_not_end() {
    let place = Place::new();
    let mut session = place.spawn("run -b $K");
    session.expect("hello\r\n");
    let vm = child_of(session.child.id());
    signal(vm, "STOP");
    signal(session.child.id() as i32, "TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert!(session.child.try_wait().unwrap().is_none() && lives(vm));
    signal(session.child.id() as i32, "INT");
    assert_eq!(session.finish().0.signal(), Some(2));
    assert!(!lives(vm));
}

#[test]
fn run_vms_process_killed_is_status_102_with_a_sentence() {
    let place = Place::new();
    let mut session = place.spawn("run -b $K");
    session.expect("hello\r\n");
    signal(child_of(session.child.id()), "KILL");
    let (status, _, errors) = session.finish();
    assert_eq!(status.code(), Some(102));
    assert!(errors.contains("killed by SIGKILL"), "{errors}");
}

#[test]
fn run_vmctl_killed_ends_the_vms_process() {
    let place = Place::new();
    let mut session = place.spawn("run -b $K");
    session.expect("hello\r\n");
    let vm = child_of(session.child.id());
    signal(session.child.id() as i32, "KILL");
    until("the VM's process is gone", || !lives(vm));
    let _ = session.finish();
}

#[test]
fn run_tilde_dot_ends_the_vm_and_gives_the_terminal_back() {
    let place = Place::new();
    let mut terminal = Terminal::new(place.command("run -b $K"));
    terminal.expect("hello\r\n");
    assert!(!terminal.is_cooked());
    terminal.send("a~.\r~~\r");
    terminal.expect("a~.\r~\r");
    terminal.send("~.");
    assert_eq!(end(&mut terminal.child).code(), Some(0));
    assert!(terminal.is_cooked());
}

#[test]
fn run_terminal_is_given_back_after_every_kind_of_end() {
    type End = fn(&mut Terminal);
    let ends: [End; 4] = [
        |t| signal(t.child.id() as i32, "TERM"),
        |t| signal(child_of(t.child.id()), "KILL"),
        |t| t.send("p"),
        |t| t.send("ttt"),
    ];
    for finish in ends {
        let place = Place::new();
        let mut terminal = Terminal::new(place.command("run -b $K"));
        terminal.expect("hello\r\n");
        finish(&mut terminal);
        let again = std::time::Instant::now();
        while terminal.child.try_wait().unwrap().is_none() {
            // A guest that is to fault thrice has to be told each time.
            terminal.send("t");
            std::thread::sleep(Duration::from_millis(100));
            assert!(again.elapsed() < common::PATIENCE);
        }
        assert!(terminal.is_cooked());
    }
}

#[test]
fn run_debug_console_goes_to_standard_error_or_a_file() {
    let place = Place::new();
    for (option, in_file) in [("--debugcon", false), ("--debugcon=out", true)] {
        let mut session = place.spawn(&format!("run -b $K {option}"));
        session.expect("hello\r\n");
        session.send("dp");
        let (status, _, errors) = session.finish();
        assert_eq!(status.code(), Some(0));
        let file = std::fs::read_to_string(place.path("out")).unwrap_or_default();
        assert_eq!((errors.as_str(), file.as_str()), if in_file { ("", "debug\n") } else { ("debug\n", "") });
    }
}

#[test]
fn run_bad_input_gets_a_sentence_and_status_1() {
    let place = Place::new();
    place.file("text", b"this is no kernel, whatever its name says, and it is long enough to look at");
    place.file("empty", b"");
    place.file("short", &common::kernel::bytes()[..40]);
    place.file("small", &[0; 100]);
    let mut qcow2 = vec![0; 4096];
    qcow2[..4].copy_from_slice(b"QFI\xfb");
    place.file("image", &qcow2);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    for (words, part) in [
        ("run -b nowhere", "No such file"),
        ("run -b .", "is a directory"),
        ("run -b empty", "is empty"),
        ("run -b fifo", "not a regular file"),
        ("run -b text", "text"),
        ("run -b short", "short"),
        ("run -b $K --initrd nowhere", "No such file"),
        ("run -b $K --initrd empty", "is empty"),
        ("run -b $K -d nowhere", "No such file"),
        ("run -b $K -d .", "is a directory"),
        ("run -b $K -d fifo", "not a regular file"),
        ("run -b $K -d small", "small"),
        ("run -b $K -d image", "qcow2"),
        ("run -b $K -d qcow2:text", "qcow2"),
        ("run -b $K -m 400G", "memory"),
        ("run -b $K -m 9999P", "memory"),
        ("run -b $K -m 512", "1M"),
        ("run -b $K --engine magic", "magic"),
        ("run -b $K --debugcon=/nowhere/x", "No such file"),
        ("run -b $K .hidden", "not a VM's name"),
    ] {
        let errors = place.bad(words);
        assert!(errors.starts_with("vmctl: ") && errors.contains(part), "vmctl {words}: {errors}");
        assert_eq!(errors.trim_end().lines().count(), 1, "vmctl {words}: {errors}");
    }
}

#[test]
fn run_raw_prefix_takes_a_qcow2_image_as_it_is_and_two_vms_can_not_share_a_disk() {
    let place = Place::new();
    let mut image = vec![0; 4096];
    image[..4].copy_from_slice(b"QFI\xfb");
    place.file("disk", &image);
    let mut session = place.spawn("run -b $K -d raw:disk");
    session.expect("hello\r\n");
    let errors = place.bad("run -b $K -d raw:disk");
    assert!(errors.contains("in use"), "{errors}");
    session.send("p");
    assert_eq!(session.finish().0.code(), Some(0));
    assert_eq!(std::fs::read(place.path("disk")).unwrap(), image);
}

#[test]
fn help_names_every_command_and_its_options() {
    let place = Place::new();
    let help = place.good("--help");
    for command in ["console", "create", "pause", "run", "start", "status", "stop", "unpause", "wait"] {
        assert!(help.contains(command), "{command}");
        assert!(!place.good(&format!("{command} --help")).is_empty());
    }
    assert!(text(&place.vmctl("completions bash").stdout).contains("_vmctl"));
}
