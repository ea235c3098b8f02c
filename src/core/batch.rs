//! How an upgrade advances. Batch by batch its replacements are started, become ready, soak
//! and are checked to be alive; only then the workers that they replace may stop.

use super::event::{Action, LaunchSource, Slot, Time, WorkerId};
use super::policy::{REPARENT_GRACE, SIGNAL_GRACE};
use super::state::Supervisor;
use super::upgrade::{Hold, Query};
use super::worker::Worker;
use std::time::Duration;

impl Supervisor {
    /// Advances the upgrade; true if it has ended, or is on hold from now on.
    pub(super) fn advance_upgrade(&mut self, now: Time) -> bool {
        let Some(upgrade) = &self.upgrade else { return false };
        if upgrade.failure.is_some() {
            self.end_upgrade(now);
            return true;
        }
        if upgrade.hold == Hold::Held {
            return self.advance_canary(now);
        }
        if upgrade.is_paused() {
            return false;
        }
        let to = upgrade.to;
        let unchecked = self.policy.must_see_accepting() && upgrade.accepting != Query::Answered;
        // A crashed worker that restarts would be a second generation that starts.
        for id in self.occupants(|worker| worker.generation != to && worker.ready_since().is_none()) {
            self.terminate(id, now);
        }
        if unchecked {
            self.check_accepting();
            return false;
        }
        let Some(upgrade) = &self.upgrade else { return false };
        if upgrade.batch.is_empty() {
            let batch = self.next_batch();
            if batch.is_empty() {
                self.end_upgrade(now);
                return true;
            }
            if let Some(upgrade) = &mut self.upgrade {
                upgrade.batch = batch.into_iter().collect();
                upgrade.started.clear();
                upgrade.liveness = Query::Due;
            }
        }
        self.start_batch(now);
        let switches = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.switch != Query::Due);
        match self.batch_soaked_at() {
            Some((at, Query::Due)) if at <= now => {
                self.set_liveness(Query::Sent);
                self.actions.push(Action::CheckAlive);
                false
            }
            // The serving workers were seen meanwhile to take longer than was known.
            Some((at, Query::Answered)) if at > now && !switches => {
                self.set_liveness(Query::Due);
                false
            }
            Some((_, Query::Answered)) => self.complete_batch(now),
            _ => false,
        }
    }

    /// Asks which of the serving workers wait for connections on their listeners, since
    /// their replacements have to do the same.
    fn check_accepting(&mut self) {
        if let Some(upgrade) = &mut self.upgrade
            && std::mem::replace(&mut upgrade.accepting, Query::Sent) == Query::Due
        {
            self.accepting_slots.clear();
            self.actions.push(Action::CheckWaiting);
        }
    }

    /// The batch has soaked and is alive. The upgrade is held, extended to the slots that the
    /// hold left out, or committed. Where connections are steered, they are switched to it before
    /// that.
    fn complete_batch(&mut self, now: Time) -> bool {
        let whole: Vec<Slot> = if self.policy.surge.is_none() { self.slots().collect() } else { Vec::new() };
        let steers = self.policy.steers();
        if self.is_switching() {
            return false;
        }
        let compares = self.can_compare();
        let Some(upgrade) = &mut self.upgrade else { return false };
        match std::mem::replace(&mut upgrade.hold, Hold::No) {
            Hold::Requested if upgrade.hold_lasts.is_none() || compares => {
                self.hold_upgrade(now);
                return true;
            }
            Hold::Requested | Hold::Committed => {
                // The other workers are started from what the first was started from.
                upgrade.source = LaunchSource::AsBefore;
                let before = upgrade.batch.len();
                upgrade.batch.extend(whole);
                if upgrade.batch.len() > before {
                    upgrade.liveness = Query::Due;
                    return self.advance_upgrade(now);
                }
            }
            Hold::Held | Hold::No => {}
        }
        if (steers || upgrade.apart.is_some()) && upgrade.switch != Query::Answered {
            self.request_switch();
            return false;
        }
        self.commit(now);
        self.advance_upgrade(now)
    }

    /// The slots to replace next: the empty ones first.
    fn next_batch(&self) -> Vec<Slot> {
        let Some(upgrade) = &self.upgrade else { return Vec::new() };
        let mut slots: Vec<Slot> = self.slots().filter(|slot| !upgrade.replaced.contains(slot)).collect();
        slots.sort_by_key(|&slot| self.in_slot(slot).any(|(_, worker)| worker.occupies_slot()));
        let most = if upgrade.hold == Hold::No { self.policy.surge.unwrap_or(u32::MAX) } else { 1 };
        slots.truncate(most as usize);
        slots
    }

    /// Starts the replacements of the batch, as far as the old workers allow it.
    fn start_batch(&mut self, now: Time) {
        let Some(upgrade) = &self.upgrade else { return };
        let (to, source) = (upgrade.to, upgrade.source);
        // In a rollback a worker that keeps crashing is not asked to start its predecessor.
        let stop_first = self.policy.stop_first || self.policy.follow && upgrade.is_rollback;
        let waiting: Vec<Slot> = upgrade.batch.difference(&upgrade.started).copied().collect();
        for slot in waiting {
            if stop_first || self.in_slot(slot).any(|(_, worker)| worker.starts_none) {
                for id in self.occupants(|worker| worker.slot == slot && worker.generation != to) {
                    self.terminate(id, now);
                }
                if self.in_slot(slot).next().is_some() {
                    continue;
                }
            }
            if self.is_left_unready(slot) {
                continue;
            }
            match self.handover_predecessor(slot) {
                Some((_, at)) if at > now => continue,
                Some((predecessor, _)) => self.request_handover(predecessor, to, slot, now),
                None => self.spawn(to, slot, source, now),
            }
            let weighs = self.policy.weighs;
            if let Some(upgrade) = &mut self.upgrade {
                if weighs && upgrade.hold == Hold::Requested {
                    upgrade.apart = Some(slot);
                }
                upgrade.started.insert(slot);
            }
        }
    }

    /// The worker that is to start its own successor in this slot, and the first moment at
    /// which a signal does not harm it.
    fn handover_predecessor(&self, slot: Slot) -> Option<(WorkerId, Time)> {
        let mut here = self.in_slot(slot).filter(|_| self.policy.follow);
        let noticed = self.reparented_at.map_or(Time::ZERO, |since| since + REPARENT_GRACE);
        here.find_map(|(id, worker)| Some((id, noticed.max(worker.ready_since()? + SIGNAL_GRACE))))
    }

    /// Whether a worker that was never ready has still to leave, with the listeners that it may have.
    fn is_left_unready(&self, slot: Slot) -> bool {
        self.policy.follow && self.in_slot(slot).any(|(_, worker)| worker.leaves_unready())
    }

    /// When the next worker can be asked to start its successor.
    pub(super) fn handover_at(&self) -> Option<Time> {
        let upgrade = self.upgrade.as_ref()?;
        let waiting = upgrade.batch.difference(&upgrade.started);
        // The end of a worker that was never ready is an event.
        let free = waiting.filter(|slot| !self.is_left_unready(**slot));
        free.filter_map(|&slot| self.handover_predecessor(slot)).map(|(_, at)| at).min()
    }

    /// When every replacement of the batch has been ready for the soak time and every worker
    /// that it replaces may be asked to stop; and the state of the liveness check. An
    /// earlier commit would ask the old workers only later, when a replacement may have ended.
    fn batch_soaked_at(&self) -> Option<(Time, Query)> {
        let upgrade = self.upgrade.as_ref()?;
        if upgrade.batch.is_empty() || upgrade.started != upgrade.batch || upgrade.is_paused() {
            return None;
        }
        let in_batch = |worker: &Worker| upgrade.batch.contains(&worker.slot);
        let (generation, took) = self.startup_time;
        let took = if generation == upgrade.to { Duration::ZERO } else { took };
        let mut soaking = 0;
        let mut latest = Time::ZERO;
        for worker in self.workers.values().filter(|worker| in_batch(worker)) {
            let Some(since) = worker.ready_since() else { continue };
            if worker.generation == upgrade.to {
                if worker.halt.is_some() {
                    return None;
                }
                soaking += 1;
                latest = latest.max(worker.soaked_at(since, took, &self.policy));
                if worker.predecessor.is_some() {
                    // A successor that sends its predecessor away itself has done so by then.
                    latest = latest.max(since.max(worker.continued_at) + SIGNAL_GRACE);
                }
            } else {
                latest = latest.max(since + SIGNAL_GRACE);
            }
        }
        if soaking < upgrade.batch.len() {
            return None;
        }
        Some((latest, upgrade.liveness))
    }

    /// When the liveness check is due.
    pub(super) fn soaked_at(&self) -> Option<Time> {
        self.batch_soaked_at().filter(|(_, liveness)| *liveness == Query::Due).map(|(at, _)| at)
    }

    fn set_liveness(&mut self, liveness: Query) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.liveness = liveness;
        }
    }
}
