//! An engine without a processor: its vCPUs follow scripts, so that boards and devices are tested with nothing else.
//!
//! A script is a list of [`Step`]s, each a closure that acts on the bus and on memory as a guest would and says what
//! comes [`Next`]. A register file put into a vCPU (boot, reset) starts its script anew. At its end it is halted.

use crate::{
    Arch, Bus, Engine, Exit, Gic, GicVersion, Kick, Msi, Probe, Result, Vcpu, VcpuState, Vm, VmConfig,
};
use address::GuestPhys;
use memory::GuestMemory;
use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What follows a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next step.
    Continue,
    /// The same step again after an interrupt, a change of a line or a kick.
    Wait,
    /// The same step again at once, unless there was a kick: a guest that is busy.
    Again,
    /// `run` returns this; the run after it goes on with the next step.
    Exit(Exit),
}

/// A piece of guest.
pub type Step = Box<dyn Fn(&mut Cpu<'_>) -> Next + Send + Sync>;

/// What a step acts through.
pub struct Cpu<'a> {
    /// The vCPU's number.
    pub id: u32,
    pub bus: &'a dyn Bus,
    pub memory: &'a GuestMemory,
    /// How many register files this vCPU was given so far: 1 after boot, 2 after a reset.
    pub boots: u32,
    vm: &'a FakeVm,
}

macro_rules! port_access {
    ($input:ident, $output:ident, $t:ty) => {
        /// `IN`.
        pub fn $input(&self, port: u16) -> $t {
            let mut data = [0; size_of::<$t>()];
            self.bus.io_read(port, &mut data);
            <$t>::from_le_bytes(data)
        }
        /// `OUT`.
        pub fn $output(&self, port: u16, value: $t) {
            self.bus.io_write(port, &value.to_le_bytes());
        }
    };
}

impl Cpu<'_> {
    port_access!(in8, out8, u8);
    port_access!(in16, out16, u16);
    port_access!(in32, out32, u32);

    /// A load, from memory or else from the bus.
    pub fn load<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut data = [0; N];
        if self.memory.read(GuestPhys(at), &mut data).is_err() {
            self.bus.mmio_read(GuestPhys(at), &mut data);
        }
        data
    }
    /// A store, to memory or else to the bus.
    pub fn store(&self, at: u64, data: &[u8]) {
        if self.memory.write(GuestPhys(at), data).is_err() {
            self.bus.mmio_write(GuestPhys(at), data);
        }
    }
    pub fn load32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.load(at))
    }
    pub fn store32(&self, at: u64, value: u32) {
        self.store(at, &value.to_le_bytes());
    }
    /// Level of line 0: on x86, INTR.
    pub fn intr(&self) -> bool {
        self.line(0)
    }
    /// Level of a line: on ARM, of the SPI with this INTID.
    pub fn line(&self, line: u32) -> bool {
        self.vm.lock().lines.contains(&line)
    }
    /// Takes the oldest MSI that was sent, to whichever vCPU.
    pub fn take_msi(&self) -> Option<Msi> {
        let mut s = self.vm.lock();
        (!s.msis.is_empty()).then(|| s.msis.remove(0))
    }
}

