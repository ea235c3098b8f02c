//! Binds a unix socket to a path, and removes the path at the end.
//!
//! An instance holds flock(2) on the directory while it checks a path, removes a stale socket
//! from it, binds it and starts to listen. So if several start at the same time, one succeeds,
//! and no other one removes its socket. There is no lock file.
//!
//! The path is removed when its [`BoundPath`] is dropped, if it still leads to the same inode.
//! The sockets must be open until then: while they are, the kernel holds the inode, and no other
//! file can get its number. Until then there is a [`hard_link`] to it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
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
use super::socket_file::{acquire_lock, inode, is_socket, probe, stat_entry, unlink_if_same};
use crate::core::event::WorkerId;
use crate::error::{Error, reason};

/// How long we wait for the lock of the directory at the start. An instance that starts holds it
/// for well under a millisecond.
pub(super) const START_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long we wait for it at the end, where a path that stays behind is stale and harmless.
const STOP_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Mode and owner of the file, as numbers. With `None` they come from the umask and our ids.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Permissions {
    pub mode: Option<u32>,
    pub user: Option<uid_t>,
    pub group: Option<gid_t>,
}

/// A path that leads to a socket of ours; it is unlinked when this is dropped.
#[derive(Debug)]
pub(super) struct BoundPath {
    pub(super) path: PathBuf,
    pub(super) directory: File,
    pub(super) name: OsString,
    pub(super) inode: (u64, u64),
    /// The name of the [`hard_link`] in the same directory, if there is one.
    pub(super) link: Option<OsString>,
    /// The socket of a worker that serves at the path in the place of ours.
    pub(super) worker: Option<WorkerSocket>,
}

/// The file of a socket that a worker has bound to a path of ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WorkerSocket {
    pub(super) worker: WorkerId,
    pub(super) inode: (u64, u64),
    /// The name of the hard link in the directory of the path.
    pub(super) link: OsString,
}

/// What is needed to make a socket at a path, or to make it again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PathBind {
    pub(super) kind: UnixKind,
    #[serde(with = "crate::reexec::fd_transfer::path")]
    pub(super) path: PathBuf,
    pub(super) permissions: Permissions,
    pub(super) options: Options,
}

/// As [`bind_without_link`], and makes a hard link to the path, because workers may unlink it.
///
/// # Errors
/// Those of [`bind_without_link`].
pub(super) fn bind(
    socket: &Socket,
    path: &Path,
    permissions: Permissions,
    timeout: Duration,
    listen: impl FnOnce() -> io::Result<()>,
) -> Result<BoundPath, Error> {
    let mut bound = bind_locked(socket, path, permissions, timeout, listen)?;
    bound.link = hard_link::create(bound.directory.as_fd(), &bound.name, path);
    bound.unlocked()
}

/// Binds `socket` to `path` with the mode, sets the owner and calls `listen`, in this order, so that
/// no client can connect without permission.
///
/// # Errors
/// [`Error::Bind`] if a running server has the path, if something else than a socket is there, or
/// if a system call fails. Nothing is left at the path then.
pub(super) fn bind_without_link(
    socket: &Socket,
    path: &Path,
    permissions: Permissions,
    timeout: Duration,
    listen: impl FnOnce() -> io::Result<()>,
) -> Result<BoundPath, Error> {
    bind_locked(socket, path, permissions, timeout, listen)?.unlocked()
}

fn bind_locked(
    socket: &Socket,
    path: &Path,
    permissions: Permissions,
    timeout: Duration,
    listen: impl FnOnce() -> io::Result<()>,
) -> Result<BoundPath, Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(refuse(path, "it can only be a directory", None));
    };
    let directory = lock_directory(path, parent, timeout)?;
    remove_stale(directory.as_fd(), name, path)?;
    let address = SockAddr::unix(path).map_err(|error| refuse(path, &reason(&error), None))?;
    bind_with_mode(socket, &address, permissions.mode)
        .map_err(|error| refuse(path, &reason(&error), None))?;
    // If what is there now is not known to be ours, it cannot be removed.
    let file = stat_entry(directory.as_fd(), name).map_err(|errno| failed(path, errno))?;
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
    Ok(BoundPath { path: path.to_owned(), directory, name: name.to_owned(), inode, link: None, worker: None })
}

/// Binds the socket, and gives the file exactly this mode. Nobody can connect yet.
///
/// The file gets the mode of the socket without the bits of the umask. unix(7) does not document
/// it: it is in net/unix/af_unix.c. A mode that is set later would need /proc, or Linux 6.6, to be
/// sure of not following a link.
fn bind_with_mode(socket: &Socket, address: &SockAddr, mode: Option<u32>) -> io::Result<()> {
    /// The umask belongs to the process, whose other threads create no files. Those of the unit
    /// tests do.
    static UMASK: Mutex<()> = Mutex::new(());
    let _alone = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mode) = mode else { return socket.bind(address) };
    stat::fchmod(socket, Mode::from_bits_truncate(mode))?;
    let before = stat::umask(Mode::empty());
    let bound = socket.bind(address);
    stat::umask(before);
    bound
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
        // Without the lock the path stays. It is stale once we have exited, and the next start
        // replaces it.
        if acquire_lock(&self.directory, STOP_LOCK_TIMEOUT).is_ok() {
            for name in [Some(&self.name), self.link.as_ref()].into_iter().flatten() {
                unlink_if_same(self.directory.as_fd(), name, self.inode);
            }
            if let Some(kept) = &self.worker {
                // What the worker leaves at the path is stale, unless it lives on.
                let dead = probe(&self.path) == Err(Errno::ECONNREFUSED);
                let stale = Some(&self.name).filter(|_| dead);
                for name in [stale, Some(&kept.link)].into_iter().flatten() {
                    unlink_if_same(self.directory.as_fd(), name, kept.inode);
                }
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

fn lock_directory(path: &Path, parent: &Path, timeout: Duration) -> Result<File, Error> {
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
    match acquire_lock(&directory, timeout) {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => {
            let why = format!("another process keeps {} locked", parent.display());
            Err(refuse(path, &why, Some("lslocks shows which")))
        }
        Err(TryLockError::Error(error)) => Err(refuse(path, &reason(&error), None)),
    }
}

fn remove_stale(directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), Error> {
    let Some(file) = stat_entry(directory, name).map_err(|errno| failed(path, errno))? else {
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

/// Sets the owner, and the mode where a default ACL of the directory (acl(5)) has changed it.
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
    let now = stat_entry(directory, name)?.map(|file| file.st_mode & 0o7777);
    if let Some(mode) = mode.filter(|&mode| now != Some(mode)) {
        let mode = Mode::from_bits_truncate(mode);
        stat::fchmodat(directory, name, mode, FchmodatFlags::NoFollowSymlink)?;
    }
    Ok(())
}

/// Joins a path to the directory, and removes `.` and double slashes.
pub(super) fn absolute(directory: &Path, path: &Path) -> PathBuf {
    directory.join(path).components().collect()
}
