//! The first worker of an upgrade that is held: for how long, and what the user's command finds.
//! Data only.

use super::event::Time;
use serde::{Deserialize, Serialize};

/// The first worker of an upgrade, while that is held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Canary {
    /// Since when the upgrade is held.
    pub since: Time,
    /// When it goes on, if nothing happens; None: on request.
    pub until: Option<Time>,
    /// The user's command that verifies it, if there is one.
    pub verify: Option<Verify>,
}

/// The user's command that verifies a worker on hold.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Verify {
    /// When it is started next.
    pub due: Time,
    /// Whether it runs.
    pub runs: bool,
    /// Whether the one that was started last has found the worker good.
    pub good: bool,
    /// How often it has found the worker good.
    pub passed: u32,
    /// When it did so last.
    pub last: Option<Time>,
}

impl Canary {
    /// Whether it has served for long enough and was found good.
    pub fn has_passed(&self, now: Time) -> bool {
        let good = self.verify.is_none_or(|verify| verify.good);
        good && self.until.is_some_and(|until| until <= now)
    }

    /// When something is due. The end of a command that runs is an event.
    pub fn due_at(&self) -> Option<Time> {
        match self.verify {
            Some(Verify { runs: true, .. }) => None,
            Some(Verify { due, good: false, .. }) => Some(due),
            Some(Verify { due, .. }) => Some(self.until.map_or(due, |until| until.min(due))),
            None => self.until,
        }
    }

    /// Another image of the supervisor takes over. A command that runs has its output with the image
    /// before: it is run again.
    pub fn carry_over(&mut self, verifies: bool) {
        self.verify = self.verify.filter(|_| verifies);
        if let Some(verify) = &mut self.verify {
            // When it was due has passed.
            verify.runs = false;
        }
    }
}
