//! The thread that does a device's requests, and how it is held, resumed and stopped.

use super::device::{Device, Progress};
use super::interrupts::Interrupts;
use super::log_limit::LogLimit;
use crate::pci::lock;
use memory::virtqueue::{self, Queue};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A device and its live queues.
pub(super) struct Core {
    pub device: Box<dyn Device>,
    pub queues: Vec<Option<Queue>>,
    interrupts: Arc<Interrupts>,
    log: LogLimit,
}

impl Core {
    /// Serves queue `index` once; whether it has to be served again.
    fn serve(&mut self, index: usize) -> bool {
        if self.interrupts.needs_reset() {
            return false;
        }
        let Some(Some(queue)) = self.queues.get_mut(index) else { return false };
        match Self::serve_queue(&mut *self.device, index, queue, &self.interrupts) {
            Ok(again) => again,
            Err(error) => {
                queue.set_broken();
                self.warn(index, &error);
                self.interrupts.set_needs_reset();
                false
            }
        }
    }

    fn serve_queue(
        device: &mut dyn Device,
        index: usize,
        queue: &mut Queue,
        interrupts: &Interrupts,
    ) -> virtqueue::Result<bool> {
        queue.disable_notification()?;
        let progress = device.process(index, queue)?;
        if queue.needs_interrupt()? {
            interrupts.queue(index);
        }
        match progress {
            Progress::Done => Ok(true),
            Progress::Idle => queue.enable_notification(),
            Progress::Blocked => Ok(false),
        }
    }

    /// Logs what the driver did wrong with queue `index`; not more than once a second.
    pub fn warn(&mut self, index: usize, error: &virtqueue::Error) {
        if let Some(more) = self.log.allow() {
            let id = self.device.id();
            log::warn!(
                "the guest's {id:?} driver broke queue {index}: {error} ({more} such messages left out)"
            );
        }
    }

    /// Back to how it was before the driver came.
    pub fn reset(&mut self) {
        self.queues.iter_mut().for_each(|q| *q = None);
        self.device.reset();
    }
}

#[derive(Debug, Default)]
struct Control {
    /// Queues to serve, one bit each.
    kicked: u64,
    /// The queue served last: the next in turn comes first, so that a busy one starves none.
    last: u32,
    /// While not 0 no request is begun.
    holds: u32,
    /// A request is being done.
    busy: bool,
    stopping: bool,
}

/// What the thread and the rest share.
///
/// Locks, in order: the board's PCI function, `core`, `control`; of these only the function's is held while another
/// thread is waited for.
struct Shared {
    control: Mutex<Control>,
    /// Work has come, or the runner was released or stopped.
    wake: Condvar,
    /// `busy` has ended.
    idle: Condvar,
    core: Mutex<Core>,
}

/// Does a device's requests, one at a time: on its own thread once [`Self::spawn`] was called, or else whenever
/// [`Self::step`] is.
pub struct Runner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Runner {
    pub(super) fn new(device: Box<dyn Device>, interrupts: Arc<Interrupts>) -> Self {
        let queues = device.queue_sizes().iter().map(|_| None).collect();
        let shared = Shared {
            control: Mutex::default(),
            wake: Condvar::new(),
            idle: Condvar::new(),
            core: Mutex::new(Core { device, queues, interrupts, log: LogLimit::default() }),
        };
        Self { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    /// Starts the thread. It ends with [`Self::stop`], or after the last of the runner's owners has gone.
    pub fn spawn(&self, name: &str) -> io::Result<()> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || shared.run())?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// Serves one queue that was kicked: at most one request. False if there was nothing to do, or the runner is held
    /// or busy.
    pub fn step(&self) -> bool {
        self.shared.step()
    }

    /// Has queue `index` served soon.
    pub fn kick(&self, index: usize) {
        if index < 64 {
            let mut control = lock(&self.shared.control);
            // A thread that is busy looks again before it sleeps, and one already woken need not be woken twice.
            let asleep = !control.busy && control.kicked == 0;
            control.kicked |= 1 << index;
            drop(control);
            if asleep {
                self.shared.wake.notify_one();
            }
        }
    }

    /// Begins no further request, and waits for the one being done. May be nested; each needs a [`Self::resume`].
    pub fn quiesce(&self) {
        let mut control = lock(&self.shared.control);
        control.holds += 1;
        while control.busy {
            control = wait(&self.shared.idle, control);
        }
    }

    /// Undoes one [`Self::quiesce`].
    pub fn resume(&self) {
        let mut control = lock(&self.shared.control);
        control.holds = control.holds.saturating_sub(1);
        drop(control);
        self.shared.wake.notify_one();
    }

    /// Calls `f` between two requests.
    pub(super) fn between_requests<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        self.quiesce();
        let result = f(&mut lock(&self.shared.core));
        self.resume();
        result
    }

    /// Resets the device: requests not begun are forgotten.
    pub(super) fn reset(&self) {
        self.between_requests(|core| {
            lock(&self.shared.control).kicked = 0;
            core.reset();
        });
    }

    /// Ends the thread after the request being done, and has the device put what it holds in safety (a disk is
    /// flushed). The error is the device's.
    pub fn stop(&self) -> io::Result<()> {
        self.shared.end();
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            log::error!("a virtio device's thread had failed before it was stopped");
        }
        lock(&self.shared.core).device.stop()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Not waited for: a device that rings its own doorbell may be the last owner, on that very thread.
        self.shared.end();
    }
}

impl Shared {
    /// Has the thread end.
    fn end(&self) {
        lock(&self.control).stopping = true;
        self.wake.notify_all();
    }

    fn run(&self) {
        loop {
            let mut control = lock(&self.control);
            while !control.stopping && (control.holds > 0 || control.kicked == 0) {
                control = wait(&self.wake, control);
            }
            if control.stopping {
                return;
            }
            drop(control);
            self.step();
        }
    }

    fn step(&self) -> bool {
        let mut control = lock(&self.control);
        if control.busy || control.holds > 0 || control.kicked == 0 {
            return false;
        }
        let turn = (control.last + 1) % 64;
        control.last = (control.kicked.rotate_right(turn).trailing_zeros() + turn) % 64;
        let index = control.last as usize;
        control.kicked &= !(1 << index);
        control.busy = true;
        drop(control);
        // A bug in a device costs that device, not the VM: the queue is left alone.
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lock(&self.core).serve(index)));
        let again = served.unwrap_or_else(|_| {
            log::error!("a virtio device failed while serving queue {index}; the queue stays where it is");
            false
        });
        let mut control = lock(&self.control);
        control.busy = false;
        control.kicked |= u64::from(again) << index;
        drop(control);
        self.idle.notify_all();
        true
    }
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
