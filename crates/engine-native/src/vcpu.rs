//! A vCPU: runs, and what their exits ask for.

use crate::bell::Bell;
use crate::calls;
use crate::host::Host;
use crate::page::Page;
use crate::power::Power;
use crate::psci::{self, Answer};
use crate::registers;
use crate::vm::Shared;
use address::GuestPhys;
use engine::{Bus, Error, Exit, Kick, Result, Vcpu, VcpuState};
use hypercall::{Reason, Registers, page};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};

/// [`page::Exit::deadline`] of a timer that never fires.
const NEVER: u64 = u64::MAX;

pub struct NativeVcpu {
    shared: Arc<Shared>,
    id: u32,
    bell: Arc<Bell>,
    kick: Arc<NativeKick>,
    /// Register files are put in when it first runs: some boards give only the first processor one.
    new: Option<Registers>,
}

impl NativeVcpu {
    /// vCPU `id`, with these registers until it is given others.
    pub fn new(shared: Arc<Shared>, id: u32, registers: Registers) -> Self {
        let bell = shared.bells[id as usize].clone();
        let kick = Arc::new(NativeKick { shared: shared.clone(), id, asked: AtomicBool::new(false) });
        Self { shared, id, bell, kick, new: Some(registers) }
    }

    fn host(&self) -> &dyn Host {
        &*self.shared.host
    }
    fn page(&self) -> &Page {
        self.shared.host.page(self.id as usize)
    }

    /// What to do before the guest goes on: nothing, or to return from `run`.
    fn prepare(&mut self) -> Result<Option<Exit>> {
        loop {
            let seen = self.bell.rings();
            if self.kick.take() {
                return Ok(Some(Exit::Kicked));
            }
            match self.shared.powers.get(self.id) {
                Some(Power::Pending { entry, context }) => {
                    self.new = Some(registers::turned_on(self.shared.mode, entry, context));
                    self.shared.powers.set(self.id, Power::On);
                }
                Some(Power::On) => {
                    if let Some(r) = self.new.take() {
                        calls::set_registers(
                            self.host(),
                            self.page(),
                            self.shared.handle,
                            self.id,
                            &r,
                            false,
                        )?;
                    }
                    return Ok(None);
                }
                Some(Power::Off) | None => self.bell.wait(seen, None),
            }
        }
    }

    /// Waits as a halted processor does: for its timer, an interrupt or a kick, whichever rang the bell after `seen`.
    fn halt(&self, seen: u32, deadline: u64) {
        let now = self.host().now();
        let timer = (deadline != NEVER).then(|| ticks(deadline.saturating_sub(now), self.host().frequency()));
        // A time beyond what clocks can tell is none.
        self.bell.wait(seen, timer.and_then(|d| Instant::now().checked_add(d)));
    }

    /// Serves the exit in the page; gives what `run` is to return, if it is to.
    fn serve(&self, exit: &page::Exit, seen: u32, bus: &dyn Bus) -> Option<Exit> {
        match Reason::from_number(exit.reason) {
            // The loop looks for a kick.
            Some(Reason::Interrupted | Reason::Immediate) => None,
            Some(Reason::Yield) => {
                std::thread::yield_now();
                None
            }
            Some(Reason::Halt) => {
                self.halt(seen, exit.deadline);
                None
            }
            Some(Reason::Wake) => {
                self.shared.wake(exit.data, Some(self.id));
                None
            }
            Some(Reason::Mmio) => self.mmio(exit, bus),
            Some(Reason::Call) => self.call(exit, bus),
            Some(Reason::Failed) => Some(Exit::Failed(format!(
                "the guest's vCPU {} did what the hypervisor can't do for it, at {:#x}: syndrome {:#x}, address {:#x}",
                self.id, exit.pc, exit.syndrome, exit.address
            ))),
            None => Some(Exit::Failed(format!(
                "the hypervisor gave a reason to leave the guest that this program doesn't know: {}",
                exit.reason
            ))),
        }
    }

