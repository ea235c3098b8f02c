//! The worker at the other end of a channel, and its messages.

use crate::core::event::{AckKind, Generation, Slot};
use crate::sys::tree::Family;
use nix::unistd::Uid;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The worker that a channel was made for.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    /// The user it was started as.
    pub uid: Uid,
    /// Its generation.
    pub generation: Generation,
    /// Its slot.
    pub slot: Slot,
    /// Whether descriptors that it stores can be given to the next worker in its slot.
    pub stores: bool,
    /// How its process and descendants are recognised.
    pub family: Family,
}

/// A message of a worker, for the loop.
#[derive(Debug)]
pub enum WorkerMessage {
    /// It is ready.
    Ready(AckKind),
    /// It needs this much more time.
    Extend(Duration),
    /// It has a new status or watchdog ping: see [`Watcher::take_status`](super::Watcher::take_status).
    NewStatus,
    /// It waits until this descriptor is closed, which says that all its earlier messages have
    /// been handled.
    Barrier(OwnedFd),
}

/// What a worker has sent since the last call of [`Watcher::take_status`](super::Watcher::take_status).
#[derive(Debug, Default)]
pub struct WorkerStatus {
    /// The last `STATUS=`, as one short line.
    pub status: Option<String>,
    /// Whether `WATCHDOG=1` came.
    pub heartbeat: bool,
}
