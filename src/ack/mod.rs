//! Acks: the channels through which a worker says that it is ready, and the thread that reads
//! them. The kinds of ack are listed in [`kind`].
//!
//! Every start has channels of its own, so an ack counts for the worker that sent it and for no
//! other, and a late one counts for none. The one exception is a signal to us: the
//! [process table](crate::process) tells which worker its sender belongs to.

pub mod accepting;
mod channels;
mod directory;
mod einhorn;
mod end;
pub mod kind;
mod message;
pub mod notify;
pub mod own_socket;
mod saved;
mod store;
mod watcher;

use crate::dialect::Dialect;
use std::os::fd::RawFd;

pub use channels::Channels;
pub use directory::Directory;
pub use message::{Worker, WorkerMessage};
pub use saved::Saved;
pub use watcher::Watcher;

/// The channels that a worker is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acks {
    /// A notify socket (NOTIFY_SOCKET).
    pub notify: bool,
    /// A pipe (READY_FD).
    pub fd: bool,
    /// The number that READY_FD must have.
    pub fd_number: Option<RawFd>,
    /// EINHORN_SOCK_PATH and EINHORN_SOCK_FD.
    pub einhorn: bool,
    /// The dialects in use; some have a channel of their own.
    pub dialects: Vec<Dialect>,
    /// Whether its process tree is inspected in /proc.
    pub accepting: bool,
    /// The user's own check, a command.
    pub exec: Option<String>,
}

impl Acks {
    /// How many TERMs of a worker make one ack: endless sends one for each listener, other
    /// programs send a single one.
    pub fn terms(&self, listeners: usize) -> u32 {
        match self.dialects.contains(&Dialect::Endless) {
            true => u32::try_from(listeners).unwrap_or(u32::MAX).max(1),
            false => 1,
        }
    }

    /// Whether a real-time signal is an ack.
    pub fn goagain(&self) -> bool {
        self.dialects.contains(&Dialect::Goagain)
    }
}
