//! Workers that ended by themselves, or never became ready: what that means for the
//! upgrade, for the slot, and for the supervisor.

use super::event::{Exit, Failure, Report, Slot, Time, WorkerId};
use super::state::Supervisor;
use std::time::Duration;

impl Supervisor {
    /// A worker that occupied its slot does so no longer, and was not asked to stop.
    pub(super) fn lost(&mut self, id: WorkerId, failure: Failure, now: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        if self.stopping || !worker.occupies_slot() {
            return;
        }
        let (slot, ready, age) = (worker.slot, worker.ack.is_some(), now - worker.since);
        let generation = worker.generation;
        if self.is_replacement(worker) {
            self.note_failed_successor(id);
            if let Some(upgrade) = &mut self.upgrade {
                upgrade.fail(failure);
            }
            return;
        }
        if !self.served && !ready && !self.policy.retry_start && !self.is_second_start_due(slot, failure) {
            self.begin_stop(now, Some(failure.ending()));
            return;
        }
        self.last_loss = Some(failure.ending());
        self.count_crash(generation, failure, now);
        self.schedule_restart(slot, failure, age, now);
    }

    /// It was the very first worker, which another one follows if it has exited with an error.
    fn is_second_start_due(&self, slot: Slot, failure: Failure) -> bool {
        // A shell and env(1) give 126 and 127 for what they cannot execute.
        let exited = matches!(failure, Failure::Exited { exit: Exit::Code(1..126 | 128..), .. });
        let first = self.slot_states.get(slot.0 as usize).is_some_and(|state| state.crashes == 0);
        self.policy.second_start && exited && first
    }

    /// The slot is filled again after a pause, or left empty, as the restart policy says.
    pub(super) fn schedule_restart(&mut self, slot: Slot, failure: Failure, age: Duration, now: Time) {
        // A restart is not announced in a slot that the same step removes, nor in a generation
        // that is about to be rolled back.
        let comes_back = self.is_upgrade_idle() && slot.0 < self.target && !self.is_rollback_due();
        let Some(state) = self.slot_states.get_mut(slot.0 as usize) else { return };
        if !self.policy.brings_back(failure) {
            state.retired = true;
            self.report(Report::Retired(slot));
            return;
        }
        if age >= self.policy.stable {
            state.crashes = 0;
        }
        let pause = self.policy.pause(state.crashes);
        state.crashes += 1;
        state.fill_at = now + pause;
        if comes_back {
            self.report(Report::Restarting(slot, pause));
        }
    }
}
