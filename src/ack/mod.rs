//! Ack kinds: what a worker is handed so that it can say that it is ready, and
//! what we watch.
//!
//! Every start has channels of its own, so an ack counts for the worker that
//! sent it and no other, and a late one is nobody's. The one exception is a
//! signal to us: its sender tells whose it is ([`processes`](crate::process)).

pub mod accepting;
mod channels;
mod directory;
mod einhorn;
mod end;
mod heard;
pub mod notify;
mod saved;
mod store;
mod watcher;

use crate::core::event::AckKind;
use crate::dialect::Dialect;
use std::os::fd::RawFd;

pub use channels::Channels;
pub use directory::Directory;
pub use heard::{Heard, News, Worker};
pub use saved::Saved;
pub use watcher::Watcher;

/// The channels that a worker is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acks {
    /// NOTIFY_SOCKET.
    pub notify: bool,
    /// READY_FD.
    pub fd: bool,
    /// The number that READY_FD must have.
    pub fd_number: Option<RawFd>,
    /// EINHORN_SOCK_PATH and EINHORN_SOCK_FD.
    pub einhorn: bool,
    /// Those whose programs have a channel of their own.
    pub dialects: Vec<Dialect>,
    /// Its process tree is looked at.
    pub accepting: bool,
    /// The user's own check.
    pub exec: Option<String>,
}

impl Acks {
    /// How many TERMs of a worker make one ack: endless sends one a listener, and
    /// the others of its kind one in all.
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

/// The ack kind that programs of a dialect have of their own.
pub fn kind(dialect: Dialect) -> Option<AckKind> {
    Some(match dialect {
        Dialect::Einhorn => AckKind::Einhorn,
        Dialect::Endless => AckKind::ParentTerm,
        Dialect::Goagain => AckKind::Goagain,
        Dialect::Crank => AckKind::Crank,
        Dialect::Tableflip => AckKind::Tableflip,
        Dialect::Ecdysis => AckKind::Ecdysis,
        Dialect::Shellflip => AckKind::Shellflip,
        _ => return None,
    })
}
