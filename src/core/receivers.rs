//! The workers that new connections go to, where they are steered.
//!
//! Contract: that is every worker that is ready, except a replacement whose switch was not requested,
//! and from the request on those that it replaces. A request may be refused: then it is as before. While
//! an upgrade is held its first worker gets new connections, and so do all old ones.

use super::event::{Weight, WorkerId};
use super::state::Supervisor;
use super::upgrade::{Query, Upgrade};
use super::worker::Worker;

impl Supervisor {
    /// The workers that new connections go to.
    pub fn receivers(&self) -> impl Iterator<Item = WorkerId> {
        let ready = self.workers.iter().filter(|(_, worker)| worker.ready_since().is_some());
        ready.filter(|(_, worker)| self.receives(worker)).map(|(&id, _)| id)
    }

    /// Whether it is not known whether the switch that was requested last could be done.
    pub fn is_switching(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.switch == Query::Sent)
    }

    fn receives(&self, worker: &Worker) -> bool {
        let Some(upgrade) = self.upgrade.as_ref().filter(|upgrade| upgrade.batch.contains(&worker.slot))
        else {
            return true;
        };
        match worker.generation == upgrade.to {
            true => upgrade.switch != Query::Due || is_weighed(upgrade, worker),
            false => upgrade.switch == Query::Due,
        }
    }

    /// The worker that gets a part of the new connections of its own, and which.
    pub fn weighed_worker(&self) -> Option<(WorkerId, Weight)> {
        let upgrade = self.upgrade.as_ref()?;
        let mut workers = self.workers.iter().filter(|(_, worker)| is_weighed(upgrade, worker));
        workers.next().map(|(&id, _)| id).zip(upgrade.weight)
    }
}

/// Whether this is the worker of an upgrade that was held, and gets connections since then.
fn is_weighed(upgrade: &Upgrade, worker: &Worker) -> bool {
    let begun = upgrade.weight.is_some() || upgrade.weighing.is_some();
    begun && upgrade.apart == Some(worker.slot) && worker.generation == upgrade.to
}
