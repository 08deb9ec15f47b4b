//! What all interfaces show: features, status, queues. The modern and the legacy one of PCI are two views of one device; that of MMIO
//! is a third, of its own.

use super::device::{Device, Doorbell};
use super::device_config::DeviceConfig;
use super::interrupts::Interrupts;
use super::runner::{Core, Runner};
use crate::pci::Msix;
use crate::wiring::IrqLine;
use address::GuestPhys;
use memory::GuestMemory;
use memory::virtqueue::{Layout, Options, Queue};
use std::sync::Arc;

/// Feature bits of rings and transport (VIRTIO 1.2, chapter 6).
pub mod feature {
    /// Legacy only: requests may be cut into descriptors anyhow.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
}

/// Device status bits (VIRTIO 1.2, 2.1).
pub mod status {
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 0x40;
}

/// Which interface an access came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    Modern,
    Legacy,
}

/// The three areas of a queue that a driver says the addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Descriptor area.
    Descriptors,
    /// Driver area.
    Available,
    /// Device area.
    Used,
}

/// A half of a 64-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    Low,
    High,
}

impl Half {
    /// The half of a feature word that a select register means; there is none beyond bit 63.
    pub fn selected(select: u32) -> Option<Self> {
        match select {
            0 => Some(Half::Low),
            1 => Some(Half::High),
            _ => None,
        }
    }
    /// This half of `word`.
    pub fn of(self, word: u64) -> u32 {
        match self {
            Half::Low => word as u32,
            Half::High => (word >> 32) as u32,
        }
    }
    /// `word` with this half changed.
    pub fn set(self, word: u64, value: u32) -> u64 {
        match self {
            Half::Low => word & !0xffff_ffff | u64::from(value),
            Half::High => word & 0xffff_ffff | u64::from(value) << 32,
        }
    }
}

/// The half of `features` that `select` means, 0 where it means none.
fn selected(features: u64, select: u32) -> u32 {
    Half::selected(select).map_or(0, |half| half.of(features))
}

/// A queue's registers.
#[derive(Clone, Copy, Debug)]
pub struct QueueRegisters {
    /// The most descriptors the device takes.
    pub max: u16,
    pub layout: Layout,
    pub enabled: bool,
    /// The legacy interface's queue address: a page frame number.
    pub pfn: u32,
    /// Handed to the runner.
    live: bool,
}

impl QueueRegisters {
    fn new(max: u16) -> Self {
        let zero = GuestPhys(0);
        let layout = Layout { size: max, descriptors: zero, available: zero, used: zero };
        Self { max, layout, enabled: false, pfn: 0, live: false }
    }
}

/// A device's registers.
pub struct Registers {
    pub runner: Arc<Runner>,
    pub interrupts: Arc<Interrupts>,
    pub config: Arc<DeviceConfig>,
    memory: Arc<GuestMemory>,
    max_chain_bytes: u64,
    offered: u64,
    pub driver_features: u64,
    pub device_feature_select: u32,
    pub driver_feature_select: u32,
    status: u8,
    pub queue_select: u16,
    queues: Vec<QueueRegisters>,
}

impl Registers {
    /// Takes a device: makes its runner and its interrupts, through `msix` where there is one, and else `line`.
    pub fn attach(
        mut device: Box<dyn Device>,
        memory: Arc<GuestMemory>,
        line: Arc<dyn IrqLine>,
        msix: Option<Arc<Msix>>,
    ) -> Self {
        let interrupts = Interrupts::new(msix, line, device.queue_sizes().len());
        let runner = Arc::new_cyclic(|weak| {
            device.attach(Doorbell { runner: weak.clone(), interrupts: interrupts.clone() });
            Runner::new(device, interrupts.clone())
        });
        Self::new(runner, interrupts, memory)
    }

    fn new(runner: Arc<Runner>, interrupts: Arc<Interrupts>, memory: Arc<GuestMemory>) -> Self {
        let (offered, queues, config, max_chain_bytes) = runner.between_requests(|core| {
            let d = &core.device;
            let queues = d.queue_sizes().iter().map(|&n| QueueRegisters::new(n)).collect();
            (d.features(), queues, d.config(), d.max_chain_bytes())
        });
        Self {
            runner,
            interrupts,
            config,
            memory,
            max_chain_bytes,
            offered: offered | feature::INDIRECT_DESC | feature::EVENT_IDX | feature::VERSION_1,
            driver_features: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            status: 0,
            queue_select: 0,
            queues,
        }
    }

    /// What the device offers over an interface.
    pub fn offered(&self, interface: Interface) -> u64 {
        match interface {
            Interface::Modern => self.offered,
            Interface::Legacy => (self.offered | feature::ANY_LAYOUT) & 0xffff_ffff,
        }
    }

    /// The half of the device's features that its select register means.
    pub fn device_features_selected(&self) -> u32 {
        selected(self.offered(Interface::Modern), self.device_feature_select)
    }

    /// The half of the driver's features that its select register means.
    pub fn driver_features_selected(&self) -> u32 {
        selected(self.driver_features, self.driver_feature_select)
    }

    /// Sets that half.
    pub fn set_driver_features_selected(&mut self, value: u32) {
        if let Some(half) = Half::selected(self.driver_feature_select) {
            self.set_driver_features(half.set(self.driver_features, value));
        }
    }

