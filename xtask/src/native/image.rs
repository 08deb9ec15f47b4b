//! `cargo xtask image`: what a person puts on a board: the hypervisor, the control domain's kernel and initrd, and what
//! tells the board's boot loader to start them.
//!
//! U-Boot runs `boot.scr`, which loads the three, names kernel and initrd as modules in the device tree, and starts the
//! hypervisor as it would a Linux kernel. GRUB for EFI (arm64) reads `grub.cfg` and does the same by itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::board::Platform;
use super::control_domain::Role;
use super::{hypervisor, uimage};

#[derive(clap::Args)]
#[command(
    after_help = "Copy what is in the folder to the root of the partition that the board's boot loader reads; \
                        docs/native.md says more."
)]
pub struct Args {
    /// The board's processors
    #[arg(long, value_enum, value_name = "PLATFORM")]
    arch: Platform,
    /// The control domain's kernel, an arm64 Image or a zImage; without, Debian's, with a small root file system that has
    /// vmd, vmctl and a guest
    #[arg(long, value_name = "FILE", requires = "initrd")]
    kernel: Option<PathBuf>,
    /// That kernel's first root file system
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// That kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "console=ttyAMA0")]
    cmdline: String,
    /// The board's device tree, for U-Boot; without, the one that its firmware or U-Boot itself has
    #[arg(long, value_name = "FILE")]
    dtb: Option<PathBuf>,
    /// The folder to write to, made when it isn't there
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
}

/// The files' names.
const HYPERVISOR: &str = "auberge.img";
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd.img";
const TREE: &str = "board.dtb";

/// Bytes between the beginnings of two things in memory are a multiple of this.
const STEP: u64 = 2 << 20;
/// Behind all that the hypervisor uses, counted from its beginning; and behind all that a zImage unpacks, counted from the
/// beginning of its 128 MiB, where it unpacks itself to (Linux, AUTO_ZRELADDR).
const ROOM: u64 = 32 << 20;

