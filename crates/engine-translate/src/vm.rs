//! The engine contract, implemented.

use crate::cache::{DEFAULT_SIZE, MAX_SIZE};
use crate::cpu::Cpu;
use crate::lockstep::Lockstep;
use crate::placed::Placed;
use crate::remote::{Remote, Shared, pending};
use crate::system::{Apic, time};
use engine::{Arch, Bus, Engine, Error, Exit, Kick, Msi, Probe, Result, Vcpu, VcpuState, Vm, VmConfig};
use irqchip::{LocalApic, Message};
use std::ptr::NonNull;
use std::sync::Arc;

const NAME: &str = "translate";
/// Most vCPUs: xAPIC ids of 8 bits, of which 255 is everybody's.
const MAX_VCPUS: u32 = 255;

/// How code may be executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiers {
    /// Hot blocks are translated.
    #[default]
    All,
    /// The same, but every access looks its page up.
    NoWindows,
    /// The interpreter does everything: slow, and with the least to go wrong.
    Interpreter,
    /// Hot or not, everything is translated, and interpreted once more; the first difference ends the VM. For one vCPU.
    Lockstep,
}

/// The translate engine.
#[derive(Default)]
pub struct Translate {
    tiers: Tiers,
    /// Bytes of the code cache; `None` for [`crate::cache::DEFAULT_SIZE`].
    cache: Option<u64>,
}

impl Translate {
    pub fn new() -> Self {
        Self::default()
    }
    /// The engine with some of its tiers; its name says so.
    pub fn with_tiers(tiers: Tiers) -> Self {
        Self { tiers, cache: None }
    }
    /// The same with at most so many bytes of decoded and translated code in each VM, brought between
    /// [`crate::cache::MIN_SIZE`] and [`crate::cache::MAX_SIZE`]; `None` for [`crate::cache::DEFAULT_SIZE`].
    pub fn with_cache(self, bytes: Option<u64>) -> Self {
        Self { cache: bytes, ..self }
    }
}

impl Engine for Translate {
    fn name(&self) -> &'static str {
        match self.tiers {
            Tiers::All => NAME,
            Tiers::NoWindows => "translate:t1",
            Tiers::Interpreter => "translate:t0",
            Tiers::Lockstep => "translate:lockstep",
        }
    }

    fn probe(&self) -> Probe {
        if !time::host_tsc_is_invariant() {
            let why = "this machine's time-stamp counter does not run at a constant rate, so guests could not tell the time";
            return Probe::Unusable { why: why.into() };
        }
        // Chosen by name only.
        let rank = if self.tiers == Tiers::All { 10 } else { 1 };
        Probe::Usable { rank }
    }

    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>> {
        let unsupported = |what: String| Err(Error::Unsupported { engine: NAME, what });
        if config.arch != Arch::X86 {
            return unsupported("guests of other processors than x86".into());
        }
        if !(1..=MAX_VCPUS).contains(&config.vcpus) {
            return unsupported(format!("{} vCPUs; it has 1 to {MAX_VCPUS}", config.vcpus));
        }
        if self.tiers == Tiers::Lockstep && config.vcpus != 1 {
            return unsupported(format!(
                "{} vCPUs in step with the interpreter; it follows one",
                config.vcpus
            ));
        }
        let cache = self.cache.map_or(DEFAULT_SIZE, |b| usize::try_from(b).unwrap_or(MAX_SIZE));
        let shared = Shared::with_cache(config.memory, config.vcpus, time::host_tsc_khz(), cache);
        let shared = Arc::new(shared);
        shared
            .start_clock()
            .map_err(|source| Error::Host { what: "a thread for the guests' timers".into(), source })?;
        Ok(Arc::new(TranslateVm { shared, tiers: self.tiers }))
    }
}

struct TranslateVm {
    shared: Arc<Shared>,
    tiers: Tiers,
}

