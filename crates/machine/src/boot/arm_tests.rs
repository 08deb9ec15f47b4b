//! Everything placed for a boot, and attacks on the loader as a whole.

use super::super::ModuleBytes;
use super::super::testing::{ArmBoard, files, image64, zimage};
use super::*;

const MIB: u64 = 1 << 20;

fn platform(b: &ArmBoard, arch: Arch) -> ArmPlatform<'_> {
    ArmPlatform { arch, memory: &b.memory, ram: b.ram..b.ram + b.memory.ram_len() }
}

fn boot(b: &ArmBoard, arch: Arch, files: Files<'_>) -> Result<(ArmState, Option<Range<u64>>), Error> {
    let mut initrd = None;
    let state = load(&platform(b, arch), files, |chosen| {
        initrd = chosen.initrd.clone();
        Ok(format!("TREE {}", chosen.command_line).into_bytes())
    })?;
    Ok((state, initrd))
}

#[test]
fn kernel_of_64_bits_is_entered_with_its_tree_in_x0() {
    let b = ArmBoard::new(64 * MIB);
    let kernel = image64(b"KERNEL");
    let modules = [b"07070one", b"two\0\0\0\0\0"].map(|bytes| ModuleBytes { bytes, command_line: "" });
    let f = Files { modules: &modules, command_line: "quiet", ..files(&kernel) };
    let (s, initrd) = boot(&b, Arch::Aarch64, f).unwrap();
    assert_eq!((s.pc, s.pstate, s.off, &s.x[1..4]), (b.ram, 0x3c5, false, &[0; 3][..]));
    assert_eq!(b.read(s.x[0], 10), b"TREE quiet");
    assert!(s.x[0].is_multiple_of(8));
    let initrd = initrd.unwrap();
    assert_eq!(initrd, b.ram + 64 * MIB - 4096..b.ram + 64 * MIB - 4096 + 16);
    assert_eq!(b.read(initrd.start, 11), b"07070onetwo");
}

#[test]
fn kernel_of_32_bits_is_entered_with_its_tree_in_r2_out_of_the_way() {
    for (mib, near) in [(2048u64, 512u64), (256, 256), (16, 16)] {
        let b = ArmBoard::new(mib * MIB);
        let kernel = zimage(b"KERNEL");
        let modules = [ModuleBytes { bytes: b"0707", command_line: "" }];
        let (s, initrd) = boot(&b, Arch::Armv7, Files { modules: &modules, ..files(&kernel) }).unwrap();
        assert_eq!((s.x[0], s.x[1], s.pstate), (0, 0xffff_ffff, 0x1d3));
        let safe = b.ram + (mib / 2).min(128) * MIB..b.ram + near * MIB;
        assert!(safe.contains(&s.x[2]) && safe.contains(&initrd.unwrap().start), "{mib}");
        assert_eq!(b.read(s.x[2], 4), b"TREE");
    }
}

#[test]
fn kernel_for_another_processor_or_none_is_a_sentence() {
    let b = ArmBoard::new(16 * MIB);
    let e = |arch, kernel: &[u8]| boot(&b, arch, files(kernel)).unwrap_err().to_string();
    assert!(
        e(Arch::Armv7, &image64(b"")).contains("64-bit ARM kernel, and this VM was made for a 32-bit ARM")
    );
    assert!(e(Arch::Aarch64, &zimage(b"")).contains("32-bit ARM kernel"));
    for junk in [&b""[..], b"#!/bin/sh\n", &[0; 9000]] {
        let e = e(Arch::Aarch64, junk);
        assert!(e.contains("Image") && e.contains("zImage"), "{e}");
    }
    assert_eq!(arch_of(&zimage(b""), MIB), Ok(Arch::Armv7));
    assert_eq!(arch_of(&image64(b""), MIB), Ok(Arch::Aarch64));
}

#[test]
fn initrd_or_tree_without_room_is_a_sentence() {
    let b = ArmBoard::new(16 * MIB);
    let big = vec![0x30; 16 << 20];
    for (arch, kernel) in [(Arch::Aarch64, image64(b"K")), (Arch::Armv7, zimage(b"K"))] {
        let modules = [ModuleBytes { bytes: &big, command_line: "" }];
        let e = boot(&b, arch, Files { modules: &modules, ..files(&kernel) }).unwrap_err().to_string();
        assert!(e.contains("no room for the initrd") && e.contains("more memory"), "{e}");
        let e = load(&platform(&b, arch), files(&kernel), |_| Ok(vec![0; 3 << 20])).unwrap_err();
        assert!(e.to_string().contains("device tree"), "{e}");
        let long = "x".repeat(CMDLINE_MOST + 1);
        let e = boot(&b, arch, Files { command_line: &long, ..files(&kernel) }).unwrap_err();
        assert!(matches!(e, Error::CommandLineTooLong { .. }));
    }
}

#[test]
fn every_byte_of_a_header_changed_is_an_error_or_harmless() {
    let b = ArmBoard::new(16 * MIB);
    for (arch, kernel) in [(Arch::Aarch64, image64(&[0x5a; 100])), (Arch::Armv7, zimage(&[0x5a; 100]))] {
        for at in 0..80 {
            for value in [0, 1, 0x1f, 0x7f, 0x80, 0xff] {
                let mut k = kernel.clone();
                k[at] = value;
                if let Ok((s, _)) = boot(&b, arch, files(&k)) {
                    assert!((b.ram..b.ram + 16 * MIB).contains(&s.pc));
                }
            }
        }
        for len in 0..kernel.len() {
            let _ = boot(&b, arch, files(&kernel[..len]));
        }
    }
}
