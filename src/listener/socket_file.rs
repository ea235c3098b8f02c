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

/// How long another starter may hold the directory while workers wait for us. One starter
/// holds it for well under a millisecond.
pub(super) const SERVING_PATIENCE: Duration = Duration::from_millis(20);

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

pub(super) fn unlink_if_same(directory: BorrowedFd<'_>, name: &OsStr, ours: (u64, u64)) {
    if let Ok(Some(file)) = look(directory, name)
        && inode(&file) == ours
    {
        // There is nobody to tell: a path that cannot be removed is stale and
        // the next start replaces it.
        let _ = unistd::unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
    }
}
