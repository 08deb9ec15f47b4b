//! What a person asks for when a VM is started.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use vm_conf::{DiskSpec, EngineChoice, VmName};

/// Most disks one VM may have.
pub const MAX_DISKS: usize = 16;
/// Most initrds and modules one VM may have.
pub const MAX_MODULES: usize = 64;
/// Longest kernel or module command line, in bytes. (Linux on x86 reads 2047.)
pub const MAX_COMMAND_LINE: usize = 8192;
/// vCPUs of one VM.
pub const MAX_CPUS: u32 = 255;

/// A VM to start. Paths are absolute: the daemon's working directory is not the user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    pub name: String,
    /// MiB.
    pub memory_mib: u64,
    pub cpus: u32,
    pub kernel: PathBuf,
    #[serde(default)]
    pub command_line: String,
    #[serde(default)]
    pub modules: Vec<ModuleSpec>,
    /// As written: a path with `raw:` or `qcow2:` before it, or none.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Port where a guest's write ends the VM with a status.
    #[serde(default)]
    pub debug_exit: Option<u16>,
    #[serde(default)]
    pub debugcon: Option<Debugcon>,
    /// `translate`, `kvm`, `native`, with options as [`EngineChoice`] reads them; the best one where not given.
    #[serde(default)]
    pub engine: Option<String>,
}

/// An initrd, or a Multiboot module with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSpec {
    pub path: PathBuf,
    /// The module's own command line; empty for an initrd.
    #[serde(default)]
    pub command_line: String,
}

/// Where bytes of the debug console (ports 0xe9 and 0x402) go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Debugcon {
    /// Standard error of the process that runs the VM; only for a VM in the foreground.
    Stderr,
    /// A file, made anew.
    File(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Name(#[from] vm_conf::name::Error),
    #[error(transparent)]
    Engine(#[from] vm_conf::engine::Error),
    #[error("{0} processors: a VM has 1 to {MAX_CPUS}")]
    Cpus(u32),
    #[error("{0} MiB of memory: a VM needs at least 1, and the host can't address that much")]
    Memory(u64),
    #[error("{count} {what}: a VM has at most {limit}")]
    TooMany { what: &'static str, count: usize, limit: usize },
    #[error("the {what} is {len} bytes long; at most {MAX_COMMAND_LINE} fit")]
    CommandLine { what: &'static str, len: usize },
    #[error("the {what} contains a zero byte")]
    ZeroByte { what: &'static str },
    #[error("{0} is not an absolute path")]
    Relative(PathBuf),
}

impl VmSpec {
    /// A VM with one processor and the default memory.
    pub fn new(name: impl Into<String>, kernel: impl Into<PathBuf>) -> Self {
        VmSpec {
            name: name.into(),
            memory_mib: vm_conf::size::DEFAULT_MEMORY_MIB,
            cpus: 1,
            kernel: kernel.into(),
            command_line: String::new(),
            modules: Vec::new(),
            disks: Vec::new(),
            debug_exit: None,
            debugcon: None,
            engine: None,
        }
    }

    /// The engine and its options.
    pub fn engine_choice(&self) -> Result<EngineChoice, vm_conf::engine::Error> {
        self.engine.as_deref().map_or(Ok(EngineChoice::default()), EngineChoice::parse)
    }

    /// Checks everything that can be known without opening a file.
    pub fn check(&self) -> Result<(), Error> {
        VmName::new(&self.name)?;
        self.engine_choice()?;
        if self.cpus == 0 || self.cpus > MAX_CPUS {
            return Err(Error::Cpus(self.cpus));
        }
        // The top bit stays free so that sums with MMIO windows can't wrap.
        if self.memory_mib == 0 || self.memory_mib > u64::MAX >> 21 {
            return Err(Error::Memory(self.memory_mib));
        }
        let count = |what, count, limit| {
            if count > limit { Err(Error::TooMany { what, count, limit }) } else { Ok(()) }
        };
        count("disks", self.disks.len(), MAX_DISKS)?;
        count("initrds and modules", self.modules.len(), MAX_MODULES)?;
        let text = |what, text: &str| match text {
            t if t.len() > MAX_COMMAND_LINE => Err(Error::CommandLine { what, len: t.len() }),
            t if t.contains('\0') => Err(Error::ZeroByte { what }),
            _ => Ok(()),
        };
        text("kernel command line", &self.command_line)?;
        for module in &self.modules {
            text("module's command line", &module.command_line)?;
        }
        let debugcon = match &self.debugcon {
            Some(Debugcon::File(path)) => Some(path.clone()),
            _ => None,
        };
        let paths = std::iter::once(self.kernel.clone())
            .chain(self.modules.iter().map(|m| m.path.clone()))
            .chain(self.disks.iter().map(|d| DiskSpec::parse(d).path))
            .chain(debugcon);
        for path in paths {
            if !path.is_absolute() {
                return Err(Error::Relative(path));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_plain_spec_is_accepted() {
        let mut spec = VmSpec::new("a", "/boot/vmlinuz");
        spec.disks.push("raw:/d".into());
        spec.modules.push(ModuleSpec { path: "/i".into(), command_line: "x y".into() });
        spec.check().unwrap();
    }

    #[test]
    fn check_every_bound_is_enforced() {
        let good = VmSpec::new("a", "/k");
        let bad = |change: &dyn Fn(&mut VmSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            assert!(spec.check().is_err(), "{spec:?}");
        };
        bad(&|s| s.name = "../a".into());
        bad(&|s| s.cpus = 0);
        bad(&|s| s.cpus = 256);
        bad(&|s| s.memory_mib = 0);
        bad(&|s| s.memory_mib = u64::MAX);
        bad(&|s| s.kernel = "k".into());
        bad(&|s| s.disks = vec!["raw:d".into()]);
        bad(&|s| s.disks = vec!["/d".into(); MAX_DISKS + 1]);
        bad(&|s| s.modules = vec![ModuleSpec { path: "/m".into(), command_line: String::new() }; 65]);
        bad(&|s| s.command_line = "x".repeat(MAX_COMMAND_LINE + 1));
        bad(&|s| s.command_line = "a\0b".into());
        bad(&|s| s.debugcon = Some(Debugcon::File("out".into())));
        bad(&|s| s.engine = Some("translate,cache=1M".into()));
    }
}
