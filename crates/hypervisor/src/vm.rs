//! Machines: what the control domain's programs have made, and who is using it.
//!
//! A machine's place in [`VMS`] is never freed, only used again: a handle has the place and the machine's generation. Who has a
//! machine in use ([`VmUse`]) keeps it: it is destroyed when nobody has.
//!
//! Order of locks: a place's `life`, a vCPU, `memory`, `gic`.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use address::HostPhys;
use arm::descriptor::stage2::{NORMAL, READ, WRITE};
use hypercall::page::Exit;
use hypercall::{GuestMode, MAX_VCPUS, Reason, Registers, Status};
use irqchip::gic::{Gic, Version};
use spin::{Mutex, MutexGuard};

use crate::arch;
use crate::cpu_interface::{CpuInterface, VIRTUAL_TIMER};
use crate::per_cpu::cpu_number;
use crate::pool::Pool;
use crate::table::{MapError, Table};

/// Machines at a time. A machine's number plus 1 is its VMID; the control domain's is 0.
pub const MAX_VMS: usize = 32;
/// Bytes of the distributor and of the CPU interface.
const GIC_FRAME: u64 = 0x1_0000;
/// Bytes of a redistributor.
const REDISTRIBUTOR: u64 = 0x2_0000;

/// A virtual processor.
pub struct Vcpu {
    pub registers: Registers,
    /// Its GIC's CPU interface.
    pub interface: CpuInterface,
    /// A load or call whose answer is the next run's to give.
    pub unanswered: Option<Unanswered>,
}

/// What a run's [`hypercall::page::Exit::data`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    Load(arm::syndrome::Access),
    Call,
}

/// Where a machine has its interrupt controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    pub distributor: u64,
    /// GICv2's CPU interface; GICv3's redistributors.
    pub interface: u64,
}

#[derive(Default)]
struct Life {
    /// 0: there is no machine here.
    handle: u64,
    generation: u32,
    users: u32,
    dying: bool,
}

/// A machine.
pub struct Vm {
    life: Mutex<Life>,
    /// Whether runs are to end. Read without the lock.
    pub dying: AtomicBool,
    pub vmid: u32,
    vcpu_count: AtomicU32,
    mode: AtomicU32,
    memory: Mutex<Option<Table>>,
    frames: Mutex<Frames>,
    pub gic: Mutex<Gic>,
    vcpus: [Mutex<Vcpu>; MAX_VCPUS],
    /// The number of the processor that runs a vCPU, plus 1; 0 while none does. Changed with `gic` locked.
    pub running: [AtomicU32; MAX_VCPUS],
    /// vCPUs that don't run and have something new, of whom nobody was told yet.
    wakes: AtomicU64,
    /// The vCPU that ran last on a processor, plus 1.
    pub last_on: [AtomicU32; crate::per_cpu::MAX_CPUS],
}

const fn vm(n: usize) -> Vm {
    Vm {
        life: Mutex::new(Life { handle: 0, generation: 0, users: 0, dying: false }),
        dying: AtomicBool::new(false),
        vmid: n as u32 + 1,
        vcpu_count: AtomicU32::new(0),
        mode: AtomicU32::new(0),
        memory: Mutex::new(None),
        frames: Mutex::new(Frames { distributor: 0, interface: 0 }),
        gic: Mutex::new(Gic::new(Version::V2, 1)),
        vcpus: [const { Mutex::new(Vcpu::new()) }; MAX_VCPUS],
        running: [const { AtomicU32::new(0) }; MAX_VCPUS],
        wakes: AtomicU64::new(0),
        last_on: [const { AtomicU32::new(0) }; crate::per_cpu::MAX_CPUS],
    }
}

/// All there can be.
pub static VMS: [Vm; MAX_VMS] = {
    let mut all = [const { vm(0) }; MAX_VMS];
    let mut n = 0;
    while n < MAX_VMS {
        all[n].vmid = n as u32 + 1;
        n += 1;
    }
    all
};

impl Vcpu {
    const fn new() -> Self {
        Self { registers: Registers::RESET, interface: CpuInterface::RESET, unanswered: None }
    }
}

