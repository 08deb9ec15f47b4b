//! The daemon that runs virtual machines, and what `vmctl` needs to talk to it.
//!
//! | role | file |
//! |---|---|
//! | opens disks, kernels, terminals | [`parent`] |
//! | the socket, the conversations | [`control`], [`socket`], [`frame`], [`protocol`] |
//! | which VMs there are, and their lives | [`registry`], [`vm`] |
//! | inside a VM's own process | [`process`], [`channel`], [`launch`] |

pub mod channel;
pub mod client;
pub mod ending;
pub mod frame;
pub mod launch;
pub mod parent;
pub mod process;
pub mod protocol;
pub mod socket;
pub mod spec;
pub mod vm;

pub use ending::Ending;
pub use spec::VmSpec;
