//! A unix socket for ourselves: no worker is given it, and none can harm it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::Gid;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::address::check_length;
use super::path::{self, BoundPath, Permissions, START_PATIENCE};
use super::saved::SavedPath;
use crate::error::{Error, reason};
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A stream socket that listens at a path, which goes with it if it is still ours.
#[derive(Debug)]
pub struct PrivateSocket {
    /// Stands before the socket, which keeps the inode from being used again.
    bound: BoundPath,
    listener: UnixListener,
}

/// The same on its way through an execve(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedPrivate {
    bound: SavedPath,
    listener: Fd,
}

impl PrivateSocket {
    /// Listens at `path` for ourselves (mode 0600), or for `group` as well (0660).
    ///
    /// # Errors
    /// [`Error::Usage`] for a path that is too long, [`Error::Bind`] for one that is
    /// in use or leads to something else than a socket.
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
        let bound = path::bind_alone(&socket, path, permissions, START_PATIENCE, || socket.listen(BACKLOG))?;
        Ok(PrivateSocket { bound, listener: OwnedFd::from(socket).into() })
    }

    /// Lists the descriptors and writes down the rest, for an execve(2).
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

    /// Where it is.
    pub fn path(&self) -> &PathBuf {
        &self.bound.path
    }

    /// Another descriptor of it, to accept from.
    ///
    /// # Errors
    /// When no descriptor is left.
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
    fn it_is_for_us_alone_and_goes_with_us() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("web.sock");
        let socket = PrivateSocket::open(&path, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        UnixStream::connect(&path).unwrap();
        let second = PrivateSocket::open(&path, None).unwrap_err().to_string();
        assert!(second.contains("a live server holds it"), "{second}");
        drop(socket);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_socket_stays_and_a_path_has_an_end() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(PrivateSocket::open(&path, None).unwrap_err().status(), 125);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let long = place.path().join("x".repeat(108));
        let error = PrivateSocket::open(&long, None).unwrap_err();
        assert!(error.status() == 2 && error.to_string().contains("107"), "{error}");
    }
}
