//! A machine's life: vCPU threads, pausing, reset, the end. The same for every board.
//!
//! Every vCPU has a thread that loops between the gate and [`Vcpu::run`]. To stop them, [`Control`] closes the gate
//! and kicks them; the gate counts who has arrived. The thread that called [`run`] coordinates: it carries out
//! resets, one at a time, with all vCPUs at the gate, and returns when the machine has ended. A pause waits for a reset
//! under way, and a reset asked for while the machine is paused waits for the end of the pause.
//!
//! Order of locks, outermost first: [`Control::pausing`]; a board's device locks (see the board); the gate's
//! [`Control::state`], under which nothing outside this file is called.

use crate::config::{Ending, OnReset};
use devices::wiring::{BoardControl, BoardEvent, Nanos};
use engine::{Bus, Exit, Kick, Vcpu, VcpuState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What a board does at the turns of its life. All but `now` are called with every vCPU at the gate, or gone.
pub trait Board: Bus + Send {
    /// RESET#: devices, firmware tables and kernel as at power-on. Gives each vCPU's register file, or a sentence.
    fn reset(&self) -> crate::Result<Vec<VcpuState>>;
    /// The clock and what hangs on it go on or stand still; nothing changes memory while they stand still.
    fn set_running(&self, running: bool);
    /// The machine has ended: drains the devices, flushes the disks, ends their threads. Gives a sentence where
    /// something was lost.
    fn finish(&self) -> Result<(), String>;
    /// The board's clock.
    fn now(&self) -> Nanos;
}

/// What a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Running,
    Paused,
    Ended,
}

/// Triple faults in a row, each within [`EARLY_FAULT`] of its boot, at which the machine is given up.
const FAULTS_IN_A_ROW: u32 = 3;
/// Nanoseconds of the board's clock.
const EARLY_FAULT: Nanos = 10_000_000_000;

#[derive(Debug, Default)]
struct State {
    paused: bool,
    /// The gate is closed for a reset.
    resetting: bool,
    /// A reset asked for, with the sentence of the triple fault that asked.
    reset_request: Option<Option<String>>,
    /// The first that came.
    ending: Option<Ending>,
    /// vCPU threads alive.
    threads: usize,
    /// Of these, waiting at the gate.
    at_gate: usize,
    /// Register files to be loaded at the gate, by vCPU.
    new_states: Vec<Option<VcpuState>>,
    /// Of these, not loaded yet.
    unloaded: usize,
    /// `run` was called.
    started: bool,
}

