//! The measuring guest and, for KVM, the program that runs it: `guests/cost`, built by rustc alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::native::{Gic, Platform, hypervisor};
use crate::{host, test};

/// Where in the image the parameters are: behind the longer of the headers, the Image's.
const PARAMETERS_AT: usize = 64;

/// A machine, as the guest has to know it.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// A PL011.
    pub uart: u64,
    pub gic: Gic,
    pub distributor: u64,
    /// GICv2's CPU interface, or GICv3's redistributor.
    pub interface: u64,
    /// A register that a user's program answers for, where there is one.
    pub device: Option<u64>,
}

impl Machine {
    /// The machine of Auberge's guests; of KVM's too, who get the same.
    pub fn auberge(gic: Gic) -> Self {
        let interface = if gic == Gic::V2 { 0x0801_0000 } else { 0x080a_0000 };
        // The match register of the clock: the program has nothing else to do for it.
        Self { uart: 0x0900_0000, gic, distributor: 0x0800_0000, interface, device: Some(0x0901_0004) }
    }

    /// The machine of Xen's (its public/arch-arm.h).
    pub fn xen(gic: Gic) -> Self {
        let interface = if gic == Gic::V2 { 0x0300_2000 } else { 0x0302_0000 };
        Self { uart: 0x2200_0000, gic, distributor: 0x0300_1000, interface, device: None }
    }

    fn words(&self) -> [u64; 5] {
        let version = if self.gic == Gic::V2 { 2 } else { 3 };
        [self.uart, version, self.distributor, self.interface, self.device.unwrap_or(0)]
    }
}

/// The guest for `platform`, without parameters.
pub struct Guest(Vec<u8>);

impl Guest {
    /// Builds it in `folder`.
    pub fn build(platform: Platform, folder: &Path) -> Result<Self> {
        let target = match platform {
            Platform::Arm64 => "aarch64-unknown-none-softfloat",
            Platform::Armhf => "armv7a-none-eabi",
        };
        let script = format!("link-arg=-T{}", source("link.ld").display());
        let mut codegen = vec!["panic=abort", "lto=fat", &script];
        if platform == Platform::Armhf {
            codegen.extend(["relocation-model=pic", "link-arg=-pie", "link-arg=--no-dynamic-linker"]);
        }
        let program = rustc("main.rs", target, &codegen, folder)?;
        let bytes =
            std::fs::read(&program).with_context(|| format!("could not read {}", program.display()))?;
        let image = hypervisor::flat(&bytes).context("the measuring guest makes no image")?;
        Ok(Self(whole(image, platform)))
    }

    /// The image for a machine.
    pub fn image(&self, machine: &Machine) -> Vec<u8> {
        let mut image = self.0.clone();
        let words = machine.words().map(u64::to_le_bytes).concat();
        image[PARAMETERS_AT..PARAMETERS_AT + words.len()].copy_from_slice(&words);
        image
    }
}

/// As long as its header says, its stack with it: a zImage has nothing that isn't in the file.
fn whole(mut image: Vec<u8>, platform: Platform) -> Vec<u8> {
    let at = if platform == Platform::Arm64 { 16 } else { 0x2c };
    let len = image[at..at + 4].iter().rev().fold(0, |len, &byte| len << 8 | usize::from(byte));
    image.resize(len.max(image.len()), 0);
    image
}

/// Builds the program that runs the guest in KVM, static, for arm64.
pub fn monitor(folder: &Path) -> Result<PathBuf> {
    let codegen = ["linker=rust-lld", "link-self-contained=yes", "strip=symbols"];
    rustc("monitor.rs", "aarch64-unknown-linux-musl", &codegen, folder)
}

fn source(name: &str) -> PathBuf {
    host::workspace().join("guests/cost").join(name)
}

fn rustc(name: &str, target: &str, codegen: &[&str], folder: &Path) -> Result<PathBuf> {
    test::standard_library(target, "the guest that measures")?;
    let program = folder.join(name).with_extension(target);
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--crate-name", "cost", "--crate-type", "bin", "--target", target]);
    rustc.args(["-C", "opt-level=2"]).args(codegen.iter().flat_map(|option| ["-C", option]));
    rustc.arg(source(name)).arg("-o").arg(&program).current_dir(host::workspace());
    host::output(&mut rustc, &format!("build guests/cost/{name} for {target}"))?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_has_the_parameters_behind_its_header() {
        let guest = Guest(vec![0xee; 128]);
        let image = guest.image(&Machine::xen(Gic::V3));
        assert_eq!(image[..64], [0xee; 64]);
        assert_eq!(image[64..80], [0, 0, 0, 0x22, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(image[96..104], [0; 8], "nobody answers for a device");
        assert_eq!(image[104..], [0xee; 24]);
    }

    #[test]
    fn whole_image_is_as_long_as_its_header_says() {
        let mut image = vec![0; 64];
        image[16..20].copy_from_slice(&0x1234u32.to_le_bytes());
        image[0x2c..0x30].copy_from_slice(&7u32.to_le_bytes());
        assert_eq!(whole(image.clone(), Platform::Arm64).len(), 0x1234);
        assert_eq!(whole(image, Platform::Armhf).len(), 64);
    }
}