/// What an image is made of.
pub struct Parts {
    pub platform: Platform,
    pub kernel: Vec<u8>,
    pub initrd: Vec<u8>,
    pub cmdline: String,
    pub dtb: Option<Vec<u8>>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("could not read {}", path.display()));
    let (kernel, initrd) = match (&args.kernel, &args.initrd) {
        (Some(kernel), Some(initrd)) => (read(kernel)?, read(initrd)?),
        _ => {
            let role = Role::ControlDomain { script: None, token: String::new() };
            let images = super::prepare(args.arch, args.arch, &role)?;
            (read(&images.kernel)?, read(&images.initrd)?)
        }
    };
    let dtb = args.dtb.as_deref().map(read).transpose()?;
    let parts = Parts { platform: args.arch, kernel, initrd, cmdline: args.cmdline.clone(), dtb };
    let files = write(&parts, &args.output)?;
    println!("{}", args.output.display());
    for (name, size) in files {
        println!("  {name:12} {:>8} KiB", size.div_ceil(1024));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes an image's files to `folder`; gives their names and sizes.
///
/// Errors: a kernel that the hypervisor won't take, a command line that boot loaders would read differently.
pub fn write(parts: &Parts, folder: &Path) -> Result<Vec<(&'static str, u64)>> {
    check_kernel(parts.platform, &parts.kernel)?;
    check_cmdline(&parts.cmdline)?;
    if parts.dtb.as_ref().is_some_and(|tree| !tree.starts_with(&[0xd0, 0x0d, 0xfe, 0xed])) {
        bail!("the device tree is none: such a file (.dtb) begins with d0 0d fe ed");
    }
    let hypervisor =
        std::fs::read(hypervisor::build(parts.platform)?).context("could not read the hypervisor")?;
    let script = script(parts);
    let mut files = vec![
        (HYPERVISOR, hypervisor),
        (KERNEL, parts.kernel.clone()),
        (INITRD, parts.initrd.clone()),
        ("boot.scr", uimage::script("Auberge", script.as_bytes())),
        ("boot.cmd", script.into_bytes()),
    ];
    if parts.platform == Platform::Arm64 {
        files.push(("grub.cfg", grub(&parts.cmdline).into_bytes()));
    }
    files.extend(parts.dtb.clone().map(|tree| (TREE, tree)));
    std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    for (name, contents) in &files {
        let path = folder.join(name);
        std::fs::write(&path, contents).with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(files.iter().map(|(name, contents)| (*name, contents.len() as u64)).collect())
}

/// Refuses what the hypervisor would (Linux, Documentation/arm64/booting.rst and Documentation/arm/booting.rst).
fn check_kernel(platform: Platform, kernel: &[u8]) -> Result<()> {
    let (at, magic, name) = match platform {
        Platform::Arm64 => (56, *b"ARM\x64", "an uncompressed arm64 Image"),
        Platform::Armhf => (0x24, 0x016f_2818u32.to_le_bytes(), "a zImage"),
    };
    if kernel.get(at..at + 4) != Some(&magic) {
        bail!("the kernel is not {name}, which is what the hypervisor starts");
    }
    Ok(())
}

/// Refuses what U-Boot's shell or GRUB's would take for their own.
fn check_cmdline(cmdline: &str) -> Result<()> {
    match cmdline.chars().find(|c| !matches!(c, ' '..='~') || "'\"\\$;&|<>(){}#".contains(*c)) {
        Some(c) => {
            bail!("the kernel's command line has {c:?}, which boot loaders' shells take for their own")
        }
        None => Ok(()),
    }
}

/// What U-Boot does, as a script for its shell. `devtype`, `devnum`, `distro_bootpart` and `prefix` say where the script came from.
fn script(parts: &Parts) -> String {
    let (start, kernel_place) = match parts.platform {
        Platform::Arm64 => ("booti", format!("setexpr at_kernel ${{kernel_addr_r}} + {ROOM:#x}")),
        // Not in the hypervisor's 128 MiB: the kernel's memory begins with those that it lies in.
        Platform::Armhf => {
            let next = format!("setexpr at_kernel ${{kernel_addr_r}} '|' {:#x}", (128 << 20) - 1);
            ("bootz", format!("{next}\nsetexpr at_kernel ${{at_kernel}} + {:#x}", ROOM + 1))
        }
    };
    let (kernel, initrd) = (parts.kernel.len() as u64, parts.initrd.len() as u64);
    let room = |size: u64| size.next_multiple_of(STEP);
    let cmdline = &parts.cmdline;
    let tree = if parts.dtb.is_some() {
        format!("load ${{from}} ${{at_tree}} ${{prefix}}{TREE}\n\tfdt addr ${{at_tree}}")
    } else {
        "if test -z \"${fdt_addr}\"; then setenv fdt_addr ${fdtcontroladdr}; fi\n\tfdt addr ${fdt_addr}\n\t\
         fdt move ${fdt_addr} ${at_tree}"
            .to_owned()
    };
    format!(
        r#"# Starts the Auberge hypervisor, and Linux as its control domain. Written by `cargo xtask image`.
setenv from "${{devtype}} ${{devnum}}:${{distro_bootpart}}"
{kernel_place}
setexpr at_initrd ${{at_kernel}} + {:#x}
setexpr at_tree ${{at_initrd}} + {:#x}
setenv loaded 0
if load ${{from}} ${{kernel_addr_r}} ${{prefix}}{HYPERVISOR}; then
if load ${{from}} ${{at_kernel}} ${{prefix}}{KERNEL}; then
if load ${{from}} ${{at_initrd}} ${{prefix}}{INITRD}; then
	setenv loaded 1
fi; fi; fi
if test ${{loaded}} = 1; then
	{tree}
	fdt resize 0x2000
	fdt mknode /chosen module-kernel
	fdt set /chosen/module-kernel compatible "multiboot,kernel" "multiboot,module"
	fdt set /chosen/module-kernel reg <0x0 0x${{at_kernel}} 0x0 {kernel:#x}>
	fdt set /chosen/module-kernel bootargs "{cmdline}"
	fdt mknode /chosen module-initrd
	fdt set /chosen/module-initrd compatible "multiboot,ramdisk" "multiboot,module"
	fdt set /chosen/module-initrd reg <0x0 0x${{at_initrd}} 0x0 {initrd:#x}>
	setenv fdt_high 0xffffffffffffffff
	{start} ${{kernel_addr_r}} - ${{at_tree}}
else
	echo "Auberge: {HYPERVISOR}, {KERNEL} or {INITRD} is missing beside boot.scr."
fi
"#,
        room(kernel),
        room(initrd)
    )
}

/// GRUB's menu entry. GRUB 2.06 reads what is not there if the hypervisor has no argument.
fn grub(cmdline: &str) -> String {
    format!(
        "# Starts the Auberge hypervisor, and Linux as its control domain. Written by `cargo xtask image`.\n\
         set timeout=3\n\
         menuentry 'Auberge' {{\n\
         \tinsmod xen_boot\n\
         \tsearch --no-floppy --file --set=root /{HYPERVISOR}\n\
         \txen_hypervisor /{HYPERVISOR} auberge\n\
         \txen_module /{KERNEL} {cmdline}\n\
         \txen_module /{INITRD}\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(platform: Platform) -> Parts {
        let cmdline = "console=ttyAMA0 a=b".to_owned();
        Parts { platform, kernel: vec![0; 3 << 20], initrd: vec![0; 1000], cmdline, dtb: None }
    }

    #[test]
    fn script_places_what_it_loads_one_behind_the_other() {
        let arm64 = script(&parts(Platform::Arm64));
        for line in [
            "setexpr at_initrd ${at_kernel} + 0x400000\n",
            "setexpr at_tree ${at_initrd} + 0x200000\n",
            "setexpr at_kernel ${kernel_addr_r} + 0x2000000\n",
            "reg <0x0 0x${at_kernel} 0x0 0x300000>",
            "reg <0x0 0x${at_initrd} 0x0 0x3e8>",
            "bootargs \"console=ttyAMA0 a=b\"",
            "\tbooti ${kernel_addr_r} - ${at_tree}\n",
            "fdt move ${fdt_addr} ${at_tree}",
        ] {
            assert!(arm64.contains(line), "no {line:?} in:\n{arm64}");
        }
        let armhf = script(&Parts { dtb: Some(Vec::new()), ..parts(Platform::Armhf) });
        assert!(
            armhf.contains("\tbootz ") && armhf.contains("load ${from} ${at_tree} ${prefix}board.dtb"),
            "{armhf}"
        );
    }

    #[test]
    fn what_cannot_be_started_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let error = |parts: &Parts| write(parts, folder.path()).unwrap_err().to_string();
        assert!(error(&parts(Platform::Arm64)).contains("Image"));
        assert!(error(&parts(Platform::Armhf)).contains("zImage"));
        let mut quoted = parts(Platform::Arm64);
        quoted.kernel[56..60].copy_from_slice(b"ARM\x64");
        let tree = Parts { dtb: Some(vec![0; 64]), kernel: quoted.kernel.clone(), ..parts(Platform::Arm64) };
        assert!(error(&tree).contains("device tree"));
        quoted.cmdline = "a=\"b c\"".to_owned();
        assert!(error(&quoted).contains("command line"));
    }
}
