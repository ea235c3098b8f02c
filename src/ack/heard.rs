//! Whose a channel is, and what is heard on it.

use crate::core::event::{AckKind, Generation, Slot};
use crate::sys::tree::Family;
use nix::unistd::Uid;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Whose channels they are.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    /// The user it was started as.
    pub uid: Uid,
    /// Its generation.
    pub generation: Generation,
    /// Its place.
    pub slot: Slot,
    /// Whether the next worker there can be given what this one stores.
    pub stores: bool,
    /// Its process and descendants.
    pub family: Family,
}

/// What a worker said.
#[derive(Debug)]
pub enum Heard {
    /// That it is ready.
    Ready(AckKind),
    /// That it needs this much longer.
    Extend(Duration),
    /// Something that [`Watcher::news`](super::Watcher::news) knows.
    News,
    /// That it waits until this is closed, when all that it said before has been
    /// dealt with.
    Barrier(OwnedFd),
}

/// What a worker has said since it was last asked for.
#[derive(Debug, Default)]
pub struct News {
    /// `STATUS=`, in one short line; the last one.
    pub status: Option<String>,
    /// `WATCHDOG=1`, at least once.
    pub beat: bool,
}