/// The handle by which devices, people and vCPU threads reach a machine's life.
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
    /// Serialises pauses, so that the clock always follows the last one.
    pausing: Mutex<()>,
    kicks: Mutex<Vec<Arc<dyn Kick>>>,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            pausing: Mutex::new(()),
            kicks: Mutex::new(Vec::new()),
        }
    }
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(guard).unwrap_or_else(|e| e.into_inner())
    }

    /// Changes the state, then wakes everyone who waits for it and makes the vCPUs look.
    fn change(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.lock());
        self.changed.notify_all();
        let kicks = self.kicks.lock().unwrap_or_else(|e| e.into_inner());
        kicks.iter().for_each(|k| k.kick());
    }

    /// Ends the machine, unless something else already has.
    pub fn end(&self, ending: Ending) {
        self.change(|s| {
            s.ending.get_or_insert(ending);
        });
    }

    /// Asks for a reset, of a paused machine once it goes on; `fault` is the sentence of the triple fault that is its
    /// reason.
    pub fn reset(&self, fault: Option<String>) {
        self.change(|s| {
            // What is asked while a reset is under way came from before it.
            if !s.resetting {
                s.reset_request.get_or_insert(fault);
            }
        });
    }

    /// Returns once no vCPU runs and the clock stands still.
    pub fn pause(&self, board: &dyn Board) {
        let _one = self.pausing.lock().unwrap_or_else(|e| e.into_inner());
        self.change(|s| s.paused = true);
        let mut s = self.lock();
        while (s.at_gate < s.threads || s.resetting) && s.ending.is_none() {
            s = self.wait(s);
        }
        drop(s);
        board.set_running(false);
    }

    /// Lets a paused machine go on.
    pub fn unpause(&self, board: &dyn Board) {
        let _one = self.pausing.lock().unwrap_or_else(|e| e.into_inner());
        let go = {
            let s = self.lock();
            s.started && s.ending.is_none()
        };
        if go {
            board.set_running(true);
        }
        self.change(|s| s.paused = false);
    }

    /// What the machine is doing.
    pub fn status(&self) -> Status {
        let s = self.lock();
        match (&s.ending, s.paused) {
            (Some(_), _) => Status::Ended,
            (None, true) => Status::Paused,
            (None, false) => Status::Running,
        }
    }

    /// Holds vCPU `id` while the gate is closed, and loads its new register file where there is one. False: the
    /// machine has ended.
    fn pass_gate(&self, id: usize, vcpu: &mut dyn Vcpu) -> bool {
        let mut s = self.lock();
        s.at_gate += 1;
        self.changed.notify_all();
        loop {
            if s.ending.is_some() {
                s.at_gate -= 1;
                return false;
            }
            if let Some(new) = s.new_states.get_mut(id).and_then(Option::take) {
                drop(s);
                let loaded = vcpu.set_state(&new);
                if let Err(e) = loaded {
                    self.end(Ending::Crashed(format!("vCPU {id} could not be reset: {e}")));
                }
                s = self.lock();
                s.unloaded -= 1;
                self.changed.notify_all();
            } else if s.paused || s.resetting {
                s = self.wait(s);
            } else {
                s.at_gate -= 1;
                return true;
            }
        }
    }

    fn vcpu_loop(&self, id: usize, vcpu: &mut dyn Vcpu, board: &dyn Board) {
        while self.pass_gate(id, vcpu) {
            match vcpu.run(board) {
                Ok(Exit::Kicked) => {}
                // The guest must not run on with what follows its fault or its request.
                Ok(Exit::Shutdown(why)) => self.reset_from(why.into()),
                Ok(Exit::Reset) => self.reset_from(None),
                Ok(Exit::PowerOff) => self.end(Ending::PoweredOff),
                Ok(Exit::Failed(why)) => self.end(Ending::Crashed(why)),
                Err(e) => self.end(Ending::Crashed(e.to_string())),
            }
        }
    }

    /// A reset asked for by a vCPU that can't go on without it.
    fn reset_from(&self, fault: Option<String>) {
        self.reset(fault);
        let mut s = self.lock();
        s.at_gate += 1;
        self.changed.notify_all();
        while s.ending.is_none() && !s.resetting && s.reset_request.is_some() {
            s = self.wait(s);
        }
        s.at_gate -= 1;
    }
}

impl BoardControl for Control {
    fn request(&self, event: BoardEvent) {
        match event {
            BoardEvent::Reset => self.reset(None),
            BoardEvent::PowerOff => self.end(Ending::PoweredOff),
            BoardEvent::DebugExit(value) => self.end(Ending::DebugExit(value)),
        }
    }
}

/// When to give up on a guest that faults again and again.
#[derive(Debug, Default)]
struct Faults {
    booted_at: Nanos,
    in_a_row: u32,
}

impl Faults {
    /// What a reset for this reason comes to: an ending, or none for a reboot.
    fn decide(&mut self, on_reset: OnReset, fault: Option<String>, now: Nanos) -> Option<Ending> {
        match (on_reset, fault) {
            (OnReset::End, None) => return Some(Ending::Reset),
            (OnReset::End, Some(why)) => {
                return Some(Ending::Crashed(format!("the guest triple-faulted: {why}")));
            }
            (OnReset::Reboot, None) => self.in_a_row = 0,
            (OnReset::Reboot, Some(why)) => {
                let early = now.saturating_sub(self.booted_at) < EARLY_FAULT;
                self.in_a_row = if early { self.in_a_row + 1 } else { 1 };
                log::warn!("the guest triple-faulted and is reset: {why}");
                if self.in_a_row >= FAULTS_IN_A_ROW {
                    return Some(Ending::Crashed(format!(
                        "the guest triple-faulted {FAULTS_IN_A_ROW} times in a row soon after it booted, \
                         the last time so: {why}"
                    )));
                }
            }
        }
        self.booted_at = now;
        None
    }
}

