//! A machine: made, given its memory, and destroyed.

use crate::bell::Bell;
use crate::calls::{self, Features, Piece};
use crate::host::Host;
use crate::power::Powers;
use crate::vcpu::NativeVcpu;
use crate::{NAME, registers};
use engine::{Arch, Error, GicVersion, Msi, Result, Vcpu, Vm, VmConfig};
use hypercall::{GuestMode, MAX_VCPUS};
use memory::{GuestMemory, Kind, Region};
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};

const SMALL: u32 = 12;
const LARGE: u32 = 21;
/// Interrupt lines of boards: SPIs' INTIDs.
const SPIS: std::ops::RangeInclusive<u32> = 32..=1019;

/// What a machine's vCPUs share.
pub struct Shared {
    pub host: Arc<dyn Host>,
    pub handle: u64,
    pub mode: GuestMode,
    pub powers: Powers,
    pub bells: Vec<Arc<Bell>>,
    /// One thread at a time may fill in the page of calls that are no vCPU's.
    calling: Mutex<()>,
    /// Its frames are the guest's.
    _memory: Arc<GuestMemory>,
}

impl Shared {
    /// Wakes or interrupts those of the set (bit n: vCPU n) but `caller`.
    pub fn wake(&self, set: u64, caller: Option<u32>) {
        for (n, bell) in self.bells.iter().enumerate().take(64) {
            if set >> n & 1 != 0 && caller != Some(n as u32) {
                bell.ring();
            }
        }
    }
    /// Has those that run look for new interrupts.
    fn interrupt_running(&self) {
        self.bells.iter().for_each(|bell| bell.interrupt());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let page = self.host.page(MAX_VCPUS);
        if let Err(e) = calls::destroy_vm(&*self.host, page, self.handle) {
            log::warn!("{e}");
        }
    }
}

pub struct NativeVm {
    shared: Arc<Shared>,
    /// Bits of the vCPUs that exist.
    made: AtomicU32,
}

impl NativeVm {
    /// Makes the machine and gives it its memory.
    pub fn new(host: Arc<dyn Host>, features: Features, config: VmConfig) -> Result<Arc<Self>> {
        let unsupported = |what: String| Error::Unsupported { engine: NAME, what };
        let mode = match config.arch {
            Arch::Aarch64 => GuestMode::Aarch64,
            Arch::Armv7 => GuestMode::Aarch32,
            Arch::X86 => return Err(unsupported("guests of other processors than ARM".into())),
        };
        if !features.runs(mode) {
            let bits = if mode == GuestMode::Aarch64 { 64 } else { 32 };
            return Err(unsupported(format!("guests in {bits}-bit code on this processor")));
        }
        if !(1..=MAX_VCPUS as u32).contains(&config.vcpus) {
            return Err(unsupported(format!("{} vCPUs; it has 1 to {MAX_VCPUS}", config.vcpus)));
        }
        let gic = config.gic.ok_or_else(|| unsupported("a board without a GIC".into()))?;
        let version = match gic.version {
            GicVersion::V2 => 2,
            GicVersion::V3 => 3,
        };
        if features.gic() != version {
            return Err(unsupported(format!("GICv{version} here: guests have GICv{}", features.gic())));
        }
        let frames = host.pin(&config.memory)?;
        let page = host.page(MAX_VCPUS);
        let places = [gic.distributor.0, gic.interface.0];
        let handle = calls::create_vm(&*host, page, mode, config.vcpus, places)?;
        // From here on it is destroyed when anything fails.
        let shared = Arc::new(Shared {
            host: host.clone(),
            handle,
            mode,
            powers: Powers::new(config.vcpus),
            bells: (0..config.vcpus).map(|_| Arc::default()).collect(),
            calling: Mutex::default(),
            _memory: config.memory.clone(),
        });
        for (region, frames) in config.memory.regions().iter().zip(&frames) {
            for piece in pieces(region.base().0, writable(region), frames) {
                calls::add_memory(&*host, page, handle, &piece)?;
            }
        }
        Ok(Arc::new(Self { shared, made: AtomicU32::new(0) }))
    }
}

fn writable(region: &Region) -> bool {
    region.kind() == Kind::Ram
}

/// A region's frames in runs of one size: 2 MiB at once where the guest's and the host's addresses allow it.
fn pieces(base: u64, writable: bool, frames: &[u64]) -> Vec<Piece> {
    const PER_LARGE: usize = 1 << (LARGE - SMALL);
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = 0;
    while at < frames.len() {
        let guest = base + ((at as u64) << SMALL);
        let frame = frames[at];
        let block = frames.get(at..at + PER_LARGE);
        let whole = block.is_some_and(|block| {
            (guest | frame).is_multiple_of(1 << LARGE)
                && block.iter().enumerate().all(|(n, &f)| f == frame + ((n as u64) << SMALL))
        });
        let (shift, step) = if whole { (LARGE, PER_LARGE) } else { (SMALL, 1) };
        match pieces.last_mut() {
            Some(last) if last.shift == shift => last.frames.push(frame),
            _ => pieces.push(Piece { guest, shift, writable, frames: vec![frame] }),
        }
        at += step;
    }
    pieces
}

impl Vm for NativeVm {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        let invalid = |why: &str| Error::InvalidVcpu(id, why.into());
        if id as usize >= self.shared.bells.len() {
            return Err(invalid("the machine was made for fewer"));
        }
        if self.made.fetch_or(1 << id, SeqCst) >> id & 1 != 0 {
            return Err(invalid("there is one with this number already"));
        }
        Ok(Box::new(NativeVcpu::new(self.shared.clone(), id, registers::reset(self.shared.mode))))
    }

    fn signal_msi(&self, _msi: Msi) -> Result<()> {
        Err(Error::Unsupported { engine: NAME, what: "message-signalled interrupts".into() })
    }

    fn set_line(&self, line: u32, level: bool) -> Result<()> {
        if !SPIS.contains(&line) {
            let what = format!("interrupt line {line}; lines are the INTIDs from 32 to 1019");
            return Err(Error::Unsupported { engine: NAME, what });
        }
        let s = &self.shared;
        let woken = {
            let _one = s.calling.lock().unwrap_or_else(PoisonError::into_inner);
            calls::set_line(&*s.host, s.host.page(MAX_VCPUS), s.handle, line, level)?
        };
        s.wake(woken, None);
        if level {
            // The hypervisor names only those that wait; on another CPU one sees the line when it is interrupted.
            s.interrupt_running();
        }
        Ok(())
    }

    fn set_dirty_logging(&self, _on: bool) -> Result<()> {
        Err(Error::Unsupported { engine: NAME, what: "a log of the pages that a guest writes".into() })
    }

    fn take_dirty_log(&self, _region: usize) -> Result<Vec<u64>> {
        self.set_dirty_logging(true).map(|()| Vec::new())
    }
}
