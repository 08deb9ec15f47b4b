//! Debian's kernels as ELF files, by PVH: the loader's start info, memory map and initrd, told by Linux.
#![cfg(target_arch = "x86_64")]

mod common;
mod guest;

use common::Place;
use guest::kernel_log;
use guest::{Kernel, Linux};

/// What Linux's own PVH entry says of a loader that is not Xen's: of type 11 in the upper half of the byte, and of boot
/// protocol 2.12; a bzImage tells its own protocol, which is newer (Linux, Documentation/arch/x86/boot.rst).
const LOADER: &str = "176 0x020c";

/// Boots the kernel by PVH and checks what it tells.
fn boots(kernel: Kernel, system: &str, machine: &str) {
    let script = "
        echo uname $(uname -a)
        echo loader $(cat /proc/sys/kernel/bootloader_type /sys/kernel/boot_params/version)
        echo cpus $(nproc)
        echo memory $(sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)
        echo words $(cat /proc/cmdline)
        echo '<log>'; dmesg; echo '</log>'
    ";
    let place = Place::new();
    let linux = Linux::new(kernel).pvh().words("a-word").script(script).options("-p 2 -m 300M");
    let report = linux.run(&place).report();
    assert_eq!(report.status, 0, "{}", report.output);
    let uname = report.value("uname");
    assert!(uname.starts_with("Linux auberge 6.1.0-") && uname.contains(system), "{uname}");
    assert!(uname.contains(" Debian ") && uname.ends_with(&format!("{machine} GNU/Linux")), "{uname}");
    assert_eq!(report.value("loader"), LOADER);
    assert_eq!(report.value("cpus"), "2");
    let memory: u64 = report.value("memory").parse().unwrap();
    assert!((220_000..300 << 10).contains(&memory), "{memory} KiB");
    assert!(report.value("words").contains(" a-word "), "{}", report.value("words"));
    let log = report.part("log");
    kernel_log::check(log);
    assert!(log.contains("ACPI: RSDP 0x"), "{log}");
}

#[test]
fn amd64_vmlinux_boots_by_pvh_on_two_processors() {
    boots(Kernel::Amd64, "cloud-amd64", "x86_64");
}

#[test]
fn i386_vmlinux_with_pae_boots_by_pvh_on_two_processors() {
    boots(Kernel::Pae, "-686-pae", "i686");
}
