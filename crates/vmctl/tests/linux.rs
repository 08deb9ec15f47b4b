//! Debian's kernels: they boot with every kind of paging, interrupt controller and amount of memory, find nothing to
//! complain about, keep time, and compute what the host computes.
#![cfg(target_arch = "x86_64")]

mod common;
mod guest;

use common::{Place, child_of};
use guest::archive;
use guest::console::{Console, Report};
use guest::kernel_log;
use guest::stress;
use guest::{Kernel, Linux};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What every guest tells, with its whole log at the end.
const FACTS: &str = "
    echo uname $(uname -a)
    echo cpus $(nproc)
    echo online $(cat /sys/devices/system/cpu/online)
    echo memory $(sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)
    echo clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
    echo '<interrupts>'; cat /proc/interrupts; echo '</interrupts>'
    echo '<log>'; dmesg; echo '</log>'
";

/// Checks what holds for every guest.
fn check(report: &Report, system: &str, machine: &str, cpus: u32) {
    assert_eq!(report.status, 0, "{}", report.output);
    let uname = report.value("uname");
    assert!(uname.starts_with("Linux auberge 6.1.0-") && uname.contains(system), "{uname}");
    assert!(uname.contains(" Debian ") && uname.ends_with(&format!("{machine} GNU/Linux")), "{uname}");
    assert_eq!(report.value("cpus"), cpus.to_string());
    assert!(["tsc", "kvm-clock"].contains(&report.value("clocksource")), "{}", report.value("clocksource"));
    kernel_log::check(report.part("log"));
}

