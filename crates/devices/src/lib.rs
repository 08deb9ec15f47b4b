//! Device models, one file per chip: `legacy/` holds the PC's own, `arm/` Arm's, `virtio/` the paravirtual ones, `pci/` the bus.
//!
//! A device knows nothing of engines or boards: it gets registers accesses, and drives what [`wiring`] gives it.

pub mod arm;
pub mod legacy;
pub mod pci;
pub mod testing;
pub mod virtio;
pub mod wiring;
