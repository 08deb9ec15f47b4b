//! What an engine gets wrong easily: code that changes while it runs, debuggers, signals at any instruction, registers
//! over switches, mappings that change, and a kernel that patches itself. The programs, `guests/stress`, know the result.
#![cfg(target_arch = "x86_64")]

mod common;
mod guest;

use common::{Place, text};
use guest::console::Report;
use guest::{Kernel, Linux, kernel_log};
use std::path::Path;
use std::process::Command;

/// For a guest with enough memory and a disk of code; every one is ok on a processor.
const PROGRAMS: &[&str] = &[
    "patch_here",
    "patch_itself",
    "patch_alias",
    "patch_thread",
    "patch_remap",
    "patch_fork",
    "patch_protect",
    "patch_pipe",
    "patch_disk",
    "debug_steps",
    "debug_watch",
    "debug_breakpoints",
    "signals_timer",
    "signals_faults",
    "signals_perf",
    "state_processes",
    "state_threads",
    "memory_shootdown",
    "memory_protect",
    "memory_ping_pong",
    "memory_fork_bomb",
];

/// The programs, compiled by this machine's compiler as one static program.
fn programs(place: &Place) -> Vec<u8> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/stress");
    let files = ["main.c", "patch.c", "debug.c", "signals.c", "state.c", "memory.c"];
    let program = place.path("stress");
    let mut compile = Command::new("cc");
    compile.args(["-static", "-O2", "-Wall", "-Werror", "-pthread", "-o"]).arg(&program);
    compile.args(files.map(|file| sources.join(file)));
    let output =
        compile.output().expect("there is no cc: install a C compiler and its library for static linking");
    assert!(output.status.success(), "{}", text(&output.stderr));
    std::fs::read(program).unwrap()
}

/// A disk each of whose pages holds a function that returns its page's number plus 1000.
fn disk_of_code(place: &Place) {
    let pages = (0..64u32).flat_map(|page| {
        let mut code = vec![0xb8]; // mov eax, page + 1000; ret
        code.extend((page + 1000).to_le_bytes());
        code.push(0xc3);
        code.resize(4096, 0xcc);
        code
    });
    place.file("code", &pages.collect::<Vec<u8>>());
}

fn run(script: &str, options: &str) -> Report {
    let place = Place::new();
    let stress = programs(&place);
    disk_of_code(&place);
    let linux = Linux::new(Kernel::Amd64).script(script).file("stress", &stress);
    linux.options("-d code").options(options).run(&place).report()
}

fn all_are_ok(options: &str) {
    let script = format!(
        "for program in {}; do timeout 200 /stress $program || exit 1; done 2>/dev/null
        echo '<log>'; dmesg; echo '</log>'",
        PROGRAMS.join(" ")
    );
    let report = run(&script, options);
    assert_eq!(report.status, 0, "{}", report.output);
    let expected: String = PROGRAMS.iter().map(|program| format!("{program} ok\n")).collect();
    assert!(report.output.starts_with(&expected), "{}", report.output);
    kernel_log::check(report.part("log"));
}

#[test]
fn stress_programs_are_ok_on_one_processor() {
    all_are_ok("-p 1");
}

#[test]
fn stress_programs_are_ok_on_two_processors() {
    all_are_ok("-p 2");
}

/// Static keys (schedstats), static calls and jump labels of tracepoints, and every function's entry (ftrace).
#[test]
fn kernel_patches_its_code_under_load_on_two_processors() {
    let script = "
        mkdir /trace; mount -t tracefs trace /trace || exit 1
        for i in 1 2; do
            (while [ ! -e /ended ]; do
                /stress memory_ping_pong state_processes memory_fork_bomb 2>/dev/null || touch /failed
            done) >/load.$i &
        done
        now() { cut -d. -f1 /proc/uptime; }
        end=$(($(now) + 20))
        i=0
        while [ $i -lt 20 ] && { [ $i -lt 2 ] || [ $(now) -lt $end ]; }; do
            i=$((i + 1))
            for value in 1 0; do
                echo $value >/proc/sys/kernel/sched_schedstats || exit 2
                [ $(cat /proc/sys/kernel/sched_schedstats) = $value ] || exit 3
                for events in sched irq_vectors; do
                    echo $value >/trace/events/$events/enable || exit 4
                done
            done
        done
        grep -q sched_switch /trace/trace && echo traced
        echo >/trace/trace
        if grep -qw function /trace/available_tracers; then
            for i in 1 2; do
                echo function >/trace/current_tracer || exit 5
                usleep 50000
                echo nop >/trace/current_tracer || exit 6
            done
            echo function traced
        fi
        touch /ended; wait
        [ -e /failed ] && { cat /load.*; exit 7; }
        for i in 1 2; do grep -q 'state_processes ok' /load.$i || exit 8; done
        echo patched
        echo '<log>'; dmesg; echo '</log>'
    ";
    let report = run(script, "-p 2 -m 1G");
    assert_eq!(report.status, 0, "{}", report.output);
    assert!(report.output.starts_with("traced\nfunction traced\npatched\n"), "{}", report.output);
    kernel_log::check(report.part("log"));
}

#[test]
fn process_that_eats_all_memory_is_killed_and_the_guest_lives() {
    let script = "
        timeout 250 /stress memory_eat 2>/dev/null || exit 1
        dmesg | grep -c 'Out of memory: Killed process .*stress'
        /stress state_threads 2>/dev/null && echo alive $((40 + 2))
    ";
    let report = run(script, "-m 160M");
    assert_eq!(report.output, "memory_eat ok\n3\nstate_threads ok\nalive 42\n", "{}", report.console);
}
