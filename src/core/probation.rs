//! The probation of a generation that has gone live of late. Data only.

use super::event::{Failure, Generation, Time};
use serde::{Deserialize, Serialize};

/// A generation that has gone live of late.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probation {
    /// The generation on probation.
    pub of: Generation,
    /// The generation that is started again if this one keeps crashing.
    pub before: Generation,
    /// When it went live.
    pub since: Time,
    /// When the probation ends.
    pub until: Time,
    /// How often a worker of it has ended by itself.
    pub crashes: u32,
    /// Since when the probation stands still: a worker that has ended is not replaced yet,
    /// or the rollback is under way.
    pub down_since: Option<Time>,
    /// The last crash, once a rollback is due.
    pub rollback_due: Option<Failure>,
}

impl Probation {
    /// A probation that begins now.
    pub fn new(of: Generation, before: Generation, now: Time, until: Time) -> Self {
        Probation { of, before, since: now, until, crashes: 0, down_since: None, rollback_due: None }
    }
}
