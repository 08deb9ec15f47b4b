//! Debian's kernel under the daemon. The guests are made by `cargo xtask guests`, which `cargo xtask test` runs;
//! without them, that is without `AUBERGE_GUESTS` set, these tests pass over.
#![cfg(target_arch = "x86_64")]

mod common;

use common::{Daemon, end};
use std::path::PathBuf;

const PROMPT: &str = "auberge:/root# ";

/// The amd64 guest's options for `vmctl start`.
fn guest() -> Option<String> {
    let Some(guests) = std::env::var_os("AUBERGE_GUESTS") else {
        eprintln!("passed over: AUBERGE_GUESTS is not set");
        return None;
    };
    let amd64 = PathBuf::from(guests).join("amd64");
    let (kernel, initrd) = (amd64.join("vmlinuz"), amd64.join("initrd.img"));
    Some(format!("-b {} --initrd {} --cmdline console=ttyS0", kernel.display(), initrd.display()))
}

#[test]
fn disk_synced_by_the_guest_outlives_stop_force() {
    let Some(guest) = guest() else { return };
    let daemon = Daemon::new();
    daemon.place.good("create -s 80M disk");
    let start = format!("start {guest} -d disk linux");

    daemon.place.good(&start);
    let mut console = daemon.place.spawn("console linux");
    console.expect(PROMPT);
    console.send("dd if=/dev/urandom of=/dev/vda bs=1M count=64 conv=fsync 2>/dev/null; ");
    console.send("echo sum=$(dd if=/dev/vda bs=1M count=64 2>/dev/null | md5sum | cut -c1-32)'='\r");
    let written = sum(&console.expect("=\r\n"));
    daemon.place.good("stop -f linux");
    let _ = console.finish();

    daemon.place.good(&start);
    let mut console = daemon.place.spawn("console linux");
    console.expect(PROMPT);
    console.send("echo sum=$(dd if=/dev/vda bs=1M count=64 2>/dev/null | md5sum | cut -c1-32)'='\r");
    let read = sum(&console.expect("=\r\n"));
    assert_eq!(written, read);

    // The guest's own acpid hears the power button.
    daemon.place.good("stop -w linux");
    assert_eq!(end(&mut console.child).code(), Some(0));
    assert_eq!(daemon.place.vmctl("wait linux").status.code(), Some(0));
}

/// The 32 digits between `sum=` and `=` at the end of what a console said.
fn sum(said: &str) -> String {
    let end = said.strip_suffix("=\r\n").unwrap();
    let sum = &end[end.len() - 32..];
    assert!(end.ends_with(&format!("sum={sum}")) && sum.bytes().all(|b| b.is_ascii_hexdigit()), "{sum}");
    sum.to_string()
}
