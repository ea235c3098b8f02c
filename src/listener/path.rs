//! A unix socket's file: who may take the path, who may remove it.
//!
//! Everyone who looks at a path, removes a stale socket from it, binds it and
//! starts to listen does so under flock(2) on the directory, so that of many
//! starters one wins and none removes the winner's socket. No lock file is left.
//!
//! The file goes when its [`BoundPath`] is dropped, if the path still leads to
//! the same inode. The sockets have to be open until then: as long as they are,
//! the kernel holds the inode, and its number cannot come back in another file.
//! Until then [`hard_link`](super::hard_link) keeps a second name of it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libc::{gid_t, uid_t};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{self, FchmodatFlags, FileStat, Mode, SFlag};
use nix::unistd::{self, Gid, Uid, UnlinkatFlags};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use super::hard_link;
use crate::error::{Error, reason};

/// How long another starter may hold the directory before we give up. One
/// starter holds it for well under a millisecond.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(10);

/// The same at the end, where a path left behind is stale and harmless.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// The same for one who serves meanwhile: workers wait for us.
pub(super) const SERVING_PATIENCE: Duration = Duration::from_millis(20);

/// Mode and owner of the file, looked up. `None` leaves what umask and our ids give.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Permissions {
    pub mode: Option<u32>,
    pub user: Option<uid_t>,
    pub group: Option<gid_t>,
}

/// A path that leads to a socket of ours; dropping it unlinks the path.
#[derive(Debug)]
pub(super) struct BoundPath {
    pub(super) path: PathBuf,
    pub(super) directory: File,
    pub(super) name: OsString,
    pub(super) inode: (u64, u64),
    /// A second name in the same directory, where there can be one.
    pub(super) spare: Option<OsString>,
}

/// [`bind_alone`], with a second name for the path, which workers may unlink.
///
/// # Errors
/// Those of [`bind_alone`].
pub(super) fn bind(
    socket: &Socket,
    path: &Path,
    permissions: Permissions,
    patience: Duration,
    listen: impl FnOnce() -> io::Result<()>,
) -> Result<BoundPath, Error> {
    let mut bound = bind_locked(socket, path, permissions, patience, listen)?;
    bound.spare = hard_link::make(bound.directory.as_fd(), &bound.name, path);
    bound.unlocked()
}

/// Binds `socket` to `path`, gives it its permissions and calls `listen`, in
/// that order, so that nobody can connect whom the permissions keep out.
///
/// # Errors
/// [`Error::Bind`]: a live server holds the path, something else than a socket
/// is there, or the system refuses. Nothing is left behind then.
pub(super) fn bind_alone(
    socket: &Socket,
    path: &Path,
    permissions: Permissions,
    patience: Duration,
    listen: impl FnOnce() -> io::Result<()>,
) -> Result<BoundPath, Error> {
    bind_locked(socket, path, permissions, patience, listen)?.unlocked()
}

fn bind_locked(
    socket: &Socket,
    path: &Path,
    permissions: Permissions,
    patience: Duration,
    listen: impl FnOnce() -> io::Result<()>,
) -> Result<BoundPath, Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(refuse(path, "it can only be a directory", None));
    };
    let directory = lock_directory(path, parent, patience)?;
    remove_stale(directory.as_fd(), name, path)?;
    if let Some(mode) = permissions.mode {
        // The file is born with the mode of the socket, less the umask: unix(7)
        // does not say so, net/unix/af_unix.c does.
        stat::fchmod(socket, Mode::from_bits_truncate(mode & 0o700)).map_err(|errno| failed(path, errno))?;
    }
    let address = SockAddr::unix(path).map_err(|error| refuse(path, &reason(&error), None))?;
    socket.bind(&address).map_err(|error| refuse(path, &reason(&error), None))?;
    // Without knowing it for ours, what is there now cannot be removed.
    let file = look(directory.as_fd(), name).map_err(|errno| failed(path, errno))?;
    let seen = stat::lstat(path).map_err(|errno| failed(path, errno))?;
    if file.is_none_or(|file| inode(&file) != inode(&seen) || !is_socket(&file)) {
        return Err(refuse(path, "it was replaced while it was being bound", None));
    }
    let inode = inode(&seen);
    let opened = set_permissions(directory.as_fd(), name, permissions)
        .map_err(|errno| failed(path, errno))
        .and_then(|()| listen().map_err(|error| refuse(path, &reason(&error), None)));
    if let Err(error) = opened {
        unlink_if_same(directory.as_fd(), name, inode);
        return Err(error);
    }
    Ok(BoundPath { path: path.to_owned(), directory, name: name.to_owned(), inode, spare: None })
}

impl BoundPath {
    fn unlocked(self) -> Result<BoundPath, Error> {
        self.directory.unlock().map_err(|error| refuse(&self.path, &reason(&error), None))?;
        Ok(self)
    }

