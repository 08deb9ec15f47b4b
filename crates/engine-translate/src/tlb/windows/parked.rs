//! Windows that nobody is using.

use super::window::Window;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The windows of a VM that no vCPU is using.
#[derive(Default)]
pub struct Parked {
    list: Mutex<Vec<Window>>,
    /// How many there are, or were a moment ago: mostly there are none, and nobody has to wait for another to see that.
    count: AtomicUsize,
}

impl Parked {
    fn with<R>(&self, f: impl FnOnce(&mut Vec<Window>) -> R) -> R {
        let mut list = self.list.lock().unwrap_or_else(|e| e.into_inner());
        let result = f(&mut list);
        self.count.store(list.len(), Relaxed);
        result
    }
    fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    pub fn put(&self, window: Option<Window>) {
        if window.is_some() {
            self.with(|list| list.extend(window));
        }
    }
    /// Puts one, and takes one of an address space's, the vCPU's own rather than another's.
    pub fn exchange(&self, put: Option<Window>, root: u64, vcpu: u32) -> Option<Window> {
        if put.is_none() && self.is_empty() {
            return None;
        }
        self.with(|list| {
            list.extend(put);
            let of = |own: bool| list.iter().position(|w| w.root == root && (!own || w.owner == vcpu));
            let n = of(true).or_else(|| of(false))?;
            Some(list.swap_remove(n))
        })
    }
    /// Takes the one that a vCPU has not used for the longest time.
    pub fn take_oldest(&self, vcpu: u32) -> Option<Window> {
        self.with(|list| {
            let own = list.iter().enumerate().filter(|(_, w)| w.owner == vcpu);
            let n = own.min_by_key(|(_, w)| w.used)?.0;
            Some(list.swap_remove(n))
        })
    }
    /// How many a vCPU used last.
    pub fn count(&self, vcpu: u32) -> usize {
        self.with(|list| list.iter().filter(|w| w.owner == vcpu).count())
    }
    pub fn each(&self, vcpu: u32, f: impl FnMut(&mut Window)) {
        if !self.is_empty() {
            self.with(|list| list.iter_mut().filter(|w| w.owner == vcpu).for_each(f));
        }
    }
}