/// The engine; one script for each vCPU, those without one are halted from the start.
#[derive(Default)]
pub struct FakeEngine {
    gic: Option<GicVersion>,
    scripts: Mutex<Vec<Arc<[Step]>>>,
    vm: Mutex<Option<Arc<FakeVm>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeEngine {
    /// With a script for vCPU 0.
    pub fn new(script: Vec<Step>) -> Self {
        let engine = Self::default();
        engine.add_script(script);
        engine
    }
    /// As on an ARM host with this GIC.
    pub fn with_gic(mut self, version: GicVersion) -> Self {
        self.gic = Some(version);
        self
    }
    /// The next vCPU's script.
    pub fn add_script(&self, script: Vec<Step>) {
        lock(&self.scripts).push(script.into());
    }
    /// The VM made last.
    pub fn vm(&self) -> Option<Arc<FakeVm>> {
        lock(&self.vm).clone()
    }
}

impl Engine for FakeEngine {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn probe(&self) -> Probe {
        Probe::Usable { rank: 0 }
    }
    fn gic(&self) -> Option<GicVersion> {
        self.gic
    }
    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>> {
        let vm = Arc::new_cyclic(|me| FakeVm {
            me: me.clone(),
            arch: config.arch,
            gic: config.gic,
            memory: config.memory,
            scripts: lock(&self.scripts).clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        *lock(&self.vm) = Some(vm.clone());
        Ok(vm)
    }
}

#[derive(Default)]
struct State {
    msis: Vec<Msi>,
    /// Those that are high.
    lines: BTreeSet<u32>,
    line_changes: Vec<(u32, bool)>,
    /// By vCPU.
    kicked: Vec<bool>,
    /// Counts everything that wakes a waiting vCPU.
    events: u64,
}

/// A VM whose vCPUs follow scripts, and which records interrupts.
pub struct FakeVm {
    me: std::sync::Weak<FakeVm>,
    arch: Arch,
    gic: Option<Gic>,
    memory: Arc<GuestMemory>,
    scripts: Vec<Arc<[Step]>>,
    state: Mutex<State>,
    changed: Condvar,
}

impl FakeVm {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut s = self.lock();
        f(&mut s);
        s.events += 1;
        self.changed.notify_all();
    }
    /// MSIs that no script has taken, oldest first.
    pub fn msis(&self) -> Vec<Msi> {
        self.lock().msis.clone()
    }
    /// Every change of a line, oldest first.
    pub fn line_changes(&self) -> Vec<(u32, bool)> {
        self.lock().line_changes.clone()
    }
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
    pub fn arch(&self) -> Arch {
        self.arch
    }
    pub fn gic(&self) -> Option<Gic> {
        self.gic
    }
}

impl Vm for FakeVm {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        let Some(vm) = self.me.upgrade() else {
            return Err(crate::Error::InvalidVcpu(id, "the VM is gone".to_string()));
        };
        let mut s = self.lock();
        let kicked = s.kicked.len().max(id as usize + 1);
        s.kicked.resize(kicked, false);
        let script = self.scripts.get(id as usize).cloned().unwrap_or_else(|| Vec::new().into());
        Ok(Box::new(FakeVcpu { id, vm, script, at: 0, boots: 0, state: None }))
    }
    fn signal_msi(&self, msi: Msi) -> Result<()> {
        self.change(|s| s.msis.push(msi));
        Ok(())
    }
    fn set_line(&self, line: u32, level: bool) -> Result<()> {
        self.change(|s| {
            let changed = if level { s.lines.insert(line) } else { s.lines.remove(&line) };
            if changed {
                s.line_changes.push((line, level));
            }
        });
        Ok(())
    }
    fn set_dirty_logging(&self, on: bool) -> Result<()> {
        self.memory.set_logging(on);
        Ok(())
    }
    fn take_dirty_log(&self, region: usize) -> Result<Vec<u64>> {
        Ok(self.memory.take_dirty(region))
    }
}

struct FakeVcpu {
    id: u32,
    vm: Arc<FakeVm>,
    script: Arc<[Step]>,
    at: usize,
    boots: u32,
    state: Option<VcpuState>,
}

impl FakeVcpu {
    /// Takes the kick, if there was one.
    fn kicked(&self, s: &mut State) -> bool {
        s.kicked.get_mut(self.id as usize).is_some_and(std::mem::take)
    }
}

impl Vcpu for FakeVcpu {
    fn run(&mut self, bus: &dyn Bus) -> Result<Exit> {
        let vm = self.vm.clone();
        loop {
            let events = {
                let mut s = vm.lock();
                if self.kicked(&mut s) {
                    return Ok(Exit::Kicked);
                }
                s.events
            };
            let next = match self.script.get(self.at) {
                Some(step) => {
                    step(&mut Cpu { id: self.id, bus, memory: &vm.memory, boots: self.boots, vm: &vm })
                }
                None => Next::Wait,
            };
            match next {
                Next::Continue => self.at += 1,
                Next::Again => std::thread::yield_now(),
                Next::Exit(exit) => {
                    self.at += 1;
                    return Ok(exit);
                }
                Next::Wait => {
                    let mut s = vm.lock();
                    while s.events == events {
                        s = vm.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }

    fn state(&self) -> Result<VcpuState> {
        let none = || crate::Error::InvalidState("this vCPU was never given one".to_string());
        self.state.clone().ok_or_else(none)
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<()> {
        self.state = Some(state.clone());
        self.at = 0;
        self.boots += 1;
        Ok(())
    }

    fn kick_handle(&self) -> Arc<dyn Kick> {
        Arc::new(FakeKick { id: self.id, vm: self.vm.clone() })
    }
}

struct FakeKick {
    id: u32,
    vm: Arc<FakeVm>,
}

impl Kick for FakeKick {
    fn kick(&self) {
        self.vm.change(|s| {
            if let Some(k) = s.kicked.get_mut(self.id as usize) {
                *k = true;
            }
        });
    }
}

/// A step that does something and goes on.
pub fn act(f: impl Fn(&mut Cpu<'_>) + Send + Sync + 'static) -> Step {
    Box::new(move |cpu| {
        f(cpu);
        Next::Continue
    })
}
/// A step that waits, halted, until something is so.
pub fn wait_until(f: impl Fn(&mut Cpu<'_>) -> bool + Send + Sync + 'static) -> Step {
    Box::new(move |cpu| if f(cpu) { Next::Continue } else { Next::Wait })
}
/// A step that looks, busily, until something is so.
pub fn spin_until(f: impl Fn(&mut Cpu<'_>) -> bool + Send + Sync + 'static) -> Step {
    Box::new(move |cpu| if f(cpu) { Next::Continue } else { Next::Again })
}
/// A step that makes `run` return.
pub fn exit(exit: Exit) -> Step {
    Box::new(move |_| Next::Exit(exit.clone()))
}
/// `OUT` of a byte.
pub fn out8(port: u16, value: u8) -> Step {
    act(move |cpu| cpu.out8(port, value))
}
/// `IN` of a byte that has to give `expected`; else the run fails.
pub fn expect_in8(port: u16, expected: u8) -> Step {
    Box::new(move |cpu| match cpu.in8(port) {
        v if v == expected => Next::Continue,
        v => Next::Exit(Exit::Failed(format!("port {port:#x} reads {v:#x}, not {expected:#x}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::{Kind, RegionConfig};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A bus with one latch, at every port and address.
    #[derive(Default)]
    struct Latch(AtomicU32);
    impl Bus for Latch {
        fn io_read(&self, _port: u16, data: &mut [u8]) {
            data.copy_from_slice(&self.0.load(Ordering::SeqCst).to_le_bytes()[..data.len()]);
        }
        fn io_write(&self, _port: u16, data: &[u8]) {
            self.0.store(u32::from(data[0]), Ordering::SeqCst);
        }
        fn mmio_read(&self, _address: GuestPhys, data: &mut [u8]) {
            data.fill(0xee);
        }
        fn mmio_write(&self, _address: GuestPhys, data: &[u8]) {
            self.io_write(0, data);
        }
    }

    fn vcpu(script: Vec<Step>) -> (Arc<dyn Vm>, Box<dyn Vcpu>) {
        let ram = RegionConfig { base: GuestPhys(0), len: 4096, kind: Kind::Ram };
        let memory = Arc::new(GuestMemory::new(&[ram]).unwrap());
        let engine = FakeEngine::new(script);
        let vm = engine.create_vm(VmConfig { arch: Arch::X86, vcpus: 1, memory, gic: None }).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        (vm, vcpu)
    }

    #[test]
    fn script_runs_its_steps_in_order_and_again_after_new_state() {
        let (_vm, mut v) = vcpu(vec![
            out8(0x80, 7),
            expect_in8(0x80, 7),
            act(|cpu| cpu.store32(0x100, 0x1234)),
            act(|cpu| cpu.store32(0x2000, cpu.load32(0x100))),
            exit(Exit::Shutdown("here".to_string())),
            expect_in8(0x80, 0x99),
        ]);
        let bus = Latch::default();
        assert_eq!(v.run(&bus).unwrap(), Exit::Shutdown("here".to_string()));
        assert_eq!(bus.0.load(Ordering::SeqCst), 0x34, "the store beyond memory went to the bus");
        assert!(matches!(v.run(&bus).unwrap(), Exit::Failed(why) if why.contains("0x99")));
        v.set_state(&VcpuState::Arm(Box::default())).unwrap();
        assert!(matches!(v.run(&bus).unwrap(), Exit::Shutdown(_)));
    }

    #[test]
    fn kick_before_run_or_while_halted_is_not_lost() {
        let (_vm, mut v) = vcpu(vec![]);
        let kick = v.kick_handle();
        kick.kick();
        kick.kick();
        assert_eq!(v.run(&Latch::default()).unwrap(), Exit::Kicked);
        let thread = std::thread::spawn(move || v.run(&Latch::default()).unwrap());
        kick.kick();
        assert_eq!(thread.join().unwrap(), Exit::Kicked);
    }

    #[test]
    fn waiting_vcpu_wakes_for_an_interrupt() {
        let (vm, mut v) = vcpu(vec![
            wait_until(|cpu| cpu.intr()),
            wait_until(|cpu| cpu.take_msi() == Some(Msi { address: 1, data: 2 })),
            exit(Exit::PowerOff),
        ]);
        let thread = std::thread::spawn(move || v.run(&Latch::default()).unwrap());
        vm.set_line(0, true).unwrap();
        vm.signal_msi(Msi { address: 1, data: 2 }).unwrap();
        assert_eq!(thread.join().unwrap(), Exit::PowerOff);
    }
}
