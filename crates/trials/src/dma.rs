//! The control domain's root against the hypervisor's memory, by a device that does DMA to any address: QEMU's `edu` (docs/specs/edu.rst).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine_native::host::{pagemap::Pagemap, pin::Pins};
use memory::mapping::Mapping;
use rustix::mm::{MapFlags, ProtFlags, mmap};

const PAGE: usize = 4096;
/// Its BAR 0.
const BAR: usize = 1 << 20;
const DMA_SOURCE: usize = 0x80;
const DMA_DESTINATION: usize = 0x88;
const DMA_COUNT: usize = 0x90;
const DMA_COMMAND: usize = 0x98;
const START: u64 = 1 << 0;
const TO_MEMORY: u64 = 1 << 1;
/// Where the device's own buffer of a page is, to itself.
const BUFFER: u64 = 0x4_0000;

/// Copies between pages of its own by DMA, then reads and writes the page at each of `targets`, physical addresses that aren't the control domain's.
///
/// Errors: there is no such device, its DMA doesn't work at all, or what is in a target was read.
pub fn attack(targets: &[u64]) -> Result<()> {
    let device = Device::open(&find()?)?;
    let pins = Pins::new()?;
    let mapping = Mapping::new("dma", 2 * PAGE as u64)?;
    // SAFETY: the mapping lives as long as the program does; nothing maps over it.
    unsafe { pins.pin(&[(mapping.host(), mapping.len())])? };
    let frames = Pagemap::open()?.frames(mapping.host(), mapping.len())?;
    let words = PAGE / 8;
    let at = mapping.host().cast::<u64>();
    // SAFETY: both pages are the mapping's, which only this thread and the device access.
    let read = |n: usize| unsafe { at.add(n).read_volatile() };
    // SAFETY: as above.
    let write = |n: usize, word: u64| unsafe { at.add(n).write_volatile(word) };
    let sample = |n: usize| 0x5a00_0000_0000_0000 | n as u64 * 0x1_0001;
    (0..words).for_each(|n| write(n, sample(n)));

    device.copy(frames[0], BUFFER, 0)?;
    device.copy(BUFFER, frames[1], TO_MEMORY)?;
    if (0..words).any(|n| read(words + n) != sample(n)) {
        bail!("DMA between the control domain's own pages doesn't work");
    }
    println!("DMA reaches the control domain's own memory");
    for target in targets {
        device.copy(*target, BUFFER, 0)?;
        device.copy(BUFFER, frames[1], TO_MEMORY)?;
        // What isn't read at all leaves the buffer as it was, or reads as nothing.
        let nothing = |n: usize| [sample(n), 0, u64::MAX].contains(&read(words + n));
        if !(0..words).all(nothing) {
            bail!("DMA has read {target:#x}");
        }
        device.copy(frames[0], BUFFER, 0)?;
        device.copy(BUFFER, *target, TO_MEMORY)?;
        println!("DMA has not read {target:#x}");
    }
    Ok(())
}

/// Its folder in sysfs.
fn find() -> Result<PathBuf> {
    let is_edu = |folder: &Path| {
        let id = |name| fs::read_to_string(folder.join(name)).unwrap_or_default().trim().to_owned();
        id("vendor") == "0x1234" && id("device") == "0x11e8"
    };
    let devices = fs::read_dir("/sys/bus/pci/devices").context("there is no PCI")?;
    let mut folders = devices.filter_map(|entry| Some(entry.ok()?.path()));
    folders.find(|folder| is_edu(folder)).context("there is no device `edu` on PCI")
}

struct Device(NonNull<u64>);

impl Device {
    fn open(folder: &Path) -> Result<Device> {
        let in_folder = |name: &str| {
            let path = folder.join(name);
            let file = OpenOptions::new().read(true).write(true).open(&path);
            file.with_context(|| format!("could not open {}", path.display()))
        };
        // The command register: memory space, bus master (PCI Local Bus Specification 3.0, 6.2.2).
        in_folder("config")?.write_all_at(&[0b110, 0], 4).context("could not turn the device on")?;
        let registers: File = in_folder("resource0")?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, where the system wants it, that stays until the program ends.
        let at = unsafe { mmap(std::ptr::null_mut(), BAR, access, MapFlags::SHARED, &registers, 0) }
            .context("could not map the device's registers")?;
        Ok(Device(NonNull::new(at.cast()).context("mapped at 0")?))
    }

    fn write(&self, register: usize, value: u64) {
        // SAFETY: a register of the device, aligned, in its mapping.
        unsafe { self.0.byte_add(register).write_volatile(value) };
    }

    /// One page by DMA.
    fn copy(&self, from: u64, to: u64, direction: u64) -> Result<()> {
        self.write(DMA_SOURCE, from);
        self.write(DMA_DESTINATION, to);
        self.write(DMA_COUNT, PAGE as u64);
        self.write(DMA_COMMAND, START | direction);
        let end = Instant::now() + Duration::from_secs(10);
        // SAFETY: as in `write`.
        while unsafe { self.0.byte_add(DMA_COMMAND).read_volatile() } & START != 0 {
            if Instant::now() > end {
                bail!("the device didn't finish");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
