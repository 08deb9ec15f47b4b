//! The hypervisor's file: built for its bare-metal target, and made a flat image, as boot loaders load it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;

use super::Platform;
use crate::{host, test};

/// What an image may be long at most, in bytes: a section that lies elsewhere by mistake must not make a file of gigabytes.
const LONGEST: u64 = 64 << 20;

/// Builds the hypervisor for `platform`; gives its image's file.
pub fn build(platform: Platform) -> Result<PathBuf> {
    let target = match platform {
        Platform::Arm64 => "aarch64-unknown-none-softfloat",
        Platform::Armhf => "armv7a-none-eabi",
    };
    let manifest = host::workspace().join("crates/hypervisor/Cargo.toml");
    if !manifest.exists() {
        bail!("this tree has no hypervisor: there is no {}", manifest.display());
    }
    test::standard_library(target, "the hypervisor")?;
    eprintln!("Building the hypervisor for {target} (release)");
    let folder = host::target_folder()?;
    let mut build = host::cargo();
    build.args(["build", "--release", "--target", target, "--bin", "hypervisor", "--manifest-path"]);
    build.arg(&manifest).arg("--target-dir").arg(&folder);
    // Rust's own library for armv7 is code for a fixed place: only link-time optimization makes it anew, as ours is. And it makes what is
    // done at each of a guest's traps shorter.
    build.args(["--config", "profile.release.lto=\"fat\"", "--config", "profile.release.codegen-units=1"]);
    host::run(&mut build, "build the hypervisor")?;
    let folder = folder.join(target).join("release");
    let program = folder.join("hypervisor");
    let bytes = std::fs::read(&program).with_context(|| format!("could not read {}", program.display()))?;
    let flat = flat(&bytes).with_context(|| format!("{} makes no image", program.display()))?;
    let image = folder.join("hypervisor.img");
    std::fs::write(&image, flat).with_context(|| format!("could not write {}", image.display()))?;
    Ok(image)
}

/// What an ELF program's segments are in memory, from the lowest physical address on; what is zero at the end is left out.
pub fn flat(program: &[u8]) -> Result<Vec<u8>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(program)?;
    let segments = elf.segments().context("there are no segments")?;
    let loaded = || segments.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_filesz > 0);
    let base = loaded().map(|segment| segment.p_paddr).min().context("nothing in it is loaded")?;
    let mut image = Vec::new();
    for segment in loaded() {
        let at = segment.p_paddr - base;
        let end = at.checked_add(segment.p_filesz).filter(|&end| end <= LONGEST);
        let end = end.with_context(|| format!("a segment lies {at:#x} bytes above the first"))?;
        let data = elf.segment_data(&segment)?;
        if image.len() < end as usize {
            image.resize(end as usize, 0);
        }
        image[at as usize..end as usize].copy_from_slice(data);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit ELF file whose segments are (physical address, contents).
    fn program(segments: &[(u64, &[u8])]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend(2u16.to_le_bytes()); // ET_EXEC
        file.extend(183u16.to_le_bytes()); // EM_AARCH64
        file.extend(1u32.to_le_bytes());
        file.extend([0u64, 64, 0].map(u64::to_le_bytes).concat()); // entry, program headers, section headers
        file.extend(0u32.to_le_bytes());
        file.extend([64u16, 56, segments.len() as u16, 64, 0, 0].map(u16::to_le_bytes).concat());
        let mut at = (64 + 56 * segments.len()) as u64;
        for (address, contents) in segments {
            file.extend([1u32, 5].map(u32::to_le_bytes).concat()); // PT_LOAD, readable and executable
            let len = contents.len() as u64;
            file.extend([at, *address, *address, len, len + 100, 1].map(u64::to_le_bytes).concat());
            at += len;
        }
        file.extend(segments.iter().flat_map(|(_, contents)| contents.iter().copied()));
        file
    }

    #[test]
    fn flat_segments_lie_as_in_memory() {
        let program = program(&[(0x1010, b"data"), (0x1000, b"text")]);
        assert_eq!(flat(&program).unwrap(), b"text\0\0\0\0\0\0\0\0\0\0\0\0data");
    }

    #[test]
    fn flat_far_segment_broken_and_empty_files_are_errors() {
        assert!(
            format!("{:#}", flat(&program(&[(0, b"a"), (1 << 40, b"b")])).unwrap_err()).contains("above")
        );
        assert!(flat(&program(&[])).is_err());
        let whole = program(&[(0, b"text")]);
        for len in 0..whole.len() - 1 {
            assert!(flat(&whole[..len]).is_err(), "{len}");
        }
    }
}
