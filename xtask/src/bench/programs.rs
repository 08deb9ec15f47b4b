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
    if !host::has_program("gcc") {
        host::install_packages(&["gcc", "libc6-dev"], None, "compiling the benchmark programs")?;
    }
    let sources = host::workspace().join("guests/bench");
    let folder = host::guests_folder().join("amd64/bench");
    std::fs::create_dir_all(folder.join("inputs"))
        .with_context(|| format!("could not make {}", folder.display()))?;
    // Beside its place, then moved there: another command may be running the old one.
    let work = tempfile::tempdir_in(&folder)?;
    let program = work.path().join("bench");
    let mut compile = Command::new("gcc");
    compile.args(FLAGS).arg("-o").arg(&program);
    compile.args(SOURCES.iter().map(|name| sources.join(format!("{name}.c")))).arg("-lm");
    host::output(&mut compile, "compile the benchmark programs")?;

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
