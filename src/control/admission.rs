//! Which clients may stay connected when there are too many.

use super::protocol::Verb;
use serde::{Deserialize, Serialize};

/// Connections at a time.
pub(super) const MOST: usize = 16;
/// How many of them may wait for an outcome or for events: the others are kept for an
/// operator who asks for the status or for a stop.
pub(super) const MOST_WAITING: usize = 12;

/// What a client waits for, which decides whether its connection may be closed for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Admission {
    /// No request is under way: its connection may be closed for a new one.
    Idle,
    /// A request that is answered at once is under way.
    Asks,
    /// It receives events.
    Listens,
    /// It waits for the outcome of a request.
    Awaits,
}

impl Admission {
    pub(super) fn of(verb: &Verb, wait: bool) -> Admission {
        match verb {
            Verb::Events => Admission::Listens,
            Verb::Upgrade { .. }
            | Verb::Commit(_)
            | Verb::Rollback(_)
            | Verb::Scale { .. }
            | Verb::Reexec
                if wait =>
            {
                Admission::Awaits
            }
            _ => Admission::Asks,
        }
    }

    pub(super) fn is_long(self) -> bool {
        matches!(self, Admission::Listens | Admission::Awaits)
    }
}
