//! A hypervisor for tests: it answers calls by closures.

use crate::calls::Features;
use crate::host::Host;
use crate::page::Page;
use crate::vm::NativeVm;
use address::GuestPhys;
use engine::{Arch, Gic, GicVersion, Result, VmConfig};
use hypercall::page::Exit;
use hypercall::{Call, MAX_VCPUS, Status, features};
use memory::mapping::Mapping;
use memory::{GuestMemory, Kind, RegionConfig};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What a run does: the exit it gives.
pub type Run = Box<dyn FnMut(&Page) -> Exit + Send>;

pub struct FakeHost {
    pages: Vec<Page>,
    begun: Instant,
    /// By vCPU; with none left a run ends with [`Reason::Immediate`] or waits for that, as a guest that is busy does.
    pub runs: Mutex<Vec<VecDeque<Run>>>,
    /// Every call made but Run: its number and arguments.
    pub made: Mutex<Vec<(Call, [u64; 5])>>,
    /// Calls that are refused.
    pub refuse: Mutex<Option<Call>>,
    /// What SetLine says it woke.
    pub line_wakes: u64,
    /// By vCPU, what SetRegisters gave last.
    pub registers: Mutex<Vec<hypercall::Registers>>,
}

impl FakeHost {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::bare())
    }
    pub fn bare() -> Self {
        let mapping = Arc::new(Mapping::new("fake", (MAX_VCPUS as u64 + 1) * 4096).unwrap());
        Self {
            pages: (0..=MAX_VCPUS).map(|n| Page::new(&mapping, n, n as u64).unwrap()).collect(),
            begun: Instant::now(),
            runs: Mutex::new((0..MAX_VCPUS).map(|_| VecDeque::new()).collect()),
            made: Mutex::default(),
            refuse: Mutex::default(),
            line_wakes: 0,
            registers: Mutex::new(vec![hypercall::Registers::RESET; MAX_VCPUS]),
        }
    }
    pub fn then(&self, vcpu: usize, run: impl FnMut(&Page) -> Exit + Send + 'static) {
        self.runs.lock().unwrap()[vcpu].push_back(Box::new(run));
    }
    pub fn exit(&self, vcpu: usize, exit: Exit) {
        self.then(vcpu, move |_| exit);
    }
    pub fn calls(&self, call: Call) -> Vec<[u64; 5]> {
        self.made.lock().unwrap().iter().filter(|(c, _)| *c == call).map(|(_, a)| *a).collect()
    }
}

impl Host for FakeHost {
    fn call(&self, page: &Page) {
        let call = Call::from_number(page.call()).unwrap();
        let arguments: [u64; 5] = std::array::from_fn(|n| page.argument(n));
        let mut status = Status::Done;
        if call == Call::Run {
            let vcpu = arguments[1] as usize;
            let run = self.runs.lock().unwrap()[vcpu].pop_front();
            let exit = match run {
                Some(mut run) => run(page),
                None => {
                    while !page.immediate_exit() {
                        std::thread::yield_now();
                    }
                    Exit { reason: hypercall::Reason::Immediate as u32, ..Exit::default() }
                }
            };
            page.set_exit(&exit);
        } else {
            self.made.lock().unwrap().push((call, arguments));
        }
        match call {
            Call::CreateVm => page.set_results(0, 77),
            Call::SetLine => page.set_results(0, self.line_wakes),
            Call::Version => page.set_results(0, 1),
            Call::GetRegisters => page.set_registers(&self.registers.lock().unwrap()[arguments[1] as usize]),
            Call::SetRegisters => self.registers.lock().unwrap()[arguments[1] as usize] = page.registers(),
            _ => {}
        }
        if *self.refuse.lock().unwrap() == Some(call) {
            status = Status::NoMemory;
        }
        page.set_result(status as i32);
    }
    /// A counter of microseconds.
    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }
    fn frequency(&self) -> u64 {
        1_000_000
    }
    /// Two frames are missing in the middle of the second large one.
    fn pin(&self, memory: &GuestMemory) -> Result<Vec<Vec<u64>>> {
        let frame = |n: u64| 0x8000_0000 + n * 4096 + if n >= 600 { 0x2000 } else { 0 };
        Ok(memory.regions().iter().map(|r| (0..r.len() / 4096).map(frame).collect()).collect())
    }
    fn page(&self, n: usize) -> &Page {
        &self.pages[n]
    }
}

pub const ALL: u64 = 2 | features::AARCH64 | features::AARCH32;

pub fn config(vcpus: u32) -> VmConfig {
    let ram = RegionConfig { base: GuestPhys(0x4000_0000), len: 6 << 20, kind: Kind::Ram };
    VmConfig {
        arch: Arch::Aarch64,
        vcpus,
        memory: Arc::new(GuestMemory::new(&[ram]).unwrap()),
        gic: Some(Gic {
            version: GicVersion::V2,
            distributor: GuestPhys(0x0800_0000),
            interface: GuestPhys(0x0801_0000),
        }),
    }
}

pub fn vm(host: &Arc<FakeHost>, vcpus: u32) -> Arc<NativeVm> {
    NativeVm::new(host.clone(), Features::new(ALL), config(vcpus)).unwrap()
}
