//! A virtual machine as the engine sees it: memory, processors, interrupt lines.

use crate::{Result, Vcpu};
use address::GuestPhys;
use memory::GuestMemory;
use std::sync::Arc;

/// Guest instruction sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86,
    Armv7,
    Aarch64,
}

/// What an engine is asked to make.
pub struct VmConfig {
    pub arch: Arch,
    /// Number of vCPUs that will be created: 1 to 255.
    pub vcpus: u32,
    /// All the guest's memory. It doesn't change while the VM lives; what it doesn't cover goes to the [`crate::Bus`].
    pub memory: Arc<GuestMemory>,
    /// ARM: where the board has its interrupt controller. `None` for x86.
    pub gic: Option<Gic>,
}

/// ARM's Generic Interrupt Controller, as a board wants it. SPIs are INTIDs from 32 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gic {
    pub version: GicVersion,
    /// The distributor, 64 KiB.
    pub distributor: GuestPhys,
    /// GICv2: the CPU interface, 64 KiB of which the first 8 are in use. GICv3: the first redistributor, 128 KiB a vCPU.
    pub interface: GuestPhys,
}

/// Versions of the GIC's architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicVersion {
    V2,
    V3,
}

/// Whether an engine works on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It does; of several the highest rank is chosen.
    Usable { rank: u32 },
    /// It doesn't, and why, as a sentence.
    Unusable { why: String },
}

/// A way to run virtual machines.
pub trait Engine: Send + Sync {
    /// `translate`, `kvm`, `native`.
    fn name(&self) -> &'static str;
    fn probe(&self) -> Probe;
    /// ARM: the GIC that guests can have.
    fn gic(&self) -> Option<GicVersion> {
        None
    }
    /// Whether it does better with guest memory in huge pages ([`memory::GuestMemory::with_huge_pages`]).
    fn huge_pages(&self) -> bool {
        false
    }
    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>>;
}

/// A message-signalled interrupt: the write a device would make (SDM 3A 10.11 for x86).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    pub address: u64,
    pub data: u32,
}

/// A virtual machine. All of it may be called from any thread.
pub trait Vm: Send + Sync {
    /// Makes vCPU `id` (its APIC id or affinity), 0 to `vcpus - 1`. Number 0 is the boot processor; the others wait for
    /// their start-up message.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>>;
    /// Delivers a message-signalled interrupt. The I/O APIC's messages come this way too.
    fn signal_msi(&self, msi: Msi) -> Result<()>;
    /// x86: the level of the 8259s' INTR output, wired to the boot processor's LINT0. ARM: the SPI with INTID `line`, 32 to 1019.
    fn set_line(&self, line: u32, level: bool) -> Result<()>;
    /// Starts or stops logging which pages the guest writes.
    fn set_dirty_logging(&self, on: bool) -> Result<()>;
    /// Takes and clears the dirty log of memory region `region`: one bit a page, 64 pages a word, guest's and devices'
    /// writes together. A page written at any time before this returns, and not in an earlier answer, is in this one or
    /// the next; copy the pages after the call.
    fn take_dirty_log(&self, region: usize) -> Result<Vec<u64>>;
}

/// Chooses among engines: the one named, or the usable one with the highest rank. The error lists why each can't be used.
pub fn choose<'a>(engines: &[&'a dyn Engine], name: Option<&str>) -> Result<&'a dyn Engine> {
    if engines.is_empty() {
        return Err(crate::Error::NoEngine);
    }
    let mut best: Option<(u32, &'a dyn Engine)> = None;
    let mut why = Vec::new();
    for &engine in engines.iter().filter(|e| name.is_none_or(|n| n == e.name())) {
        match engine.probe() {
            Probe::Usable { rank } if best.is_none_or(|(r, _)| rank > r) => best = Some((rank, engine)),
            Probe::Usable { .. } => {}
            Probe::Unusable { why: w } => why.push(format!("{}: {w}", engine.name())),
        }
    }
    best.map(|(_, e)| e).ok_or_else(|| crate::Error::Unsupported {
        engine: "chosen",
        what: match name {
            Some(n) if why.is_empty() => format!("there is no engine called {n}"),
            _ => why.join("; "),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choose_of_no_engines_says_that_this_build_has_none() {
        for name in [None, Some("translate")] {
            let error = choose(&[], name).err().unwrap().to_string();
            assert!(error.contains("no engine in this build for this processor"), "{error}");
        }
    }
}
