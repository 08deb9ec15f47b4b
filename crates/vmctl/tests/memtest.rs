//! Test kernels that people boot under QEMU with `-kernel`: memtest86+ and Multiboot kernels.
#![cfg(target_arch = "x86_64")]

mod common;
mod guest;

use common::{Place, signal};
use guest::console::Console;
use std::os::unix::process::ExitStatusExt;

/// `vmctl run` of a kernel of `cargo xtask guests`.
fn run(place: &Place, kernel: &str, options: &[&str]) -> Console {
    let mut command = place.command("run");
    command.arg("-b").arg(guest::file(&format!("kernels/{kernel}"))).args(options);
    Console::of(command)
}

/// memtest86+ goes through its first tests and finds nothing.
///
/// The screen is sent now and then: of a test that is over sooner, nothing is seen. So `memory` has to take a while.
fn passes(kernel: &str, memory: &str, cpus: &str, title: &str, processors: &str) {
    let place = Place::new();
    let mut console = run(&place, kernel, &["-m", memory, "-p", cpus, "--cmdline", "console=ttyS0,115200"]);
    console.expect(title);
    console.expect(processors);
    console.expect("[Address test, walking ones, no cache]");
    // The tests of data, which all processors do, not of addresses.
    console.expect("Using: All Cores");
    console.expect("Errors: 0 ");
    signal(console.child.id() as i32, "TERM");
    let (status, screen, errors) = console.finish();
    assert_eq!((status.signal(), errors.as_str()), (Some(15), ""), "{screen}");
}

#[test]
fn memtest86_in_64_bit_code_tests_with_two_processors() {
    passes("memtest86+x64.bin", "64M", "2", "Memtest86+ v", "2 Cores 2 Threads    SMP: 2T (PAR)");
}

#[test]
fn memtest86_in_32_bit_code_tests_with_one_processor() {
    passes("memtest86+ia32.bin", "16M", "1", "Memtest86+ v", "1 Cores 1 Threads    SMP: Disabled");
}

#[test]
fn multiboot_hello_in_elf_and_plain_form_says_what_it_was_given_and_exits_with_its_status() {
    for kernel in ["hello.elf", "hello.bin"] {
        let place = Place::new();
        place.file("module", b"12345");
        let options = ["-m", "32M", "--debug-exit", "--cmdline", "two words", "--initrd", "module its words"];
        let (status, output, errors) = run(&place, kernel, &options).finish();
        assert_eq!((status.code(), errors.as_str()), (Some(33), ""), "{kernel}: {output}");
        let memory = format!("memory above 1 MiB: {} KiB", 31 << 10);
        for line in
            ["Hello from a Multiboot kernel", "two words", &memory, "module of 5 bytes: ", "its words"]
        {
            assert!(output.contains(line), "{kernel}: no {line:?} in {output:?}");
        }
    }
}