/// Runs a machine whose vCPUs take `states` first, until it ends. Every thread it started is gone when it returns.
pub fn run(
    name: &str,
    control: &Control,
    board: &dyn Board,
    vcpus: Vec<Box<dyn Vcpu>>,
    states: Vec<VcpuState>,
    on_reset: OnReset,
) -> Ending {
    *control.kicks.lock().unwrap_or_else(|e| e.into_inner()) =
        vcpus.iter().map(|v| v.kick_handle()).collect();
    {
        let _one = control.pausing.lock().unwrap_or_else(|e| e.into_inner());
        let mut s = control.lock();
        s.started = true;
        s.unloaded = states.len();
        s.new_states = states.into_iter().map(Some).collect();
        // Closed until all register files are loaded: the first processor may start the others at once.
        s.resetting = true;
        s.threads = vcpus.len();
        let paused = s.paused;
        drop(s);
        board.set_running(!paused);
    }
    std::thread::scope(|scope| {
        for (id, mut vcpu) in vcpus.into_iter().enumerate() {
            let builder = std::thread::Builder::new().name(format!("{name} vcpu{id}"));
            let spawned = builder.spawn_scoped(scope, move || {
                let ran = catch_unwind(AssertUnwindSafe(|| control.vcpu_loop(id, &mut *vcpu, board)));
                if let Err(panic) = ran {
                    let why = panic.downcast_ref::<String>().map(String::as_str);
                    let why = why.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
                    control.end(Ending::Crashed(format!("Auberge itself failed on vCPU {id}: {why}")));
                }
                control.lock().threads -= 1;
                control.changed.notify_all();
            });
            if let Err(e) = spawned {
                control.lock().threads -= 1;
                control.end(Ending::Crashed(format!("the host refused a thread for vCPU {id}: {e}")));
            }
        }
        coordinate(control, board, on_reset);
    });
    {
        let _one = control.pausing.lock().unwrap_or_else(|e| e.into_inner());
        board.set_running(false);
    }
    let lost = board.finish();
    let ending = control.lock().ending.clone().unwrap_or(Ending::Stopped);
    match lost {
        Ok(()) => ending,
        Err(lost) => match ending {
            Ending::Crashed(why) => Ending::Crashed(format!("{why}; {lost}")),
            _ => Ending::Crashed(lost),
        },
    }
}

