//! Which VMs there are, and what may be done to each.
//!
//! One lock, [`Registry::table`]; nothing blocks under it. Each VM has a supervisor thread (see [`crate::supervisor`]) that
//! alone reaps its process; others send messages, or kill while the entry says that the process is not reaped.

use crate::channel::ToVm;
use crate::ending::Ending;
use crate::launch::{ConsoleKind, Launch};
use crate::protocol::{State, VmInfo, VmRef};
use crate::spec::{self, VmSpec};
use crate::supervisor;
use crate::vm::{self, Sender, VmProcess};
use crate::{parent, users};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use vm_conf::Target;

/// VMs at once.
const MAX_VMS: usize = 1024;
/// Names whose ids, and ids whose endings, are remembered after the VM is gone.
const MAX_REMEMBERED: usize = 4096;
/// How long a VM may take until its first instruction.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long a guest that was asked to power off may take.
pub const STOP_PATIENCE: Duration = Duration::from_secs(120);
/// How long a VM may take to flush its disks and end.
const TERMINATE_PATIENCE: Duration = Duration::from_secs(20);
/// How long a VM may take to pause or go on.
const PAUSE_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Spec(#[from] spec::Error),
    #[error(transparent)]
    Open(#[from] parent::Error),
    #[error(transparent)]
    Process(#[from] vm::Error),
    #[error(transparent)]
    Name(#[from] vm_conf::name::Error),
    #[error("there is no VM {0}; vmctl status lists those that run")]
    NotFound(String),
    #[error("the VM {0} runs already")]
    Running(String),
    #[error("{MAX_VMS} VMs run already, which is the limit")]
    Full,
    #[error("vmd is ending and starts no VM any more")]
    Closing,
    #[error("the VM {name} can't be started: {why}")]
    NotStarted { name: String, why: String },
    #[error("the VM {0} is paused already")]
    Paused(String),
    #[error("the VM {0} is not paused")]
    NotPaused(String),
    #[error("the VM {0} is stopping")]
    Stopping(String),
    #[error("the VM {0} does not answer; vmctl stop -f ends it")]
    Stuck(String),
    #[error("the VM {0} was killed but is not gone yet: the host may be waiting for its disk")]
    Immortal(String),
    #[error("the host refused a resource: {0}")]
    Host(#[from] std::io::Error),
}

/// All VMs of a daemon.
#[derive(Default)]
pub struct Registry {
    table: Mutex<Table>,
    /// Notified at each change of the table.
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    vms: BTreeMap<u32, Entry>,
    /// Names of VMs whose files are being opened.
    opening: BTreeSet<String>,
    ids: HashMap<String, u32>,
    last_id: u32,
    endings: BTreeMap<u32, (VmRef, Ending)>,
    closing: bool,
}

/// A VM whose process lives.
struct Entry {
    vm: VmRef,
    owner: u32,
    vcpus: u32,
    memory: u64,
    tty: String,
    pid: u32,
    sender: Arc<Sender>,
    started: bool,
    paused: bool,
    stopping: bool,
    killed: bool,
    /// The process may be reaped from now on: its number is no longer surely its own.
    gone: bool,
    /// How it ended, set when the entry leaves the table. The id may be the same name's next VM's by then.
    ending: Arc<OnceLock<Ending>>,
}

impl Entry {
    fn kill(&mut self) {
        self.killed = true;
        if !self.gone
            && let Some(pid) = Pid::from_raw(self.pid as i32)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn send(&self, message: &ToVm) {
        // A process that is gone is its supervisor's affair.
        let _ = self.sender.send(message);
    }

    fn info(&self) -> VmInfo {
        VmInfo {
            id: self.vm.id,
            name: self.vm.name.clone(),
            pid: Some(self.pid),
            vcpus: self.vcpus,
            max_memory: self.memory,
            current_memory: (!self.gone).then(|| resident_bytes(self.pid)).flatten(),
            tty: Some(self.tty.clone()),
            owner: users::name(self.owner),
            state: match () {
                _ if self.paused => State::Paused,
                _ if self.stopping => State::Stopping,
                _ => State::Running,
            },
        }
    }
}

impl Registry {
    /// Starts a VM for user `owner`; returns when its first instruction is about to run.
    pub fn start(self: &Arc<Self>, spec: VmSpec, owner: u32) -> Result<VmInfo, Error> {
        spec.check()?;
        let name = spec.name.clone();
        {
            let mut table = self.lock();
            let taken = table.by_name(&name).is_some() || table.opening.contains(&name);
            match () {
                _ if table.closing => return Err(Error::Closing),
                _ if taken => return Err(Error::Running(name)),
                _ if table.vms.len() + table.opening.len() >= MAX_VMS => return Err(Error::Full),
                _ => table.opening.insert(name.clone()),
            };
        }
        // Opening files may take its time, so it is not done under the lock.
        let launched = self.launch(spec, owner);
        self.lock().opening.remove(&name);
        let (vm, ending) = launched?;
        self.await_start(vm, &ending)
    }

    /// Opens the files, starts the process and enters it into the table.
    fn launch(self: &Arc<Self>, spec: VmSpec, owner: u32) -> Result<(VmInfo, Arc<OnceLock<Ending>>), Error> {
        let pty = parent::open_pty()?;
        let files = parent::open(&spec, pty.master.try_clone()?, false)?;
        let (name, vcpus, memory) = (spec.name.clone(), spec.cpus, spec.memory_mib << 20);
        let launch = Launch { debugcon: files.debugcon.is_some(), spec, console: ConsoleKind::Pty };
        let process = VmProcess::start(launch, files, Stdio::piped())?;
        let sender = Arc::new(process.sender()?);
        let ending = Arc::new(OnceLock::new());
        let (vm, info);
        {
            let mut table = self.lock();
            vm = VmRef { id: table.id_of(&name), name };
            table.endings.remove(&vm.id);
            let entry = Entry {
                vm: vm.clone(),
                owner,
                vcpus,
                memory,
                tty: pty.path,
                pid: process.pid(),
                sender,
                started: false,
                paused: false,
                stopping: false,
                killed: false,
                gone: false,
                ending: ending.clone(),
            };
            info = entry.info();
            table.vms.insert(vm.id, entry);
        }
        let (id, registry) = (vm.id, self.clone());
        let supervise = move || supervisor::supervise(&registry, vm, process, pty.master);
        if let Err(e) = thread::Builder::new().name(format!("vm {id}")).spawn(supervise) {
            // The closure, and with it the process, is dropped.
            self.lock().vms.remove(&id);
            return Err(e.into());
        }
        Ok((info, ending))
    }

    fn await_start(&self, vm: VmInfo, ending: &OnceLock<Ending>) -> Result<VmInfo, Error> {
        let (id, name) = (vm.id, vm.name.clone());
        let started = |table: &Table| table.vms.get(&id).is_some_and(|entry| entry.started);
        let mut table = self.wait(START_PATIENCE, |table| ending.get().is_some() || started(table));
        match (ending.get(), table.vms.get_mut(&id)) {
            (Some(Ending::NotStarted(why) | Ending::Died(why)), _) => {
                Err(Error::NotStarted { name, why: why.clone() })
            }
            (None, Some(entry)) if entry.started => Ok(entry.info()),
            (None, Some(entry)) => {
                entry.kill();
                Err(Error::NotStarted { name, why: "it took too long".into() })
            }
            // It was so quick that it has run and ended by now; how is for `wait`.
            _ => Ok(VmInfo { pid: None, current_memory: None, state: State::Stopped, ..vm }),
        }
    }

    /// All VMs, or one.
    pub fn status(&self, vm: Option<&str>) -> Result<Vec<VmInfo>, Error> {
        let table = self.lock();
        match vm {
            None => Ok(table.vms.values().map(Entry::info).collect()),
            Some(text) => Ok(vec![table.find(text)?.info()]),
        }
    }

    /// Asks one VM or all to power off; with `force` kills them and returns when they are gone.
    pub fn stop(self: &Arc<Self>, vm: Option<&str>, force: bool) -> Result<Vec<VmRef>, Error> {
        let mut table = self.lock();
        let ids: Vec<u32> = match vm {
            None => table.vms.keys().copied().collect(),
            Some(text) => vec![table.find(text)?.vm.id],
        };
        let (mut stopping, mut killed) = (Vec::new(), Vec::new());
        for id in &ids {
            let Some(entry) = table.vms.get_mut(id) else { continue };
            stopping.push(entry.vm.clone());
            if force {
                entry.kill();
                killed.push((entry.vm.name.clone(), entry.ending.clone()));
            } else if !entry.stopping {
                entry.stopping = true;
                if std::mem::take(&mut entry.paused) {
                    entry.send(&ToVm::Unpause);
                }
                entry.send(&ToVm::PressPowerButton);
                let registry = self.clone();
                let id = *id;
                thread::Builder::new().spawn(move || registry.end(id, STOP_PATIENCE))?;
            }
        }
        drop(table);
        self.changed.notify_all();
        let is_left = |(_, ending): &&(String, Arc<OnceLock<Ending>>)| ending.get().is_none();
        drop(self.wait(PAUSE_PATIENCE, |_| !killed.iter().any(|k| is_left(&k))));
        match killed.iter().find(is_left) {
            Some((name, _)) => Err(Error::Immortal(name.clone())),
            None => Ok(stopping),
        }
    }

    /// Makes sure that a VM ends: after `patience` it is told to flush its disks and end, and is killed if it doesn't.
    fn end(&self, id: u32, patience: Duration) {
        // The id may be given to the same name's next VM, which is another process.
        let Some(pid) = self.lock().vms.get(&id).map(|entry| entry.pid) else { return };
        let over = |table: &Table| table.vms.get(&id).is_none_or(|entry| entry.pid != pid);
        let still = |table: &Table| !over(table);
        let table = self.wait(patience, over);
        if still(&table) {
            tracing::warn!(vm = id, "the guest did not power off in {} s: it is ended", patience.as_secs());
            table.vms[&id].send(&ToVm::Terminate);
        }
        drop(table);
        let mut table = self.wait(TERMINATE_PATIENCE, over);
        if still(&table)
            && let Some(entry) = table.vms.get_mut(&id)
        {
            entry.kill();
        }
    }

    /// Stops a VM's processors and clock.
    pub fn pause(&self, vm: &str) -> Result<VmRef, Error> {
        self.set_paused(vm, true)
    }

    pub fn unpause(&self, vm: &str) -> Result<VmRef, Error> {
        self.set_paused(vm, false)
    }

    fn set_paused(&self, vm: &str, paused: bool) -> Result<VmRef, Error> {
        let vm = {
            let table = self.lock();
            let entry = table.find(vm)?;
            let name = || entry.vm.name.clone();
            match () {
                _ if entry.stopping => return Err(Error::Stopping(name())),
                _ if entry.paused && paused => return Err(Error::Paused(name())),
                _ if !entry.paused && !paused => return Err(Error::NotPaused(name())),
                _ => entry.send(if paused { &ToVm::Pause } else { &ToVm::Unpause }),
            }
            entry.vm.clone()
        };
        let over = |table: &Table| table.vms.get(&vm.id).is_none_or(|entry| entry.paused == paused);
        let table = self.wait(PAUSE_PATIENCE, over);
        match table.vms.get(&vm.id) {
            Some(entry) if entry.paused == paused => Ok(vm),
            Some(_) => Err(Error::Stuck(vm.name)),
            None => Err(Error::NotFound(vm.name)),
        }
    }

    /// Waits for a VM's end; one that has ended since the daemon began is told at once. `None` when `wanted` turns false.
    pub fn wait_for(&self, vm: &str, wanted: impl Fn() -> bool) -> Result<Option<(VmRef, Ending)>, Error> {
        let (vm, ending) = {
            let table = self.lock();
            match table.find(vm) {
                Ok(entry) => (entry.vm.clone(), entry.ending.clone()),
                Err(e) => return table.ended(vm).map(|ended| Some(ended.clone())).ok_or(e),
            }
        };
        loop {
            drop(self.wait(Duration::from_secs(1), |_| ending.get().is_some()));
            if let Some(ending) = ending.get() {
                return Ok(Some((vm, ending.clone())));
            }
            if !wanted() {
                return Ok(None);
            }
        }
    }

    /// The path of a VM's console.
    pub fn console(&self, vm: &str) -> Result<(VmRef, String), Error> {
        let table = self.lock();
        let entry = table.find(vm)?;
        Ok((entry.vm.clone(), entry.tty.clone()))
    }

    /// Starts no VM any more and asks all to power off; returns when none is left. After `grace`, or when `hurry` turns
    /// true, those that are left are told to flush their disks and end.
    pub fn close(self: &Arc<Self>, grace: Duration, hurry: impl Fn() -> bool) {
        self.lock().closing = true;
        if let Err(e) = self.stop(None, false) {
            tracing::warn!("{e}");
        }
        let deadline = Instant::now() + grace;
        let empty = |table: &Table| table.vms.is_empty() && table.opening.is_empty();
        while Instant::now() < deadline && !hurry() && !empty(&self.wait(Duration::from_millis(200), empty)) {
        }
        for entry in self.lock().vms.values_mut() {
            entry.stopping = true;
            entry.send(&ToVm::Terminate);
        }
        drop(self.wait(TERMINATE_PATIENCE, empty));
        for entry in self.lock().vms.values_mut() {
            entry.kill();
        }
        drop(self.wait(PAUSE_PATIENCE, empty));
    }

    /// The supervisor's: the guest's first instruction is about to run.
    pub(crate) fn note_started(&self, id: u32) {
        self.change(id, |entry| entry.started = true);
    }

    /// The supervisor's: the VM stands still, or goes on.
    pub(crate) fn note_paused(&self, id: u32, paused: bool) {
        self.change(id, |entry| entry.paused = paused);
    }

    /// The supervisor's: the process is about to be reaped.
    pub(crate) fn note_gone(&self, id: u32) {
        self.change(id, |entry| entry.gone = true);
    }

    /// The supervisor's: the process is reaped. `ending` is what it said or how it died.
    pub(crate) fn note_ended(&self, id: u32, ending: Ending) {
        let mut table = self.lock();
        if let Some(entry) = table.vms.remove(&id) {
            let ending = if entry.killed { Ending::Killed } else { ending };
            tracing::info!(vm = entry.vm.name, "{ending}");
            let _ = entry.ending.set(ending.clone());
            table.endings.insert(id, (entry.vm, ending));
            while table.endings.len() > MAX_REMEMBERED {
                table.endings.pop_first();
            }
        }
        drop(table);
        self.changed.notify_all();
    }

    fn change(&self, id: u32, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.lock().vms.get_mut(&id) {
            change(entry);
        }
        self.changed.notify_all();
    }

    /// The table when `over` holds of it, or after `patience`.
    fn wait(&self, patience: Duration, over: impl Fn(&Table) -> bool) -> MutexGuard<'_, Table> {
        let (table, _) = self
            .changed
            .wait_timeout_while(self.lock(), patience, |table| !over(table))
            .unwrap_or_else(|e| e.into_inner());
        table
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Table {
    fn by_name(&self, name: &str) -> Option<&Entry> {
        self.vms.values().find(|entry| entry.vm.name == name)
    }

    fn find(&self, text: &str) -> Result<&Entry, Error> {
        match Target::parse(text)? {
            Target::Id(id) => self.vms.get(&id),
            Target::Name(name) => self.by_name(name.as_str()),
        }
        .ok_or_else(|| Error::NotFound(text.into()))
    }

    fn ended(&self, text: &str) -> Option<&(VmRef, Ending)> {
        match Target::parse(text).ok()? {
            Target::Id(id) => self.endings.get(&id),
            Target::Name(name) => self.endings.get(self.ids.get(name.as_str())?),
        }
    }

    /// A name's id: the same for the daemon's life, unless thousands of other names came since.
    fn id_of(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        if self.ids.len() >= MAX_REMEMBERED {
            let vms = &self.vms;
            let oldest = self.ids.iter().filter(|(_, id)| !vms.contains_key(id)).min_by_key(|(_, id)| **id);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.ids.remove(&name);
            }
        }
        // Ids come back only after four thousand million names.
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.ids.insert(name.into(), self.last_id);
        self.last_id
    }
}

/// Resident bytes of a process: the second number of /proc/PID/statm, in pages (proc(5)).
fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_of_a_name_stays_and_memory_is_bounded() {
        let mut table = Table::default();
        let first = table.id_of("a");
        assert_eq!(table.id_of("b"), first + 1);
        assert_eq!(table.id_of("a"), first);
        for i in 0..2 * MAX_REMEMBERED {
            table.id_of(&format!("vm{i}"));
        }
        assert!(table.ids.len() <= MAX_REMEMBERED);
    }

    #[test]
    fn registry_without_vms_says_so() {
        let registry = Arc::new(Registry::default());
        assert!(registry.status(None).unwrap().is_empty());
        assert!(matches!(registry.status(Some("a")), Err(Error::NotFound(_))));
        assert!(matches!(registry.pause("1"), Err(Error::NotFound(_))));
        assert!(matches!(registry.console("../x"), Err(Error::Name(_))));
        assert!(registry.stop(None, true).unwrap().is_empty());
        assert!(matches!(registry.wait_for("a", || true), Err(Error::NotFound(_))));
    }

    #[test]
    fn start_with_a_missing_kernel_leaves_the_name_free() {
        let registry = Arc::new(Registry::default());
        for _ in 0..2 {
            let spec = VmSpec::new("a", "/nonexistent/kernel");
            assert!(matches!(registry.start(spec, 0), Err(Error::Open(parent::Error::Open { .. }))));
        }
        registry.close(Duration::ZERO, || false);
        assert!(matches!(registry.start(VmSpec::new("a", "/k"), 0), Err(Error::Closing)));
    }

    #[test]
    fn resident_bytes_of_this_process_are_known() {
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 16);
    }
}