/// How often the interrupt with this name in its line came, by processor.
fn counts(report: &Report, name: &str) -> Vec<u64> {
    let table = report.part("interrupts");
    let line = table.lines().find(|line| line.contains(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {table}"));
    line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect()
}

#[test]
fn amd64_boots_keeps_time_and_computes_in_64_and_32_bit_code() {
    let initrd = std::fs::read(Kernel::Pae.initrd()).unwrap();
    let busybox = archive::find(&initrd, "bin/busybox").unwrap();
    assert_eq!(busybox[..5], *b"\x7fELF\x01", "not a 32-bit program");
    let script = format!(
        "echo now $(date +%s)
        for i in 1 2 3; do echo tick; sleep 2; echo tock; done
        export BB=busybox; sh /stress.sh
        echo '<compatibility>'; BB=/busybox32 sh /stress.sh; echo '</compatibility>'
        {FACTS}"
    );
    let linux = Linux::new(Kernel::Amd64).script(&script);
    let linux = linux.file("stress.sh", stress::SCRIPT.as_bytes()).file("busybox32", busybox);
    let place = Place::new();
    let mut console = linux.run(&place);
    keeps_time(&mut console);
    let report = console.report();
    check(&report, "cloud-amd64", "x86_64", 1);
    stress::check(&report, 1);
    let output = report.part("compatibility").to_owned();
    stress::check(&Report { output, ..report }, 1);
}

/// The guest's date is the host's, and its seconds are as long.
fn keeps_time(console: &mut Console) {
    console.expect("now ");
    let guest: i64 = console.expect("\n").trim().parse().unwrap();
    let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!((guest - host).abs() <= 2, "the guest's clock is at {guest}, the host's at {host}");
    let sleeps: Vec<Duration> = (0..3)
        .map(|_| {
            console.expect("tick\n");
            let began = Instant::now();
            console.expect("tock\n");
            began.elapsed()
        })
        .collect();
    // A busy host wakes a guest late, so the best of three counts; none may be short.
    let (least, most) = (Duration::from_millis(1800), Duration::from_millis(2200));
    assert!(*sleeps.iter().min().unwrap() <= most && sleeps.iter().all(|s| *s >= least), "{sleeps:?}");
}

#[test]
fn amd64_two_processors_share_work_interrupt_each_other_and_go_off_and_on_line() {
    let script = format!(
        "echo first $(taskset 1 sed 's/.*) //' /proc/self/stat | cut -d' ' -f37)
        echo second $(taskset 2 sed 's/.*) //' /proc/self/stat | cut -d' ' -f37)
        export BB=busybox WORKERS=2; sh /stress.sh
        for i in 1 2 3; do
            echo 0 >/sys/devices/system/cpu/cpu1/online || exit 1
            echo without $(cat /sys/devices/system/cpu/online)
            echo 1 >/sys/devices/system/cpu/cpu1/online || exit 2
        done
        echo again $(taskset 2 sed 's/.*) //' /proc/self/stat | cut -d' ' -f37)
        {FACTS}"
    );
    let place = Place::new();
    let linux = Linux::new(Kernel::Amd64).script(&script).file("stress.sh", stress::SCRIPT.as_bytes());
    let report = linux.options("-p 2").run(&place).report();
    check(&report, "cloud-amd64", "x86_64", 2);
    stress::check(&report, 2);
    let values = ["online", "first", "second", "without", "again"].map(|name| report.value(name));
    assert_eq!(values, ["0-1", "0", "1", "0", "1"]);
    for name in ["Rescheduling interrupts", "Function call interrupts", "Local timer interrupts"] {
        let counts = counts(&report, name);
        assert!(counts.len() == 2 && counts.iter().all(|&count| count > 0), "{name}: {counts:?}");
    }
}

#[test]
fn i386_with_pae_boots_on_two_processors() {
    let place = Place::new();
    let report = Linux::new(Kernel::Pae).script(FACTS).options("-p 2").run(&place).report();
    check(&report, "-686-pae", "i686", 2);
    assert_eq!(report.value("online"), "0-1");
    assert!(counts(&report, "Rescheduling interrupts").iter().all(|&count| count > 0));
}

#[test]
fn i386_without_pae_boots_on_two_processors_by_the_multiprocessor_tables() {
    let place = Place::new();
    // Without ACPI this kernel, unlike amd64's, reads the tables of the MultiProcessor Specification.
    let linux = Linux::new(Kernel::Plain).script(FACTS).without_acpi().options("-p 2");
    let report = linux.run(&place).report();
    check(&report, "-686 ", "i686", 2);
    assert!(report.part("log").contains("found SMP MP-table"));
    assert!(report.part("interrupts").contains("IO-APIC"), "{}", report.part("interrupts"));
}

#[test]
fn amd64_without_acpi_and_apic_boots_in_little_memory_on_the_8259s() {
    let place = Place::new();
    // Linux warns about itself when it has no APIC and is not told that MSIs then go nowhere.
    let linux = Linux::new(Kernel::Amd64).script(FACTS).without_acpi().words("noapic pci=nomsi");
    let report = linux.options("-m 128M").run(&place).report();
    check(&report, "cloud-amd64", "x86_64", 1);
    assert!(report.part("interrupts").contains("XT-PIC"), "{}", report.part("interrupts"));
    assert!(!report.part("interrupts").contains("IO-APIC"), "{}", report.part("interrupts"));
    let memory: u64 = report.value("memory").parse().unwrap();
    assert!((80_000..131_072).contains(&memory), "{memory} KiB");
}

#[test]
fn amd64_memory_above_4_gib_is_there_and_costs_what_is_touched() {
    let place = Place::new();
    let script = format!(
        "mount -t tmpfs none /mnt; dd if=/dev/urandom of=/mnt/a bs=1M count=64; cp /mnt/a /mnt/b; cmp /mnt/a /mnt/b
        echo used; read go </dev/console
        {FACTS}"
    );
    let mut console = Linux::new(Kernel::Amd64).script(&script).options("-m 5G").run(&place);
    console.expect("used\n");
    let resident = resident_mib(child_of(console.child.id()));
    console.send("\n");
    let report = console.report();
    check(&report, "cloud-amd64", "x86_64", 1);
    let memory: u64 = report.value("memory").parse().unwrap();
    assert!((4_900_000..5_242_880).contains(&memory), "{memory} KiB");
    assert!(report.part("log").contains("[mem 0x0000000100000000-0x000000017fffffff] usable"));
    assert!(resident < 1024, "{resident} MiB for a guest that used a little of its 5 GiB");
}

fn resident_mib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
