//! `cargo xtask`: everything a person or CI runs. One file per command.
#![deny(unsafe_code)]

mod bench;
mod demo;
mod ends;
mod fuzz;
mod guest_script;
mod guests;
mod host;
mod lockstep;
mod native;
mod progress;
mod size;
mod soak;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", about = "Everything a person or CI runs on Auberge")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a Debian kernel in Auberge and sit down at its shell
    Demo(demo::Args),
    /// Check formatting, lints and licences, then run every test
    Test(test::Args),
    /// Fetch and build the guests that the demo and the tests boot
    Guests(guests::Args),
    /// Measure Auberge against QEMU's TCG
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Boot a guest translated and interpreted at the same time, and stop at the first difference
    Lockstep(lockstep::Args),
    /// Make what starts the hypervisor on a real board
    Image(native::image::Args),
    /// Count the code lines of everything that runs privileged
    Size(size::Args),
    /// Work in a guest for a while and compare every result with this machine's
    Soak(soak::Args),
    /// Build a fuzz target and run it for a while
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Guests(args) => guests::run(&args),
        Command::Bench(bench) => bench::run(&bench),
        Command::Lockstep(args) => lockstep::run(&args),
        Command::Image(args) => native::image::run(&args),
        Command::Size(args) => size::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