/// Carries out resets until the machine ends.
fn coordinate(control: &Control, board: &dyn Board, on_reset: OnReset) {
    let mut faults = Faults::default();
    let mut s = control.lock();
    loop {
        // The boot's or the last reset's register files go in, then the gate opens.
        while s.unloaded > 0 && s.ending.is_none() {
            s = control.wait(s);
        }
        s.resetting = false;
        control.changed.notify_all();
        while (s.reset_request.is_none() || s.paused) && s.ending.is_none() {
            s = control.wait(s);
        }
        if s.ending.is_some() {
            return;
        }
        let Some(fault) = s.reset_request.take() else { continue };
        s.resetting = true;
        drop(s);
        if let Some(ending) = faults.decide(on_reset, fault, board.now()) {
            return control.end(ending);
        }
        // The vCPUs see the closed gate.
        control.change(|_| ());
        s = control.lock();
        while s.at_gate < s.threads && s.ending.is_none() {
            s = control.wait(s);
        }
        if s.ending.is_some() {
            return;
        }
        drop(s);
        match board.reset() {
            Ok(states) => {
                s = control.lock();
                s.unloaded = states.len();
                s.new_states = states.into_iter().map(Some).collect();
                control.changed.notify_all();
            }
            Err(e) => return control.end(Ending::Crashed(format!("the machine could not be reset: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use address::GuestPhys;
    use engine::fake::{FakeEngine, spin_until};
    use engine::{Arch, Engine, VmConfig};
    use memory::{GuestMemory, Kind, RegionConfig};
    use std::sync::mpsc;
    use std::time::Duration;

    fn fault(f: &mut Faults, now: Nanos) -> Option<Ending> {
        f.decide(OnReset::Reboot, Some("here".to_string()), now)
    }

    #[test]
    fn faults_far_apart_or_with_a_reset_between_are_not_in_a_row() {
        let mut f = Faults::default();
        for i in 1..10 {
            assert_eq!(fault(&mut f, i * (EARLY_FAULT + 1)), None);
        }
        let mut f = Faults::default();
        for now in 1..10 {
            assert_eq!(fault(&mut f, now * 10), None);
            assert_eq!(fault(&mut f, now * 10 + 1), None);
            assert_eq!(f.decide(OnReset::Reboot, None, now * 10 + 2), None);
        }
        assert_eq!(fault(&mut f, 101), None);
        assert_eq!(fault(&mut f, 102), None);
        assert!(matches!(fault(&mut f, 103), Some(Ending::Crashed(why)) if why.contains("here")));
    }

    /// A board that says when it begins a reset, and ends it when told to.
    struct SlowBoard {
        begun: Mutex<mpsc::Sender<()>>,
        go_on: Mutex<mpsc::Receiver<()>>,
    }

    impl Bus for SlowBoard {
        fn io_read(&self, _port: u16, _data: &mut [u8]) {}
        fn io_write(&self, _port: u16, _data: &[u8]) {}
        fn mmio_read(&self, _address: GuestPhys, _data: &mut [u8]) {}
        fn mmio_write(&self, _address: GuestPhys, _data: &[u8]) {}
    }

    impl Board for SlowBoard {
        fn reset(&self) -> crate::Result<Vec<VcpuState>> {
            self.begun.lock().unwrap().send(()).unwrap();
            let _ = self.go_on.lock().unwrap().recv();
            Ok(vec![state()])
        }
        fn set_running(&self, _running: bool) {}
        fn finish(&self) -> Result<(), String> {
            Ok(())
        }
        fn now(&self) -> Nanos {
            0
        }
    }

    struct EndAtLast<'a>(&'a Control);
    impl Drop for EndAtLast<'_> {
        fn drop(&mut self) {
            self.0.end(Ending::Stopped);
        }
    }

    fn state() -> VcpuState {
        VcpuState::X86(Box::new(x86::State::reset()))
    }

    #[test]
    fn pause_and_reset_wait_for_each_other() {
        let (begun, reset_began) = mpsc::channel();
        let (finish_reset, go_on) = mpsc::channel();
        let board = SlowBoard { begun: Mutex::new(begun), go_on: Mutex::new(go_on) };
        let engine = FakeEngine::new(vec![spin_until(|_| false)]);
        let ram = RegionConfig { base: GuestPhys(0), len: 4096, kind: Kind::Ram };
        let memory = Arc::new(GuestMemory::new(&[ram]).unwrap());
        let vm = engine.create_vm(VmConfig { arch: Arch::X86, vcpus: 1, memory, gic: None }).unwrap();
        let vcpus = vec![vm.create_vcpu(0).unwrap()];
        let control = Control::default();
        let (long, short) = (Duration::from_secs(20), Duration::from_millis(20));
        std::thread::scope(|scope| {
            // Where an assertion fails, everything that the scope waits for ends.
            let (_end, finish_reset) = (EndAtLast(&control), finish_reset);
            let ran = scope.spawn(|| run("test", &control, &board, vcpus, vec![state()], OnReset::Reboot));
            // What is asked while the first register file goes in is not heard.
            while reset_began.recv_timeout(short).is_err() {
                control.reset(None);
            }
            let paused = scope.spawn(|| control.pause(&board));
            std::thread::sleep(short);
            assert!(!paused.is_finished(), "memory still changes");
            finish_reset.send(()).unwrap();
            paused.join().unwrap();

            control.reset(None);
            assert!(reset_began.recv_timeout(short).is_err(), "the machine stands still");
            control.unpause(&board);
            reset_began.recv_timeout(long).unwrap();
            finish_reset.send(()).unwrap();
            control.pause(&board);
            control.reset(None);
            control.end(Ending::Stopped);
            assert_eq!(ran.join().unwrap(), Ending::Stopped);
        });
    }

    #[test]
    fn first_ending_stays() {
        let c = Control::default();
        c.request(BoardEvent::DebugExit(3));
        c.request(BoardEvent::PowerOff);
        c.end(Ending::Stopped);
        assert_eq!(c.lock().ending, Some(Ending::DebugExit(3)));
        assert_eq!(c.status(), Status::Ended);
    }
}
