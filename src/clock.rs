//! The clock that the core is given.

use crate::core::event::Time;
use std::time::{Duration, Instant};

/// Monotonic time, less the time for which we were stopped: deadlines are for
/// workers, and should not all pass at once because somebody stopped us.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    forgotten: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

impl Clock {
    /// A clock that begins now.
    pub fn new() -> Clock {
        Clock { origin: Instant::now(), forgotten: Duration::ZERO }
    }

    /// Time since the beginning.
    pub fn now(&self) -> Time {
        self.origin.elapsed() - self.forgotten
    }

    /// Takes back time for which nobody could do anything.
    pub fn forget(&mut self, time: Duration) {
        self.forgotten += time;
    }
}
