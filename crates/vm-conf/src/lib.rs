//! The grammar of sizes, names and disk options, shared by `vmd` and `vmctl`.
#![forbid(unsafe_code)]

pub mod disk;
pub mod name;
pub mod size;

pub use disk::{DiskFormat, DiskSpec};
pub use name::{Target, VmName};
