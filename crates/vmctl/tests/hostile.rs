//! Guests and files that are not as they should be: each gets a sentence or a bounded effect.
#![cfg(target_arch = "x86_64")]

mod common;
mod guest;

use common::{Daemon, Place, signal};
use guest::console::Console;
use guest::{Kernel, Linux};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn kernel_cut_short_anywhere_is_a_sentence() {
    let place = Place::new();
    for (kernel, lengths) in [
        (Kernel::Amd64.kernel(), &[1, 511, 512, 600, 4096, 20_000, 1 << 20, 13 << 20][..]),
        (guest::file("kernels/hello.elf"), &[4, 52, 100, 700]),
        (guest::file("kernels/hello.bin"), &[4, 20, 300]),
        (guest::file("kernels/memtest86+x64.bin"), &[600, 100_000]),
    ] {
        let whole = std::fs::read(kernel).unwrap();
        for &length in lengths {
            place.file("cut", &whole[..length]);
            let mut command = place.command("run -b cut -m 64M");
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let output = child.wait_with_output().unwrap();
            let errors = common::text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{length} bytes: {errors}");
            assert!(errors.starts_with("vmctl: ") && errors.contains("cut"), "{length} bytes: {errors}");
            assert_eq!(errors.trim_end().lines().count(), 1, "{length} bytes: {errors}");
        }
    }
}

#[test]
fn kernel_of_chance_bytes_behind_a_good_header_is_a_sentence_or_a_crash() {
    let place = Place::new();
    let mut kernel = std::fs::read(Kernel::Amd64.kernel()).unwrap();
    let mut random = 1u32;
    for byte in &mut kernel[0x8000..] {
        // Numerical Recipes' generator.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (random >> 24) as u8;
    }
    place.file("chance", &kernel);
    let mut console = Console::of(place.command("run -b chance -m 64M"));
    // It crashes, or loops for ever: then it has to end when told to.
    std::thread::sleep(Duration::from_secs(3));
    if console.child.try_wait().unwrap().is_none() {
        signal(console.child.id() as i32, "TERM");
    }
    let (status, _, errors) = console.finish();
    assert!([1, 100].map(Some).contains(&status.code()) || status.signal() == Some(15), "{status} {errors}");
    assert_eq!(status.signal().is_some(), errors.is_empty(), "{errors}");
}

#[test]
fn initrd_cut_short_is_the_kernels_panic_and_the_vm_still_ends_when_told_to() {
    let place = Place::new();
    let initrd = std::fs::read(Kernel::Amd64.initrd()).unwrap();
    let command = Linux::new(Kernel::Amd64).command(&place, "run", "linux");
    // In the place of the whole one.
    place.file("linux.initrd", &initrd[..initrd.len() / 4]);
    let mut console = Console::of(command);
    console.expect("Kernel panic - not syncing");
    signal(console.child.id() as i32, "TERM");
    let (status, _, errors) = console.finish();
    assert_eq!((status.signal(), errors.as_str()), (Some(15), ""));
}

#[test]
fn triple_fault_at_once_is_a_crash_with_a_sentence() {
    let place = Place::new();
    let mut command = place.command("run -m 16M");
    command.arg("-b").arg(guest::file("kernels/triple-fault.elf"));
    let (status, _, errors) = Console::of(command).finish();
    assert_eq!(status.code(), Some(100), "{errors}");
    assert!(errors.starts_with("vmctl: vm: crashed: ") && errors.contains("triple fault"), "{errors}");
}

/// A process's anonymous and shared memory that is in RAM, in KiB.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Fails when one of the processes grows.
fn stays_as_it_is(pids: &[i32]) {
    std::thread::sleep(Duration::from_secs(2));
    let before: u64 = pids.iter().copied().map(resident).sum();
    std::thread::sleep(Duration::from_secs(3));
    let after: u64 = pids.iter().copied().map(resident).sum();
    assert!(after < before + 2048, "from {before} KiB to {after} KiB");
}

#[test]
fn console_flood_grows_no_process_whether_nobody_or_a_slow_reader_looks() {
    let flood = guest::file("kernels/console-flood.elf");
    let daemon = Daemon::new();
    let mut command = daemon.place.command("start -m 16M");
    let output = command.arg("-b").arg(&flood).arg("flood").output().unwrap();
    assert!(output.status.success(), "{}", common::text(&output.stderr));

    let mut command = daemon.place.command("run -m 16M");
    let mut slow = command.arg("-b").arg(&flood).stdout(Stdio::piped()).spawn().unwrap();
    stays_as_it_is(&[
        daemon.child.id() as i32,
        daemon.pid("flood"),
        slow.id() as i32,
        common::child_of(slow.id()),
    ]);
    let mut some = [0; 27 * 1000];
    slow.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    assert!(some.starts_with(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\nABC"));
    signal(slow.id() as i32, "TERM");
    // It gives what is left to nobody who reads, and ends all the same.
    drop(slow.stdout.take());
    assert!(common::end(&mut slow).signal().is_some());
    daemon.place.good("stop -f flood");
}

#[test]
fn memory_beyond_the_hosts_is_a_sentence() {
    let place = Place::new();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    let errors = place.bad(&format!("run -b $K -m {}M", total / 1024 + 4096));
    assert!(errors.contains("memory") && errors.trim_end().lines().count() == 1, "{errors}");
}
