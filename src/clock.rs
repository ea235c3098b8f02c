//! The clock that the core is given.

use crate::core::event::Time;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Monotonic time, less the time for which we were stopped: deadlines are for
/// workers, and should not all pass at once because somebody stopped us.
#[derive(Debug)]
pub struct Clock {
    /// What it showed at its origin: not zero if it goes on from another's.
    start: Time,
    origin: Instant,
    forgotten: Duration,
}

/// A clock on its way through an execve(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    shows: Time,
    /// CLOCK_MONOTONIC at that moment: the machine's, not the process's.
    at: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

impl Clock {
    /// A clock that begins now.
    pub fn new() -> Clock {
        Clock { start: Time::ZERO, origin: Instant::now(), forgotten: Duration::ZERO }
    }

    /// What the clock shows, and when.
    pub fn save(&self) -> Saved {
        Saved { shows: self.now(), at: monotonic() }
    }

    /// A clock that goes on from `saved`, as if it had never stood still.
    pub fn restore(saved: Saved) -> Clock {
        let since = monotonic().saturating_sub(saved.at);
        Clock { start: saved.shows + since, ..Clock::new() }
    }

    /// Time since the beginning.
    pub fn now(&self) -> Time {
        self.start + self.origin.elapsed() - self.forgotten
    }

    /// Takes back time for which nobody could do anything.
    pub fn forget(&mut self, time: Duration) {
        self.forgotten += time;
    }
}

fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_where_it_was() {
        let mut clock = Clock { start: Duration::from_secs(100), ..Clock::new() };
        clock.forget(Duration::from_secs(10));
        let before = clock.now();
        let after = Clock::restore(clock.save()).now();
        assert!(before >= Duration::from_secs(90) && after >= before);
        assert!(after < Duration::from_secs(100), "what was forgotten stays so: {after:?}");
    }
}
