//! The file of a unix socket, and the lock of its directory.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{self, FileStat, SFlag};
use nix::unistd::{self, UnlinkatFlags};
use socket2::{Domain, SockAddr, Socket, Type};

/// How long we wait for the lock of the directory while workers wait for us. An instance that
/// starts holds it for well under a millisecond.
pub(super) const SERVING_LOCK_TIMEOUT: Duration = Duration::from_millis(20);

/// Locks the directory. It polls, because anybody who may read the directory could block flock(2)
/// for ever, and a timeout by alarm(2) would need a signal.
pub(super) fn acquire_lock(directory: &File, timeout: Duration) -> Result<(), TryLockError> {
    let start = Instant::now();
    loop {
        match directory.try_lock() {
            Err(TryLockError::WouldBlock) if start.elapsed() < timeout => {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result,
        }
    }
}

/// The status of an entry of the directory, without following a link; None if there is none.
pub(super) fn stat_entry(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<FileStat>, Errno> {
    match stat::fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The device and the number of the inode.
pub(super) fn inode(file: &FileStat) -> (u64, u64) {
    (file.st_dev, file.st_ino)
}

pub(super) fn is_socket(file: &FileStat) -> bool {
    SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
}

/// Checks whether a socket is bound to the path: ECONNREFUSED says that none is.
///
/// The probe is a datagram socket. If it connects to a datagram socket, that does not notice. A
/// bound socket of any other type gives EPROTOTYPE, whether or not it listens yet. A stream
/// socket as probe would put a connection into the queue of a running server, and would take a
/// server between bind(2) and listen(2) for a stale one.
pub(super) fn probe(path: &Path) -> Result<(), Errno> {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM.nonblocking(), None)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    connect().map_err(|error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

/// Unlinks an entry of the directory if it is this inode.
pub(super) fn unlink_if_same(directory: BorrowedFd<'_>, name: &OsStr, ours: (u64, u64)) {
    if let Ok(Some(file)) = stat_entry(directory, name)
        && inode(&file) == ours
    {
        // An error has no consequence: a path that stays behind is stale, and the next start
        // replaces it.
        let _ = unistd::unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
    }
}
