//! From a VM's description and open files to a machine.

use crate::spec::VmSpec;
use engine::Engine;
use machine::{Boot, Machine, Module, OnReset, Output, PcConfig, Source, VirtConfig, pc, virt};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use vm_conf::DiskSpec;

/// Ports of the debug console: QEMU's and Bochs' 0xe9, SeaBIOS' and OVMF's 0x402.
const DEBUGCON_PORTS: [u16; 2] = [0xe9, 0x402];
/// What a guest may write to a debug console's file, in bytes.
const DEBUGCON_LIMIT: u64 = 64 << 20;

/// Whether the host is an ARM one, where a machine is a virt board; elsewhere it is a pc.
const ARM_HOST: bool = cfg!(any(target_arch = "aarch64", target_arch = "arm"));

/// Makes the machine with one of `engines`. The error is a sentence for the user.
pub fn make(
    spec: &VmSpec,
    engines: &[Box<dyn Engine>],
    console: Arc<dyn Output>,
    kernel: OwnedFd,
    debugcon: Option<OwnedFd>,
    modules: Vec<OwnedFd>,
    disks: Vec<OwnedFd>,
) -> anyhow::Result<Machine> {
    let choice = spec.engine_choice()?;
    let engines: Vec<&dyn Engine> = engines.iter().map(|engine| &**engine).collect();
    let engine = engine::vm::choose(&engines, choice.name.as_deref())?;
    let boot = Boot {
        kernel: Source::from_file(spec.kernel.display().to_string(), kernel.into()),
        modules: spec
            .modules
            .iter()
            .zip(modules)
            .map(|(module, fd)| Module {
                source: Source::from_file(module.path.display().to_string(), fd.into()),
                command_line: module.command_line.clone(),
            })
            .collect(),
        command_line: spec.command_line.clone(),
    };
    let mut images: Vec<Arc<dyn disk::Image>> = Vec::new();
    for (text, fd) in spec.disks.iter().zip(disks) {
        images.push(Arc::new(disk::Raw::new(File::from(fd), &DiskSpec::parse(text).path, false)?));
    }
    Ok(if ARM_HOST {
        virt::build(engine, virt_config(spec, boot, console, images)?)?
    } else {
        pc::build(engine, pc_config(spec, boot, console, images, debugcon))?
    })
}

fn pc_config(
    spec: &VmSpec,
    boot: Boot,
    console: Arc<dyn Output>,
    disks: Vec<Arc<dyn disk::Image>>,
    debugcon: Option<OwnedFd>,
) -> PcConfig {
    let mut config = PcConfig::new(&spec.name, boot);
    config.vcpus = spec.cpus;
    config.memory_bytes = spec.memory_mib << 20;
    config.disks = disks;
    config.console = console;
    config.debug_exit = spec.debug_exit;
    config.on_reset = OnReset::Reboot;
    if let Some(fd) = debugcon {
        config.debugcon = DEBUGCON_PORTS.to_vec();
        config.debugcon_output = Arc::new(DebugconFile::new(fd.into()));
    }
    config
}

/// With 64-bit or 32-bit processors, as the kernel wants them.
fn virt_config(
    spec: &VmSpec,
    boot: Boot,
    console: Arc<dyn Output>,
    disks: Vec<Arc<dyn disk::Image>>,
) -> anyhow::Result<VirtConfig> {
    anyhow::ensure!(
        spec.debug_exit.is_none() && spec.debugcon.is_none(),
        "a debug console or exit is a port of a PC, and an ARM machine has no ports"
    );
    let memory_bytes = spec.memory_mib << 20;
    let mut config = VirtConfig::new(&spec.name, virt::arch_of(&boot, memory_bytes)?, boot);
    config.vcpus = spec.cpus;
    config.memory_bytes = memory_bytes;
    config.disks = disks;
    config.console = console;
    config.on_reset = OnReset::Reboot;
    Ok(config)
}

