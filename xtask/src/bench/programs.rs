//! The benchmark program, compiled on this machine, and the initrd that carries it into a guest.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::guests::cpio::Archive;
use crate::host;
use crate::progress::Step;

/// Static, so that the same bytes run here and in a guest that has no libraries.
const FLAGS: &[&str] = &["-std=gnu11", "-O2", "-static", "-Wall", "-Wextra"];
const SOURCES: &[&str] = &["main", "integer", "memory", "control", "float", "system", "program", "generate"];
const INPUTS: &[&str] = &["make.sh", "program.awk", "program.pl", "program.sh", "program.sql"];
const SCRIPT: &str = "run.sh";

/// What a guest and this machine run: a folder with `bench`, `run.sh` and `inputs/`, and the same in an initrd.
pub struct Programs {
    pub folder: PathBuf,
    pub initrd: PathBuf,
}

/// Makes them below the guests' folder. `initrd` is the one that they are added to.
pub fn make(initrd: &Path) -> Result<Programs> {
    let _step = Step::begin("Compiling the benchmark programs");
    let sources = host::workspace().join("guests/bench");
    let folder = host::guests_folder().join("amd64/bench");
    std::fs::create_dir_all(folder.join("inputs"))
        .with_context(|| format!("could not make {}", folder.display()))?;
    // Beside its place, then moved there: another command may be running the old one.
    let work = tempfile::tempdir_in(&folder)?;
    let program = work.path().join("bench");
    compile(&sources, &program)?;

    let mut archive = Archive::default();
    archive.directory("bench", 0o755);
    archive.directory("bench/inputs", 0o755);
    archive.file("bench/bench", 0o755, &std::fs::read(&program)?);
    std::fs::rename(&program, folder.join("bench"))?;
    let inputs = INPUTS.iter().map(|name| format!("inputs/{name}"));
    for name in inputs.chain([SCRIPT.to_owned()]) {
        let source = sources.join(&name);
        let contents =
            std::fs::read(&source).with_context(|| format!("could not read {}", source.display()))?;
        archive.file(&format!("bench/{name}"), 0o644, &contents);
        let part = work.path().join("part");
        std::fs::write(&part, &contents)?;
        std::fs::rename(&part, folder.join(&name))?;
    }
    // Linux unpacks archives that follow each other one after the other (buffer-format.rst).
    let mut bytes = std::fs::read(initrd).with_context(|| format!("could not read {}", initrd.display()))?;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive.finish());
    let path = work.path().join("initrd.img");
    std::fs::write(&path, bytes)?;
    let kept = folder.join("initrd.img");
    std::fs::rename(&path, &kept)?;
    Ok(Programs { folder, initrd: kept })
}

fn compile(sources: &Path, program: &Path) -> Result<()> {
    if !host::has_program("gcc") {
        host::install_packages(&["gcc", "libc6-dev"], None, "compiling the benchmark programs")?;
    }
    let mut compile = Command::new("gcc");
    compile.args(FLAGS).arg("-o").arg(program);
    compile.args(SOURCES.iter().map(|name| sources.join(format!("{name}.c")))).arg("-lm");
    host::output(&mut compile, "compile the benchmark programs").map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::lines::{self, Line};
    use super::super::rows::{Group, ROWS};
    use super::*;

    fn compiled() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let sources = host::workspace().join("guests/bench");
        compile(&sources, &folder.path().join("bench")).expect("compiled");
        std::fs::copy(sources.join(SCRIPT), folder.path().join(SCRIPT)).expect("copied");
        folder
    }

    /// `run.sh` on this machine, as in a guest: whether it succeeded, and its lines.
    fn script(folder: &Path, rows: &[&str]) -> (bool, Vec<Line>) {
        let mut command = Command::new("sh");
        command.arg(folder.join(SCRIPT)).args(["0", "2"]).args(rows).env("B", folder);
        let output = command.output().expect("a shell");
        let text = String::from_utf8(output.stdout).expect("text");
        (output.status.success(), text.lines().filter_map(lines::parse).collect())
    }

    #[test]
    fn bench_list_is_the_table_s_own_rows() {
        let folder = compiled();
        let list =
            host::output(Command::new(folder.path().join("bench")).arg("list"), "list").expect("a list");
        let mut list: Vec<&str> = list.lines().collect();
        let own = ROWS.iter().filter(|row| row.group == Group::Own).map(|row| row.name);
        let mut own: Vec<&str> = own.collect();
        list.sort_unstable();
        own.sort_unstable();
        assert_eq!(list, own);
    }

    #[test]
    fn run_sh_rows_are_measured_with_the_same_result_each_time() {
        let folder = compiled();
        let (good, lines) = script(folder.path(), &["x87", "context-switch"]);
        assert!(good, "{lines:?}");
        let names: Vec<&str> = lines
            .iter()
            .filter_map(|line| match line {
                Line::End(name, sample) if sample.repeats == 2 => Some(name.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(names, ["x87", "context-switch"]);
        assert_eq!(lines.first(), Some(&Line::Mark("boot".into())));
        assert_eq!(lines.last(), Some(&Line::Mark("rows".into())));
    }

    #[test]
    fn run_sh_unknown_row_fails_and_says_so() {
        let folder = compiled();
        let (good, lines) = script(folder.path(), &["x86", "x87"]);
        assert!(!good);
        assert!(lines.contains(&Line::Fail("x86".into(), "there is no such row".into())), "{lines:?}");
    }

    #[test]
    fn bench_exec_program_that_fails_is_no_result() {
        let folder = compiled();
        let mut command = Command::new(folder.path().join("bench"));
        command.args(["exec", "-n", "2", "-s", "0", "broken", "/bin/sh", "-c", "echo half; exit 3"]);
        let output = command.output().expect("run");
        assert!(!output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        assert!(String::from_utf8_lossy(&output.stderr).contains("ended with status"));
    }
}
