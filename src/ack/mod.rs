//! Ack kinds: what a worker is handed so that it can say that it is ready, and
//! what we watch.
//!
//! Every start has channels of its own, so an ack counts for the worker that
//! sent it and no other, and a late one is nobody's.

pub mod accepting;
mod directory;
pub mod notify;
mod watcher;

use crate::core::event::WorkerId;
use crate::sys::notify::NotifySocket;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

pub use directory::Directory;
pub use watcher::{Heard, Watcher, Worker};

/// The channels that a worker is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acks {
    /// NOTIFY_SOCKET.
    pub notify: bool,
    /// READY_FD.
    pub fd: bool,
    /// The number that READY_FD must have.
    pub fd_number: Option<RawFd>,
    /// Its process tree is looked at.
    pub accepting: bool,
    /// The user's own check.
    pub exec: Option<String>,
}

/// The channels of one start, made before the fork.
#[derive(Debug)]
pub struct Channels {
    notify: Option<NotifySocket>,
    pipe: Option<(OwnedFd, OwnedFd, RawFd)>,
}

impl Acks {
    /// Makes the channels; READY_FD gets `number` unless the user chose one.
    ///
    /// # Errors
    /// When the system has no descriptor to spare.
    pub fn open(&self, directory: &Directory, number: RawFd) -> io::Result<Channels> {
        let notify = if self.notify { Some(directory.socket()?) } else { None };
        let pipe = match self.fd {
            true => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                nix::fcntl::fcntl(&read, nix::fcntl::F_SETFL(OFlag::O_NONBLOCK))?;
                Some((read, write, self.fd_number.unwrap_or(number)))
            }
            false => None,
        };
        Ok(Channels { notify, pipe })
    }
}

impl Channels {
    /// What the worker finds in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        let notify = self.notify.iter().map(|socket| ("NOTIFY_SOCKET".into(), socket.address().into()));
        let pipe = self.pipe.iter().map(|(_, _, number)| ("READY_FD".into(), number.to_string()));
        notify.chain(pipe).collect()
    }

    /// What the worker is given: our descriptor, and its number there.
    pub fn descriptors(&self) -> Option<(RawFd, RawFd)> {
        self.pipe.as_ref().map(|(_, write, number)| (write.as_raw_fd(), *number))
    }

    /// Has the watcher listen for `worker`. Our copy of what the worker writes
    /// to is closed; what it reads from lives until [`Watcher::forget`], since a
    /// pipe without a reader would kill a worker that acks twice.
    ///
    /// # Errors
    /// When the kernel cannot watch another descriptor.
    pub fn watch(self, watcher: &Watcher, id: WorkerId, worker: Worker) -> io::Result<()> {
        watcher.watch(id, worker, self.notify, self.pipe.map(|(read, _, _)| read))
    }
}
