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
    /// When the work began that goes on.
    begun: Time,
}

/// A stretch of work, or a sleep beyond its end, that is so long was not ours: we were stopped, or
/// had no processor, and the workers may have been without as well.
pub const HELD_UP: Duration = Duration::from_secs(1);

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
        Clock { start: Time::ZERO, origin: Instant::now(), forgotten: Duration::ZERO, begun: Time::ZERO }
    }

    /// What the clock shows, and when.
    pub fn save(&self) -> Saved {
        Saved { shows: self.now(), at: monotonic() }
    }

    /// A clock that goes on from `saved`, as if it had never stood still.
    pub fn restore(saved: Saved) -> Clock {
        let since = monotonic().saturating_sub(saved.at);
        let start = saved.shows + since;
        Clock { start, begun: start, ..Clock::new() }
    }

    /// Time since the beginning.
    pub fn now(&self) -> Time {
        self.start + self.origin.elapsed() - self.forgotten
    }

    /// Work begins: there was time for whatever was to be told.
    pub fn begin(&mut self) {
        self.begun = self.now();
    }

    /// The time for the next step of a work. Where the one before it was held up, no time has
    /// passed: what has happened meanwhile waits to be told, and no deadline may go before it.
    pub fn go_on(&mut self) -> Time {
        let took = self.now().saturating_sub(self.begun);
        if took > HELD_UP {
            self.forget(took);
        }
        self.begun = self.now();
        self.begun
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
    fn work_that_was_held_up_took_no_time() {
        let ago = |seconds| Instant::now() - Duration::from_secs(seconds);
        let mut clock = Clock { origin: ago(1000), ..Clock::new() };
        clock.begin();
        let begun = clock.begun;
        clock.origin -= HELD_UP * 5;
        let after = clock.go_on();
        assert!(after >= begun && after - begun < HELD_UP, "{begun:?} {after:?}");
        clock.origin -= HELD_UP / 2;
        assert!(clock.go_on() - after >= HELD_UP / 2, "so much is only work");
    }

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
