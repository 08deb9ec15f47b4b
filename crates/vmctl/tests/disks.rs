//! What Debian's virtio driver writes lies on the host's disk and is there after any end; disks that fail are the guest's
//! errors only.
#![cfg(target_arch = "x86_64")]

mod common;
mod guest;

use common::{Daemon, Place, text};
use guest::console::Console;
use guest::{Kernel, Linux};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;

/// A file of zeroes that take no space.
fn sparse(place: &Place, name: &str, bytes: u64) {
    File::create(place.path(name)).unwrap().set_len(bytes).unwrap();
}

/// What a program of the host's says about a file: its first word.
fn host_sum(program: &str, path: &Path) -> String {
    let output = Command::new(program).arg(path).output().unwrap();
    assert!(output.status.success(), "{program}: {}", text(&output.stderr));
    text(&output.stdout).split_whitespace().next().unwrap().to_owned()
}

#[test]
fn what_dd_wrote_with_fsync_is_there_after_stop_f_and_on_the_host() {
    let daemon = Daemon::new();
    let place = &daemon.place;
    sparse(place, "big", 64 * MIB);
    // Not a whole number of sectors: the guest sees 2049 of them, and the rest stays as it is.
    let odd: Vec<u8> = (0..2049 * 512 + 300).map(|i: u32| (i % 251) as u8).collect();
    place.file("odd", &odd);
    place.file("sector", &[7; 512]);

    let script = "
        dd if=/dev/urandom of=/dev/vda bs=1M count=64 conv=fsync
        echo sum $(md5sum </dev/vda)
        echo sizes $(cat /sys/block/vda/size /sys/block/vdb/size /sys/block/vdc/size)
        echo odd $(sha256sum </dev/vdb)
        echo last | dd of=/dev/vdb bs=512 seek=2048 conv=fsync,sync
        echo beyond | dd of=/dev/vdb bs=512 seek=2049 conv=fsync && echo grew
        tr '\\0' x </dev/zero | dd of=/dev/vdc bs=512 count=1 iflag=fullblock conv=fsync
        echo written
        sleep 1000
    ";
    // The driver's buffers lie above 4 GiB, too.
    let writer = Linux::new(Kernel::Amd64).script(script);
    writer.options("-m 5G -d big -d odd -d sector").start(place, "writer");
    let mut console = Console::of(place.command("console writer"));
    console.expect("sum ");
    let sum = console.expect(" -");
    console.expect("sizes ");
    assert_eq!(console.expect("\n").trim(), "131072 2049 1");
    console.expect("odd ");
    assert_eq!(console.expect(" -"), sha256(&odd[..2049 * 512]));
    assert!(!console.expect("written").contains("grew"));
    place.good("stop -f writer");
    let _ = console.finish();

    assert_eq!(host_sum("md5sum", &place.path("big")), sum);
    let mut expected = odd;
    expected[2048 * 512..2049 * 512].fill(0);
    expected[2048 * 512..2048 * 512 + 5].copy_from_slice(b"last\n");
    assert!(std::fs::read(place.path("odd")).unwrap() == expected);
    assert_eq!(std::fs::read(place.path("sector")).unwrap(), [b'x'; 512]);

    let script = "echo sum $(md5sum </dev/vda); echo tail $(dd if=/dev/vdb bs=512 skip=2048 | head -c 4)";
    let reader = Linux::new(Kernel::Amd64).script(script);
    let report = reader.options("-d big -d odd").run(place).report();
    assert_eq!(report.value("sum"), format!("{sum} -"));
    assert_eq!(report.value("tail"), "last");
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn disk_that_shrinks_and_host_that_is_full_are_io_errors_to_a_guest_that_lives() {
    let place = Place::new();
    sparse(&place, "shrinks", 8 * MIB);
    sparse(&place, "limited", 768 * MIB);
    let script = "
        try() { echo \"$1\" $(shift; \"$@\" >/dev/null 2>&1 && echo yes || echo no); }
        try before dd if=/dev/vda of=/dev/null bs=1M
        echo ready; read go </dev/console
        echo 3 >/proc/sys/vm/drop_caches
        try within dd if=/dev/vda of=/dev/null bs=1M count=4
        try gone dd if=/dev/vda of=/dev/null bs=1M skip=5 count=1
        try room dd if=/dev/zero of=/dev/vdb bs=1M count=1 seek=10 conv=fsync
        try full dd if=/dev/zero of=/dev/vdb bs=1M count=1 seek=640 conv=fsync
        try again dd if=/dev/zero of=/dev/vdb bs=1M count=1 seek=11 conv=fsync
        [ -b /dev/vdc ] && try small dd if=/dev/zero of=/dev/vdc bs=1M count=32 conv=fsync
        echo alive $((40 + 2))
    ";
    // A file may not grow beyond 600 MiB here, as on a full file system; the guest's memory and translated code, files too,
    // are smaller. Where the host lets a test mount one, a file system that is really full, too.
    let own_mounts = ["-m", "-rm"].into_iter().find(|option| {
        let mut command = Command::new("unshare");
        command
            .args([option, "mount", "-t", "tmpfs", "none", "/mnt"])
            .output()
            .is_ok_and(|o| o.status.success())
    });
    std::fs::create_dir(place.path("full")).unwrap();
    let mut linux = Linux::new(Kernel::Amd64).script(script).options("-m 128M -d shrinks -d limited");
    let mut setup = "ulimit -f $((600 * limit))".to_owned();
    if own_mounts.is_some() {
        linux = linux.options("-d full/disk");
        setup += " && mount -t tmpfs -o size=4m none full && truncate -s 64M full/disk";
    }
    let run = linux.command(&place, "run", "linux");
    // ulimit counts in blocks of 512 bytes, but in KiB where the shell is bash.
    let line = format!("limit=2048; [ -n \"$BASH\" ] && limit=1024; {setup} && exec \"$@\"");
    let mut command = Command::new(own_mounts.map_or("env", |_| "unshare"));
    command.args(own_mounts).args(["sh", "-c", &line, "sh"]).arg(run.get_program()).args(run.get_args());
    command.current_dir(place.dir.path());
    let mut console = Console::of(command);
    console.expect("ready\n");
    let shrinks = File::options().write(true).open(place.path("shrinks")).unwrap();
    shrinks.write_all_at(b"still here", 0).unwrap();
    shrinks.set_len(4 * MIB).unwrap();
    console.send("\n");
    let report = console.report();
    let values = ["before", "within", "gone", "room", "full", "again"].map(|name| report.value(name));
    assert_eq!(values, ["yes", "yes", "no", "yes", "no", "yes"], "{}", report.output);
    if own_mounts.is_some() {
        assert_eq!(report.value("small"), "no", "{}", report.output);
    }
    assert_eq!(report.value("alive"), "42");
    assert_eq!(std::fs::metadata(place.path("shrinks")).unwrap().len(), 4 * MIB);
}
