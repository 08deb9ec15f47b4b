//! `cargo xtask size`: code lines of everything that runs privileged.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::host;

#[derive(clap::Args)]
pub struct Args {
    /// As JSON: {"parts": [{"name", "lines"}], "total"}
    #[arg(long)]
    json: bool,
}

/// What is linked into the hypervisor: a name, and the folders or files below `crates/`.
const PARTS: [(&str, &[&str]); 6] = [
    ("hypervisor, all architectures", &["hypervisor/src"]),
    ("hypervisor, aarch64", &["hypervisor/src/arch/aarch64"]),
    ("hypervisor, armv7", &["hypervisor/src/arch/armv7"]),
    ("virtual interrupt controller", &["irqchip/src/gic"]),
    ("architecture's facts", &["arm/src"]),
    ("calls, addresses", &["hypercall/src", "address/src"]),
];
/// In those, what only tests are made of.
const TESTS: [&str; 4] = ["tests.rs", "tree_tests.rs", "model.rs", "fake.rs"];

pub fn run(args: &Args) -> Result<ExitCode> {
    let crates = host::workspace().join("crates");
    let mut parts = Vec::new();
    for (name, folders) in PARTS {
        let mut lines = 0;
        for folder in folders {
            // The architectures are parts of their own.
            lines += count(&crates.join(folder), folder.ends_with("hypervisor/src"))?;
        }
        parts.push((name, lines));
    }
    let total: usize = parts.iter().map(|(_, lines)| lines).sum();
    if args.json {
        let parts: Vec<_> =
            parts.iter().map(|(name, lines)| serde_json::json!({"name": name, "lines": lines})).collect();
        println!("{}", serde_json::json!({"parts": parts, "total": total}));
        return Ok(ExitCode::SUCCESS);
    }
    for (name, lines) in &parts {
        println!("{name:32}{lines:>6}");
    }
    println!("{:32}{total:>6}", "code lines that run privileged");
    Ok(ExitCode::SUCCESS)
}

/// Code lines of all sources in a folder, but for tests.
fn count(folder: &Path, without_architectures: bool) -> Result<usize> {
    if !folder.exists() {
        return Ok(0);
    }
    let mut lines = 0;
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("could not read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !(without_architectures && name == "arch") {
                    folders.push(path);
                }
            } else if [".rs", ".s", ".S", ".ld"].iter().any(|end| name.ends_with(end))
                && !TESTS.contains(&&*name)
            {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("could not read {}", path.display()))?;
                lines += code_lines(&text);
            }
        }
    }
    Ok(lines)
}

/// What the next item is only compiled for, if it isn't the bare-metal program.
const ELSEWHERE: [&str; 2] = ["#[cfg(test)]", "#[cfg(not(target_os = \"none\"))]"];

/// Lines that are neither empty nor comment, nor of an item for tests or hosts.
fn code_lines(text: &str) -> usize {
    let mut lines = text.lines();
    let mut count = 0;
    while let Some(line) = lines.next() {
        if ELSEWHERE.contains(&line.trim()) {
            // rustfmt ends an item with `;` or, at its own indentation, with a brace.
            let indentation = &line[..line.len() - line.trim_start().len()];
            let end = format!("{indentation}}}");
            let mut item = lines.by_ref().skip_while(|line| line.trim_start().starts_with("#["));
            if item.next().is_some_and(|first| first.ends_with('{')) {
                item.find(|line| *line == end);
            }
            continue;
        }
        let line = line.trim();
        let comment = line.starts_with("//") || (line.starts_with("/*") && line.ends_with("*/"));
        count += (!line.is_empty() && !comment) as usize;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_tests_do_not_count() {
        let text = "//! What.\n\nfn f() {\n    // why\n    g(); // that\n}\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
        assert_eq!(code_lines(text), 3);
        assert_eq!(code_lines("#[cfg(test)]\nmod other;\nfn f() {}\n"), 1);
        assert_eq!(
            code_lines(
                "mod m {\n    #[cfg(test)]\n    #[rustfmt::skip]\n    fn f() {\n    }\n    g!();\n}\n"
            ),
            3
        );
        assert_eq!(code_lines("/* one */\nx = 1; /* two */\n"), 1);
    }

    #[test]
    fn the_hypervisor_is_found() {
        let crates = host::workspace().join("crates");
        assert!(count(&crates.join("hypervisor/src/arch/aarch64"), false).unwrap() > 500);
    }
}
