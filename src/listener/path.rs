//! A unix socket's file: who may take the path, who may remove it.
//!
//! Everyone who looks at a path, removes a stale socket from it, binds it and
//! starts to listen does so under flock(2) on the directory, so that of many
//! starters one wins and none removes the winner's socket. No lock file is left.
//!
//! The file goes when its [`BoundPath`] is dropped, if the path still leads to
//! the same inode. The sockets have to be open until then: as long as they are,
//! the kernel holds the inode, and its number cannot come back in another file.
//! Until then [`hard_link`] keeps a second name of it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libc::{gid_t, uid_t};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{self, FchmodatFlags, Mode};
use nix::unistd::{self, Gid, Uid, UnlinkatFlags};
use serde::{Deserialize, Serialize};
use socket2::{SockAddr, Socket};

use super::address::UnixKind;
use super::hard_link;
use super::options::Options;
use super::socket_file::{acquire, inode, is_socket, look, probe, unlink_if_same};
use crate::error::{Error, reason};

/// How long another starter may hold the directory before we give up. One
/// starter holds it for well under a millisecond.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(10);

/// The same at the end, where a path left behind is stale and harmless.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

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

/// Everything that a socket at a path is made from, also a second time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PathBind {
    pub(super) kind: UnixKind,
    #[serde(with = "crate::reexec::fd_transfer::path")]
    pub(super) path: PathBuf,
    pub(super) permissions: Permissions,
    pub(super) options: Options,
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

fn refuse(path: &Path, why: &str, advice: Option<&str>) -> Error {
    let bind = path.display().to_string();
    Error::Bind { bind, why: why.to_owned(), advice: advice.map(str::to_owned) }
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

/// Joins a path to the directory and leaves out what `.` and `//` add.
pub(super) fn absolute(directory: &Path, path: &Path) -> PathBuf {
    directory.join(path).components().collect()
}
