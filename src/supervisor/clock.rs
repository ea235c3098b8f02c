//! The clock that the core is given.

use crate::core::event::Time;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Monotonic time, less the time for which we were stopped. Deadlines are for workers: they
/// must not all pass at once because somebody stopped us.
#[derive(Debug)]
pub struct Clock {
    /// The time at `origin`: not zero if this clock continues a saved one.
    start: Time,
    origin: Instant,
    excluded: Duration,
    /// When the current step of work began.
    step_began: Time,
}

/// Where a step of work takes longer than this, or a sleep ends later by more, we were stopped or
/// had no processor; the workers may have had none either.
pub const STALL: Duration = Duration::from_secs(1);

/// A clock as it is saved over an execve(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    time: Time,
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
        Clock { start: Time::ZERO, origin: Instant::now(), excluded: Duration::ZERO, step_began: Time::ZERO }
    }

    /// The time that the clock shows, and the machine's time at that moment.
    pub fn save(&self) -> Saved {
        Saved { time: self.now(), at: monotonic() }
    }

    /// A clock that continues `saved`; the time since then counts.
    pub fn restore(saved: Saved) -> Clock {
        let since = monotonic().saturating_sub(saved.at);
        let start = saved.time + since;
        Clock { start, step_began: start, ..Clock::new() }
    }

    /// Time since the beginning.
    pub fn now(&self) -> Time {
        self.start + self.origin.elapsed() - self.excluded
    }

    /// A step of work begins.
    pub fn begin_step(&mut self) {
        self.step_began = self.now();
    }

    /// The time for the next step of work. If the step before it stalled, no time has passed: events
    /// of the meantime still wait, and no deadline may expire before them.
    pub fn next_step(&mut self) -> Time {
        let took = self.now().saturating_sub(self.step_began);
        if took > STALL {
            self.exclude(took);
        }
        self.step_began = self.now();
        self.step_began
    }

    /// Excludes time in which nobody could do anything.
    pub fn exclude(&mut self, time: Duration) {
        self.excluded += time;
    }
}

fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_stalled_took_no_time() {
        let ago = |seconds| Instant::now() - Duration::from_secs(seconds);
        let mut clock = Clock { origin: ago(1000), ..Clock::new() };
        clock.begin_step();
        let step_began = clock.step_began;
        clock.origin -= STALL * 5;
        let after = clock.next_step();
        assert!(after >= step_began && after - step_began < STALL, "{step_began:?} {after:?}");
        clock.origin -= STALL / 2;
        assert!(clock.next_step() - after >= STALL / 2, "so much is only work");
    }

    #[test]
    fn a_restored_clock_continues_the_saved_one() {
        let mut clock = Clock { start: Duration::from_secs(100), ..Clock::new() };
        clock.exclude(Duration::from_secs(10));
        let before = clock.now();
        let after = Clock::restore(clock.save()).now();
        assert!(before >= Duration::from_secs(90) && after >= before);
        assert!(after < Duration::from_secs(100), "what was excluded stays excluded: {after:?}");
    }
}
