//! The last pass of a step: what the processes now call for, whatever the event was.

use super::event::{Action, Behind, Ending, Generation, LaunchSource, Report, Slot, Time};
use super::state::{SlotState, Supervisor};
use super::upgrade::Upgrade;
use super::worker::{Stage, Worker};
use std::collections::BTreeSet;

impl Supervisor {
    pub(super) fn settle(&mut self, now: Time) {
        if self.ended {
            self.actions.clear();
            return;
        }
        if !self.stopping {
            loop {
                self.resize(now);
                self.report_serving();
                self.start_pending_upgrade(now);
                self.start_rollback(now);
                if !self.advance_upgrade(now) {
                    break;
                }
            }
            self.resume_probation(now);
            self.fill_slots(now);
            self.forget_unneeded();
        }
        if std::mem::take(&mut self.upgrade_requested) && self.pending.is_some() {
            self.report(Report::UpgradeKept(match &self.upgrade {
                Some(_) => Behind::Upgrade,
                None if !self.served => Behind::FirstStart,
                None => Behind::Worker,
            }));
        }
        self.perform_due(now);
        self.bound_draining(now);
        self.report_scaled();
        self.exit_if_done();
    }

    /// Makes as many slots as were requested. An upgrade that is under way comes first,
    /// since its slots must not change. One that is on hold keeps the slot of its worker.
    fn resize(&mut self, now: Time) {
        if !self.is_upgrade_idle() {
            return;
        }
        let held = self.upgrade.iter().flat_map(|upgrade| &upgrade.batch).map(|slot| slot.0 + 1).max();
        // After a failed upgrade an additional worker is started as the others were.
        let failed = self.slot_states.iter().any(|state| state.source == LaunchSource::AsBefore);
        let source = if failed { LaunchSource::AsBefore } else { LaunchSource::Anew };
        while self.slot_states.len() < self.target as usize {
            self.slot_states.push(SlotState { source, ..SlotState::new(self.serving, now) });
        }
        self.slot_states.truncate(self.target.max(held.unwrap_or(0)) as usize);
        for id in self.occupants(|worker| worker.slot.0 >= self.target && !self.is_replacement(worker)) {
            self.drain(id, false, now);
        }
    }

    /// Starts the upgrade that was requested. It waits while the first generation is still
    /// starting, since nothing could serve meanwhile; it does not wait for the pause after a
    /// crash.
    fn start_pending_upgrade(&mut self, now: Time) {
        let Some(kind) = self.pending else { return };
        let starting = || !self.occupants(|worker| worker.ready_since().is_none()).is_empty();
        if self.upgrade.is_some() || !self.served && starting() || self.upgrade_must_wait() {
            return;
        }
        self.pending = None;
        let to = self.next_generation();
        if !self.served && self.occupants(|_| true).is_empty() {
            // There is nothing to replace: the next starts are those of the new generation.
            self.serving = to;
            self.probation = None;
            for state in &mut self.slot_states {
                *state = SlotState::new(to, now);
            }
            return;
        }
        self.report(Report::UpgradeStarted { from: self.serving, to });
        let upgrade = Upgrade::new(self.serving, to, kind, !self.policy.pre_upgrade, now);
        self.upgrade = Some(self.with_hold(upgrade, kind));
        if self.policy.pre_upgrade {
            self.actions.push(Action::PreUpgrade(to));
        }
    }

    /// Whether an upgrade has to wait for a worker. One that is to start its own successor
    /// has to be ready first: a second one could not bind the same addresses. And servers
    /// refuse to restart while their predecessor lives (nginx, gunicorn, unicorn), unless
    /// they send it away themselves.
    pub(super) fn upgrade_must_wait(&self) -> bool {
        let starts = |worker: &Worker| {
            worker.occupies_slot() && (worker.ready_since().is_none() || worker.handed_over)
        };
        let leaves = |worker: &Worker| {
            matches!(worker.stage, Stage::Terminating { .. } | Stage::Killed) && !worker.handed_over
        };
        let serves = self.workers.values().any(|worker| worker.ready_since().is_some());
        // With --adopt a restarted worker may answer before it is ready, and is not to be
        // asked to stop before its successor listens.
        let restarts = |worker: &Worker| matches!(worker.stage, Stage::Starting { .. });
        if self.policy.adopt.is_some() && self.workers.values().any(restarts) {
            return true;
        }
        let waits = |worker: &Worker| starts(worker) || worker.leaves_unready() || serves && leaves(worker);
        self.policy.follow && self.workers.values().any(waits)
    }

