//! The grammar of sizes, names, disk and engine options, shared by `vmd` and `vmctl`.
#![forbid(unsafe_code)]

pub mod disk;
pub mod engine;
pub mod name;
pub mod size;

pub use disk::{DiskFormat, DiskSpec};
pub use engine::EngineChoice;
pub use name::{Target, VmName};