impl Vm for TranslateVm {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        let invalid = |why: &str| Error::InvalidVcpu(id, why.into());
        if id >= self.shared.vcpus {
            return Err(invalid("the machine was made for fewer"));
        }
        let remote = Arc::new(Remote::new(Apic(LocalApic::new(id, id == 0, self.shared.tsc_khz))));
        if !self.shared.register(id, remote.clone()) {
            return Err(invalid("there is one with this number already"));
        }
        let mut cpu = Placed::new(Cpu::new(id, self.shared.clone(), remote));
        match self.tiers {
            Tiers::All => cpu.allow_windows(),
            Tiers::NoWindows => {}
            Tiers::Interpreter => cpu.t1.threshold = u32::MAX,
            Tiers::Lockstep => Lockstep::lead(&mut cpu)?,
        }
        if id != 0 {
            cpu.wait_for_start_up();
        }
        Ok(Box::new(TranslateVcpu { cpu }))
    }

    fn signal_msi(&self, msi: Msi) -> Result<()> {
        // What isn't a message interrupts nobody, as on a real bus.
        if let Some(message) = Message::from_msi(msi.address, msi.data) {
            self.shared.send_message(&message);
        }
        Ok(())
    }

    fn set_line(&self, line: u32, level: bool) -> Result<()> {
        if line != 0 {
            return Err(Error::Unsupported {
                engine: NAME,
                what: format!("interrupt line {line}; the only one is 0, the 8259s' output"),
            });
        }
        if let Some(remote) = self.shared.remote(0) {
            remote.set_extint(level);
        }
        Ok(())
    }

    fn set_dirty_logging(&self, on: bool) -> Result<()> {
        if self.tiers == Tiers::Lockstep {
            // The log is the comparison's.
            return Err(Error::Unsupported {
                engine: NAME,
                what: "a dirty log beside the interpreter".into(),
            });
        }
        self.shared.memory.set_logging(on);
        // TLB entries from before let stores past the log.
        self.shared.flush_others(None, || ());
        Ok(())
    }

    fn take_dirty_log(&self, region: usize) -> Result<Vec<u64>> {
        if region >= self.shared.memory.regions().len() {
            return Err(Error::Unsupported {
                engine: NAME,
                what: format!("a dirty log of memory region {region}"),
            });
        }
        let log = self.shared.memory.take_dirty(region);
        // Stores through entries that are older than the taking must be over before the caller copies pages.
        self.shared.flush_others(None, || ());
        Ok(log)
    }
}

struct TranslateVcpu {
    cpu: Placed,
}

impl Drop for TranslateVcpu {
    fn drop(&mut self) {
        log::debug!("vCPU {} executed {} instructions", self.cpu.id, self.cpu.retired);
    }
}

/// Takes the board out of the vCPU however `run` ends.
struct Inside<'a>(&'a mut Cpu);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.park();
        self.0.remote.leave();
        self.0.bus = None;
    }
}

impl Vcpu for TranslateVcpu {
    fn run(&mut self, bus: &dyn Bus) -> Result<Exit> {
        let bus = NonNull::from(bus);
        // SAFETY: only the lifetime changes; `Inside` clears the pointer before this function returns.
        let bus = unsafe { std::mem::transmute::<NonNull<dyn Bus + '_>, NonNull<dyn Bus + 'static>>(bus) };
        self.cpu.bus = Some(bus);
        let inside = Inside(&mut self.cpu);
        inside.0.remote.enter();
        inside.0.service_flush();
        // Whatever changed between runs is looked at first.
        inside.0.recheck();
        Ok(inside.0.run_loop())
    }

    fn state(&self) -> Result<VcpuState> {
        Ok(VcpuState::X86(Box::new(self.cpu.save()?)))
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<()> {
        match state {
            VcpuState::X86(s) => self.cpu.restore(s),
            VcpuState::Arm(_) => Err(Error::InvalidState("it is an ARM processor's".into())),
        }
    }

    fn kick_handle(&self) -> Arc<dyn Kick> {
        Arc::new(Kicker(self.cpu.remote.clone()))
    }
}

struct Kicker(Arc<Remote>);

impl Kick for Kicker {
    fn kick(&self) {
        self.0.post(pending::KICK);
    }
}
