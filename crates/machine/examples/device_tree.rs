//! Writes a virt board's device tree to standard output, for `dtc` and for other machines of the same layout:
//! `device_tree aarch64|armv7 v2|v3 VCPUS MIB VIRTIO-DEVICES [COMMAND LINE]`.

use engine::{Arch, GicVersion};
use machine::boot::arm::Chosen;
use machine::firmware::device_tree::{Board, build};
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [arch, gic, vcpus, mib, devices, rest @ ..] = &arguments[..] else {
        return Err("device_tree aarch64|armv7 v2|v3 VCPUS MIB VIRTIO-DEVICES [COMMAND LINE]".into());
    };
    let board = Board {
        arch: if arch == "armv7" { Arch::Armv7 } else { Arch::Aarch64 },
        vcpus: vcpus.parse()?,
        gic: if gic == "v3" { GicVersion::V3 } else { GicVersion::V2 },
        ram_bytes: mib.parse::<u64>()? << 20,
        virtio_devices: devices.parse()?,
    };
    let command_line = rest.join(" ");
    let tree = build(&board, &Chosen { command_line: &command_line, initrd: None })?;
    Ok(std::io::stdout().write_all(&tree)?)
}
