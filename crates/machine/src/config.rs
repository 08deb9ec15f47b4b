//! What a person or the daemon says about a machine.

use crate::Error;
use crate::boot::{self, Files, ModuleBytes};
use engine::Arch;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of a kernel or module: an open file, read anew at every boot of the guest, or bytes in memory.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Bytes {
    File(Arc<File>),
    Memory(Arc<[u8]>),
}

impl Source {
    /// An open file; `name` is for messages. Its offset is neither used nor changed.
    pub fn from_file(name: impl Into<String>, file: File) -> Self {
        Self { name: name.into(), bytes: Bytes::File(Arc::new(file)) }
    }
    /// Bytes in memory; `name` is for messages.
    pub fn from_bytes(name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { name: name.into(), bytes: Bytes::Memory(bytes.into()) }
    }
    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// All of it, refused when longer than `limit` bytes; `what` names its part in the boot ("kernel").
    pub(crate) fn read(&self, what: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let error = |source| Error::Read { name: self.name.clone(), source };
        let too_long = |len: u64| {
            Error::Config(format!(
                "the {what} {} is {len} bytes long and doesn't fit the guest's memory; give the VM more memory",
                self.name
            ))
        };
        match &self.bytes {
            Bytes::Memory(bytes) if bytes.len() as u64 > limit => Err(too_long(bytes.len() as u64)),
            Bytes::Memory(bytes) => Ok(bytes.to_vec()),
            Bytes::File(file) => {
                let meta = file.metadata().map_err(error)?;
                if !meta.is_file() {
                    return Err(error(std::io::Error::other("it is not a regular file")));
                }
                if meta.len() > limit {
                    return Err(too_long(meta.len()));
                }
                let mut all = vec![0; meta.len() as usize];
                file.read_exact_at(&mut all, 0).map_err(error)?;
                Ok(all)
            }
        }
    }
}

/// One file the kernel is given beside itself: an initial RAM disk, or a Multiboot module.
#[derive(Clone, Debug)]
pub struct Module {
    pub source: Source,
    /// The module's own string, by Multiboot's custom its name and arguments; a Linux kernel sees none of it.
    pub command_line: String,
}

/// The kernel that is booted in the firmware's place.
#[derive(Clone, Debug)]
pub struct Boot {
    /// For a pc a bzImage, an ELF with the PVH note, or a Multiboot 1 image; for a virt board a 64-bit Image, compressed or not, or
    /// a 32-bit zImage.
    pub kernel: Source,
    /// In order. Linux takes exactly one initrd, so for it they are laid end to end, each at a 4-byte boundary.
    pub modules: Vec<Module>,
    pub command_line: String,
}

impl Boot {
    /// Reads the kernel and modules anew and hands them to a loader; `limit` is the bytes of the guest's RAM.
    pub(crate) fn load<T>(
        &self,
        limit: u64,
        loader: impl FnOnce(Files<'_>) -> Result<T, boot::Error>,
    ) -> Result<T, Error> {
        let kernel = self.kernel.read("kernel", limit)?;
        let read = |m: &Module| m.source.read("initrd", limit);
        let modules = self.modules.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let modules = modules.iter().zip(&self.modules);
        let modules: Vec<_> =
            modules.map(|(bytes, m)| ModuleBytes { bytes, command_line: &m.command_line }).collect();
        let files = Files {
            kernel_name: self.kernel.name(),
            kernel: &kernel,
            modules: &modules,
            command_line: &self.command_line,
        };
        loader(files).map_err(|source| Error::Boot { name: self.kernel.name().to_string(), source })
    }
}

/// What a reset of the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnReset {
    /// The machine starts anew, as a PC does.
    #[default]
    Reboot,
    /// [`Ending::Reset`].
    End,
}

