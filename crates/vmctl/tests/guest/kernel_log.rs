//! What Linux's log must not say on a sound machine.

/// Pieces of lines, in lower case, with which Linux complains about the machine, its firmware or its clocks.
const COMPLAINTS: &[&str] = &[
    "acpi bios error",
    "acpi bios warning",
    "acpi error",
    "acpi exception",
    "acpi warning",
    "[firmware bug]",
    "[firmware warn]",
    "bad page",
    "blocked for more than",
    "buffer i/o error",
    "bug:",
    "call trace",
    "can't allocate",
    "detected stall",
    "detected stalls",
    "double fault",
    "failed to assign",
    "general protection",
    "hard lockup",
    "i/o error",
    "invalid opcode",
    "irq routing conflict",
    "kernel panic",
    "marking unstable",
    "marking clocksource",
    "no irq handler for vector",
    "nobody cared",
    "not connected to io-apic",
    "oops",
    "out of memory",
    "probable hardware bug",
    "sched: rt throttling",
    "segfault",
    "self-detected",
    "self-test",
    "soft lockup",
    "spurious",
    "starved for",
    "time jumped",
    "timer doesn't work",
    "timer failed",
    "trap invalid",
    "tsc found unstable",
    "unable to handle",
    "unchecked msr access",
    "unstable",
    "virtio: bogus",
    "vp_reset",
    "warning:",
    "x86/fpu: mismatch",
    "xstate size",
];

/// Lines that hold one of the pieces and are no complaint.
const FINE: &[&str] = &["passed", "self-tests for", "command line:"];

/// Fails for a log with complaints in it; an empty one is no log.
pub fn check(log: &str) {
    assert!(log.contains("Linux version "), "this is no kernel's log: {log}");
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| {
            let line = line.to_lowercase();
            COMPLAINTS.iter().any(|piece| line.contains(piece))
                && !FINE.iter().any(|piece| line.contains(piece))
        })
        .collect();
    assert!(complaints.is_empty(), "the kernel complains:\n{}\nin\n{log}", complaints.join("\n"));
}
