//! The test kernels of `guests/kernels` and the guests' own small program, assembled by the GNU binutils.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::Arch;
use crate::host;

/// The test kernels: name of the file made, source, whether it is a raw image with the addresses in its Multiboot
/// header (the a.out kludge) and not an ELF file.
const KERNELS: &[(&str, &str, bool)] = &[
    ("hello.elf", "hello.s", false),
    ("hello.bin", "hello.s", true),
    ("triple-fault.elf", "triple-fault.s", false),
    ("console-flood.elf", "console-flood.s", false),
    ("spin.elf", "spin.s", false),
];

/// The sources, for telling whether what was made is still good.
pub fn recipe() -> Result<Vec<u8>> {
    let mut recipe = include_bytes!("assembly.rs").to_vec();
    for folder in ["guests/kernels", "guests/initrd"] {
        let mut files: Vec<_> = std::fs::read_dir(host::workspace().join(folder))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .collect();
        files.sort();
        for file in files {
            recipe.extend(std::fs::read(file)?);
        }
    }
    Ok(recipe)
}

/// The names of the files that [`kernels`] makes.
pub fn kernel_names() -> impl Iterator<Item = &'static str> {
    KERNELS.iter().map(|(name, ..)| *name)
}

/// Makes every test kernel: its name and its bytes.
pub fn kernels() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let sources = host::workspace().join("guests/kernels");
    KERNELS
        .iter()
        .map(|&(name, source, raw)| {
            let work = tempfile::tempdir()?;
            let object = work.path().join("object");
            let symbols: &[&str] = if raw { &["--defsym", "AOUT_KLUDGE=1"] } else { &[] };
            assemble(&sources.join(source), &object, Arch::I386, symbols)?;
            let linked = work.path().join("linked");
            let script = sources.join("link.ld");
            let mut link = Command::new("ld");
            link.args(["-m", "elf_i386", "-n", "-T"]).arg(script).arg(&object).arg("-o").arg(&linked);
            host::output(&mut link, &format!("link {name}"))?;
            if !raw {
                return Ok((name, std::fs::read(linked)?));
            }
            let image = work.path().join("image");
            let mut copy = Command::new("objcopy");
            copy.args(["-O", "binary"]).arg(&linked).arg(&image);
            host::output(&mut copy, &format!("make {name}"))?;
            Ok((name, std::fs::read(image)?))
        })
        .collect()
}

/// The program `debug-exit` for a guest of `arch`, an x86 one.
pub fn debug_exit(arch: Arch) -> Result<Vec<u8>> {
    let work = tempfile::tempdir()?;
    let (object, program) = (work.path().join("object"), work.path().join("program"));
    let (emulation, symbols): (_, &[&str]) = match arch {
        Arch::Amd64 => ("elf_x86_64", &["--defsym", "AMD64=1"]),
        Arch::I386 => ("elf_i386", &[]),
        Arch::Arm64 | Arch::Armhf => bail!("debug-exit is a port, and {arch} has none"),
    };
    assemble(&host::workspace().join("guests/initrd/debug-exit.s"), &object, arch, symbols)?;
    let mut link = Command::new("ld");
    link.args(["-m", emulation, "-s"]).arg(&object).arg("-o").arg(&program);
    host::output(&mut link, "link debug-exit")?;
    Ok(std::fs::read(program)?)
}

fn assemble(source: &Path, object: &Path, arch: Arch, symbols: &[&str]) -> Result<()> {
    if !["as", "ld", "objcopy"].iter().all(|program| host::has_program(program)) {
        host::install_packages(&["binutils"], None, "assembling the test kernels")?;
    }
    let mut assemble = Command::new("as");
    assemble.arg(if arch == Arch::Amd64 { "--64" } else { "--32" }).args(symbols);
    assemble.arg("-I").arg(source.parent().unwrap_or(Path::new(".")));
    assemble.arg(source).arg("-o").arg(object);
    host::output(&mut assemble, &format!("assemble {}", source.display())).map(drop)
}
