//! Requests for more time to the service manager (EXTEND_TIMEOUT_USEC).
//!
//! It is asked only while a start, upgrade or stop takes long, and never beyond our own limit:
//! if we hang, the manager's timeout must still end us.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The pause before the first request: most starts and stops are over by then.
const FIRST_DELAY: Duration = Duration::from_secs(2);
/// The pause between two requests.
const INTERVAL: Duration = Duration::from_secs(10);
/// The time that each request asks for: more than two pauses.
const EXTENSION: Duration = Duration::from_secs(25);
/// The time that a kill and the cleanup after it take, beyond our own limit.
const MARGIN: Duration = Duration::from_secs(5);

/// One start, upgrade or stop that the manager waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extension {
    next: Instant,
    until: Instant,
}

/// The same, as the remaining time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Saved {
    next: Duration,
    until: Duration,
}

impl Extension {
    /// The remaining time at `now`.
    pub(super) fn save(&self, now: Instant) -> Saved {
        let left = |at: Instant| at.saturating_duration_since(now);
        Saved { next: left(self.next), until: left(self.until) }
    }

    /// The same, with the remaining time counted from `now`.
    pub(super) fn restore(saved: Saved, now: Instant) -> Extension {
        Extension { next: now + saved.next, until: now + saved.until }
    }

    /// For a step that begins `now` and takes `limit` at most.
    pub(super) fn new(now: Instant, limit: Duration) -> Extension {
        Extension { next: now + FIRST_DELAY, until: now + limit + MARGIN }
    }

    /// The step may take `limit` from `now` on, if that is longer.
    pub(super) fn prolong(&mut self, now: Instant, limit: Duration) {
        self.until = self.until.max(now + limit + MARGIN);
    }

    /// When the next request is due.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.next < self.until).then_some(self.next)
    }

    /// How much more time is requested at `now`, if a request is due.
    pub(super) fn request(&mut self, now: Instant) -> Option<Duration> {
        self.due().filter(|due| *due <= now)?;
        self.next = now + INTERVAL;
        let left = self.until.saturating_duration_since(now);
        Some(left.min(EXTENSION)).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Each request, in seconds from the beginning, and what it asks for.
    fn requests(extension: &mut Extension, from: Instant) -> Vec<(u64, u64)> {
        let mut requests = Vec::new();
        while let Some(due) = extension.due() {
            let Some(by) = extension.request(due) else { break };
            requests.push(((due - from).as_secs(), by.as_secs()));
        }
        requests
    }

    #[test]
    fn each_request_comes_before_half_of_the_one_before_is_over_and_none_beyond_the_limit() {
        let now = Instant::now();
        let mut extension = Extension::new(now, 30 * SECOND);
        assert_eq!(extension.request(now), None, "what is quick asks for nothing");
        let asked = requests(&mut extension, now);
        assert_eq!(asked, [(2, 25), (12, 23), (22, 13), (32, 3)]);
        assert_eq!(extension.request(now + 99 * SECOND), None);
    }

    #[test]
    fn it_can_be_prolonged_and_never_shortened() {
        let now = Instant::now();
        let mut extension = Extension::new(now, 10 * SECOND);
        extension.prolong(now + 5 * SECOND, 10 * SECOND);
        extension.prolong(now + 6 * SECOND, SECOND);
        assert_eq!(requests(&mut extension, now), [(2, 18), (12, 8)]);
    }

    #[test]
    fn a_late_call_asks_once() {
        let now = Instant::now();
        let mut extension = Extension::new(now, 60 * SECOND);
        assert_eq!(extension.request(now + 50 * SECOND), Some(15 * SECOND));
        assert_eq!(extension.request(now + 50 * SECOND), None);
    }
}
