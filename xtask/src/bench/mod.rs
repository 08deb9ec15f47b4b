//! `cargo xtask bench`: Auberge beside QEMU's TCG, on one machine, in one run; on ARM beside Xen and KVM, on one emulated board.

mod boot;
mod console;
mod lines;
mod machine;
mod memory;
mod native_arm;
mod places;
mod processes;
mod programs;
pub mod qemu;
mod report;
mod rows;
mod statistics;
mod table;
mod translate;

use std::process::ExitCode;

use anyhow::Result;

#[derive(clap::Subcommand)]
pub enum Bench {
    /// Time from starting the program to the guest's first process, one processor, 512 MiB
    Boot(boot::Args),
    /// Programs natively, in QEMU's TCG and in Auberge: one table of times and ratios
    Translate(translate::Args),
    /// What hypercalls, traps and interrupts cost in the ARM hypervisor, in Xen and in KVM: instructions on one emulated board
    NativeArm(native_arm::Args),
}

pub fn run(bench: &Bench) -> Result<ExitCode> {
    match bench {
        Bench::Boot(args) => boot::run(args),
        Bench::Translate(args) => translate::run(args),
        Bench::NativeArm(args) => native_arm::run(args),
    }
}
