//! `cargo xtask test`: all that has to hold before a change is done. CI runs exactly this.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::{guests, host};

#[derive(clap::Args)]
pub struct Args {
    /// Formatting, lints and unit tests only: no guests, no licence check
    #[arg(long)]
    quick: bool,
}

/// Optimised, so that an interpreted guest boots in seconds, with every assertion and overflow check.
const PROFILE: &str = "checked";

pub fn run(args: &Args) -> Result<ExitCode> {
    component("rustfmt", "fmt", "checking the formatting")?;
    component("clippy", "clippy", "the lints")?;
    tool("cargo-nextest", "nextest", "running the tests")?;
    if !args.quick {
        tool("cargo-deny", "deny", "checking the dependencies' licences")?;
    }

    step("Formatting", host::cargo().args(["fmt", "--all", "--", "--check"]))?;
    let mut clippy = host::cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
    step("Lints", &mut clippy)?;

    let mut nextest = host::cargo();
    nextest.args(["nextest", "run", "--workspace", "--locked", "--cargo-profile", PROFILE]);
    if args.quick {
        nextest.args(["--profile", "quick"]);
    } else {
        step("Licences", host::cargo().args(["deny", "check", "licenses", "bans", "sources"]))?;
        eprintln!("==> Guests");
        let folder = guests::ensure_all().context("the end-to-end tests have no guests to boot")?;
        nextest.args(["--profile", "ci"]).env("AUBERGE_GUESTS", std::path::absolute(folder)?);
        // The end-to-end tests run the daemon and the tool, whichever package they are in.
        let mut build = host::cargo();
        build.args(["build", "--workspace", "--bins", "--locked", "--profile", PROFILE]);
        step("Programs", &mut build)?;
    }
    step("Tests", &mut nextest)?;
    Ok(ExitCode::SUCCESS)
}

fn step(name: &str, command: &mut Command) -> Result<()> {
    eprintln!("==> {name}");
    host::run(command, &format!("pass the step \"{name}\""))
}

fn works(subcommand: &str) -> bool {
    let mut version = host::cargo();
    version.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// Adds a component of the Rust toolchain when it is missing.
fn component(name: &str, subcommand: &str, why: &str) -> Result<()> {
    if works(subcommand) {
        return Ok(());
    }
    if !host::has_program("rustup") {
        bail!("{why} needs {name}, and there is no rustup to add it: please install {name}");
    }
    eprintln!("Installing {name}: {why} needs it");
    host::run(Command::new("rustup").args(["component", "add", name]), &format!("install {name}"))
}

/// Installs a cargo subcommand when it is missing; that takes a few minutes, once.
pub fn tool(package: &str, subcommand: &str, why: &str) -> Result<()> {
    if works(subcommand) {
        return Ok(());
    }
    eprintln!("Installing {package}: {why} needs it (a few minutes, once)");
    let mut install = host::cargo();
    install.args(["install", "--locked", "--quiet", package]);
    host::run(&mut install, &format!("install {package}"))
}
