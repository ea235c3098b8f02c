//! The unix socket of our own, for the control socket: workers do not inherit it.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::Gid;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockRef, Socket, Type};

use super::address::check_length;
use super::path::{self, BoundPath, Permissions, START_LOCK_TIMEOUT};
use super::saved::SavedPath;
use crate::error::{Error, reason};
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// A stream socket that listens at a path. When it is dropped, the path is removed if it still
/// leads to this socket.
#[derive(Debug)]
pub struct PrivateSocket {
    /// Declared before the socket, and so dropped before it: while the socket is open, the number
    /// of the inode is not used again.
    bound: BoundPath,
    listener: UnixListener,
}

/// A [`PrivateSocket`] that goes through an execve(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedPrivate {
    bound: SavedPath,
    listener: Fd,
}

impl PrivateSocket {
    /// Listens at `path`. Our own user may connect (mode 0600), and the members of `group`, if
    /// there is one (0660).
    ///
    /// # Errors
    /// [`Error::Usage`] if the path is too long; [`Error::Bind`] if it is in use, or leads to
    /// something else than a socket.
    pub fn open(path: &Path, group: Option<Gid>) -> Result<PrivateSocket, Error> {
        check_length(path).map_err(|why| Error::Usage(format!("cannot bind {}: {why}", path.display())))?;
        let failed = |error: io::Error| Error::Bind {
            bind: path.display().to_string(),
            why: reason(&error),
            advice: None,
        };
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        let permissions = Permissions { mode: Some(mode), user: None, group: group.map(Gid::as_raw) };
        let bound = path::bind_without_link(&socket, path, permissions, START_LOCK_TIMEOUT, || {
            socket.listen(BACKLOG)
        })?;
        Ok(PrivateSocket { bound, listener: OwnedFd::from(socket).into() })
    }

    /// Lists the descriptors and saves everything else, for an execve(2).
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn save(&self, transfer: &mut FdTransfer) -> io::Result<SavedPrivate> {
        let bound = SavedPath::new(&self.bound, transfer)?;
        Ok(SavedPrivate { bound, listener: transfer.add(&self.listener)? })
    }

    /// The socket as it was.
    pub fn restore(saved: SavedPrivate, fds: &mut InheritedFds) -> PrivateSocket {
        let listener = fds.take(saved.listener).into();
        PrivateSocket { bound: saved.bound.restore(fds), listener }
    }

    /// Whether the path still leads to it.
    pub fn is_in_place(&self) -> bool {
        self.bound.is_at(&self.bound.path)
    }

    /// Ends it: whoever waits in accept(2) gets EINVAL.
    pub fn shut_down(self) {
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }

    /// Its path.
    pub fn path(&self) -> &PathBuf {
        &self.bound.path
    }

    /// Returns another descriptor of the socket, to accept connections.
    ///
    /// # Errors
    /// If no descriptor is free.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_our_user_may_connect_and_the_path_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.sock");
        let socket = PrivateSocket::open(&path, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        UnixStream::connect(&path).unwrap();
        let second = PrivateSocket::open(&path, None).unwrap_err().to_string();
        assert!(second.contains("a live server holds it"), "{second}");
        drop(socket);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_kept_and_a_path_that_is_too_long_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(PrivateSocket::open(&path, None).unwrap_err().status(), 125);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let long = directory.path().join("x".repeat(108));
        let error = PrivateSocket::open(&long, None).unwrap_err();
        assert!(error.status() == 2 && error.to_string().contains("107"), "{error}");
    }
}
