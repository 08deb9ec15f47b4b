//! `vmd` and `vmctl` for the control domain, the same programs as everywhere, and what the tests run there: static, built on this machine.

use std::path::PathBuf;

use anyhow::Result;

use super::Platform;
use crate::{host, test};

/// The programs' files.
pub struct Programs {
    pub vmctl: PathBuf,
    pub vmd: PathBuf,
    pub trials: PathBuf,
}

/// Builds them for `platform`. Installs Rust's library for it, and a linker where Rust brings none, when they are missing.
pub fn build(platform: Platform) -> Result<Programs> {
    let why = "the control domain's programs";
    let (target, linker, flags): (_, _, &[&str]) = match platform {
        // musl's start files and Rust's own linker are in the target.
        Platform::Arm64 => ("aarch64-unknown-linux-musl", "rust-lld", &["link-self-contained=yes"]),
        Platform::Armhf => {
            let linker = "arm-linux-gnueabihf-gcc";
            if !host::has_program(linker) {
                let packages = ["gcc-arm-linux-gnueabihf", "libc6-dev-armhf-cross"];
                host::install_packages(&packages, None, why)?;
            }
            ("armv7-unknown-linux-gnueabihf", linker, &["target-feature=+crt-static"])
        }
    };
    test::standard_library(target, why)?;
    eprintln!("Building vmd and vmctl for {target} (release)");
    let flags: Vec<_> = flags.iter().map(|flag| format!("\"-C\", \"{flag}\"")).collect();
    let mut build = host::cargo();
    build.args(["build", "--release", "--package", "vmd", "--package", "vmctl", "--package", "trials"]);
    build.args(["--target", target]);
    for setting in [
        format!("target.{target}.linker=\"{linker}\""),
        format!("target.{target}.rustflags=[{}]", flags.join(", ")),
        // They lie in memory twice, as archive and as file system.
        "profile.release.strip=\"symbols\"".to_owned(),
        "profile.release.debug=false".to_owned(),
    ] {
        build.args(["--config", &setting]);
    }
    host::run(&mut build, &format!("build vmd and vmctl for {target}"))?;
    let folder = host::target_folder()?.join(target).join("release");
    Ok(Programs { vmctl: folder.join("vmctl"), vmd: folder.join("vmd"), trials: folder.join("trials") })
}