    /// The driver's choice of features; too late once it has said FEATURES_OK or DRIVER_OK.
    pub fn set_driver_features(&mut self, features: u64) {
        if self.status & (status::FEATURES_OK | status::DRIVER_OK) == 0 {
            self.driver_features = features;
        }
    }

    pub fn status(&self) -> u8 {
        self.status | if self.interrupts.needs_reset() { status::NEEDS_RESET } else { 0 }
    }

    /// A write of device status. 0 resets; other bits only add, and only where the order of initialization allows.
    pub fn set_status(&mut self, value: u8, interface: Interface) {
        if value == 0 {
            return self.reset();
        }
        let mut new = self.status | value & !status::NEEDS_RESET;
        if interface == Interface::Modern {
            let acceptable =
                self.driver_features & !self.offered == 0 && self.driver_features & feature::VERSION_1 != 0;
            if !acceptable {
                new &= !status::FEATURES_OK | self.status;
            }
            if new & status::FEATURES_OK == 0 {
                new &= !status::DRIVER_OK | self.status;
            }
        }
        let started = new & !self.status & status::DRIVER_OK != 0;
        self.status = new;
        if started {
            self.interrupts.set_driver_ok();
            self.start_queues(|_| true);
        }
    }

    /// Resets the device (VIRTIO 1.2, 2.4). Waits for the request being done; those not begun are forgotten.
    pub fn reset(&mut self) {
        self.runner.reset();
        self.interrupts.reset();
        self.driver_features = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.status = 0;
        self.queue_select = 0;
        for q in &mut self.queues {
            *q = QueueRegisters::new(q.max);
        }
    }

    pub fn queue_count(&self) -> u16 {
        self.queues.len() as u16
    }

    /// The selected queue, if it exists.
    pub fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// The selected queue, if it exists and may still be set up.
    pub fn queue_mut(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::from(self.queue_select)).filter(|q| !q.enabled)
    }

    /// Enables the selected queue; one enabled after DRIVER_OK starts at once. Enabling it again does nothing.
    pub fn enable_queue(&mut self) {
        let Some(q) = self.queue_mut() else { return };
        q.enabled = true;
        if self.status & status::DRIVER_OK != 0 {
            let selected = usize::from(self.queue_select);
            self.start_queues(|i| i == selected);
        }
    }

    /// Sets the selected queue's size, where that is a possible one.
    pub fn set_queue_size(&mut self, size: u16) {
        if let Some(q) = self.queue_mut().filter(|q| size.is_power_of_two() && size <= q.max) {
            q.layout.size = size;
        }
    }

    /// Sets half an address of the selected queue.
    pub fn set_queue_address(&mut self, area: Area, half: Half, value: u32) {
        let Some(q) = self.queue_mut() else { return };
        let address = match area {
            Area::Descriptors => &mut q.layout.descriptors,
            Area::Available => &mut q.layout.available,
            Area::Used => &mut q.layout.used,
        };
        *address = GuestPhys(half.set(address.0, value));
    }

    /// Takes the selected queue away from the device; all its registers are as after a reset. When this returns the device
    /// touches it no more.
    pub fn disable_queue(&mut self) {
        let index = usize::from(self.queue_select);
        let Some(q) = self.queues.get_mut(index) else { return };
        if q.live {
            self.runner.between_requests(|core| take_queue(core, index));
        }
        *q = QueueRegisters::new(q.max);
    }

    /// The legacy interface's queue address: 0 takes the queue away.
    pub fn set_queue_pfn(&mut self, pfn: u32) {
        self.disable_queue();
        if let Some(q) = self.queue_mut().filter(|_| pfn != 0) {
            q.pfn = pfn;
            q.layout = Layout::legacy(pfn, q.max);
            self.enable_queue();
        }
    }

    /// A notification: queue `index` has news. Legacy drivers may use a device before DRIVER_OK (VIRTIO 1.2, 3.1.2).
    pub fn notify(&mut self, index: usize, interface: Interface) {
        let Some(q) = self.queues.get(index) else { return };
        if q.live {
            self.runner.kick(index);
        } else if interface == Interface::Legacy && q.enabled && self.status & status::DRIVER_OK == 0 {
            self.start_queues(|i| i == index);
        }
    }

    /// Hands enabled queues to the runner. A queue that can't be is the driver's fault: the device then needs a reset.
    fn start_queues(&mut self, which: impl Fn(usize) -> bool) {
        let features = self.driver_features & self.offered;
        let options = Options {
            indirect: features & feature::INDIRECT_DESC != 0,
            event_idx: features & feature::EVENT_IDX != 0,
            max_bytes: self.max_chain_bytes,
        };
        let mut failed = false;
        let (queues, memory, runner) = (&mut self.queues, &self.memory, &self.runner);
        runner.between_requests(|core| {
            if !core.queues.iter().any(Option::is_some) {
                core.device.start(features);
            }
            for (i, q) in queues.iter_mut().enumerate().filter(|(i, q)| q.enabled && !q.live && which(*i)) {
                match Queue::new(memory.clone(), q.layout, options) {
                    Ok(queue) => {
                        core.queues[i] = Some(queue);
                        q.live = true;
                        // The driver may have made requests available before.
                        runner.kick(i);
                    }
                    Err(error) => {
                        core.warn(i, &error);
                        failed = true;
                    }
                }
            }
        });
        if failed {
            self.interrupts.set_needs_reset();
        }
    }
}

fn take_queue(core: &mut Core, index: usize) {
    if let Some(q) = core.queues.get_mut(index) {
        *q = None;
    }
}
