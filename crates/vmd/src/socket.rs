//! Where the control socket is, and who may use it.

use rustix::net::sockopt::socket_peercred;
use rustix::process::getuid;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Names the socket where set.
pub const VARIABLE: &str = "VMD_SOCKET";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is not this user's own, or others may write to it: remove it, or set {VARIABLE} to a socket's path elsewhere", path.display())]
    Unsafe { path: PathBuf },
    #[error("{path} can't be made: {source}")]
    Make { path: PathBuf, source: io::Error },
    #[error("vmd runs already: it has {0}", path.display())]
    Running { path: PathBuf },
    #[error("the socket {path} can't be had: {source}")]
    Bind { path: PathBuf, source: io::Error },
    #[error("no vmd listens at {path}: {source}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("the vmd at {0} belongs to another user", path.display())]
    Stranger { path: PathBuf },
    #[error("the other side of the connection can't be known: {0}")]
    Peer(#[source] io::Error),
}

/// The control socket's path: `$VMD_SOCKET`; for root `/run/vmd.sock`; else `auberge/vmd.sock` in `$XDG_RUNTIME_DIR`, in
/// `/run/user/UID` where that is, or in `/tmp` in a directory named after the user.
pub fn path() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    choose_path(variable(VARIABLE), variable("XDG_RUNTIME_DIR"), getuid().as_raw(), |p| p.is_dir())
}

fn choose_path(
    stated: Option<PathBuf>,
    runtime: Option<PathBuf>,
    uid: u32,
    is_dir: impl Fn(&Path) -> bool,
) -> PathBuf {
    if let Some(path) = stated {
        return path;
    }
    if uid == 0 {
        return "/run/vmd.sock".into();
    }
    let session = PathBuf::from(format!("/run/user/{uid}"));
    match runtime.filter(|r| r.is_absolute() && is_dir(r)) {
        Some(runtime) => runtime.join("auberge/vmd.sock"),
        None if is_dir(&session) => session.join("auberge/vmd.sock"),
        None => PathBuf::from(format!("/tmp/auberge-{uid}/vmd.sock")),
    }
}

/// A listening socket, and the lock that says that its daemon lives.
#[derive(Debug)]
pub struct Listener {
    pub socket: UnixListener,
    path: PathBuf,
    _lock: File,
}

impl Listener {
    /// Takes the socket, from a dead daemon too. It is 0660 for root, 0600 for others.
    pub fn bind(path: &Path) -> Result<Self, Error> {
        make_directory(path)?;
        let bind = |source| Error::Bind { path: path.into(), source };
        let lock = lock_path(path);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags_nofollow()
            .open(&lock)
            .map_err(bind)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Running { path: path.into() }),
            Err(e) => return Err(bind(e.into())),
        }
        // For a person who looks for the daemon; the lock alone counts.
        let _ = file.set_len(0).and_then(|()| writeln!(&file, "{}", std::process::id()));
        // Whoever holds the lock owns the name; what lies there is a dead daemon's.
        match fs::symlink_metadata(path) {
            Ok(meta) if std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) => {
                fs::remove_file(path).map_err(bind)?;
            }
            _ => {}
        }
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let socket = UnixListener::bind(path);
        rustix::process::umask(mask);
        let socket = socket.map_err(bind)?;
        if getuid().is_root() {
            fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(bind)?;
        }
        Ok(Listener { socket, path: path.into(), _lock: file })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Connects to the daemon, making sure that it is this user's or root's.
pub fn connect(path: &Path) -> Result<UnixStream, Error> {
    let stream = UnixStream::connect(path).map_err(|source| Error::Connect { path: path.into(), source })?;
    let peer = peer_uid(&stream)?;
    if peer != 0 && peer != getuid().as_raw() {
        return Err(Error::Stranger { path: path.into() });
    }
    Ok(stream)
}

/// The user on the other side.
pub fn peer_uid(stream: &UnixStream) -> Result<u32, Error> {
    let credentials = socket_peercred(stream).map_err(|e| Error::Peer(e.into()))?;
    Ok(credentials.uid.as_raw())
}

/// The directory of the socket, made if it isn't there. In `/tmp` it has to be the user's own, since others could have
/// made it first; the socket itself lets nobody else in.
pub fn make_directory(socket: &Path) -> Result<(), Error> {
    let Some(directory) = socket.parent().filter(|d| !d.as_os_str().is_empty()) else { return Ok(()) };
    let make = |source| Error::Make { path: directory.into(), source };
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(make(e)),
        _ => {}
    }
    let meta = fs::symlink_metadata(directory).map_err(make)?;
    let in_tmp = directory.parent() == Some(Path::new("/tmp"));
    if in_tmp && !(meta.is_dir() && meta.uid() == getuid().as_raw() && meta.mode() & 0o022 == 0) {
        return Err(Error::Unsafe { path: directory.into() });
    }
    Ok(())
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

trait NoFollow {
    fn custom_flags_nofollow(&mut self) -> &mut Self;
}

impl NoFollow for fs::OpenOptions {
    fn custom_flags_nofollow(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_chosen_in_the_documented_order() {
        let all = |_: &Path| true;
        let none = |_: &Path| false;
        let p = |s: &str| Some(PathBuf::from(s));
        assert_eq!(choose_path(p("/x/s"), p("/r"), 7, all), Path::new("/x/s"));
        assert_eq!(choose_path(None, p("/r"), 0, all), Path::new("/run/vmd.sock"));
        assert_eq!(choose_path(None, p("/r"), 7, all), Path::new("/r/auberge/vmd.sock"));
        assert_eq!(choose_path(None, p("relative"), 7, all), Path::new("/run/user/7/auberge/vmd.sock"));
        assert_eq!(choose_path(None, None, 7, all), Path::new("/run/user/7/auberge/vmd.sock"));
        assert_eq!(choose_path(None, p("/r"), 7, none), Path::new("/tmp/auberge-7/vmd.sock"));
    }

    #[test]
    fn bind_twice_is_refused_and_a_dead_daemons_socket_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/vmd.sock");
        let first = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o007, 0);
        assert!(matches!(Listener::bind(&path), Err(Error::Running { .. })));
        drop(first);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(connect(&path), Err(Error::Connect { .. })));
        let second = Listener::bind(&path).unwrap();
        connect(&path).unwrap();
        drop(second);
    }

    #[test]
    fn directory_in_tmp_open_to_others_is_refused() {
        let dir = tempfile::Builder::new().prefix("auberge-test").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Listener::bind(&dir.path().join("s")), Err(Error::Unsafe { .. })));
    }
}
