//! The native engine: machines that the hypervisor under this Linux runs, on ARM.
//!
//! Calls lie in pages shared with the hypervisor ([`page`], [`calls`]) and are made through [`host::Host`], which is the machine
//! itself ([`host`]'s other files) or a fake one in tests. [`vm`] makes a machine and gives it memory that stays where it is;
//! [`vcpu`] runs its processors and serves their exits; [`psci`] and [`power`] are what a firmware would do for them;
//! [`bell`] is how other threads reach one that waits; [`registers`] puts register files into the hypervisor's form.

pub mod bell;
pub mod calls;
#[cfg(test)]
mod fake;
pub mod host;
pub mod page;
pub mod power;
pub mod psci;
pub mod registers;
pub mod vcpu;
pub mod vm;

#[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "arm")))]
mod native;
#[cfg(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "arm")))]
pub use native::Native;

/// The engine's name.
pub const NAME: &str = "native";
