//! The emulated boards that the hypervisor is shown on: QEMU's `virt` with the processor's EL2.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::bench::qemu;
use crate::guests::Arch;

/// What the hypervisor is built for, by the name of Debian's port that runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Platform {
    Arm64,
    Armhf,
}

impl Platform {
    pub fn arch(self) -> Arch {
        match self {
            Platform::Arm64 => Arch::Arm64,
            Platform::Armhf => Arch::Armhf,
        }
    }

    /// COMMAND_LINE_SIZE of its Linux (arch/{arm64,arm}/include/uapi/asm/setup.h), in bytes.
    pub fn command_line_size(self) -> usize {
        match self {
            Platform::Arm64 => 2048,
            Platform::Armhf => 1024,
        }
    }

    /// Where the modules are loaded: the kernel's and the initrd's physical addresses. The RAM begins at 1 GiB; QEMU puts the
    /// hypervisor at its beginning and the device tree 128 MiB above.
    fn places(self) -> (u64, u64) {
        match self {
            // An Image may lie anywhere on 2 MiB (Linux, Documentation/arm64/booting.rst).
            Platform::Arm64 => (0x5000_0000, 0x5800_0000),
            // A zImage unpacks itself to the beginning of its 128 MiB (Linux, AUTO_ZRELADDR), so the hypervisor isn't in the first.
            Platform::Armhf => (0x4a00_0000, 0x5000_0000),
        }
    }
}

/// The version of the board's interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gic {
    #[value(name = "2")]
    V2,
    #[value(name = "3")]
    V3,
}

/// An emulated board.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    platform: Platform,
    gic: Gic,
    cpus: u32,
}

/// The board's processors, unless it is to have one.
const CPUS: u32 = 2;
/// The board's memory in MiB: for the control domain with two root file systems unpacked, and a guest or two.
const MEMORY_MIB: u32 = 2048;

impl Board {
    /// Errors: a Cortex-A15 with GICv3, which there never was.
    pub fn new(platform: Platform, gic: Option<Gic>) -> Result<Board> {
        let gic = gic.unwrap_or(Gic::V2);
        if platform == Platform::Armhf && gic == Gic::V3 {
            bail!("the armhf board is a Cortex-A15, which has a GICv2: leave --gic 3 out");
        }
        Ok(Board { platform, gic, cpus: CPUS })
    }

    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// The same board with a single processor.
    pub fn with_one_cpu(self) -> Board {
        Board { cpus: 1, ..self }
    }

    pub fn gic(&self) -> Gic {
        self.gic
    }