    /// Slots that are to have a worker and have none.
    pub(super) fn fillable(&self) -> impl Iterator<Item = Slot> {
        let hung = |worker: &Worker| self.policy.follow && worker.leaves_unready();
        let taken = self.slots_where(|worker| {
            hung(worker) || (worker.occupies_slot() || self.policy.stop_first) && !self.is_replacement(worker)
        });
        self.slots().filter(move |slot| {
            let wanted = match &self.upgrade {
                Some(upgrade) if !upgrade.is_paused() => upgrade.replaced.contains(slot),
                _ => slot.0 < self.target,
            };
            wanted && !self.stopping && !taken.contains(slot) && !self.slot_state(*slot).retired
        })
    }

    fn fill_slots(&mut self, now: Time) {
        let due: Vec<Slot> = self.fillable().filter(|&slot| self.slot_state(slot).fill_at <= now).collect();
        for slot in due {
            let state = self.slot_state(slot);
            let (generation, source) = (state.generation, state.source);
            self.spawn(generation, slot, source, now);
        }
    }

    /// Reports that the first generation serves. This comes before a kept request begins,
    /// or the report would be missing through that whole upgrade.
    fn report_serving(&mut self) {
        if self.served || !self.is_upgrade_idle() {
            return;
        }
        let ready = self.slots_where(|worker| worker.ready_since().is_some() && !self.is_replacement(worker));
        let all = self.slots().all(|slot| ready.contains(&slot) || self.slot_state(slot).retired);
        if !ready.is_empty() && all {
            self.served = true;
            self.report(Report::Serving(self.serving));
        }
    }

    /// Reports that a request to scale has been fulfilled.
    fn report_scaled(&mut self) {
        if !self.scaling || !self.is_upgrade_idle() {
            return;
        }
        let serves = |worker: &Worker| worker.ready_since().is_some() && worker.slot.0 < self.target;
        let ready = self.slots_where(|worker| serves(worker) && !self.is_replacement(worker));
        let stays = |worker: &Worker| !worker.stop_sent && !matches!(worker.stage, Stage::Remains { .. });
        let surplus = self.slots_where(|worker| {
            worker.slot.0 >= self.target && stays(worker) && !self.is_replacement(worker)
        });
        let mut wanted = self.slots().filter(|slot| slot.0 < self.target && !self.slot_state(*slot).retired);
        if surplus.is_empty() && wanted.all(|slot| ready.contains(&slot)) {
            self.scaling = false;
            self.report(Report::ScaleDone(ready.len() as u32));
        }
    }

    /// Performs the respawns, stop signals and kills that are due.
    fn perform_due(&mut self, now: Time) {
        for id in self.ids(|_| true) {
            if self.killing {
                self.kill(id, now);
            }
            match self.workers.get(&id).map(|worker| worker.stage) {
                Some(Stage::Spawning { retry_at: Some(at) }) if at <= now => self.respawn(id),
                Some(Stage::Terminating { signal_at: Some(at), .. }) if at <= now => self.send_stop(id, now),
                _ => {}
            }
        }
    }

    /// Kills the oldest generations that drain while there are more of them than may be.
    fn bound_draining(&mut self, now: Time) {
        let drains = |stage: &Stage| {
            matches!(
                stage,
                Stage::Terminating { signal_at: None, .. }
                    | Stage::Draining { .. }
                    | Stage::Remains { killed: false, .. }
            )
        };
        while !self.stopping {
            let draining = self.workers.values().filter(|worker| drains(&worker.stage));
            let generations: BTreeSet<Generation> = draining.map(|worker| worker.generation).collect();
            let Some(&oldest) = generations.first() else { return };
            if generations.len() <= self.policy.max_draining as usize {
                return;
            }
            for id in self.ids(drains) {
                if self.workers.get(&id).is_some_and(|worker| worker.generation == oldest) {
                    self.kill(id, now);
                }
            }
        }
    }

    /// Ends the supervisor once no worker is left and none is to come.
    fn exit_if_done(&mut self) {
        let deserted = !self.slot_states.is_empty()
            && self.slot_states.iter().all(|state| state.retired)
            && self.upgrade.is_none()
            && self.pending.is_none();
        if !self.workers.is_empty() || !(self.stopping || deserted) {
            return;
        }
        let requested = if self.kill_needed { Ending::Killed } else { Ending::Stopped };
        let ending = match self.stopping {
            true => self.ending.unwrap_or(requested),
            false => self.last_loss.unwrap_or(requested),
        };
        self.ended = true;
        self.probation = None;
        self.actions.push(Action::Exit(ending));
    }
}
