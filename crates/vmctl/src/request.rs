//! From options to the description of a VM.

use crate::options::Machine;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use vm_conf::{DiskFormat, DiskSpec, Target};
use vmd::VmSpec;
use vmd::spec::{Debugcon, ModuleSpec};

/// The debug-exit port where none is given, as test kernels expect it under QEMU.
const DEBUG_EXIT_PORT: u16 = 0xf4;

/// The VM that the options describe, with absolute paths.
pub fn spec(name: &str, machine: &Machine) -> Result<VmSpec> {
    refuse_unsupported(machine)?;
    if let Target::Id(id) = Target::parse(name)? {
        bail!(
            "{id} is a VM's number: a VM to start needs a name, since this version has no configuration file"
        );
    }
    let Some(kernel) = &machine.boot else {
        bail!("give a kernel with -b: this version has no firmware that boots a disk");
    };
    let mut spec = VmSpec::new(name, absolute(kernel)?);
    spec.memory_mib = vm_conf::size::parse_memory_mib(&machine.memory)?;
    spec.cpus = machine.cpus;
    spec.command_line = machine.cmdline.clone();
    spec.engine = machine.engine.clone();
    for module in &machine.initrd {
        spec.modules.push(self::module(module)?);
    }
    for disk in &machine.disks {
        spec.disks.push(self::disk(disk)?);
    }
    spec.debug_exit = match &machine.debug_exit {
        None => None,
        Some(None) => Some(DEBUG_EXIT_PORT),
        Some(Some(text)) => Some(port(text)?),
    };
    spec.debugcon = match &machine.debugcon {
        None => None,
        Some(None) => Some(Debugcon::Stderr),
        Some(Some(path)) => Some(Debugcon::File(absolute(path)?)),
    };
    spec.check()?;
    Ok(spec)
}

fn refuse_unsupported(machine: &Machine) -> Result<()> {
    let missing = match () {
        _ if machine.interfaces > 0 => "network interfaces (-i): give -i 0",
        _ if !machine.switches.is_empty() => "switches (-n)",
        _ if machine.local => "local interfaces (-L)",
        _ if machine.cdrom.is_some() => "CD images (-r)",
        _ if machine.boot_device.is_some() => "a boot device (-B): give a kernel with -b",
        _ if machine.template.is_some() => "instances of other VMs (-t)",
        _ => return Ok(()),
    };
    bail!("this version doesn't support {missing}")
}

/// An initrd, or "file arguments" for Multiboot. A file whose own name has a space is taken whole where it exists.
fn module(text: &str) -> Result<ModuleSpec> {
    let (file, arguments) = match text.split_once(' ') {
        Some(parts) if !Path::new(text).exists() => parts,
        _ => (text, ""),
    };
    Ok(ModuleSpec { path: absolute(Path::new(file))?, command_line: arguments.trim_start().to_string() })
}

/// A disk with its prefix kept and its path made absolute.
pub fn disk(text: &str) -> Result<String> {
    let spec = DiskSpec::parse(text);
    let prefix = match spec.stated {
        Some(DiskFormat::Raw) => "raw:",
        Some(DiskFormat::Qcow2) => "qcow2:",
        None => "",
    };
    Ok(format!("{prefix}{}", absolute(&spec.path)?.display()))
}

fn port(text: &str) -> Result<u16> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u16::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.with_context(|| format!("\"{text}\" is not an I/O port: write a number up to 0xffff"))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("\"{}\" is not a path", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Command, Options};
    use clap::Parser;

    fn start(arguments: &str) -> Result<VmSpec> {
        let words = ["vmctl", "start"].into_iter().chain(arguments.split(' '));
        match Options::try_parse_from(words)?.command {
            Command::Start(start) => spec(&start.vm, &start.machine),
            _ => unreachable!(),
        }
    }

    #[test]
    fn spec_openbsd_forms_of_options_all_work() {
        let spec = start("-cm 1.5G -b/boot/k -p2 -d /a -draw:/b -i 0 web").unwrap();
        assert_eq!((spec.name.as_str(), spec.memory_mib, spec.cpus), ("web", 1536, 2));
        assert_eq!(spec.disks, ["/a", "raw:/b"]);
        let spec = start("web -m512M -b k").unwrap();
        assert_eq!(spec.kernel, std::env::current_dir().unwrap().join("k"));
        assert_eq!(spec.debug_exit, None);
    }

    #[test]
    fn spec_debug_ports_have_defaults_and_values() {
        let spec = start("-b /k --debug-exit --debugcon a").unwrap();
        assert_eq!((spec.debug_exit, spec.debugcon), (Some(0xf4), Some(Debugcon::Stderr)));
        let spec = start("-b /k --debug-exit=0x501 --debugcon=/tmp/x a").unwrap();
        assert_eq!((spec.debug_exit, spec.debugcon), (Some(0x501), Some(Debugcon::File("/tmp/x".into()))));
        assert!(start("-b /k --debug-exit=65536 a").unwrap_err().to_string().contains("65536"));
    }

    #[test]
    fn module_arguments_follow_a_space() {
        let words = ["vmctl", "run", "-b", "/k", "--initrd", "/m a  b", "--initrd", "/i"];
        let Command::Run(run) = Options::try_parse_from(words).unwrap().command else { unreachable!() };
        let spec = spec(&run.name, &run.machine).unwrap();
        assert_eq!(spec.modules[0], ModuleSpec { path: "/m".into(), command_line: "a  b".into() });
        assert_eq!(spec.modules[1], ModuleSpec { path: "/i".into(), command_line: String::new() });
    }

    #[test]
    fn spec_what_this_version_lacks_is_named() {
        for (arguments, word) in [
            ("-b /k -i 1 a", "-i 0"),
            ("-b /k -n lan a", "-n"),
            ("-b /k -L a", "-L"),
            ("-r /iso a", "-r"),
            ("-B disk a", "-B"),
            ("-t base a", "-t"),
            ("-d /disk a", "-b"),
            ("-b /k 7", "number"),
            ("-b /k -m 1K a", "1M"),
            ("-b /k -p 0 a", "processors"),
        ] {
            let error = start(arguments).unwrap_err().to_string();
            assert!(error.contains(word), "{arguments}: {error}");
        }
    }
}
