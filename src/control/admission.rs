//! Which clients may stay connected when there are too many.

use super::protocol::Verb;
use serde::{Deserialize, Serialize};

/// How many connections there may be at a time.
pub(super) const MAX_CONNECTIONS: usize = 16;
/// How many of them may wait for an outcome or for events: the others are kept free for an
/// operator who requests the status or a stop.
pub(super) const MAX_WAITING: usize = 12;

/// What a client waits for, which decides whether its connection may be closed for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Admission {
    /// No request is under way: its connection may be closed for a new one.
    Idle,
    /// A request that is answered at once is under way.
    Brief,
    /// It receives events.
    Events,
    /// It waits for the outcome of a request.
    Outcome,
}

impl Admission {
    pub(super) fn of(verb: &Verb, wait: bool) -> Admission {
        match verb {
            Verb::Events => Admission::Events,
            Verb::Upgrade { .. }
            | Verb::Commit(_)
            | Verb::Rollback(_)
            | Verb::Scale { .. }
            | Verb::Reexec => {
                if wait {
                    Admission::Outcome
                } else {
                    Admission::Brief
                }
            }
            // Clients that wait must not take the place of a stop. `hammer` ends within moments.
            Verb::Stop { .. } | Verb::Hammer => Admission::Brief,
            Verb::Status { .. }
            | Verb::Signal { .. }
            | Verb::Weight { .. }
            | Verb::Bind { .. }
            | Verb::Unbind { .. }
            | Verb::Metrics => Admission::Brief,
        }
    }

    pub(super) fn is_waiting(self) -> bool {
        matches!(self, Admission::Events | Admission::Outcome)
    }
}