/// The engines in this build, for `spec`; for some processors there is none. They open what they need by path: this comes
/// before the process confines itself.
pub fn engines(spec: &VmSpec) -> Vec<Box<dyn Engine>> {
    #[cfg(target_arch = "x86_64")]
    use engine_translate::{Tiers, Translate};
    // Bytes for translated code; what is wrong with the choice is told when the machine is made.
    #[cfg(target_arch = "x86_64")]
    let cache = spec.engine_choice().ok().and_then(|choice| choice.cache);
    #[cfg(target_arch = "x86_64")]
    return [Tiers::All, Tiers::NoWindows, Tiers::Interpreter, Tiers::Lockstep]
        .map(|tiers| Box::new(Translate::with_tiers(tiers).with_cache(cache)) as Box<dyn Engine>)
        .into();
    #[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
    {
        let _ = spec;
        vec![Box::new(engine_native::Native::open())]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
    {
        let _ = spec;
        Vec::new()
    }
}

/// A debug console's file. A guest can't fill the host's disk with it.
struct DebugconFile {
    file: Mutex<Limited>,
}

struct Limited {
    file: File,
    left: u64,
}

impl DebugconFile {
    fn new(file: File) -> Self {
        // A terminal or a pipe keeps nothing, so nothing is to be bounded.
        let limit = if file.metadata().is_ok_and(|m| m.is_file()) { DEBUGCON_LIMIT } else { u64::MAX };
        DebugconFile { file: Mutex::new(Limited { file, left: limit }) }
    }
}

impl Output for DebugconFile {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut limited = self.file.lock().unwrap_or_else(|e| e.into_inner());
        let len = bytes.len().min(usize::try_from(limited.left).unwrap_or(usize::MAX));
        limited.left -= len as u64;
        // A full disk or a closed pipe is no reason to stop the guest.
        let _ = limited.file.write_all(&bytes[..len]);
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> VmSpec {
        serde_json::from_str(&format!(
            r#"{{"name": "a", "memory_mib": 64, "cpus": 2, "kernel": "/k" {json}}}"#
        ))
        .unwrap()
    }

    fn virt(spec: &VmSpec, kernel: Vec<u8>) -> anyhow::Result<VirtConfig> {
        let kernel = Source::from_bytes("/k", kernel);
        let boot = Boot { kernel, modules: Vec::new(), command_line: String::new() };
        virt_config(spec, boot, Arc::new(()), Vec::new())
    }

    #[test]
    fn arm_machine_has_the_processors_that_its_kernel_wants() {
        let mut kernel = vec![0; 64];
        kernel[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let config = virt(&spec(""), kernel).unwrap();
        assert_eq!((config.arch, config.vcpus, config.memory_bytes), (engine::Arch::Aarch64, 2, 64 << 20));
        let mut kernel = vec![0; 64];
        kernel[0x24..0x28].copy_from_slice(&0x016f_2818u32.to_le_bytes());
        assert_eq!(virt(&spec(""), kernel).unwrap().arch, engine::Arch::Armv7);
        assert!(virt(&spec(""), vec![0; 64]).err().unwrap().to_string().contains("/k can't be booted"));
    }

    #[test]
    fn arm_machine_with_a_pcs_ports_is_refused() {
        for json in [r#", "debug_exit": 244"#, r#", "debugcon": "stderr""#] {
            assert!(virt(&spec(json), Vec::new()).err().unwrap().to_string().contains("ports"));
        }
    }

    #[test]
    fn debugcon_flood_stops_at_the_limit() {
        let file = tempfile::tempfile().unwrap();
        let kept = file.try_clone().unwrap();
        let debugcon = DebugconFile::new(file);
        debugcon.file.lock().unwrap().left = 10;
        debugcon.write(b"12345678");
        debugcon.write(b"abcdefgh");
        debugcon.write(b"x");
        assert_eq!(kept.metadata().unwrap().len(), 10);
    }
}
