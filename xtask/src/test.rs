//! `cargo xtask test`: all that has to hold before a change is done. CI runs exactly this.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::{guests, host, native};

#[derive(clap::Args)]
pub struct Args {
    /// Formatting, lints and unit tests only: no guests, no other hosts, no licence check
    #[arg(long)]
    quick: bool,
}

/// Optimised, so that an interpreted guest boots in seconds, with every assertion and overflow check.
const PROFILE: &str = "checked";

/// Hosts that no machine here may be, for which everything has to compile all the same: one of 32 bits, and one of
/// another processor and C library.
const OTHER_HOSTS: [&str; 2] = ["armv7-unknown-linux-gnueabihf", "aarch64-unknown-linux-musl"];

pub fn run(args: &Args) -> Result<ExitCode> {
    component("rustfmt", "fmt", "checking the formatting")?;
    component("clippy", "clippy", "the lints")?;
    tool("cargo-nextest", "nextest", "running the tests")?;
    if !args.quick {
        tool("cargo-deny", "deny", "checking the dependencies' licences")?;
        for host in OTHER_HOSTS {
            standard_library(host, "checking that other hosts compile")?;
        }
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
        let mut check = host::cargo();
        // The engine for x86 on x86 is no part of theirs, and xtask runs where one develops.
        check.args([
            "check",
            "--workspace",
            "--exclude",
            "engine-translate",
            "--exclude",
            "xtask",
            "--locked",
        ]);
        check.args(OTHER_HOSTS.iter().flat_map(|host| ["--target", host]));
        step("Other hosts", &mut check)?;
        eprintln!("==> Guests");
        let folder = guests::ensure_all().context("the end-to-end tests have no guests to boot")?;
        nextest.args(["--profile", "ci"]).env("AUBERGE_GUESTS", std::path::absolute(folder)?);
        eprintln!("==> Emulated boards");
        for platform in [native::Platform::Arm64, native::Platform::Armhf] {
            native::make_ready(platform).with_context(|| {
                format!("the {platform:?} board of the native hypervisor's tests has nothing to boot")
            })?;
        }
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

/// Adds Rust's standard library for programs of `target` when it is missing.
pub fn standard_library(target: &str, why: &str) -> Result<()> {
    let mut print = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    print.args(["--print", "target-libdir", "--target", target]).current_dir(host::workspace());
    let folder = host::output(&mut print, &format!("ask rustc for its library for {target}"))?;
    if std::fs::read_dir(folder.trim_end()).is_ok_and(|mut files| files.next().is_some()) {
        return Ok(());
    }
    if !host::has_program("rustup") {
        bail!(
            "{why} needs Rust's standard library for {target}, and there is no rustup to add it: please install it"
        );
    }
    eprintln!("Installing Rust's standard library for {target}: {why} needs it");
    host::run(Command::new("rustup").args(["target", "add", target]), &format!("add the target {target}"))
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