/// Where bytes that the guest sends go: a console, a debug port. Called on vCPU and device threads with the device
/// locked, so it never blocks, and never calls the machine back.
pub trait Output: Send + Sync {
    /// Takes what it has room for and gives how many bytes that were; an output that would rather lose bytes than
    /// hold the guest up takes all. The console's rest is offered again after [`crate::Handle::console_output_ready`];
    /// a debug port's is lost.
    fn write(&self, bytes: &[u8]) -> usize;
    /// The console's receiver may have room again after [`crate::Handle::console_input`] took less than it was given.
    fn input_room(&self) {}
}

/// An output that keeps nothing.
impl Output for () {
    fn write(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }
}

/// A whole `pc` machine.
pub struct PcConfig {
    /// For thread names and messages.
    pub name: String,
    /// 1 to 255.
    pub vcpus: u32,
    /// RAM in bytes, a multiple of 4 KiB, at least 1 MiB and at most what the host has.
    pub memory_bytes: u64,
    pub boot: Boot,
    /// One virtio block device each, in order.
    pub disks: Vec<Arc<dyn disk::Image>>,
    /// What the guest sends to COM1 and to its virtio console, hvc0. Input comes by [`crate::Handle::console_input`].
    pub console: Arc<dyn Output>,
    /// Port (QEMU's is usually 0xf4) where a write ends the machine with [`Ending::DebugExit`].
    pub debug_exit: Option<u16>,
    /// Ports (0xe9, 0x402) where bytes written go to `debugcon_output`.
    pub debugcon: Vec<u16>,
    pub debugcon_output: Arc<dyn Output>,
    /// A virtio entropy device.
    pub entropy: bool,
    pub on_reset: OnReset,
}

impl PcConfig {
    /// A machine with one vCPU, 512 MiB, no disk, an entropy device and nobody listening.
    pub fn new(name: impl Into<String>, boot: Boot) -> Self {
        Self {
            name: name.into(),
            vcpus: 1,
            memory_bytes: 512 << 20,
            boot,
            disks: Vec::new(),
            console: Arc::new(()),
            debug_exit: None,
            debugcon: Vec::new(),
            debugcon_output: Arc::new(()),
            entropy: true,
            on_reset: OnReset::default(),
        }
    }
}

/// A whole `virt` machine.
pub struct VirtConfig {
    /// For thread names and messages.
    pub name: String,
    /// [`Arch::Aarch64`] or [`Arch::Armv7`]; see [`crate::virt::arch_of`].
    pub arch: Arch,
    /// 1 to 8 with a GICv2, 1 to 16 with a GICv3.
    pub vcpus: u32,
    /// RAM in bytes, a multiple of 4 KiB, at least 16 MiB and at most what the host has.
    pub memory_bytes: u64,
    pub boot: Boot,
    /// One virtio block device each, in order.
    pub disks: Vec<Arc<dyn disk::Image>>,
    /// What the guest sends to its UART and to its virtio console, hvc0. Input comes by [`crate::Handle::console_input`].
    pub console: Arc<dyn Output>,
    /// A virtio entropy device.
    pub entropy: bool,
    pub on_reset: OnReset,
}

impl VirtConfig {
    /// A machine with one vCPU, 512 MiB, no disk, an entropy device and nobody listening.
    pub fn new(name: impl Into<String>, arch: Arch, boot: Boot) -> Self {
        Self {
            name: name.into(),
            arch,
            vcpus: 1,
            memory_bytes: 512 << 20,
            boot,
            disks: Vec::new(),
            console: Arc::new(()),
            entropy: true,
            on_reset: OnReset::default(),
        }
    }
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered off (ACPI S5, PSCI SYSTEM_OFF).
    PoweredOff,
    /// The guest reset, and was configured with [`OnReset::End`].
    Reset,
    /// The guest wrote this value to the debug-exit port. (QEMU's own exit status would be `value << 1 | 1`.)
    DebugExit(u32),
    /// It can't go on; a sentence that says why.
    Crashed(String),
    /// [`crate::Handle::stop`].
    Stopped,
}
