//! How often a worker's messages are read: one that sends without pause is read at intervals
//! only.

use crate::core::event::{Time, WorkerId};
use std::collections::BTreeMap;
use std::time::Duration;

/// The interval between two reads of a worker's messages.
const INTERVAL: Duration = Duration::from_millis(100);

/// When the messages of a worker may be read next, and whether there are any.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    next: Time,
    unread: bool,
}

/// The workers that have sent something, and when they may be read.
#[derive(Debug)]
pub(super) struct MessageRate {
    entries: BTreeMap<WorkerId, Entry>,
    interval: Duration,
}

impl MessageRate {
    /// With a watchdog of the workers, heartbeats are read often enough for it.
    pub(super) fn new(watchdog: Option<Duration>) -> MessageRate {
        let interval = watchdog.map_or(INTERVAL, |every| INTERVAL.min(every / 8));
        MessageRate { entries: BTreeMap::new(), interval }
    }

    /// The worker has sent something.
    pub(super) fn arrived(&mut self, id: WorkerId) {
        self.entries.entry(id).or_default().unread = true;
    }

    /// When the next messages may be read.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.entries.values().filter(|entry| entry.unread).map(|entry| entry.next).min()
    }

    /// The workers whose messages may be read now; they count as read.
    pub(super) fn due(&mut self, now: Time) -> Vec<WorkerId> {
        let next = now + self.interval;
        let due = self.entries.iter_mut().filter(|(_, entry)| entry.unread && entry.next <= now);
        due.map(|(&id, entry)| {
            *entry = Entry { next, unread: false };
            id
        })
        .collect()
    }

    /// The workers that have sent something, whether or not they may be read.
    pub(super) fn unread(&self) -> Vec<WorkerId> {
        self.entries.iter().filter(|(_, entry)| entry.unread).map(|(&id, _)| id).collect()
    }

    pub(super) fn forget(&mut self, id: WorkerId) {
        self.entries.remove(&id);
    }
}
