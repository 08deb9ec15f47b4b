//! `cargo xtask fuzz`: a fuzz target, built with the nightly toolchain and run for a while.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{host, test};

#[derive(clap::Args)]
pub struct Args {
    /// Which target; without one they are listed
    target: Option<String>,
    /// How long to run it
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let targets = targets()?;
    let Some(target) = &args.target else {
        println!("{}", targets.join("\n"));
        return Ok(ExitCode::SUCCESS);
    };
    if !targets.contains(target) {
        bail!("there is no fuzz target {target}; there are: {}", targets.join(", "));
    }
    test::tool("cargo-fuzz", "fuzz", "fuzzing")?;
    nightly()?;
    let mut fuzz = Command::new("rustup");
    fuzz.args(["run", "nightly", "cargo", "fuzz", "run", target, "--"]);
    fuzz.args(["-max_len=4096", "-len_control=0"]);
    fuzz.arg(format!("-max_total_time={}", args.seconds)).current_dir(host::workspace());
    // Set by the cargo that runs xtask; the nightly toolchain has its own.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        fuzz.env_remove(variable);
    }
    host::run(&mut fuzz, &format!("fuzz {target}"))?;
    Ok(ExitCode::SUCCESS)
}

/// The targets' names, sorted: one file each.
fn targets() -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(host::workspace().join("fuzz/fuzz_targets"))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn nightly() -> Result<()> {
    if !host::has_program("rustup") {
        bail!("fuzzing needs a nightly Rust toolchain, and there is no rustup to install it");
    }
    let list = host::output(Command::new("rustup").args(["toolchain", "list"]), "list the Rust toolchains")?;
    if list.lines().any(|line| line.starts_with("nightly")) {
        return Ok(());
    }
    eprintln!("Installing the nightly Rust toolchain: fuzzing needs its sanitizers");
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    host::run(&mut install, "install the nightly toolchain")
}
