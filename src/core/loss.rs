//! Workers that ended by themselves, or never became ready: what that is for an upgrade,
//! for the slot, and for us.

use super::Supervisor;
use super::event::{Failure, Report, Slot, Time, WorkerId};
use super::settle::ending;
use std::time::Duration;

impl Supervisor {
    /// A worker that filled its slot does so no longer, by no wish of ours.
    pub(super) fn lost(&mut self, id: WorkerId, failure: Failure, now: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        if self.stopping || !worker.fills() {
            return;
        }
        let (slot, ready, age) = (worker.slot, worker.ack.is_some(), now - worker.since);
        let generation = worker.generation;
        if self.replaces(worker) {
            if let Some(upgrade) = &mut self.upgrade {
                upgrade.fail(failure);
            }
            return;
        }
        if !self.served && !ready && !self.policy.retry_start {
            self.stop(now, Some(ending(failure)));
            return;
        }
        self.last_loss = Some(ending(failure));
        self.count_crash(generation, failure, now);
        self.crashed(slot, failure, age, now);
    }

    pub(super) fn crashed(&mut self, slot: Slot, failure: Failure, age: Duration, now: Time) {
        // One that is to go, by the same step's request, does not come back; nor does one
        // of a generation that is about to give way to the one before.
        let comes_back = self.is_at_rest() && slot.0 < self.target && !self.goes_back();
        let Some(place) = self.places.get_mut(slot.0 as usize) else { return };
        if !self.policy.brings_back(failure) {
            place.retired = true;
            self.report(Report::Retired(slot));
            return;
        }
        if age >= self.policy.stable {
            place.crashes = 0;
        }
        let pause = self.policy.pause(place.crashes);
        place.crashes += 1;
        place.fill_at = now + pause;
        if comes_back {
            self.report(Report::Restarting(slot, pause));
        }
    }
}