    fn mmio(&self, exit: &page::Exit, bus: &dyn Bus) -> Option<Exit> {
        let size = usize::from(exit.size);
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Some(Exit::Failed(format!("the hypervisor named an access of {size} bytes")));
        }
        let address = GuestPhys(exit.address);
        if exit.address % 4096 + size as u64 > 4096 {
            // No device is there: reads are ones, as from where nothing is.
            self.page().answer(!0);
        } else if exit.write != 0 {
            bus.mmio_write(address, &exit.data.to_le_bytes()[..size]);
        } else {
            let mut data = [0; 8];
            bus.mmio_read(address, &mut data[..size]);
            self.page().answer(u64::from_le_bytes(data));
        }
        None
    }

    fn call(&self, exit: &page::Exit, bus: &dyn Bus) -> Option<Exit> {
        let answer = |result: i64| {
            self.page().answer(result as u64);
            None
        };
        match psci::call(&self.shared.powers, self.shared.mode, self.id, exit.arguments) {
            Answer::Return(result) => answer(result),
            Answer::TurnedOn(vcpu) => {
                self.shared.bells[vcpu as usize].ring();
                answer(arm::psci::SUCCESS)
            }
            Answer::TurnedOff => None,
            Answer::PowerOff => Some(Exit::PowerOff),
            Answer::Reset => Some(Exit::Reset),
            Answer::Unknown => {
                let [number, rest @ ..] = exit.arguments;
                let result = bus.hypercall(number, [rest[0], rest[1], rest[2], 0]);
                answer(result.map_or(arm::psci::NOT_SUPPORTED, |result| result as i64))
            }
        }
    }
}

/// A number of ticks as time.
fn ticks(ticks: u64, frequency: u64) -> Duration {
    let frequency = frequency.max(1);
    let nanos = u128::from(ticks % frequency) * 1_000_000_000 / u128::from(frequency);
    Duration::from_secs(ticks / frequency) + Duration::from_nanos(nanos as u64)
}

impl Vcpu for NativeVcpu {
    fn run(&mut self, bus: &dyn Bus) -> Result<Exit> {
        let bell = self.bell.clone();
        let _inside = bell.enter();
        loop {
            if let Some(exit) = self.prepare()? {
                return Ok(exit);
            }
            let seen = bell.rings();
            calls::run(self.host(), self.page(), self.shared.handle, self.id)?;
            let exit = self.page().exit();
            if let Some(exit) = self.serve(&exit, seen, bus) {
                return Ok(exit);
            }
        }
    }

    fn state(&self) -> Result<VcpuState> {
        let mut r = match self.new {
            Some(r) => r,
            None => calls::registers(self.host(), self.page(), self.shared.handle, self.id)?,
        };
        match self.shared.powers.get(self.id) {
            Some(Power::Pending { entry, context }) => {
                r = registers::turned_on(self.shared.mode, entry, context)
            }
            Some(Power::On) => r.off = 0,
            Some(Power::Off) | None => r.off = 1,
        }
        Ok(VcpuState::Arm(Box::new(registers::from_hypervisor(&r))))
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<()> {
        let VcpuState::Arm(state) = state else {
            return Err(Error::InvalidState("it is an x86 processor's".into()));
        };
        let mut r = registers::to_hypervisor(self.shared.mode, state)?;
        self.shared.powers.set(self.id, if state.off { Power::Off } else { Power::On });
        // The hypervisor's vCPU never runs while it is off here, and is on when it does.
        r.off = 0;
        // The board gives all vCPUs their registers when it is reset, the first one first.
        calls::set_registers(self.host(), self.page(), self.shared.handle, self.id, &r, self.id == 0)?;
        self.new = None;
        Ok(())
    }

    fn kick_handle(&self) -> Arc<dyn Kick> {
        self.kick.clone()
    }
}

struct NativeKick {
    shared: Arc<Shared>,
    id: u32,
    asked: AtomicBool,
}

impl NativeKick {
    fn page(&self) -> &Page {
        self.shared.host.page(self.id as usize)
    }

    /// Takes a kick, if there is one.
    fn take(&self) -> bool {
        if !self.asked.load(SeqCst) {
            // Of a kick that was taken between its two halves: the run would leave at once, for nothing, for ever.
            if self.page().immediate_exit() {
                self.page().set_immediate_exit(false);
                return self.asked.swap(false, SeqCst);
            }
            return false;
        }
        // In this order: a kick that comes between is seen by the swap.
        self.page().set_immediate_exit(false);
        self.asked.swap(false, SeqCst)
    }
}

impl Kick for NativeKick {
    fn kick(&self) {
        self.asked.store(true, SeqCst);
        // Read by the hypervisor right before it enters the guest, with interrupts masked: a signal that comes before has
        // still set this, and one that comes after makes an interrupt.
        self.page().set_immediate_exit(true);
        self.shared.bells[self.id as usize].ring();
    }
}

#[cfg(test)]
mod tests;
