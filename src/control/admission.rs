//! Who has a place among the clients, and who gives his up for another.

use super::protocol::Verb;
use serde::{Deserialize, Serialize};

/// Connections at a time.
pub(super) const MOST: usize = 16;
/// How many of them may wait for an outcome, or listen: the operator comes in besides.
pub(super) const MOST_WAITING: usize = 12;

/// What a client wants of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Rank {
    /// It has asked for nothing, or not yet: it goes when another one comes.
    Idle,
    /// It has asked for what takes no time of ours.
    Asks,
    /// It listens to events.
    Listens,
    /// It waits for an outcome.
    Awaits,
}

impl Rank {
    pub(super) fn of(verb: &Verb, wait: bool) -> Rank {
        match verb {
            Verb::Events => Rank::Listens,
            Verb::Upgrade { .. }
            | Verb::Commit(_)
            | Verb::Rollback(_)
            | Verb::Scale { .. }
            | Verb::Reexec
                if wait =>
            {
                Rank::Awaits
            }
            _ => Rank::Asks,
        }
    }

    pub(super) fn is_long(self) -> bool {
        matches!(self, Rank::Listens | Rank::Awaits)
    }
}