/// A machine that stays while this lives.
pub struct VmUse(&'static Vm);

impl core::ops::Deref for VmUse {
    type Target = Vm;
    fn deref(&self) -> &Vm {
        self.0
    }
}

impl Drop for VmUse {
    fn drop(&mut self) {
        self.0.life.lock().users -= 1;
    }
}

/// Whether a GIC frame can be there.
fn frame_fits(at: u64, bytes: u64) -> bool {
    at & (GIC_FRAME - 1) == 0 && at.checked_add(bytes).is_some_and(|end| end <= 1 << arch::guest_bits())
}

/// Makes a machine and gives its handle.
pub fn create(
    pool: &Pool,
    mode: GuestMode,
    vcpus: usize,
    gic: Version,
    frames: Frames,
) -> Result<u64, Status> {
    let interface = if gic == Version::V2 { GIC_FRAME } else { REDISTRIBUTOR * vcpus as u64 };
    let apart = frames.distributor.abs_diff(frames.interface) >= GIC_FRAME
        && !(frames.interface..frames.interface.saturating_add(interface)).contains(&frames.distributor);
    if !(1..=MAX_VCPUS).contains(&vcpus)
        || !frame_fits(frames.distributor, GIC_FRAME)
        || !frame_fits(frames.interface, interface)
        || !apart
    {
        return Err(Status::Invalid);
    }
    for vm in &VMS {
        let mut life = vm.life.lock();
        if life.handle != 0 {
            continue;
        }
        let table = Table::new(pool, arch::guest_bits()).ok_or(Status::NoMemory)?;
        if arch::map_interface(pool, &table, frames.interface).is_err() {
            table.destroy(pool);
            return Err(Status::NoMemory);
        }
        life.generation = life.generation.wrapping_add(1).max(1);
        life.handle = (life.generation as u64) << 32 | vm.vmid as u64;
        life.dying = false;
        vm.dying.store(false, Release);
        vm.vcpu_count.store(vcpus as u32, Relaxed);
        vm.mode.store(mode as u32, Relaxed);
        *vm.memory.lock() = Some(table);
        *vm.frames.lock() = frames;
        *vm.gic.lock() = Gic::new(gic, vcpus);
        vm.gic.lock().link_ppi(VIRTUAL_TIMER);
        for n in 0..vcpus {
            let mut vcpu = vm.vcpus[n].lock();
            *vcpu = Vcpu::new();
            // It may be run before it was given registers.
            arch::tame(&mut vcpu.registers, mode == GuestMode::Aarch32);
        }
        vm.wakes.store(0, Relaxed);
        vm.last_on.iter().for_each(|v| v.store(0, Relaxed));
        return Ok(life.handle);
    }
    Err(Status::NoMemory)
}

/// The machine with this handle.
pub fn find(handle: u64) -> Result<VmUse, Status> {
    let place = (handle as u32 as usize).checked_sub(1).ok_or(Status::NoVm)?;
    let vm = VMS.get(place).ok_or(Status::NoVm)?;
    let mut life = vm.life.lock();
    if life.handle != handle || life.dying {
        return Err(Status::NoVm);
    }
    life.users += 1;
    Ok(VmUse(vm))
}

impl Vm {
    /// Frees it, or has its runs end and says that it is busy until they have.
    fn destroy(&self, pool: &Pool, handle: Option<u64>) -> Result<(), Status> {
        let mut life = self.life.lock();
        if life.handle == 0 || handle.is_some_and(|h| h != life.handle) {
            return if handle.is_some() { Err(Status::NoVm) } else { Ok(()) };
        }
        life.dying = true;
        self.dying.store(true, Release);
        if life.users > 0 {
            let _gic = self.gic.lock();
            self.kick(!0);
            return Err(Status::Busy);
        }
        if let Some(table) = self.memory.lock().take() {
            arch::forget_guest(self.vmid);
            table.destroy(pool);
        }
        life.handle = 0;
        Ok(())
    }

    pub fn vcpu_count(&self) -> usize {
        self.vcpu_count.load(Relaxed) as usize
    }
    pub fn is_aarch32(&self) -> bool {
        self.mode.load(Relaxed) == GuestMode::Aarch32 as u32
    }
    pub fn frames(&self) -> Frames {
        *self.frames.lock()
    }
    /// Whether another of its vCPUs than `n` ran on this processor last, and may have used the same translations' names for other ones.
    /// From now on it is `n`.
    pub fn is_another_here(&self, n: usize) -> bool {
        let last = &self.last_on[cpu_number()];
        last.swap(n as u32 + 1, Relaxed) != n as u32 + 1
    }
    /// The root of its stage 2.
    pub fn root(&self) -> Option<HostPhys> {
        self.memory.lock().as_ref().map(|t| t.root)
    }

    /// A vCPU that nobody runs.
    pub fn vcpu(&self, n: u64) -> Result<(usize, MutexGuard<'_, Vcpu>), Status> {
        let n = usize::try_from(n).ok().filter(|n| *n < self.vcpu_count()).ok_or(Status::Invalid)?;
        Ok((n, self.vcpus[n].try_lock().ok_or(Status::Busy)?))
    }

    /// Its interrupt controller as after a reset, with all inputs low.
    pub fn reset_gic(&self) -> Result<(), Status> {
        let mut gic = self.gic.lock();
        if self.running.iter().any(|r| r.load(SeqCst) != 0) {
            return Err(Status::Busy);
        }
        *gic = Gic::new(gic.version(), self.vcpu_count());
        gic.link_ppi(VIRTUAL_TIMER);
        Ok(())
    }

    /// A vCPU's CPU interface as after a reset. What is pending in the distributor stays.
    pub fn reset_interface(&self, n: usize, vcpu: &mut Vcpu) {
        vcpu.interface = CpuInterface::RESET;
        self.gic.lock().drain(n, &[], 0);
    }

    /// Has those of these vCPUs that run on other processors leave; gives the others that don't run. With `gic` locked, so that
    /// who is about to run has not filled its list registers yet.
    pub fn kick(&self, vcpus: irqchip::gic::Vcpus) -> u64 {
        if vcpus == 0 {
            return 0;
        }
        let here = cpu_number() as u32 + 1;
        let mut waiting = 0;
        for n in (0..MAX_VCPUS).filter(|n| vcpus >> n & 1 != 0) {
            match self.running[n].load(SeqCst) {
                0 => waiting |= 1 << n,
                cpu if cpu == here => {}
                cpu => arch::kick_cpu(cpu as usize - 1),
            }
        }
        waiting
    }

    /// Notes vCPUs that somebody has to be told of: whoever runs next.
    pub fn owe_wakes(&self, vcpus: u64) {
        if vcpus != 0 {
            self.wakes.fetch_or(vcpus, SeqCst);
        }
    }

    /// The exit that tells of those, if there are any.
    pub fn wakes(&self) -> Option<Exit> {
        let vcpus = if self.wakes.load(SeqCst) == 0 { 0 } else { self.wakes.swap(0, SeqCst) };
        (vcpus != 0).then(|| Exit { reason: Reason::Wake as u32, data: vcpus, ..Exit::default() })
    }

    /// The level of an SPI's input; gives the vCPUs that have something new and don't run.
    pub fn set_line(&self, intid: u64, level: u64) -> Result<u64, Status> {
        if !(32..=1019).contains(&intid) || level > 1 {
            return Err(Status::Invalid);
        }
        let mut gic = self.gic.lock();
        let vcpus = gic.set_line(intid as u32, level != 0);
        Ok(self.kick(vcpus))
    }

    /// Maps frames of `1 << shift` bytes each, one behind the other from `address` on.
    pub fn add_memory(
        &self,
        pool: &Pool,
        address: u64,
        shift: u64,
        write: bool,
        frames: impl Iterator<Item = Result<u64, Status>>,
    ) -> Result<(), Status> {
        if shift != 12 && shift != 21 {
            return Err(Status::Invalid);
        }
        let mut memory = self.memory.lock();
        let table = memory.as_mut().ok_or(Status::NoVm)?;
        let attributes = NORMAL | READ | if write { WRITE } else { 0 };
        let bytes = 1u64 << shift;
        let mut at = address;
        for frame in frames {
            let frame = frame?;
            if (at | frame) & (bytes - 1) != 0 {
                return Err(Status::Invalid);
            }
            table.map(pool, at, HostPhys(frame), bytes, attributes).map_err(|e| match e {
                MapError::Range => Status::Invalid,
                MapError::Mapped => Status::Refused,
                MapError::NoMemory => Status::NoMemory,
            })?;
            at = at.checked_add(bytes).ok_or(Status::Invalid)?;
        }
        arch::publish_tables();
        Ok(())
    }
}

/// Destroys one machine.
pub fn destroy(pool: &Pool, handle: u64) -> Result<(), Status> {
    let place = (handle as u32 as usize).checked_sub(1).ok_or(Status::NoVm)?;
    VMS.get(place).ok_or(Status::NoVm)?.destroy(pool, Some(handle))
}

/// Destroys all of them.
pub fn destroy_all(pool: &Pool) -> Result<(), Status> {
    VMS.iter().map(|vm| vm.destroy(pool, None)).fold(Ok(()), Result::and)
}
