//! The virtio console under Debian's kernel, and the one console that it shares with COM1. The guests are made by
//! `cargo xtask guests`, which `cargo xtask test` runs; without `AUBERGE_GUESTS` set these tests pass over.
#![cfg(target_arch = "x86_64")]

mod common;

use common::{Place, Session};
use std::path::PathBuf;

const PROMPT: &str = "auberge:/root# ";

/// The amd64 guest with this kernel command line, at its shell's prompt.
fn boot(place: &Place, command_line: &str) -> Option<Session> {
    let Some(guests) = std::env::var_os("AUBERGE_GUESTS") else {
        eprintln!("passed over: AUBERGE_GUESTS is not set");
        return None;
    };
    let amd64 = PathBuf::from(guests).join("amd64");
    let (kernel, initrd) = (amd64.join("vmlinuz"), amd64.join("initrd.img"));
    let (kernel, initrd) = (kernel.display(), initrd.display());
    let mut session =
        place.spawn(&format!("run -b {kernel} --initrd {initrd} -m 256M --cmdline {command_line}"));
    session.expect(PROMPT);
    Some(session)
}

fn power_off(mut session: Session) {
    session.send("poweroff\r");
    let (status, _, errors) = session.finish();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn hvc0_written_from_a_shell_on_com1_has_the_input_until_com1_speaks_again() {
    let place = Place::new();
    let Some(mut session) = boot(&place, "console=ttyS0") else { return };
    // The quotes keep the echo of the command from looking like its output.
    session.send("exec 3<>/dev/hvc0; echo hello-''hvc >&3; read line <&3; echo got=$line''=\r");
    session.expect("hello-hvc\r\n");
    session.send("typed\r");
    session.expect("got=typed=\r\n");
    session.expect(PROMPT);
    session.send("tty | tr a-z A-Z\r");
    session.expect("/DEV/TTYS0\r\n");
    session.expect(PROMPT);
    power_off(session);
}

#[test]
fn shell_on_hvc0_answers_and_loses_no_byte_of_long_output() {
    let place = Place::new();
    let Some(mut session) = boot(&place, "console=hvc0") else { return };
    session.send("tty | tr a-z A-Z; seq 2000; echo end\r");
    let said = session.expect("\r\nend\r\n");
    let numbers: String = (1..=2000).map(|n| format!("{n}\r\n")).collect();
    let (_, said) = said.split_once("/DEV/HVC0\r\n").expect("the shell's terminal is hvc0");
    assert_eq!(said, format!("{numbers}end\r\n"));
    session.expect(PROMPT);
    power_off(session);
}
