//! The probation of a generation that has gone live recently. Data only.

use super::event::{Failure, Generation, Time};
use serde::{Deserialize, Serialize};

/// A generation that has gone live recently.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probation {
    /// The generation on probation.
    pub generation: Generation,
    /// The generation that is started again if this one keeps crashing.
    pub before: Generation,
    /// When it went live.
    pub since: Time,
    /// When the probation ends.
    pub until: Time,
    /// How often a worker of it has ended by itself.
    pub crashes: u32,
    /// Since when the probation is paused: a worker that has ended is not replaced yet, or the
    /// rollback is under way.
    pub down_since: Option<Time>,
    /// The last crash, once a rollback is due.
    pub rollback_due: Option<Failure>,
}

impl Probation {
    /// A probation that begins now.
    pub fn new(generation: Generation, before: Generation, now: Time, until: Time) -> Self {
        Probation { generation, before, since: now, until, crashes: 0, down_since: None, rollback_due: None }
    }
}