    pub fn processor(&self) -> &'static str {
        match (self.platform, self.gic) {
            (Platform::Arm64, Gic::V2) => "cortex-a57",
            // The A57 has no system registers for a GIC.
            (Platform::Arm64, Gic::V3) => "max",
            (Platform::Armhf, _) => "cortex-a15",
        }
    }

    /// For a person: the processors and the interrupt controller.
    pub fn describe(&self) -> String {
        format!("an emulated board of {} {} with {}", self.cpus, self.processor(), self.gic)
    }

    /// QEMU on this board, with nothing to boot and without its serial line. Installs QEMU when it is missing.
    pub fn bare(&self) -> Result<Command> {
        let mut command = Command::new(qemu::program(self.platform.arch())?);
        self.machine(&mut command);
        Ok(command)
    }

    /// QEMU on this board, without its serial line: the hypervisor as what the firmware starts, `kernel` and `initrd` as its
    /// modules. Installs QEMU when it is missing.
    pub fn command(
        &self,
        hypervisor: &Path,
        kernel: &Path,
        initrd: &Path,
        bootargs: &str,
    ) -> Result<Command> {
        let mut command = Command::new(qemu::program(self.platform.arch())?);
        self.arguments(&mut command, hypervisor, kernel, initrd, bootargs);
        Ok(command)
    }

    fn arguments(
        &self,
        command: &mut Command,
        hypervisor: &Path,
        kernel: &Path,
        initrd: &Path,
        bootargs: &str,
    ) {
        let (kernel_at, initrd_at) = self.platform.places();
        self.machine(command);
        command.arg("-kernel").arg(hypervisor);
        let kernel = comma(&kernel.to_string_lossy());
        let initrd = comma(&initrd.to_string_lossy());
        let bootargs = comma(bootargs);
        command.arg("-device");
        command.arg(format!("guest-loader,addr={kernel_at:#x},kernel={kernel},bootargs={bootargs}"));
        command.arg("-device").arg(format!("guest-loader,addr={initrd_at:#x},initrd={initrd}"));
    }

    /// The board itself, with nothing to boot.
    fn machine(&self, command: &mut Command) {
        let machine = match (self.platform, self.gic) {
            (Platform::Arm64, Gic::V2) => "virt,virtualization=on,gic-version=2",
            // With an SMMU, and behind it a device that does DMA to any address, for the tests.
            (Platform::Arm64, Gic::V3) => "virt,virtualization=on,gic-version=3,iommu=smmuv3",
            // Without highmem=off a 32-bit kernel hangs at the PCI window.
            (Platform::Armhf, _) => "virt,virtualization=on,gic-version=2,highmem=off",
        };
        // Without ACPI tables UEFI hands the device tree on.
        command.args(["-M", &format!("{machine},acpi=off"), "-cpu", self.processor(), "-accel", "tcg"]);
        command.args(["-smp", &self.cpus.to_string(), "-m", &MEMORY_MIB.to_string()]);
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        if self.gic == Gic::V3 {
            command.args(["-device", "edu,dma_mask=0xffffffffffff"]);
        }
    }

    /// QEMU on this board with `firmware`, which finds what is in the folder `disk` as a disk's files. Without its serial line.
    pub fn disk_command(&self, firmware: &Path, disk: &Path) -> Result<Command> {
        let mut command = Command::new(qemu::program(self.platform.arch())?);
        self.machine(&mut command);
        command.arg("-bios").arg(firmware).arg("-drive");
        let folder = comma(&disk.to_string_lossy());
        command.arg(format!("if=none,id=boot,format=raw,readonly=on,file=fat:{folder}"));
        command.args(["-device", "virtio-blk-device,drive=boot"]);
        Ok(command)
    }
}

impl fmt::Display for Gic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Gic::V2 => "GICv2",
            Gic::V3 => "GICv3",
        })
    }
}

/// A comma ends a word of QEMU's options unless it is doubled.
pub fn comma(text: &str) -> String {
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(platform: Platform, gic: Option<Gic>) -> String {
        let mut command = Command::new("qemu");
        let board = Board::new(platform, gic).expect("a board");
        board.arguments(
            &mut command,
            Path::new("hypervisor.img"),
            Path::new("a,b"),
            Path::new("initrd"),
            "quiet x=1,2",
        );
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    #[test]
    fn arguments_of_each_board_name_processor_gic_and_modules() {
        let a57 = line(Platform::Arm64, None);
        assert!(a57.contains("virtualization=on,gic-version=2,acpi=off -cpu cortex-a57"), "{a57}");
        assert!(a57.contains("guest-loader,addr=0x50000000,kernel=a,,b,bootargs=quiet x=1,,2"), "{a57}");
        assert!(
            line(Platform::Arm64, Some(Gic::V3)).contains("gic-version=3,iommu=smmuv3,acpi=off -cpu max")
        );
        let a15 = line(Platform::Armhf, None);
        assert!(a15.contains("highmem=off,acpi=off -cpu cortex-a15") && a15.contains("-smp 2"), "{a15}");
    }

    #[test]
    fn new_cortex_a15_with_gicv3_is_refused() {
        assert!(Board::new(Platform::Armhf, Some(Gic::V3)).unwrap_err().to_string().contains("--gic 3"));
    }
}