    /// Whether `path` leads to the file of this socket.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        stat::lstat(path).is_ok_and(|file| inode(&file) == self.inode)
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        // Without the lock the path stays: it is stale once we have gone, and
        // the next start replaces it.
        if acquire(&self.directory, STOP_PATIENCE).is_ok() {
            for name in [Some(&self.name), self.spare.as_ref()].into_iter().flatten() {
                unlink_if_same(self.directory.as_fd(), name, self.inode);
            }
        }
    }
}

fn refuse(path: &Path, why: &str, next: Option<&str>) -> Error {
    let bind = path.display().to_string();
    Error::Bind { bind, why: why.to_owned(), next: next.map(str::to_owned) }
}

fn failed(path: &Path, errno: Errno) -> Error {
    refuse(path, &errno.desc().to_lowercase(), None)
}

fn lock_directory(path: &Path, parent: &Path, patience: Duration) -> Result<File, Error> {
    let directory = File::open(parent).map_err(|error| {
        let next = match error.kind() {
            io::ErrorKind::NotFound => Some(format!("create the directory {} first", parent.display())),
            io::ErrorKind::PermissionDenied => {
                Some(format!("the directory {} has to be readable to be locked", parent.display()))
            }
            _ => None,
        };
        refuse(path, &reason(&error), next.as_deref())
    })?;
    match acquire(&directory, patience) {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => {
            let why = format!("another process keeps {} locked", parent.display());
            Err(refuse(path, &why, Some("lslocks shows which")))
        }
        Err(TryLockError::Error(error)) => Err(refuse(path, &reason(&error), None)),
    }
}

/// Polls, because a blocking flock could be held up for ever by anyone who may
/// read the directory, and an alarm would be a signal more to look after.
pub(super) fn acquire(directory: &File, patience: Duration) -> Result<(), TryLockError> {
    let start = Instant::now();
    loop {
        match directory.try_lock() {
            Err(TryLockError::WouldBlock) if start.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result,
        }
    }
}

pub(super) fn look(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<FileStat>, Errno> {
    match stat::fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) fn inode(file: &FileStat) -> (u64, u64) {
    (file.st_dev, file.st_ino)
}

pub(super) fn is_socket(file: &FileStat) -> bool {
    SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
}

fn remove_stale(directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), Error> {
    let Some(file) = look(directory, name).map_err(|errno| failed(path, errno))? else {
        return Ok(());
    };
    if !is_socket(&file) {
        let next = "something else than a socket is there; it is left alone";
        return Err(refuse(path, "file exists", Some(next)));
    }
    match probe(path) {
        Err(Errno::ECONNREFUSED) => {}
        Ok(()) | Err(Errno::EPROTOTYPE | Errno::EAGAIN) => {
            let next = "a live server holds it; stop it, or choose another path";
            return Err(refuse(path, "address already in use", Some(next)));
        }
        Err(errno) => {
            let reason = errno.desc().to_lowercase();
            let next = format!("whether a live server holds it cannot be told: {reason}");
            return Err(refuse(path, "address already in use", Some(&next)));
        }
    }
    unistd::unlinkat(directory, name, UnlinkatFlags::NoRemoveDir).map_err(|errno| {
        let next = "the stale socket there cannot be removed";
        refuse(path, &errno.desc().to_lowercase(), Some(next))
    })
}

/// Asks whether any socket is bound to the path. A datagram socket connects to
/// a datagram one without its noticing, gets EPROTOTYPE from any other that is
/// bound, listening or about to, and ECONNREFUSED only when there is none; a
/// stream probe would put a connection into a live server's queue, and take a
/// server between its bind and its listen for a stale one.
pub(super) fn probe(path: &Path) -> Result<(), Errno> {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM.nonblocking(), None)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    connect().map_err(|error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

/// Owner first: until then the mode is at most the owner's part of what was asked for.
pub(super) fn set_permissions(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    permissions: Permissions,
) -> Result<(), Errno> {
    let Permissions { mode, user, group } = permissions;
    let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
    if user.is_some() || group.is_some() {
        unistd::fchownat(directory, name, user, group, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    if let Some(mode) = mode {
        let mode = Mode::from_bits_truncate(mode);
        stat::fchmodat(directory, name, mode, FchmodatFlags::NoFollowSymlink)?;
    }
    Ok(())
}

pub(super) fn unlink_if_same(directory: BorrowedFd<'_>, name: &OsStr, ours: (u64, u64)) {
    if let Ok(Some(file)) = look(directory, name)
        && inode(&file) == ours
    {
        // There is nobody to tell: a path that cannot be removed is stale and
        // the next start replaces it.
        let _ = unistd::unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
    }
}

/// Joins a path to the directory and leaves out what `.` and `//` add.
pub(super) fn absolute(directory: &Path, path: &Path) -> PathBuf {
    directory.join(path).components().collect()
}
