//! Debian with systemd boots from a disk to a login, and its programs print what the same programs print on this machine.
#![cfg(target_arch = "x86_64")]

mod common;
mod guest;

use common::{Place, text};
use guest::debian::{self, Login};
use guest::{Kernel, Linux, kernel_log};
use std::process::Command;

/// What both run.
const COMMANDS: &str = include_str!("../../../guests/userland/commands.sh");

#[test]
fn debian_with_systemd_boots_to_a_login_and_its_programs_print_what_they_print_on_the_host() {
    let place = Place::new();
    let files = place.path("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("commands"), COMMANDS).unwrap();
    let native = debian::native(&files, "mkdir /tmp/work; cd /tmp/work; sh /root/files/commands");
    assert!(native.status.success(), "{}", text(&native.stderr));
    let native = text(&native.stdout);
    // Not that both failed alike: only the program with a mistake in it is to.
    let statuses = native.lines().filter(|line| line.starts_with("## status "));
    let (good, bad): (Vec<&str>, Vec<&str>) = statuses.partition(|line| *line == "## status 0");
    assert!(good.len() > 35 && bad == ["## status 1"], "{native}");

    debian::disk(&place, "disk");
    place.file("commands", &padded(COMMANDS));
    let linux = Linux::new(Kernel::Amd64).words("root=/dev/vda");
    let linux = linux.options("-m 1G -d disk -d commands");
    let mut login = Login::open(linux.run(&place));
    assert_eq!(login.run("systemctl is-system-running --wait"), ("running\n".into(), 0));
    assert_eq!(login.good("cat /proc/1/comm"), "systemd\n");
    let environment = "env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root";
    login.good("mkdir /tmp/work; cd /tmp/work");
    let (guest, status) =
        login.long_run(&format!("{environment} sh /dev/vdb 2>&1"), "## status ", good.len() + bad.len());
    assert_eq!(status, 0, "{guest}");
    same(&native, &guest);

    assert_eq!(login.good("systemctl --failed --no-legend --plain"), "");
    kernel_log::check(&login.good("dmesg"));
    login.console.send("poweroff\n");
    let (status, console, errors) = login.console.finish();
    assert!(status.success() && console.contains("Power down"), "{status} {errors} {console}");
    let check = Command::new("/sbin/e2fsck").args(["-f", "-n"]).arg(place.path("disk")).output();
    let check = check.expect("there is no /sbin/e2fsck: install e2fsprogs");
    assert!(check.status.success(), "{} {}", text(&check.stdout), text(&check.stderr));
}

/// A script to be read from a disk, which is whole sectors long.
fn padded(script: &str) -> Vec<u8> {
    let mut bytes = script.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), b'\n');
    bytes
}

/// Fails with the first command whose output differs.
fn same(native: &str, guest: &str) {
    let (mut ours, mut theirs) = (native.split("\n## "), guest.split("\n## "));
    let mut command = "";
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return,
            (native, guest) => {
                assert_eq!(guest, native, "after {command:?}: the guest's output, and this machine's");
                command = native.unwrap_or_default().lines().next().unwrap_or_default();
            }
        }
    }
}
