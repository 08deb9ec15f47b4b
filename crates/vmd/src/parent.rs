//! The parent's work: whatever needs a path or a right is opened here and handed on as an open file.

use crate::launch::Files;
use crate::spec::{Debugcon, VmSpec};
use rustix::pty::OpenptFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vm_conf::{DiskFormat, DiskSpec};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the {what} {path} can't be opened: {source}")]
    Open { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the {what} {path} is a directory: give a file")]
    Directory { what: &'static str, path: PathBuf },
    #[error("the {what} {path} is not a regular file")]
    NotAFile { what: &'static str, path: PathBuf },
    #[error("the {what} {0} is empty", path.display())]
    Empty { what: &'static str, path: PathBuf },
    #[error(
        "the disk {0} is a qcow2 image: this version runs raw disks only; convert it with \"qemu-img convert -O raw\", or \
         write raw:{0} if its bytes are the disk's own"
    , path.display())]
    Qcow2 { path: PathBuf },
    #[error("the disk {0}")]
    Disk(#[from] disk::raw::Error),
    #[error("a pseudo-terminal for the console can't be made: {0}; is /dev/pts mounted?")]
    Pty(#[source] io::Error),
    #[error("the debug console has no standard error to go to: write --debugcon=FILE")]
    NoStderr,
    #[error("the host refused a file descriptor: {0}")]
    Host(#[from] io::Error),
}

/// Opens everything `spec` names; `console` is the VM's console, `stderr` whether [`Debugcon::Stderr`] may be had.
pub fn open(spec: &VmSpec, console: OwnedFd, stderr: bool) -> Result<Files, Error> {
    let kernel = open_input("kernel", &spec.kernel)?;
    let modules = spec.modules.iter().map(|m| open_input("initrd", &m.path)).collect::<Result<_, _>>()?;
    let mut disks = Vec::new();
    for disk in &spec.disks {
        disks.push(open_disk(&DiskSpec::parse(disk))?);
    }
    let debugcon = match &spec.debugcon {
        None => None,
        Some(Debugcon::Stderr) if stderr => {
            Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).map_err(io::Error::from)?)
        }
        Some(Debugcon::Stderr) => return Err(Error::NoStderr),
        Some(Debugcon::File(path)) => Some(open_output(path)?),
    };
    Ok(Files { console, kernel, debugcon, modules, disks })
}

/// A pseudo-terminal for a console.
#[derive(Debug)]
pub struct Pty {
    pub master: OwnedFd,
    /// `/dev/pts/N`, owned by this process's user.
    pub path: String,
}

/// Makes a pseudo-terminal in raw mode, at 115200 baud in name, that reports nobody attached.
pub fn open_pty() -> Result<Pty, Error> {
    let pty = |e: rustix::io::Errno| Error::Pty(e.into());
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).map_err(pty)?;
    rustix::pty::grantpt(&master).map_err(pty)?;
    rustix::pty::unlockpt(&master).map_err(pty)?;
    let path = rustix::pty::ptsname(&master, Vec::new()).map_err(pty)?;
    let path = path.into_string().map_err(|_| Error::Pty(ErrorKind::InvalidData.into()))?;
    // The master reports a hangup only after a first user has come and gone.
    let user = File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NOCTTY.bits() as i32)
        .open(&path)
        .map_err(Error::Pty)?;
    let mut termios = rustix::termios::tcgetattr(&user).map_err(pty)?;
    termios.make_raw();
    termios.set_speed(rustix::termios::speed::B115200).map_err(pty)?;
    rustix::termios::tcsetattr(&user, rustix::termios::OptionalActions::Now, &termios).map_err(pty)?;
    Ok(Pty { master, path })
}

/// What is written to a pseudo-terminal is there to be read a little later: a worker of the kernel's carries it over.
const SETTLED: Duration = Duration::from_millis(100);

/// Waits, at most `patience`, until whoever has a console open has read what is left in it.
pub fn drain_pty(master: &OwnedFd, patience: Duration) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = Instant::now() + patience;
    let mut empty_since = Instant::now();
    while Instant::now() < deadline {
        let mut fds = [PollFd::new(master, PollFlags::empty())];
        let attached = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
            && !fds[0].revents().contains(PollFlags::HUP);
        if !attached {
            return;
        }
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let Ok(user) = rustix::pty::ioctl_tiocgptpeer(master, flags) else { return };
        if !rustix::io::ioctl_fionread(&user).is_ok_and(|unread| unread == 0) {
            empty_since = Instant::now();
        } else if empty_since.elapsed() >= SETTLED {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A kernel or module, for reading.
fn open_input(what: &'static str, path: &Path) -> Result<OwnedFd, Error> {
    let file = open_file(what, path, OpenOptions::new().read(true))?;
    let meta = file.metadata().map_err(|e| open_error(what, path, e))?;
    match () {
        _ if !meta.is_file() => Err(Error::NotAFile { what, path: path.into() }),
        _ if meta.len() == 0 => Err(Error::Empty { what, path: path.into() }),
        _ => Ok(file.into()),
    }
}

/// The debug console's file, made anew.
fn open_output(path: &Path) -> Result<OwnedFd, Error> {
    let what = "debug console's file";
    let file = open_file(what, path, OpenOptions::new().write(true).create(true).truncate(true))?;
    Ok(file.into())
}

/// A disk, locked for as long as the file or a copy of its descriptor is open.
fn open_disk(spec: &DiskSpec) -> Result<OwnedFd, Error> {
    let path = &spec.path;
    let file = open_file("disk", path, OpenOptions::new().read(true).write(true))?;
    let kind = file.metadata().map_err(|e| open_error("disk", path, e))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::NotAFile { what: "disk", path: path.clone() });
    }
    let mut head = [0; 4];
    let got = file.read_at(&mut head, 0).map_err(|e| open_error("disk", path, e))?;
    if vm_conf::disk::detect(spec.stated, path, &head[..got]) == DiskFormat::Qcow2 {
        return Err(Error::Qcow2 { path: path.clone() });
    }
    disk::raw::lock(&file, path, false)?;
    Ok(file.into())
}

/// Opens without waiting for the other end of a FIFO and without making a terminal ours.
fn open_file(what: &'static str, path: &Path, options: &mut OpenOptions) -> Result<File, Error> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    match options.custom_flags(flags.bits() as i32).open(path) {
        Ok(file) if file.metadata().is_ok_and(|m| m.is_dir()) => {
            Err(Error::Directory { what, path: path.into() })
        }
        Ok(file) => Ok(file),
        Err(e) if e.kind() == ErrorKind::IsADirectory => Err(Error::Directory { what, path: path.into() }),
        Err(e) => Err(open_error(what, path, e)),
    }
}

fn open_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Open { what, path: path.into(), source }
}
