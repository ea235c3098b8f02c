//! The workers that new connections go to, where they are steered.
//!
//! Contract: that is every worker that is ready, except a replacement whose switch was not requested,
//! and from the request on those that it replaces. A request may be refused: then it is as before. While
//! an upgrade is held its first worker gets new connections, and so do all old ones.

use super::event::WorkerId;
use super::state::Supervisor;
use super::upgrade::{Hold, Query, Upgrade};
use super::worker::Worker;

impl Supervisor {
    /// The workers that new connections go to.
    pub fn receivers(&self) -> impl Iterator<Item = WorkerId> {
        let ready = self.workers.iter().filter(|(_, worker)| worker.ready_since().is_some());
        ready.filter(|&(&id, worker)| self.receives(id, worker)).map(|(&id, _)| id)
    }

    /// Whether it is not known whether the switch that was requested last could be done.
    pub fn is_switching(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.switch == Query::Sent)
    }

    fn receives(&self, id: WorkerId, worker: &Worker) -> bool {
        let Some(upgrade) = self.upgrade.as_ref().filter(|upgrade| upgrade.batch.contains(&worker.slot))
        else {
            return true;
        };
        match worker.generation == upgrade.to {
            true => upgrade.switch != Query::Due || upgrade.canary == Some(id),
            false => upgrade.switch == Query::Due || is_to_be_held(upgrade),
        }
    }
}

/// Whether the old workers go on to get new connections once the first one of the upgrade does.
fn is_to_be_held(upgrade: &Upgrade) -> bool {
    matches!(upgrade.hold, Hold::Requested | Hold::Held)
}
