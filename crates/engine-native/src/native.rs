//! The engine on this machine.

use crate::host::doorbell::Doorbell;
use crate::host::pagemap::Pagemap;
use crate::host::pin::Pins;
use crate::host::{Host, counter, huge, signal, tree};
use crate::page::Page;
use crate::vm::NativeVm;
use crate::{NAME, calls};
use engine::{Engine, Error, GicVersion, Probe, Result, Vm, VmConfig};
use hypercall::MAX_VCPUS;
use memory::GuestMemory;
use memory::mapping::Mapping;
use std::path::Path;
use std::sync::Arc;

/// The native engine. Everything that takes a path or a right is opened when it is made; its process may confine itself then.
pub struct Native {
    opened: std::result::Result<(Arc<LinuxHost>, calls::Features), String>,
}

impl Native {
    /// Opens what the engine needs; what is missing, [`Engine::probe`] says.
    pub fn open() -> Self {
        let opened = tree::doorbell(Path::new(tree::TREE)).and_then(|doorbell| {
            let open = || {
                let host = LinuxHost::open(doorbell)?;
                let features = calls::version(&host, host.page(MAX_VCPUS))?;
                Ok((Arc::new(host), features))
            };
            open().map_err(|e: Error| e.to_string())
        });
        Self { opened }
    }

    fn opened(&self) -> Result<(&Arc<LinuxHost>, calls::Features)> {
        match &self.opened {
            Ok((host, features)) => Ok((host, *features)),
            Err(why) => Err(Error::Unsupported { engine: NAME, what: why.clone() }),
        }
    }

    /// Destroys every machine of the hypervisor, running or left by a process that died.
    pub fn destroy_all(&self) -> Result<()> {
        let (host, _) = self.opened()?;
        calls::destroy_all(&**host, host.page(MAX_VCPUS))
    }
}

impl Engine for Native {
    fn name(&self) -> &'static str {
        NAME
    }
    fn probe(&self) -> Probe {
        match &self.opened {
            Ok(_) => Probe::Usable { rank: 100 },
            Err(why) => Probe::Unusable { why: why.clone() },
        }
    }
    fn gic(&self) -> Option<GicVersion> {
        match self.opened().ok()?.1.gic() {
            2 => Some(GicVersion::V2),
            3 => Some(GicVersion::V3),
            _ => None,
        }
    }
    fn huge_pages(&self) -> bool {
        true
    }
    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>> {
        let (host, features) = self.opened()?;
        let vm: Arc<dyn Vm> = NativeVm::new(host.clone(), features, config)?;
        Ok(vm)
    }
}

/// This machine.
struct LinuxHost {
    doorbell: Doorbell,
    pagemap: Pagemap,
    pages: Vec<Page>,
    frequency: u64,
    guest: Pins,
    /// After the pages: what they lie in is unpinned last.
    _pages: Pins,
}

impl LinuxHost {
    fn open(doorbell: u64) -> Result<Self> {
        let host = |what: &str| {
            let what = what.to_owned();
            move |source| Error::Host { what, source }
        };
        let doorbell = Doorbell::map(doorbell).map_err(host("the page that calls go to, in /dev/mem"))?;
        let pagemap = Pagemap::open().map_err(host("a look at where pages lie in memory"))?;
        let pins = Pins::new()?;
        let len = (MAX_VCPUS + 1) * 4096;
        let mapping = Arc::new(Mapping::new("call-pages", len as u64)?);
        // SAFETY: the mapping lives in the pages, which are dropped before the pins; nothing maps over it.
        unsafe { pins.pin(&[(mapping.host(), mapping.len())])? };
        let frames = pagemap.frames(mapping.host(), len).map_err(host("the call pages' place in memory"))?;
        let pages: Vec<Page> = frames
            .iter()
            .enumerate()
            // The doorbell takes 32 bits.
            .filter(|(_, frame)| u32::try_from(**frame >> 12).is_ok())
            .filter_map(|(n, &frame)| Page::new(&mapping, n, frame >> 12))
            .collect();
        if pages.len() != MAX_VCPUS + 1 {
            let what = "call pages below 16 TiB".to_owned();
            return Err(Error::Host { what, source: std::io::ErrorKind::OutOfMemory.into() });
        }
        huge::allow();
        signal::install();
        Ok(Self {
            doorbell,
            pagemap,
            pages,
            frequency: counter::frequency(),
            guest: Pins::new()?,
            _pages: pins,
        })
    }
}

impl Host for LinuxHost {
    fn call(&self, page: &Page) {
        // Checked when the pages were made.
        self.doorbell.ring(page.frame() as u32);
    }
    fn now(&self) -> u64 {
        counter::now()
    }
    fn frequency(&self) -> u64 {
        self.frequency
    }
    fn pin(&self, memory: &GuestMemory) -> Result<Vec<Vec<u64>>> {
        let ranges: Vec<_> = memory.regions().iter().map(|r| (r.host(), r.mapping().len())).collect();
        // SAFETY: guest memory is mapped while the machine lives, which keeps it; a process has one machine, and ends with it.
        unsafe { self.guest.pin(&ranges)? };
        ranges
            .iter()
            .map(|&(start, len)| {
                self.pagemap
                    .frames(start, len)
                    .map_err(|source| Error::Host { what: "the guest's memory's place".into(), source })
            })
            .collect()
    }
    fn page(&self, n: usize) -> &Page {
        // There is the number that the contract says, checked when they were made.
        &self.pages[n.min(MAX_VCPUS)]
    }
}
