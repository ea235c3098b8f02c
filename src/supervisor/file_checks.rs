//! When the files of the control socket are looked for: after one was removed, and while one is
//! missing.

use crate::core::event::Time;
use std::time::Duration;

/// The pauses between the checks of files that were removed, in milliseconds. The last one is
/// repeated while they are missing.
const PAUSES: [u64; 6] = [100, 200, 400, 800, 1600, 3200];

#[derive(Debug)]
pub(super) struct FileChecks {
    /// It was said that the files are missing.
    pub(super) missing: bool,
    /// The kernel tells when they are removed.
    pub(super) watched: bool,
    /// The next check.
    at: Option<Time>,
    /// How many checks there were since the files were removed, or made again.
    count: usize,
}

impl FileChecks {
    /// The first check is due, and begins to watch.
    pub(super) fn new() -> FileChecks {
        FileChecks { missing: false, watched: false, at: Some(Time::ZERO), count: PAUSES.len() - 1 }
    }

    /// When the next check is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.at
    }

    /// The pauses are short again.
    pub(super) fn restart(&mut self) {
        self.count = 0;
    }

    /// The next check comes after a pause, if there is still something to look for.
    pub(super) fn schedule(&mut self, now: Time) {
        let goes_on = self.missing || self.count < PAUSES.len();
        let pause = Duration::from_millis(PAUSES[self.count.min(PAUSES.len() - 1)]);
        self.at = goes_on.then_some(now + pause);
        self.count += 1;
    }
}
