//! The machine under this process: the doorbell, the counter, memory that stays where it is, signals.

#[cfg(target_os = "linux")]
pub mod pagemap;
#[cfg(target_os = "linux")]
pub mod pin;
pub mod signal;
pub mod tree;

#[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "arm")))]
pub mod counter;
#[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "arm")))]
pub mod doorbell;
#[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "arm")))]
pub mod huge;

use crate::page::Page;
use engine::Result;
use memory::GuestMemory;

/// What the engine needs of it.
pub trait Host: Send + Sync {
    /// Makes the call that lies in `page`. When this returns it is answered.
    fn call(&self, page: &Page);
    /// The physical counter, CNTPCT.
    fn now(&self) -> u64;
    /// Its ticks a second; not 0.
    fn frequency(&self) -> u64;
    /// Keeps all of `memory` in its frames while this lives; gives each region's frames' physical addresses, one for each 4 KiB. Can
    /// be asked once.
    fn pin(&self, memory: &GuestMemory) -> Result<Vec<Vec<u64>>>;
    /// Call page `n`: there is one for each vCPU that a machine may have, and one more.
    fn page(&self, n: usize) -> &Page;
}
